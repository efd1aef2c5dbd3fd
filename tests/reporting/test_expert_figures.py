"""How experts are used and chosen."""

import pandas as pd
import pytest

from seuf.reporting.expert_figures import (
    attribution,
    counted,
    doubts,
    layers_to_draw,
    ranked_shares,
    rules_by_expert,
    tokens_per_expert,
    trials_by_layer,
    utility_by_layer,
)
from seuf.reporting.preflight import stability
from tests.reporting.examples import LOOKS, SELECTED, log, routing

FORGET, RETAIN = routing([0.2, 0.3, 0.1, 0.4]), routing([0.6, 0.2, 0.2, 0.0])


def notes(figure):
    """Return the texts that stand in a figure."""
    return [note.text for note in figure.layout.annotations]


def test_by_layer_the_best_expert_is_drawn_with_what_it_is_to_the_other_set():
    """Affinities are half of the shares: in layer 1 expert 3 has .2 on forget, 0 on retain."""
    drawn = attribution(FORGET, RETAIN, {}).data
    forget, retain = [trace for trace in drawn if trace.xaxis == "x" and trace.mode == "lines"]

    assert forget.y == pytest.approx((0.125, 0.2))
    assert retain.y == pytest.approx((0.125, 0.0))


def test_contrast_is_the_difference_of_both_sets():
    contrast = [trace for trace in attribution(FORGET, RETAIN, {}).data if trace.xaxis == "x2"]

    points, line = contrast
    assert points.y == pytest.approx([0, 0, 0, 0, -0.2, 0.05, -0.05, 0.2])
    assert line.y == pytest.approx((0, 0.2))


def test_a_chosen_expert_is_marked_with_margin_and_stability_and_a_doubt_is_seen():
    figure = attribution(FORGET, RETAIN, SELECTED)

    (mark,) = [
        trace
        for trace in figure.data
        if trace.xaxis == "x" and "<b>affinity</b>" in (trace.hovertemplate or "")
    ]
    assert (mark.x, mark.y) == ((1,), (0.2,))
    assert "margin 0.1250 ± 0.0625, stability 50% of halves" in mark.hovertemplate
    assert [text for text in notes(figure) if text.endswith("affinity 1:3 ⚠")]
    assert [text for text in notes(figure) if text.endswith("by_hand 1:3")]


def test_stability_is_that_of_the_papers_table_where_the_set_is_large_enough():
    large = SELECTED["affinity"] | {"stability_subset": 0.94, "stability_two_subsets": 0.87}

    assert stability(large) == "94%, 87% between subsets"
    assert stability(SELECTED["by_hand"]) == ""


def test_doubts_are_told_by_rule():
    assert doubts(SELECTED) == ["affinity: a near-tie"]
    assert doubts({"old": {"experts": [[0, 1]]}}) == []


def test_experts_are_ranked_by_their_share_of_the_forget_set():
    shares = ranked_shares(routing([0.2, 0.3, 0.5]), routing([0.6, 0.4, 0.0]), layer=1)

    assert list(shares.index) == [2, 1, 0]
    assert shares["forget"].tolist() == [0.5, 0.3, 0.2]
    assert shares["retain"].tolist() == [0.0, 0.4, 0.6]


def test_an_expert_knows_all_rules_that_chose_it():
    assert rules_by_expert(SELECTED) == {(1, 3): ["affinity", "by_hand"]}


def test_only_layers_of_selected_experts_have_a_panel():
    figure = tokens_per_expert(routing([0.1, 0.2, 0.3, 0.4]), routing([0.25] * 4), SELECTED)

    assert [trace.name for trace in figure.data] == ["forget set", "retain set"]
    assert figure.data[0].x == ("3", "2", "1", "0")


def test_the_even_share_is_the_mean_which_is_k_of_e():
    """Two of four experts a token: shares sum to 2, so .5 each."""
    figure = tokens_per_expert(routing([0.2, 0.4, 0.6, 0.8]), routing([0.5] * 4), SELECTED)

    (even,) = figure.layout.shapes
    assert (even.y0, even.y1) == pytest.approx((0.5, 0.5))


def choice(*experts):
    """Return what a rule chose, by experts alone."""
    return {"experts": [list(expert) for expert in experts]}


def test_a_rule_of_many_experts_asks_for_no_panel_but_is_marked_in_those_there_are():
    """13 experts of layers 0 to 12 are many; of them one is in the layer of `affinity`."""
    many = choice(*((layer, 2) for layer in range(13)))

    figure = tokens_per_expert(routing([0.25] * 4), routing([0.25] * 4), {**SELECTED, "esft": many})

    assert {"esft", "affinity, by_hand"} < set(notes(figure))
    assert figure.layout.xaxis.title.text.endswith("first; layers not drawn: 12")


def test_without_any_other_rule_the_first_layers_of_many_are_drawn():
    """13 experts from layer 3 on."""
    assert layers_to_draw({"esft": choice(*((at, 0) for at in range(3, 16)))}) == [*range(3, 11)]


def test_of_many_layers_those_of_the_first_rules_are_drawn():
    ranks = {f"affinity_{rank}": choice((20 - rank, 0)) for rank in range(1, 13)}

    assert layers_to_draw(ranks) == [*range(12, 20)]


def test_nothing_is_said_of_layers_left_out_where_there_are_none():
    figure = tokens_per_expert(routing([0.25] * 4), routing([0.25] * 4), SELECTED)

    assert figure.layout.xaxis.title.text == "expert, most used on the forget set first"


def test_experts_are_counted_by_layer():
    assert counted([(1, 2), (1, 3), (4, 0)]) == "3 experts in 2 layers"
    assert counted([(1, 2), (1, 3)]) == "2 experts in 1 layer"


def test_the_arrow_points_at_the_bar_of_the_selected_expert():
    """Expert 3 takes least of the forget set: its bar is the last of four, at position 3."""
    forget, retain = routing([0.4, 0.3, 0.2, 0.1]), routing([0.1, 0.1, 0.1, 0.7])

    figure = tokens_per_expert(forget, retain, SELECTED)

    (arrow,) = [note for note in figure.layout.annotations if note.text == "affinity, by_hand"]
    assert (arrow.x, arrow.y) == (3, 0.7)


TRIALS = pd.concat(
    [
        log(*LOOKS).assign(layer=0, expert=5),
        log((0.42, 0.60), (0.25, 0.50), rate=0.2).assign(layer=0, expert=5),
        log(*LOOKS[:2]).assign(layer=3, expert=1),
    ]
)


def test_a_layer_counts_by_the_best_learning_rate_of_its_trials():
    """The second rate of layer 0 falls from .60 to .50 over the whole way: .525 at .75.

    Layer 3 comes to 9/17 forgotten: it has reached half, and no more.
    """
    best = utility_by_layer(TRIALS)

    assert best.loc[0, 0.75] == pytest.approx(0.525)
    assert best.loc[0, 0.9] == pytest.approx(0.51)
    assert best.loc[3, 0.5] == pytest.approx(0.60 - 17 / 18 * 0.15)
    assert best.loc[3].isna().tolist() == [False, True, True]


def test_trials_are_drawn_by_layer_and_the_chosen_layer_is_marked():
    figure = trials_by_layer({"pilot_ga": TRIALS}, {"pilot_ga": 3})

    half, most, _ = figure.data
    assert half.x == (0, 3)
    assert most.x == (0,)
    assert [shape.x0 for shape in figure.layout.shapes] == [3]
    assert {"<b>pilot_ga</b>", "chosen: layer 3"} < set(notes(figure))


def test_trials_of_which_none_forgets_half_still_have_a_panel():
    nothing = log((0.42, 0.60), (0.41, 0.60)).assign(layer=0, expert=5)

    figure = trials_by_layer({"pilot_ga": nothing}, {})

    assert not figure.data
    assert notes(figure) == ["<b>pilot_ga</b>"]
