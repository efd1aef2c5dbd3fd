"""Which experts each rule chooses."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seuf.inputs import InputError
from seuf.unlearning.rankings import SELECTIONS
from seuf.unlearning.selection import (
    FixedExpert,
    RoutingTable,
    Selection,
    SelectionSettings,
    best_of_layers,
    seed_of_draw,
    select_experts,
)

# Layers 1 and 3. Expert (1, 0) serves everything; (3, 2) serves the forget set alone.
FORGET = torch.tensor([[0.50, 0.10, 0.05], [0.15, 0.05, 0.40]])
RETAIN = torch.tensor([[0.45, 0.15, 0.05], [0.30, 0.30, 0.05]])


SHARE = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])


def affinities(scores: torch.Tensor, halves: torch.Tensor | None = None) -> RoutingTable:
    """Return the tables of layers 1 and 3; both halves like the whole unless given."""
    halves = torch.stack([scores, scores]) if halves is None else halves
    return RoutingTable([1, 3], scores, halves, token_share=SHARE)


def measured(scores: torch.Tensor) -> RoutingTable:
    """Return tables whose affinities, gradients and weighted norms are the same numbers."""
    return replace(affinities(scores), gradient=scores, reap=scores)


def select(
    rule: str,
    top: int = 1,
    seed: int = 0,
    forget: RoutingTable | None = None,
    retain: RoutingTable | None = None,
    **settings: object,
) -> Selection:
    """Return what one rule chooses."""
    settings = SelectionSettings(rules=[rule], top=top, **settings)
    tables = forget or measured(FORGET), retain or measured(RETAIN)
    return select_experts(*tables, settings, seed)[rule]


def test_affinity_takes_the_expert_most_engaged_by_the_forget_set():
    """.50 at (1, 0) before .40 at (3, 2)."""
    chosen = select("affinity")

    assert chosen.experts == [(1, 0)]
    assert chosen.scores == [0.5]
    assert chosen.runner_up == (3, 2)
    assert chosen.margin == pytest.approx(0.1)


def test_contrast_passes_over_the_expert_that_serves_everything():
    """.40 - .05 = .35 at (3, 2); the generalist has .50 - .45 = .05."""
    chosen = select("contrast")

    assert chosen.experts == [(3, 2)]
    assert chosen.scores == pytest.approx([0.35])
    assert chosen.runner_up == (1, 0)
    assert chosen.margin == pytest.approx(0.3)


def test_two_experts_are_the_two_best_and_the_margin_is_behind_the_second():
    """.50, .40, then .15 at (3, 0)."""
    chosen = select("affinity", top=2)

    assert chosen.experts == [(1, 0), (3, 2)]
    assert chosen.scores == pytest.approx([0.5, 0.4])
    assert chosen.runner_up == (3, 0)
    assert chosen.margin == pytest.approx(0.25)


def test_random_experts_depend_on_the_seed_alone():
    chosen = [select("random", seed=seed).experts for seed in range(12)]

    assert chosen == [select("random", seed=seed).experts for seed in range(12)]
    assert select("random", forget=affinities(RETAIN)).experts == chosen[0]
    assert len({tuple(experts) for experts in chosen}) > 3


def test_stability_is_the_agreement_of_the_two_halves_in_each_layer():
    """All three experts are in both best; of twelve, the halves' six best are not the same."""
    assert select("affinity").stability_halves == 1.0

    ramp = torch.arange(12.0).expand(2, 12)
    retain = affinities(ramp * 0)
    scores = affinities(ramp, torch.stack([ramp, -ramp]))
    chosen = select_experts(scores, retain, SelectionSettings(rules=["affinity"]), 0)["affinity"]
    assert chosen.stability_halves == 0.0


def test_stability_is_unknown_where_a_half_has_no_sample():
    halves = torch.stack([FORGET, torch.full_like(FORGET, torch.nan)])

    assert select("affinity", forget=affinities(FORGET, halves)).stability_halves is None


def test_every_rule_of_the_settings_is_applied():
    rules = [*SELECTIONS, "esft", "random_in:contrast"]

    chosen = select_experts(measured(FORGET), measured(RETAIN), SelectionSettings(rules=rules), 0)

    assert list(chosen) == rules


def test_an_expert_named_by_hand_is_used_like_a_rule():
    settings = SelectionSettings(rules=["affinity"], fixed={"mine": FixedExpert(layer=3, expert=1)})

    chosen = select_experts(affinities(FORGET), affinities(RETAIN), settings, 0)

    assert chosen.keys() == {"affinity", "mine"}
    assert chosen["mine"].experts == [(3, 1)]
    assert chosen["mine"].margin is None


@pytest.mark.parametrize(("layer", "expert"), [(2, 0), (1, 3)])
def test_an_expert_that_is_not_there_is_refused_with_the_range(layer, expert):
    settings = SelectionSettings(fixed={"mine": FixedExpert(layer=layer, expert=expert)})

    with pytest.raises(InputError) as error:
        select_experts(affinities(FORGET), affinities(RETAIN), settings, 0)

    assert f"fixed.mine: there is no expert {expert} in layer {layer}" in str(error.value)
    assert "MoE layers are [1, 3], experts 0 to 2" in str(error.value)


def test_as_many_experts_as_the_model_has_are_refused():
    with pytest.raises(InputError, match=r"expert_selection.top is 6; the model has 6 experts"):
        select("affinity", top=6)


def test_the_second_rank_is_the_runner_up_of_the_first():
    """.50 at (1, 0), .40 at (3, 2), .15 at (3, 0)."""
    chosen = select("affinity_2")

    assert chosen.experts == [select("affinity").runner_up] == [(3, 2)]
    assert chosen.scores == pytest.approx([0.4])
    assert chosen.runner_up == (3, 0)
    assert chosen.margin == pytest.approx(0.25)


def test_the_first_rank_is_the_rule_itself():
    assert select("affinity_1") == select("affinity")
    assert select("random_1", seed=5) == select("random", seed=5)


def test_a_rank_goes_in_steps_of_top():
    """.50, .40 | .15, .10 | .05, .05."""
    assert select("affinity_2", top=2).experts == [(3, 0), (1, 1)]


def test_the_last_rank_has_nobody_behind_it():
    """The smallest gain of all is -.25 at (3, 1)."""
    chosen = select("contrast_6")

    assert chosen.experts == [(3, 1)]
    assert (chosen.margin, chosen.runner_up) == (None, None)


@pytest.mark.parametrize(
    ("rule", "top", "ranks"), [("affinity_7", 1, "7 to 7"), ("random_2", 4, "5 to 8")]
)
def test_a_rank_beyond_the_experts_is_refused(rule, top, ranks):
    with pytest.raises(InputError) as error:
        select(rule, top=top)

    ranking = rule.partition("_")[0]
    assert f"rules: '{rule}' takes the experts ranked {ranks}; {ranking!r} ranks 6." in str(
        error.value
    )


@given(
    st.sampled_from(["affinity", "contrast", "random"]),
    st.integers(1, 3),
    st.lists(st.sampled_from([0.0, 0.25, 0.5]), min_size=6, max_size=6),
    st.integers(0, 99),
)
def test_ranks_are_parts_of_one_order_of_all_experts_even_among_equals(rule, top, scores, seed):
    forget = affinities(torch.tensor(scores).view(2, 3))
    ranks = [
        select(f"{rule}_{rank}", top=top, seed=seed, forget=forget)
        for rank in range(1, 6 // top + 1)
    ]

    experts = [expert for rank in ranks for expert in rank.experts]
    values = [value for rank in ranks for value in rank.scores]
    assert sorted(experts) == [(layer, expert) for layer in (1, 3) for expert in range(3)]
    assert values == sorted(values, reverse=True)
    assert [rank.runner_up for rank in ranks[:-1]] == [rank.experts[0] for rank in ranks[1:]]


def test_esft_takes_experts_of_every_layer_until_they_have_the_share_of_tokens():
    """At .6: .5 and .3 in layer 1, since .5 alone falls short; .6 in layer 3 reaches it."""
    chosen = select("esft", esft_threshold=0.6)

    assert chosen.experts == [(1, 1), (1, 2), (3, 0)]
    assert chosen.scores == pytest.approx([0.5, 0.3, 0.6])
    assert (chosen.margin, chosen.runner_up, chosen.stability_halves) == (None, None, None)


def test_esft_by_gate_adds_the_affinities_as_they_are():
    """At .45: .50 in layer 1. Layer 3: .40 is too little; .15 makes it .55."""
    chosen = select("esft", esft_threshold=0.45, esft_score="gate")

    assert chosen.experts == [(1, 0), (3, 2), (3, 0)]
    assert chosen.scores == pytest.approx([0.50, 0.40, 0.15])


def test_stability_of_esft_by_gate_is_what_both_halves_choose_of_what_one_does():
    """At .4 each half takes one expert a layer: (1, 0), (3, 2), and (1, 0), (3, 0)."""
    halves = torch.tensor([[[5.0, 1, 1], [1, 1, 5]], [[5, 1, 1], [5, 1, 1]]])

    chosen = select(
        "esft", forget=affinities(FORGET, halves), esft_threshold=0.4, esft_score="gate"
    )

    assert chosen.stability_halves == pytest.approx(1 / 3)


def test_stability_of_esft_is_unknown_where_a_half_has_no_sample():
    halves = torch.stack([FORGET, torch.full_like(FORGET, torch.nan)])

    chosen = select("esft", forget=affinities(FORGET, halves), esft_score="gate")

    assert chosen.stability_halves is None


def test_top_is_no_limit_to_esft():
    assert (
        select("esft", top=6, esft_threshold=1.0).experts
        == select("esft", esft_threshold=1.0).experts
    )


@pytest.mark.parametrize(
    "rule",
    [
        lambda forget, retain, seed: forget[0],
        lambda forget, retain, seed: forget.T,
        lambda forget, retain, seed: [0.5, 0.5],
        lambda forget, retain, seed: forget * torch.nan,
        lambda forget, retain, seed: forget / 0,
    ],
)
def test_a_rule_that_returns_no_score_for_each_expert_is_refused(rule, monkeypatch):
    monkeypatch.setitem(SELECTIONS, "odd", rule)

    with pytest.raises(InputError, match=r"'odd' must return finite scores of shape \(2, 3\)"):
        select("odd")


def test_layers_are_ranked_by_their_best_expert():
    """[[.9, .8], [.3, .2]]: the second is (1, 0) with .3, not (0, 1) with .8."""
    forget = RoutingTable(
        [0, 1], table := torch.tensor([[0.9, 0.8], [0.3, 0.2]]), torch.stack([table, table]), table
    )

    first, second = (
        select_experts(forget, forget, SelectionSettings(rules=[rule]), 0)[rule]
        for rule in ("layer_affinity", "layer_affinity_2")
    )

    assert (first.experts, first.runner_up) == ([(0, 0)], (1, 0))
    assert first.margin == pytest.approx(0.6)
    assert (second.experts, second.margin, second.runner_up) == ([(1, 0)], None, None)
    assert second.scores == pytest.approx([0.3])


def test_layers_by_contrast_are_ranked_by_their_best_contrast():
    """Layer 3 has .35 at (3, 2), layer 1 has .05 at (1, 0)."""
    assert select("layer_contrast").experts == [(3, 2)]
    assert select("layer_contrast_2").experts == [(1, 0)]


def test_a_layer_has_one_rank_only():
    with pytest.raises(InputError, match=r"'layer_affinity' ranks 2\. Name a lower rank"):
        select("layer_affinity_3")


def test_stability_of_a_rank_of_layers_is_the_share_of_layers_that_both_halves_choose_alike():
    """Both take (1, 0); of layer 3 the one takes (3, 2), the other (3, 0)."""
    halves = torch.tensor([[[5.0, 1, 1], [1, 1, 5]], [[5, 1, 1], [5, 1, 1]]])

    assert select("layer_affinity", forget=affinities(FORGET, halves)).stability_halves == 0.5


def test_contrast_within_takes_the_best_contrast_of_the_middle_layers():
    """Of four layers the middles lie at 1/8, 3/8, 5/8, 7/8: layer 1 is within .25 to .75, 3 not."""
    assert select("contrast_within").experts == [(1, 0)]
    assert select("contrast_within", depths=(0.25, 0.875)).experts == [(3, 2)]
    assert select("contrast_within", depths=(0.375, 0.375)).experts == [(1, 0)]


def test_a_range_without_a_layer_ranks_nothing():
    with pytest.raises(InputError, match="'contrast_within' ranks 0"):
        select("contrast_within", depths=(0.9, 1.0))


def test_the_gradient_rule_takes_away_what_the_retain_loss_asks_of_an_expert_too():
    """Shares of forget .3, .1 | .4, .2, of retain .1, .2 | .5, .2: .2, -.1 | -.1, .0.

    In the sizes themselves (3 of 10, 10 of 100) retain is larger everywhere.
    """
    forget = two_by_two(gradient=[[3.0, 1.0], [4.0, 2.0]])
    retain = two_by_two(gradient=[[10.0, 20.0], [50.0, 20.0]])

    chosen, second = (
        select(rule, forget=forget, retain=retain) for rule in ("gradient", "gradient_2")
    )

    assert (chosen.experts, second.experts) == ([(0, 0)], [(1, 1)])
    assert [*chosen.scores, *second.scores] == pytest.approx([0.2, 0.0])
    assert chosen.stability_halves is None


def test_reap_compares_an_expert_with_its_layer():
    """3 of 4 against 50 of 100: outputs grow with the depth, 50 alone says nothing."""
    chosen = select("reap", forget=two_by_two(reap=[[3.0, 1.0], [50.0, 50.0]]))

    assert (chosen.experts, chosen.scores) == ([(0, 0)], [0.75])


def two_by_two(**columns: list[list[float]]) -> RoutingTable:
    """Return tables of layers 0 and 1 with two experts each."""
    even = torch.full((2, 2), 0.25)
    tensors = {name: torch.tensor(column) for name, column in columns.items()}
    return RoutingTable([0, 1], even, torch.stack([even, even]), even, **tensors)


@pytest.mark.parametrize("rule", ["gradient", "reap_2"])
def test_a_rule_whose_column_was_not_captured_is_refused(rule):
    with pytest.raises(InputError, match=r"was not captured: add it to routing_capture.columns"):
        select(rule, forget=affinities(FORGET))


def test_a_rule_that_asks_for_what_nobody_has_is_refused(monkeypatch):
    monkeypatch.setitem(SELECTIONS, "odd", lambda forget, mood: forget)

    with pytest.raises(InputError, match=r"'odd' asks for mood; inputs are forget, retain, "):
        select("odd")


@given(
    st.sampled_from(["affinity", "affinity_3", "contrast", "layer_affinity_2", "mine", "esft"]),
    st.integers(0, 99),
)
def test_a_random_control_is_of_the_same_layers_and_none_of_the_chosen(rule, seed):
    settings = SelectionSettings(
        rules=["affinity", f"random_in:{rule}"],
        fixed={"mine": FixedExpert(layer=3, expert=1)},
    )
    tables = measured(FORGET), measured(RETAIN)

    drawn = select_experts(*tables, settings, seed)
    chosen = select_experts(*tables, settings.model_copy(update={"rules": [rule]}), seed)[rule]

    experts = drawn[f"random_in:{rule}"].experts
    assert sorted(layer for layer, _ in experts) == sorted(layer for layer, _ in chosen.experts)
    assert not {*experts} & {*chosen.experts}
    assert drawn.keys() == {"affinity", f"random_in:{rule}", "mine"}


def test_a_random_control_takes_every_other_expert_of_the_layer_in_turn():
    drawn = {select("random_in:contrast", seed=seed).experts[0] for seed in range(20)}

    assert drawn == {(3, 0), (3, 1)}


def test_a_control_of_more_experts_than_are_left_is_refused():
    with pytest.raises(InputError, match="Layer 1 has 1 other experts, too few for a random contr"):
        select("random_in:esft", esft_threshold=0.75)


@pytest.mark.parametrize("rule", ["random_in:affinty", "random_in:random_in:affinity"])
def test_a_control_of_no_rule_is_refused(rule):
    with pytest.raises(ValueError, match="is neither a rule nor in `fixed`"):
        SelectionSettings(rules=[rule])


def test_random_experts_differ_between_bases_and_between_seeds():
    """Nine draws of one among 1000: with the seed alone each base would draw the same three."""
    table = torch.zeros(10, 100)
    many = RoutingTable(list(range(10)), table, torch.stack([table, table]), table)

    drawn = {
        tuple(select("random", seed=seed_of_draw(base, seed), forget=many, retain=many).experts)
        for base in range(3)
        for seed in range(3)
    }

    assert len(drawn) == 9


def test_the_best_of_each_layer_stand_in_the_order_of_the_best():
    """By contrast .35 at (3, 2) and .05 at (1, 0); by affinity .50 at (1, 0) and .40 at (3, 2)."""
    tables = affinities(FORGET), affinities(RETAIN)

    assert best_of_layers(*tables) == [[(3, 2)], [(1, 0)]]
    assert best_of_layers(*tables, rule="affinity") == [[(1, 0)], [(3, 2)]]
    assert best_of_layers(*tables, top=2) == [[(3, 2), (3, 0)], [(1, 0), (1, 2)]]


def test_every_nth_layer_begins_in_the_middle_of_the_first_n():
    """Of seven layers 0 to 6 every third: 1 and 4; every second: 0, 2, 4, 6."""
    table = torch.zeros(7, 2)
    tables = [RoutingTable(list(range(7)), table, torch.stack([table, table]), table)] * 2

    assert sorted(best_of_layers(*tables, every=3)) == [[(1, 0)], [(4, 0)]]
    assert sorted(best_of_layers(*tables, every=2)) == [[(i, 0)] for i in (0, 2, 4, 6)]
