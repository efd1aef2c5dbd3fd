"""The fewest experts of each layer that take a share of the set."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seuf.unlearning.selection import (
    RoutingTable,
    SelectionSettings,
    choice_overlap,
    fewest_to_reach,
    most_to_reach,
    select_experts,
    slot_shares,
)
from tests.unlearning.esft_published import EXPERTS, INTENT_BY_GATE, LAW_BY_TOKEN

SCORES = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.8, 0.1, 0.1, 0.0]], dtype=torch.float64)


@st.composite
def tables(draw):
    """Return scores (L, E) that sum to 1 in each layer."""
    layers, experts = draw(st.integers(1, 3)), draw(st.integers(2, 9))
    row = st.lists(st.integers(0, 20), min_size=experts, max_size=experts).filter(any)
    rows = draw(st.lists(row, min_size=layers, max_size=layers))
    return slot_shares(torch.tensor(rows, dtype=torch.float64))


def published(scores: dict[int, list[tuple[int, float]]], layer_sum: float) -> torch.Tensor:
    """Return (L, E) with the given scores; the rest of a layer's sum is spread evenly."""
    table = torch.zeros(len(scores), EXPERTS, dtype=torch.float64)
    for row, pairs in enumerate(scores.values()):
        given = sum(score for _, score in pairs)
        table[row] = (layer_sum - given) / (EXPERTS - len(pairs))
        for expert, score in pairs:
            table[row, expert] = score
    return table


def chosen_of(affinity: torch.Tensor, token_share: torch.Tensor, **settings) -> list:
    """Return the experts that `esft` chooses of decoder layers 1 to 26."""
    halves = torch.stack([affinity, affinity])
    table = RoutingTable(list(range(1, 27)), affinity, halves, token_share)
    settings = SelectionSettings(rules=["esft"], **settings)
    return select_experts(table, table, settings, seed=0)["esft"].experts


def expected(scores: dict[int, list[tuple[int, float]]]) -> list[tuple[int, int]]:
    """Return the published (layer, expert) pairs."""
    return [(layer, expert) for layer, pairs in scores.items() for expert, _ in pairs]


def test_by_token_the_experts_are_those_published_for_law():
    """At p = .2 ESFT's published configuration has 153; shares of six times the tokens sum to 6."""
    slots = published(LAW_BY_TOKEN, layer_sum=1.0)

    experts = chosen_of(slots, 6 * slots, esft_threshold=0.2)

    assert len(experts) == 153
    assert experts == expected(LAW_BY_TOKEN)


@pytest.mark.parametrize("layer_sum", [0.3, 0.5])  # theirs lie between .26 and .53
def test_by_gate_raw_means_are_added_as_published(layer_sum):
    """At p = .1 the scores of intent take 123 experts; as shares of .3 they took far fewer."""
    gates = published(INTENT_BY_GATE, layer_sum)

    experts = chosen_of(gates, gates, esft_threshold=0.1, esft_score="gate")

    assert len(experts) == 123
    assert experts == expected(INTENT_BY_GATE)


def test_slot_shares_are_of_the_layer():
    """Two tokens of each three for expert 0 and all for expert 1: 2/5 and 3/5 of the slots."""
    shares = slot_shares(torch.tensor([[2 / 3, 1.0], [1.0, 1.0]]))

    assert shares.flatten().tolist() == pytest.approx([0.4, 0.6, 0.5, 0.5])


def test_a_layer_that_sums_to_less_than_the_threshold_gives_all_its_experts():
    assert fewest_to_reach(torch.tensor([[0.01, 0.03, 0.02]]), 0.1) == [[1, 2, 0]]


@pytest.mark.parametrize(
    ("threshold", "chosen"),
    [
        (0.1, [[1], [0]]),
        (0.4, [[1], [0]]),
        (0.5, [[1, 3], [0]]),
        (0.8, [[1, 3, 2], [0]]),
        (0.85, [[1, 3, 2], [0, 1]]),
        (1.0, [[1, 3, 2, 0], [0, 1, 2]]),
    ],
)
def test_experts_are_taken_until_the_threshold_is_reached(threshold, chosen):
    """Falling sums are .4, .7, .9, 1 and .8, .9, 1; of equals the first comes first."""
    assert fewest_to_reach(SCORES, threshold) == chosen


def test_a_sum_that_misses_the_threshold_by_rounding_has_reached_it():
    """.1 added eight times is .7999999999999999."""
    tenths = torch.full((1, 10), 0.1, dtype=torch.float64)

    assert float(tenths[0, :8].cumsum(0)[-1]) < 0.8
    assert fewest_to_reach(tenths, 0.8) == [list(range(8))]


@given(tables(), st.floats(0.001, 1.0))
def test_the_chosen_reach_the_threshold_and_without_the_last_they_would_not(scores, threshold):
    for row, chosen in zip(scores, fewest_to_reach(scores, threshold), strict=True):
        assert len(chosen) >= 1
        assert row[chosen].sum() >= threshold - 1e-8
        assert row[chosen[:-1]].sum() < threshold
        rest = [e for e in range(len(row)) if e not in chosen]
        assert not rest or row[rest].max() <= row[chosen].min()


@given(tables(), st.floats(0.001, 1.0))
def test_no_layer_needs_more_than_equal_shares_would(scores, threshold):
    layers, experts = scores.shape
    most = most_to_reach(experts, SelectionSettings(esft_threshold=threshold))
    even = torch.full_like(scores, 1 / experts)

    assert max(map(len, fewest_to_reach(scores, threshold))) <= most
    assert [len(c) for c in fewest_to_reach(even, threshold)] == [most] * layers


@pytest.mark.parametrize(
    ("experts", "threshold", "most"), [(64, 0.15, 10), (20, 0.15, 3), (4, 0.01, 1), (8, 1.0, 8)]
)
def test_equal_shares_need_the_threshold_times_the_experts(experts, threshold, most):
    """64 * .15 = 9.6; 20 * .15 = 3; never none."""
    assert most_to_reach(experts, SelectionSettings(esft_threshold=threshold)) == most


def test_by_gate_a_layer_may_need_all_its_experts():
    settings = SelectionSettings(esft_threshold=0.15, esft_score="gate")

    assert most_to_reach(64, settings) == 64


def test_choice_overlap_is_what_both_chose_of_what_either_did():
    """(0, 1) and (1, 2) of these and (0, 3), (1, 0)."""
    assert choice_overlap([[1, 3], [2]], [[1], [2, 0]]) == 0.5
    assert choice_overlap([[1], [2]], [[2], [1]]) == 0.0
