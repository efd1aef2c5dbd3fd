"""Which experts each rule chooses."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seuf.inputs import InputError
from seuf.unlearning.selection import (
    SELECTIONS,
    FixedExpert,
    RoutingTable,
    SelectionSettings,
    select_experts,
    top_overlap,
)

# Layers 1 and 3. Expert (1, 0) serves everything; (3, 2) serves the forget set alone.
FORGET = torch.tensor([[0.50, 0.10, 0.05], [0.15, 0.05, 0.40]])
RETAIN = torch.tensor([[0.45, 0.15, 0.05], [0.30, 0.30, 0.05]])


SHARE = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])


def affinities(scores: torch.Tensor, halves: torch.Tensor | None = None) -> RoutingTable:
    """Return the tables of layers 1 and 3; both halves like the whole unless given."""
    halves = torch.stack([scores, scores]) if halves is None else halves
    return RoutingTable([1, 3], scores, halves, token_share=SHARE)


def select(rule: str, top: int = 1, seed: int = 0, forget: RoutingTable | None = None, **settings):
    """Return what one rule chooses."""
    settings = SelectionSettings(rules=[rule], top=top, **settings)
    return select_experts(forget or affinities(FORGET), affinities(RETAIN), settings, seed)[rule]


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


def test_stability_is_the_agreement_of_the_two_halves():
    """All six experts are in both top sixes; of twelve, the halves name six different ones."""
    assert select("affinity").stability == 1.0

    ramp = torch.arange(12.0).view(2, 6)
    retain = affinities(ramp * 0)
    scores = affinities(ramp, torch.stack([ramp, -ramp]))
    chosen = select_experts(scores, retain, SelectionSettings(rules=["affinity"]), 0)["affinity"]
    assert chosen.stability == 0.0


def test_stability_is_unknown_where_a_half_has_no_sample():
    halves = torch.stack([FORGET, torch.full_like(FORGET, torch.nan)])

    assert select("affinity", forget=affinities(FORGET, halves)).stability is None


def test_every_rule_of_the_settings_is_applied():
    chosen = select_experts(affinities(FORGET), affinities(RETAIN), SelectionSettings(), 0)

    assert chosen.keys() == SELECTIONS.keys()


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

    assert f"rules: '{rule}' takes the experts ranked {ranks}; the model has 6." in str(error.value)


@given(
    st.sampled_from(sorted(SELECTIONS)),
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
    assert (chosen.margin, chosen.runner_up, chosen.stability) == (None, None, None)


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

    assert chosen.stability == pytest.approx(1 / 3)


def test_stability_of_esft_is_unknown_where_a_half_has_no_sample():
    halves = torch.stack([FORGET, torch.full_like(FORGET, torch.nan)])

    chosen = select("esft", forget=affinities(FORGET, halves), esft_score="gate")

    assert chosen.stability is None


def test_top_is_no_limit_to_esft():
    assert (
        select("esft", top=6, esft_threshold=1.0).experts
        == select("esft", esft_threshold=1.0).experts
    )


def test_top_overlap_is_the_share_of_the_best_in_common():
    """The two best of one are 3 and 2, of the other 3 and 0: one of two."""
    one, other = torch.tensor([[0.1, 0.2], [0.3, 0.4]]), torch.tensor([[0.3, 0.1], [0.2, 0.4]])

    assert top_overlap(one, other, count=2) == 0.5
    assert top_overlap(one, other, count=1) == 1.0
    assert top_overlap(one, -one, count=2) == 0.0


def test_top_overlap_of_fewer_experts_than_asked_takes_them_all():
    assert top_overlap(torch.rand(1, 4), torch.rand(1, 4), count=6) == 1.0


@pytest.mark.parametrize(
    "rule",
    [
        lambda forget, retain, seed: forget[0],
        lambda forget, retain, seed: forget.T,
        lambda forget, retain, seed: [0.5, 0.5],
        lambda forget, retain, seed: forget * torch.nan,
    ],
)
def test_a_rule_that_returns_no_score_for_each_expert_is_refused(rule, monkeypatch):
    monkeypatch.setitem(SELECTIONS, "odd", rule)

    with pytest.raises(InputError, match=r"'odd' must return finite scores of shape \(2, 3\)"):
        select("odd")
