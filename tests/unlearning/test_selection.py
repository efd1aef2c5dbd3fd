"""Which experts each rule chooses."""

import pytest
import torch

from seuf.errors import InputError
from seuf.unlearning.selection import SELECTIONS, Affinities, select_experts
from seuf.unlearning.settings import FixedExpert, SelectionSettings

# Layers 1 and 3. Expert (1, 0) serves everything; (3, 2) serves the forget set alone.
FORGET = torch.tensor([[0.50, 0.10, 0.05], [0.15, 0.05, 0.40]])
RETAIN = torch.tensor([[0.45, 0.15, 0.05], [0.30, 0.30, 0.05]])


def affinities(scores: torch.Tensor, halves: torch.Tensor | None = None) -> Affinities:
    """Return the table of layers 1 and 3; both halves like the whole unless given."""
    return Affinities([1, 3], scores, torch.stack([scores, scores]) if halves is None else halves)


def select(rule: str, top: int = 1, seed: int = 0, forget: Affinities | None = None):
    """Return what one rule chooses."""
    settings = SelectionSettings(rules=[rule], top=top)
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
    scores = Affinities([1, 3], ramp, torch.stack([ramp, -ramp]))
    retain = Affinities([1, 3], ramp * 0, torch.zeros(2, 2, 6))
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
