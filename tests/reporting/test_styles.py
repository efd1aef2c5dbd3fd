"""How methods look, and how a figure is taken apart into its panels."""

import pandas as pd
import pytest
from plotly.subplots import make_subplots

from seuf.reporting.styles import (
    COLOURS,
    EVERYTHING,
    KNOWN,
    SYMBOLS,
    Label,
    at,
    grid,
    heading,
    method_styles,
    name_beside,
    objective_name,
    panels_of,
    spread_out,
    themed,
)
from tests.reporting.examples import METHODS, comparison, method


def styles_of(*names):
    """Return the styles of methods."""
    return method_styles(pd.DataFrame([{"method": name, **method(name)} for name in names]))


def test_who_is_trained_gives_the_look_and_not_the_objective():
    styles = styles_of("seuf_ga", "seuf_rmu", "full_ga", "full_rmu")

    assert styles["seuf_ga"][2:] == styles["seuf_rmu"][2:] == KNOWN["affinity"]
    assert styles["full_ga"].label == styles["full_rmu"].label == EVERYTHING
    assert styles["full_ga"].colour != styles["seuf_ga"].colour
    assert [styles[name].objective for name in ("full_ga", "full_rmu")] == ["ga", "rmu"]


def test_of_methods_that_look_alike_the_shortest_is_the_rule_itself():
    frozen = {**METHODS["seuf_ga"]}
    table = pd.DataFrame(
        [{"method": name, **frozen} for name in ("seuf_ga", "seuf_frozen_ga")]
        + [{"method": "seuf_rmu", **METHODS["seuf_rmu"]}]
    )

    labels = {name: style.label for name, style in method_styles(table).items()}

    assert labels == {
        "seuf_ga": "affinity",
        "seuf_frozen_ga": "seuf_frozen",
        "seuf_rmu": "affinity",
    }


def test_a_variant_is_named_without_its_objective():
    alike = {"scope": "experts", "selection": "contrast", "objective": "gdiff"}
    names = ("contrast_gdiff", "contrast_gdiff_kl")

    styles = method_styles(pd.DataFrame([{"method": name, **alike} for name in names]))

    assert [style.label for style in styles.values()] == ["contrast", "contrast_kl"]


def test_a_random_expert_of_the_layer_of_a_rule_is_not_one_of_all_layers():
    style = styles_of("random_in:contrast_ga")["random_in:contrast_ga"]

    assert style.label == "random in contrast"
    assert style[2:] == KNOWN["random in layer"] != KNOWN["random"]


def test_random_experts_of_the_layers_of_two_rules_are_told_apart():
    one, other = styles_of("random_in:contrast_ga", "random_in:pilot_ga").values()

    assert (one.label, other.label) == ("random in contrast", "random in pilot")
    assert one[2:] != other[2:] == KNOWN["random in pilot"]


def test_each_family_of_a_large_study_has_a_look_of_its_own():
    looks = [*KNOWN.values(), *zip(COLOURS, SYMBOLS, strict=False)]

    assert len({colour for colour, _ in looks}) == len(looks)
    assert objective_name("simnpo") == "SimNPO"


def test_there_is_room_for_the_longest_name():
    made = make_subplots(cols=1)
    name_beside(made, 1, [Label(0.5, "#000000", "●", "a" * 18)], 0.0, 1.0)

    assert themed(made).layout.margin.r == 16 + 8 * 20


def test_random_draws_look_alike():
    drawn = [
        {"method": f"r{number}", "scope": "experts", "selection": selection, "objective": "ga"}
        for number, selection in enumerate(("random", "random_2"))
    ]

    one, two = method_styles(pd.DataFrame(drawn)).values()

    assert one[2:] == two[2:] == KNOWN["random"]


def test_rules_that_nobody_has_heard_of_take_colours_in_turn():
    styles = styles_of("mine_ga", "yours_ga")

    assert [style.colour for style in styles.values()] == COLOURS[:2]


def test_what_minimises_nothing_is_a_grey_cross():
    style = method_styles(comparison())["original"]

    assert (style.label, style.objective, style.symbol) == ("original", "", "x")
    assert style.colour not in [*COLOURS, *(colour for colour, _ in KNOWN.values())]


def test_a_known_objective_is_written_as_people_write_it():
    assert (objective_name("gdiff"), objective_name("mine")) == ("GDiff", "mine")


@pytest.mark.parametrize(
    ("wanted", "places"),
    [
        ([0.5, 0.1], [0.5, 0.1]),
        ([0.5, 0.5], [0.5, 0.7]),  # the second moves up
        ([0.9, 1.0], [0.8, 1.0]),  # none above 1: the lower one moves down
        ([0.0, 0.0, 0.0], [0.0, 0.2, 0.4]),
    ],
)
def test_names_stand_apart_and_as_near_as_can_be(wanted, places):
    assert spread_out(wanted, 0.2, 0.0, 1.0) == pytest.approx(places)


def test_of_an_odd_number_of_panels_the_last_cell_has_no_axes():
    assert len(panels_of(grid(3))) == 3


def test_many_names_stand_closer():
    made = make_subplots(cols=1)

    places = name_beside(made, 1, [Label(0.5, "#000000", "●", str(n)) for n in range(20)], 0.0, 1.0)

    assert len({round(place, 6) for place in places}) == 20
    assert min(places) >= 0
    assert max(places) <= 1


def figure():
    """Return two panels, each with a trace, a title, a line and a name beside."""
    made = make_subplots(cols=2)
    for panel in (1, 2):
        axes = {
            "xaxis": f"x{panel}" if panel > 1 else "x",
            "yaxis": f"y{panel}" if panel > 1 else "y",
        }
        made.add_scatter(x=[panel], y=[panel], **axes)
        made.add_annotation(**heading(panel, f"panel {panel}"))
        made.add_shape(type="line", x0=0, x1=1, y0=0, y1=1, xref=axes["xaxis"], yref=axes["yaxis"])
        name_beside(made, panel, [Label(0.5, "#000000", "●", f"name {panel}")], 0.0, 1.0)
    made.update_xaxes(title="first", col=1).update_xaxes(title="second", col=2)
    return made


def test_a_figure_is_taken_apart_into_panels_that_hold_what_is_theirs():
    first, second = panels_of(figure())

    for number, panel in enumerate((first, second), 1):
        (trace,) = panel["data"]
        assert (trace["x"], trace["xaxis"], trace["yaxis"]) == ([number], "x", "y")
        texts = [note["text"] for note in panel["layout"]["annotations"]]
        assert f"<b>panel {number}</b>" in texts
        assert texts[1].endswith(f"name {number}")
        assert {note["xref"] for note in panel["layout"]["annotations"]} == {"x domain"}
        assert [shape["xref"] for shape in panel["layout"]["shapes"]] == ["x"]
    assert second["layout"]["xaxis"]["title"]["text"] == "second"
    assert "domain" not in second["layout"]["xaxis"]


def test_a_place_is_given_in_parts_of_a_panel():
    assert at(2, 0.5, 1) == {
        "xref": "x2 domain",
        "yref": "y2 domain",
        "x": 0.5,
        "y": 1,
        "showarrow": False,
    }
