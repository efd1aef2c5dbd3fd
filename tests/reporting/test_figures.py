"""What happened along the paths: forgetting against what is left, and overlap over steps."""

from math import log10

import pandas as pd
import pytest

from seuf.reporting.figures import (
    GENERAL_LOSS,
    forgetting_paths,
    mean_path,
    overlap_over_steps,
    round_ticks,
)
from seuf.reporting.styles import KNOWN
from tests.reporting.examples import LOOKS, log, paths


def named(figure, name):
    """Return the traces that bear the name."""
    return [trace for trace in figure.data if trace.name == name]


def notes(figure):
    """Return the texts that stand in a figure."""
    return [note.text for note in figure.layout.annotations]


STUDY = paths(full_ga=LOOKS, seuf_ga=LOOKS[:2], full_rmu=LOOKS)


def test_a_path_is_drawn_from_the_original_on():
    (path, _) = named(forgetting_paths(STUDY), "everything")

    assert path.x == (0.42, 0.33, 0.25)
    assert path.y == (0.60, 0.45, 0.34)


def test_each_objective_has_a_panel():
    figure = forgetting_paths(STUDY)

    assert {"<b>GA</b>", "<b>RMU</b>"} < set(notes(figure))
    first, second = named(figure, "everything")
    assert (first.xaxis, second.xaxis) == ("x", "x2")


def test_the_kept_checkpoint_is_marked_and_named_beside_the_panel():
    figure = forgetting_paths(STUDY)

    (kept,) = named(figure, "affinity, kept")
    assert (kept.x, kept.y) == ((0.33,), (0.45,))
    colour, symbol = KNOWN["affinity"]
    assert (kept.marker.color, kept.marker.symbol) == (colour, symbol)
    assert f'<span style="color:{colour}">●</span> affinity' in notes(figure)


def test_forgetting_goes_to_the_right_down_to_guessing():
    left, right = forgetting_paths(STUDY).layout.xaxis.range

    assert left > 0.42
    assert right < 0.25


def test_the_shares_at_which_methods_are_compared_are_marked():
    """From .42 to .25: half is .335, three quarters .2925, nine tenths .267, all .25."""
    figure = forgetting_paths(paths(full_ga=LOOKS))

    places = [shape.x0 for shape in figure.layout.shapes]
    assert places == pytest.approx([0.335, 0.2925, 0.267, 0.25])
    assert {".5", ".75", ".9", "1"} < set(notes(figure))


def test_the_original_and_a_model_that_was_never_taught_are_marked_in_each_panel():
    figure = forgetting_paths(STUDY, beside={"retrained": (0.3, 0.7)})

    assert [(mark.x, mark.y) for mark in named(figure, "original")] == [((0.42,), (0.60,))] * 2
    assert [(mark.x, mark.y) for mark in named(figure, "retrained")] == [((0.3,), (0.7,))] * 2


def test_the_general_loss_is_drawn_on_a_logarithmic_axis():
    """Losses 1, 2 and 4; names stand at their logarithms."""
    figure = forgetting_paths(paths(full_ga=LOOKS), GENERAL_LOSS)

    (path,) = named(figure, "everything")
    assert path.y == (1, 2, 4)
    assert figure.layout.yaxis.type == "log"
    (name,) = [note for note in figure.layout.annotations if note.text.endswith(" everything")]
    assert name.y == pytest.approx(log10(4))
    assert name.yref == "y"


def test_without_test_questions_or_general_text_nothing_is_drawn():
    assert not forgetting_paths(STUDY.assign(general_loss=None), GENERAL_LOSS).data
    assert not forgetting_paths(paths(original=())).data
    assert not overlap_over_steps(paths(original=())).data


def test_rates_that_were_not_chosen_are_not_drawn():
    other = log(*LOOKS, rate=0.2).assign(kept=False, method="full_ga", chosen=False)

    both = pd.concat([paths(full_ga=LOOKS), other])

    assert len(named(forgetting_paths(both), "everything")) == 1


RUNS = pd.concat(
    [
        paths("a", full_ga=((1.0, 1.0), (0.25, 0.4))),
        paths("b", full_ga=((1.0, 1.0), (0.25, 0.6))),
        paths("b", 1, full_ga=((1.0, 1.0), (0.625, 0.9))),
    ]
)


def test_of_several_runs_the_mean_at_equal_forgetting_is_drawn_with_a_band():
    """At half forgotten, FE .625: .7, .8 and .9 make .8, with a deviation of .1.

    At all forgotten, FE .25, only two runs are left: .4 and .6 make .5.
    """
    solid, dotted = named(forgetting_paths(RUNS), "everything")
    band = next(trace for trace in forgetting_paths(RUNS).data if trace.fill == "toself")

    assert (solid.x[-1], solid.y[-1]) == pytest.approx((0.625, 0.8))
    assert (dotted.x[-1], dotted.y[-1]) == pytest.approx((0.25, 0.5))
    assert (solid.line.dash, dotted.line.dash) == ("solid", "dot")
    assert band.y[len(solid.y) - 1] == pytest.approx(0.9)


def test_the_mean_goes_as_far_as_half_of_the_runs_come():
    runs = [
        log((1.0, 1.0), (0.25, 0.4)),
        log((1.0, 1.0), (0.625, 0.9)),
        log((1.0, 1.0), (0.7, 0.9)),
    ]

    mean = mean_path(runs, "test_utility")

    assert mean["forgotten"].iloc[-1] == pytest.approx(0.5)
    assert mean["runs"].tolist()[0::20] == [3, 2]


def test_overlap_is_drawn_on_both_sets_and_its_line_ends_at_its_name():
    forget, retain = named(overlap_over_steps(paths(full_ga=LOOKS)), "everything")

    assert (forget.x, forget.y) == ((0, 5, 10), (1.0, 0.9, 0.8))
    assert (retain.x, retain.y) == ((0, 5, 10), (1.0, 0.95, 0.9))


def test_what_a_line_is_called_cannot_bring_markup():
    evil = paths(full_ga=LOOKS).assign(scope="<b>")

    assert "<b>" not in {trace.name for trace in forgetting_paths(evil).data}


def test_a_deletion_has_a_path_of_its_own():
    """From the original straight to what is left without the expert."""
    deleted = paths(seuf_ga=LOOKS[::2]).assign(scope="deletion", objective=None, method="deletion")

    figure = forgetting_paths(pd.concat([STUDY, deleted]))

    assert "<b>deletion, no training</b>" in notes(figure)
    (path,) = named(figure, "affinity")[1:]
    assert path.x == (0.42, 0.25)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1.2, 40, [3, 10, 30]),
        (1.2, 6, [1.5, 2, 3, 5]),
        (2.1, 2.9, [2.2, 2.4, 2.6, 2.8]),
        (3.1, 4.9, [3.5, 4.0, 4.5]),
        (1.9, 2.9, [2.0, 2.2, 2.4, 2.6, 2.8]),
    ],
)
def test_a_logarithmic_axis_has_two_ticks_or_more_however_narrow_its_range(low, high, ticks):
    """Between 2 and 3 lies no 1, 1.5, 2, 3, 5 or 7: a sixth of .8 is rounded up to .2."""
    assert round_ticks(low, high) == ticks
