"""A figure as a picture: what is drawn where."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import plotly.graph_objects as go
import pytest

from seuf.reporting.styles import Label, grid, heading, name_beside, themed
from seuf.reporting.svg import svg, ticks

# One panel: 480 x 300 less the margins of `styles.themed`: left 52, top 48, bottom 46, right 16
LEFT, RIGHT, TOP, BOTTOM = 52, 480 - 16, 48, 300 - 46


def figure(ends: tuple[float, float] = (0, 1), kind: str = "linear", **trace: Any) -> go.Figure:
    """Return a panel whose x goes from 0 to 10."""
    made = grid(1)
    made.add_scatter(**({"line": {"color": "#123456", "width": 2}} | trace))
    made.update_xaxes(range=[0, 10], title="steps & layers", dtick=5)
    made.update_yaxes(range=ends, title="what is left", type=kind)
    return themed(made)


def elements(drawn: str, tag: str) -> list[ElementTree.Element]:
    """Return the elements of that name; the picture must be XML."""
    return list(ElementTree.fromstring(drawn).iter(f"{{http://www.w3.org/2000/svg}}{tag}"))


def lines(drawn: str) -> list[list[tuple[float, float]]]:
    """Return the corners of the paths in the trace's colour."""
    paths = [path for path in elements(drawn, "path") if path.get("stroke") == "#123456"]
    return [
        [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path.get("d", ""))]
        for path in paths
    ]


def test_a_line_goes_from_corner_to_corner():
    (line,) = lines(svg(figure(x=[0, 5, 10], y=[0, 0.5, 1], mode="lines")))

    middle = ((LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2)
    assert line == [(LEFT, BOTTOM), middle, (RIGHT, TOP)]


def test_a_line_breaks_where_a_value_is_missing():
    drawn = svg(figure(x=[0, 1, 2, 3, 4], y=[0, 1, None, 1, 0], mode="lines"))

    assert [len(line) for line in lines(drawn)] == [2, 2]


def test_on_a_logarithmic_axis_ten_lies_between_one_and_a_hundred():
    drawn = svg(figure((0, 2), "log", x=[0, 0, 0], y=[1, 10, 100], mode="lines"))

    assert [y for _, y in lines(drawn)[0]] == [BOTTOM, (TOP + BOTTOM) / 2, TOP]


def test_a_mark_has_its_symbol_its_colour_and_its_place():
    """A circle is one of SVG's; a star has ten corners, the first of them 1.4 x 5 above."""
    marker = {"color": ["#ffffff", "#00ff00"], "size": 10, "line": {"color": "#0000ff"}}
    circles = svg(figure(x=[0, 10], y=[0, 1], mode="markers", marker=marker))
    star = {"color": "#00ff00", "symbol": "star", "size": 10}
    stars = svg(figure(x=[0, 10], y=[0, None], mode="markers", marker=star))

    told = [(c.get("cx"), c.get("fill"), c.get("stroke")) for c in elements(circles, "circle")]
    assert told == [("52", "#ffffff", "#0000ff"), ("464", "#00ff00", "#0000ff")]
    (path,) = [one for one in elements(stars, "path") if one.get("fill") == "#00ff00"]
    assert path.get("d", "").startswith(f"M{LEFT}.0 {BOTTOM - 7}.0L")
    assert path.get("d", "").count("L") == 9


def test_a_band_has_its_colour_and_opacity():
    band = {"fill": "toself", "fillcolor": "rgba(31, 131, 196, 0.16)", "line": {"width": 0}}

    drawn = svg(figure(x=[0, 10, 10, 0], y=[1, 1, 0, 0], mode="lines", **band))

    (path,) = [one for one in elements(drawn, "path") if one.get("fill") == "#1f83c4"]
    assert path.get("fill-opacity") == "0.16"
    assert path.get("d", "").endswith("Z")


def test_names_and_titles_are_text():
    made = figure(x=[0], y=[0], mode="markers", marker={"color": "#000000", "size": 5})
    made.add_annotation(**heading(1, "GA: utility"))
    name_beside(made, 1, [Label(0.5, "#D55E00", "◆", "contrast 28")], 0.0, 1.0)

    texts = elements(svg(themed(made)), "text")

    told = ["".join(text.itertext()) for text in texts]
    assert {"GA: utility", "◆ contrast 28", "what is left", "steps & layers", "5"} < set(told)
    (coloured,) = [one for text in texts for one in text if one.get("style")]
    assert (coloured.text, coloured.get("style")) == ("◆", "fill:#D55E00")


def test_panels_stand_two_a_row():
    assert 'viewBox="0 0 960 600"' in svg(themed(with_ranges(3)))
    assert 'viewBox="0 0 480 300"' in svg(themed(with_ranges(1)))


def with_ranges(panels: int) -> go.Figure:
    """Return empty panels with axes."""
    return grid(panels).update_xaxes(range=[0, 1]).update_yaxes(range=[0, 1])


def test_the_same_figure_gives_the_same_bytes():
    one, other = (svg(figure(x=[0, 1], y=[0, 1], mode="lines")) for _ in range(2))

    assert one == other
    assert one.endswith("</svg>\n")


@pytest.mark.parametrize(
    ("axis", "found"),
    [
        ({"range": [-1, 31], "dtick": 5}, [0, 5, 10, 15, 20, 25, 30]),
        ({"range": [0.38, 0.78]}, [0.4, 0.5, 0.6, 0.7]),  # a sixth is .067: a tenth is next
        ({"range": [1, 0]}, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ({"range": [0, 1], "tickvals": [5, 7]}, [5, 7]),
        ({"range": [-0.5, 2.5], "type": "log"}, [1, 10, 100]),
    ],
)
def test_ticks_are_round_numbers(axis, found):
    assert ticks(axis) == pytest.approx(found)
