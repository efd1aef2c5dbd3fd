"""How far a choice can be trusted, by hand."""

import logging

import pandas as pd
import pytest
import torch

from seuf.pipelines.expert_selection import nodes
from seuf.unlearning.certainty import mean_overlap
from seuf.unlearning.rankings import NEVER
from seuf.unlearning.selection import RoutingTable, Selection, SelectionSettings, select_experts

FORGET = torch.tensor([[0.50, 0.10, 0.05], [0.15, 0.05, 0.40]])
RETAIN = torch.tensor([[0.45, 0.15, 0.05], [0.30, 0.30, 0.05]])
SHARE = torch.ones(2, 3)


def table(
    affinity: torch.Tensor, halves=None, errors: float | torch.Tensor = 0.0, subsets=None
) -> RoutingTable:
    """Return the table of layers 1 and 3; halves like the whole unless given."""
    halves = torch.stack(halves or [affinity, affinity])
    errors = torch.full_like(affinity, errors) if isinstance(errors, float) else errors
    subsets = None if subsets is None else torch.stack(subsets)
    return RoutingTable([1, 3], affinity, halves, SHARE, errors, subsets)


def select(rule: str, forget: RoutingTable, retain: RoutingTable | None = None) -> Selection:
    """Return what a rule chooses."""
    retain = retain or table(RETAIN)
    return select_experts(forget, retain, SelectionSettings(rules=[rule]), 0)[rule]


def test_overlap_is_of_the_best_of_each_layer_and_its_mean():
    """Two best: of the first layer 3, 2 and 3, 0, one of two; of the second both: (1/2 + 1) / 2.

    Over all layers at once the two best of one are of the second layer alone, as of the other: 1.
    """
    one = torch.tensor([[0.1, 0.2, 0.3, 0.4], [9.0, 8.0, 1.0, 2.0]])
    other = torch.tensor([[0.3, 0.1, 0.2, 0.4], [8.0, 9.0, 2.0, 1.0]])

    assert mean_overlap(one, other, count=2) == 0.75
    assert mean_overlap(one, other, count=1) == 0.5
    assert mean_overlap(one, other, count=6) == 1.0  # all four


def test_experts_that_are_never_chosen_are_not_compared():
    """The first layer ranks expert 0 against expert 1, the second none."""
    one, other = (torch.full((2, 3), NEVER) for _ in range(2))
    one[0, 0] = other[0, 1] = 1.0

    assert mean_overlap(one, other) == 0.0
    assert mean_overlap(one, one) == 1.0


def test_stability_compares_all_with_each_subset_and_these_with_each_other():
    """Of eight experts six are compared: 0 to 5 by all. A subset that has 6 for 5 agrees on five,
    one that has 6 and 7 for 4 and 5 on four; both have 0 to 3 and 6.
    """
    falling = torch.arange(8.0, 0.0, -1.0)
    one, other = falling.clone(), falling.clone()
    one[6], one[5] = 3.0, 0.5
    other[6], other[7], other[4], other[5] = 4.0, 3.0, 0.5, 0.4
    whole, *subsets = (torch.stack([row, row]) for row in (falling, one, other))

    chosen = select("affinity", table(whole, subsets=subsets), table(whole))

    assert chosen.stability_halves == 1.0
    assert chosen.stability_subset == pytest.approx((5 / 6 + 4 / 6) / 2)
    assert chosen.stability_two_subsets == pytest.approx(5 / 6)
    assert chosen.warnings == [
        "unstable: a subset and all of the samples agree on 75% of the best experts"
    ]


def test_contrast_needs_the_subsets_of_both_sets():
    """Affinity reads the forget set alone."""
    forget = table(FORGET, subsets=[FORGET, FORGET])

    assert select("affinity", forget).stability_subset == 1.0
    assert select("contrast", forget).stability_subset is None
    assert select("contrast", forget, table(RETAIN, subsets=[RETAIN] * 2)).stability_subset == 1.0


def test_the_error_of_a_margin_is_that_of_a_difference():
    """Affinity: experts with errors .03 and .04 are apart by .10 +- .05. Contrast adds .12 and 0 of
    the retain set: sqrt(.03^2 + .04^2 + .12^2) = .13. Its margin is .35 - .05 = .30.
    """
    errors = torch.zeros(2, 3)
    errors[0, 0], errors[1, 2] = 0.03, 0.04
    forget = table(FORGET, errors=errors)
    errors = torch.zeros(2, 3)
    errors[1, 2] = 0.12

    affinity = select("affinity", forget)
    contrast = select("contrast", forget, table(RETAIN, errors=errors))

    assert (affinity.margin, affinity.margin_error) == pytest.approx((0.10, 0.05))
    assert (contrast.margin, contrast.margin_error) == pytest.approx((0.30, 0.13))


@pytest.mark.parametrize(("error", "doubted"), [(0.034, False), (0.037, True)])
def test_a_margin_below_two_standard_errors_is_a_near_tie(error, doubted):
    """Both experts have the error e, the margin .10 has sqrt(2) e: .0481 and .0523."""
    chosen = select("affinity", table(FORGET, errors=error))

    near_tie = "a near-tie: the next expert is 0.1000 behind, with a standard error of 0.0523"
    assert chosen.warnings == ([near_tie] if doubted else [])


def test_halves_that_choose_differently_are_told():
    odd = FORGET.clone()
    odd[1, 2] = 0.60

    chosen = select("affinity", table(FORGET, halves=[FORGET, odd]))

    assert chosen.stability_halves == 1.0
    assert chosen.warnings == [
        "the two halves of the samples choose differently: layer 1 expert 0; layer 3 expert 2"
    ]


def test_a_second_rank_is_in_doubt_by_its_own_choice():
    """Both halves have (1, 0) first; second are (3, 2) and (3, 0)."""
    odd = FORGET.clone()
    odd[1, 0] = 0.45

    assert select("affinity", table(FORGET, halves=[FORGET, odd])).warnings == []
    assert select("affinity_2", table(FORGET, halves=[FORGET, odd])).warnings == [
        "the two halves of the samples choose differently: layer 3 expert 2; layer 3 expert 0"
    ]


def test_a_random_choice_has_no_stability_and_no_doubt():
    chosen = select("random", table(FORGET, halves=[FORGET, -FORGET], errors=1.0))

    assert (chosen.stability_halves, chosen.margin_error, chosen.warnings) == (None, None, [])


def test_unknown_errors_are_no_near_tie():
    """Of a single sample there is no error."""
    chosen = select("affinity", table(FORGET, errors=float("nan")))

    assert (chosen.margin_error, chosen.warnings) == (None, [])


def test_a_stage_says_why_a_choice_is_in_doubt(caplog):
    rows = pd.DataFrame(
        {
            "layer": [0, 0, 1, 1],
            "expert": [0, 1, 0, 1],
            "affinity": [0.40, 0.10, 0.39, 0.10],
            "affinity_even": [0.41, 0.10, 0.38, 0.10],
            "affinity_odd": [0.39, 0.10, 0.40, 0.10],
            "affinity_error": [0.03, 0.01, 0.04, 0.01],
            "affinity_subset_1": [0.40, 0.10, 0.39, 0.10],
            "affinity_subset_2": [0.40, 0.10, 0.39, 0.10],
            "token_share": [1.0, 0.0, 1.0, 0.0],
        }
    )

    with caplog.at_level(logging.WARNING):
        chosen = nodes.select_experts(rows, rows, SelectionSettings(rules=["affinity"]), 0, 0)

    assert chosen["affinity"]["stability_two_subsets"] == 1.0
    assert [record.message for record in caplog.records] == [
        "Rule affinity: a near-tie: the next expert is 0.0100 behind, with a standard error of "
        "0.0500.",
        "Rule affinity: the two halves of the samples choose differently: layer 0 expert 0; "
        "layer 1 expert 0.",
    ]
