"""What one expert of each layer keeps: read off its path, with its interval, and drawn."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from seuf.reporting.layer_figure import layers_figure
from seuf.reporting.layers import ALL, COLUMNS, layer_table
from seuf.reporting.styles import KNOWN
from tests.reporting.examples import LOOKS, log, paths
from tests.reporting.test_spread import right

Looks = tuple[tuple[float, float], ...]
STUDY = paths(full_ga=LOOKS, seuf_ga=LOOKS, contrast_ga=LOOKS)  # experts 1:3
HALF = LOOKS[:2]  # 9/17 of the way to chance


def trials(
    *layers: Looks, rule: str = "affinity", base: str = "0", chosen: int = -1, **columns: Any
) -> pd.DataFrame:
    """Return the trials of a sweep: of each layer its looks."""
    tables = [
        log(*looks).assign(layer=layer, expert=7, chosen=layer == chosen)
        for layer, looks in enumerate(layers)
    ]
    about = {"base": base, "seed": 0, "objective": "ga", "rule": rule}
    return pd.concat(tables, ignore_index=True).assign(**(about | columns))


def of(table: pd.DataFrame, rule: str, layer: int | None = None, base: str = "0") -> pd.Series:
    """Return one row."""
    here = table["layer"].eq(layer) if layer is not None else table["layer"].isna()
    (row,) = table[table["rule"].eq(rule) & table["base"].eq(base) & here].to_dict("records")
    return pd.Series(row)


def traces(figure: Any, said: str, panel: int = 1) -> list[Any]:
    """Return the traces of a panel that say so on hovering."""
    own = "x" if panel == 1 else f"x{panel}"
    return [t for t in figure.data if said in (t.hovertemplate or "") and t.xaxis == own]


def names(figure: Any) -> list[str]:
    """Return the names in a figure without their marks."""
    return [note.text.rpartition("</span> ")[2] for note in figure.layout.annotations]


def test_utility_and_loss_are_those_where_the_test_path_first_forgets_three_quarters():
    """FE .42, .33, .25 forget 0, 9/17 and 1: at .75 the second step is .46875 done.

    Utility .45 - .46875 x .11 = .3984; the general loss goes 1, 2, 4: 2 + .46875 x 2 = 2.9375.
    """
    row = of(layer_table(trials(LOOKS), STUDY), "affinity", 0)

    assert row["utility_at_75"] == pytest.approx(0.3984, abs=1e-4)
    assert row["general_loss_at_75"] == pytest.approx(2.9375)
    assert (row["expert"], row["learning_rate"], row["reached"]) == (7, 0.1, 1)


def test_a_layer_that_does_not_forget_so_much_has_no_number():
    table = layer_table(trials(HALF, LOOKS), STUDY)

    assert list(table.columns) == COLUMNS
    assert pd.isna(of(table, "affinity", 0)["utility_at_75"])
    assert [of(table, "affinity", layer)["reached"] for layer in (0, 1)] == [0, 1]


def test_of_two_learning_rates_the_selection_questions_choose():
    """On the test questions the first rate keeps .9 of all, on the selection questions .1."""
    first = trials(((0.42, 0.6), (0.25, 0.1))).assign(test_utility=[0.6, 0.9])
    second = trials(((0.42, 0.6), (0.25, 0.5)), learning_rate=0.2).assign(test_utility=[0.6, 0.4])

    row = of(layer_table(pd.concat([first, second]), STUDY), "affinity", 0)

    assert row["learning_rate"] == 0.2
    assert row["utility_at_75"] == pytest.approx(0.6 - 0.75 * 0.2)


def test_over_bases_the_interval_is_students():
    """.6 - .75 x .1 = .525 and .6 - .75 x .06 = .555: .54, +- 12.706 x .015 of one degree."""
    tried = [
        trials(((0.42, 0.6), (0.25, left)), base=base) for base, left in (("a", 0.5), ("b", 0.54))
    ]
    study = pd.concat([paths("a", full_ga=LOOKS), paths("b", full_ga=LOOKS)])

    row = of(layer_table(pd.concat(tried), study), "affinity", 0, ALL)

    assert row["utility_at_75"] == pytest.approx(0.54)
    assert row["utility_at_75_high"] == pytest.approx(0.54 + 12.706 * 0.015, abs=1e-4)
    assert (row["reached"], row["bases"]) == (2, 2)


def test_of_one_base_the_interval_is_over_its_questions():
    """Of 20 questions 10 are left: a standard error of .11 at the end, .75 of it at .75.

    Where the forget questions are drawn again nothing changes: all are forgotten at once.
    """
    answers = {
        "test_forget_right": [right(20), right(0)],
        "test_utility_right": [right(20), right(10)],
    }
    looked = trials(((1.0, 1.0), (0.0, 0.5)), test_chance=0.0, **answers)

    row = of(layer_table(looked, paths(contrast_ga=LOOKS)), "affinity", 0)

    assert row["utility_at_75"] == pytest.approx(0.625)
    assert row["utility_at_75_high"] - 0.625 == pytest.approx(0.75 * 1.96 * 0.112, rel=0.15)
    assert row["general_loss_at_75_low"] == row["general_loss_at_75_high"]


def test_everything_and_the_original_are_rows_to_compare_with():
    """Everything follows the same path, the original has the utility of its first look."""
    table = layer_table(trials(LOOKS), STUDY)

    assert of(table, "everything")["utility_at_75"] == pytest.approx(0.3984, abs=1e-4)
    assert of(table, "original")["utility_at_75"] == pytest.approx(0.60)
    assert of(table, "original")["general_loss_at_75"] == pytest.approx(1.0)


def test_it_is_said_who_chose_a_layer():
    """The rules chose an expert of layer 1, see `examples.scores`; the trial layer 1, then 0."""
    by_affinity = trials(LOOKS, LOOKS, chosen=1)
    by_contrast = trials(LOOKS, LOOKS, rule="contrast", chosen=0)

    table = layer_table(pd.concat([by_affinity, by_contrast]), STUDY)

    assert of(table, "affinity", 1)["chosen_by"] == "affinity pilot"
    assert of(table, "contrast", 1)["chosen_by"] == "contrast"
    assert of(table, "contrast", 0)["chosen_by"] == "pilot"
    assert pd.isna(of(table, "affinity", 0)["chosen_by"])


@pytest.mark.parametrize("bases", ["a", "ab"])
def test_a_choice_that_the_sweep_leaves_out_is_marked_by_its_own_run(bases):
    """The sweep tried layer 0; affinity took expert 3 of layer 1, whose run comes to .3984.

    Contrast was not swept at all. Of two bases the choice has no row for both.
    """
    swept = pd.concat([trials(LOOKS, base=base) for base in bases])
    study = pd.concat(
        [
            paths("a", **dict.fromkeys(("full_ga", "seuf_ga", "contrast_ga"), LOOKS)),
            paths("b", full_ga=LOOKS),
        ]
    )

    table = layer_table(swept, study)

    own = of(table, "affinity", 1, "a")
    assert (own["expert"], own["learning_rate"], own["chosen_by"]) == (3, 0.1, "affinity own_run")
    assert own["utility_at_75"] == pytest.approx(0.3984, abs=1e-4)
    assert list(table.loc[table["layer"].eq(1), "base"]) == ["a"]
    assert not table["rule"].eq("contrast").any()
    figure = layers_figure(table)
    (line,) = traces(figure, "affinity, %{text}")
    (mark,) = traces(figure, "<b>chosen, paper</b>")
    assert (list(line.x), list(mark.x)) == ([0], [1])
    assert mark.y[0] == pytest.approx(0.3984, abs=1e-4)


def test_an_axis_is_not_drawn_for_rounding():
    """The mean of three times .4 is not .4: an axis from one to the other tells nothing."""
    bases = ("a", "b", "c")
    flat = ((0.42, 0.4), (0.33, 0.4))
    table = layer_table(
        pd.concat([trials(flat, base=base) for base in bases]),
        pd.concat([paths(base, full_ga=flat) for base in bases]),
    )
    values = table["utility_at_75"].dropna()

    low, high = layers_figure(table).layout.yaxis.range

    assert 0 < values.max() - values.min() < 1e-9
    assert (low, high) == pytest.approx((0.28, 0.52))


def test_a_layer_that_is_not_reached_is_a_gap_with_a_mark():
    """Layers 0 and 2 come to 1; layer 1 to 9/17: the line has no value there, and a cross."""
    figure = layers_figure(layer_table(trials(LOOKS, HALF, LOOKS), STUDY))

    for panel, value in ((1, 0.3984), (2, 2.9375)):
        (line,) = traces(figure, "affinity, %{text}", panel)
        (cross,) = traces(figure, "not reached", panel)
        assert line.x == (0, 1, 2)
        assert line.y[1] is None
        assert line.y[0] == pytest.approx(value, abs=1e-4)
        assert (cross.x, cross.marker.symbol) == ((1,), "x")
    assert "not reached" in names(figure)


def test_the_choices_are_marked_at_their_layers():
    by_affinity = trials(LOOKS, LOOKS, chosen=0)
    figure = layers_figure(layer_table(by_affinity, STUDY))

    (paper,), (pilot,) = traces(figure, "chosen, paper"), traces(figure, "chosen, pilot")
    assert (paper.x, paper.marker.color) == ((1,), KNOWN["affinity"][0])
    assert (pilot.x, pilot.marker.symbol) == ((0,), "star")
    assert {"paper 1", "pilot 0", "by affinity", "everything", "original"} < set(names(figure))


def test_a_chosen_layer_that_is_not_reached_is_marked_at_the_foot():
    figure = layers_figure(layer_table(trials(LOOKS, HALF), STUDY))

    (paper,), (cross,) = traces(figure, "chosen, paper"), traces(figure, "not reached")
    assert (paper.x, paper.y) == (cross.x, cross.y)


def test_bases_are_points_and_a_mean_of_some_of_them_is_hollow():
    """On base b layer 0 is not reached: its mean is that of base a, without an interval."""
    study = pd.concat([paths("a", full_ga=LOOKS), paths("b", full_ga=LOOKS)])
    tried = [trials(LOOKS, LOOKS, base="a"), trials(HALF, LOOKS, base="b")]

    figure = layers_figure(layer_table(pd.concat(tried), study))

    (line,), (points,) = traces(figure, "affinity, %{text}"), traces(figure, "layer %{x}, %{text}:")
    assert line.marker.color == ("white", KNOWN["affinity"][0])
    assert sorted(points.x) == [0, 1, 1]
    (band,) = [t for t in figure.data if t.fill == "toself" and t.xaxis == "x"]
    assert set(band.x) == {0.75, 1, 1.25}


def test_fewer_than_half_of_the_bases_are_no_mean():
    bases = ("a", "b", "c")
    study = pd.concat([paths(base, full_ga=LOOKS) for base in bases])
    tried = [trials(LOOKS if base == "a" else HALF, LOOKS, base=base) for base in bases]

    figure = layers_figure(layer_table(pd.concat(tried), study))

    (line,), (cross,) = traces(figure, "affinity, %{text}"), traces(figure, "not reached")
    assert line.y[0] is None
    assert cross.x == (0,)


def test_where_no_loss_was_measured_there_is_no_panel_of_it():
    table = layer_table(trials(LOOKS, general_loss=None), STUDY.assign(general_loss=None))

    assert len([name for name in names(layers_figure(table)) if name.startswith("<b>")]) == 1
