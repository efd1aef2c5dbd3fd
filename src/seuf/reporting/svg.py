"""Draw a figure as SVG, its panels two a row, for a page that runs no script.

Only what the figures of this package use is drawn: lines, bands, marks and text on white. Text
stays text. The same figure gives the same bytes, without a browser or another package.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from math import ceil, floor, log10
from typing import Any, NamedTuple

import plotly.graph_objects as go

from seuf.reporting.styles import FAINT, FONT, GRID, INK, PANEL_HEIGHT, panels_of

PANEL_WIDTH = 480
DASHES = {"dot": "2 3", "dash": "7 5"}
ANCHORS = {"left": "start", "center": "middle", "right": "end"}
BASELINES = {"top": 0.8, "middle": 0.35, "bottom": -0.25}  # below the anchor, in font sizes
# Corners of marks as (x, y) from the centre, y downwards, in units of half a mark's size.
SHAPES = {
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
    "triangle-up": [(0, -1.2), (1.1, 0.7), (-1.1, 0.7)],
    "triangle-down": [(0, 1.2), (1.1, -0.7), (-1.1, -0.7)],
    "star": [
        *[(0, -1.4), (0.33, -0.45), (1.33, -0.43), (0.53, 0.17), (0.82, 1.13)],
        *[(0, 0.56), (-0.82, 1.13), (-0.53, 0.17), (-1.33, -0.43), (-0.33, -0.45)],
    ],
    "x": [
        *[(-1, -0.5), (-0.5, -1), (0, -0.5), (0.5, -1), (1, -0.5), (0.5, 0)],
        *[(1, 0.5), (0.5, 1), (0, 0.5), (-0.5, 1), (-1, 0.5), (-0.5, 0)],
    ],
}
STYLE = f"""\
text {{ font-family: {FONT}; fill: {INK}; }}
.grid {{ stroke: {GRID}; }} .axis {{ stroke: {FAINT}; fill: none; }}"""
Point = tuple[float, float]


class Area(NamedTuple):
    """The rectangle in which a panel's data are drawn, in pixels, and its axes.

    Attributes:
        left: Distance from the left edge of the picture.
        top: Distance from its upper edge.
        width: Width of the rectangle.
        height: Height of the rectangle.
        axes: Plotly's layout of the axes `x` and `y`.
    """

    left: float
    top: float
    width: float
    height: float
    axes: Mapping[str, Mapping[str, Any]]

    def x(self, value: float) -> float:
        """Return the pixel of a value on the x axis."""
        return self.left + self.width * self._fraction("x", value)

    def y(self, value: float) -> float:
        """Return the pixel of a value on the y axis."""
        return self.top + self.height * (1 - self._fraction("y", value))

    def _fraction(self, letter: str, value: float) -> float:
        low, high = self.axes[letter]["range"]
        place = log10(value) if self.axes[letter].get("type") == "log" else value
        return float((place - low) / (high - low))


def svg(figure: go.Figure) -> str:
    """Return a figure as SVG.

    Args:
        figure: See `seuf.reporting.styles.grid`; its axes must have ranges.
    """
    panels = panels_of(figure)
    margin = panels[0]["layout"]["margin"]
    columns = min(2, len(panels))
    width, height = columns * PANEL_WIDTH, ceil(len(panels) / columns) * PANEL_HEIGHT
    parts: list[str] = []
    for position, panel in enumerate(panels):
        row, column = divmod(position, columns)
        area = Area(
            column * PANEL_WIDTH + margin["l"],
            row * PANEL_HEIGHT + margin["t"],
            PANEL_WIDTH - margin["l"] - margin["r"],
            PANEL_HEIGHT - margin["t"] - margin["b"],
            {letter: panel["layout"][f"{letter}axis"] for letter in "xy"},
        )
        parts += _panel(area, panel, f"area-{position}")
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img">',
            f"<style>\n{STYLE}\n</style>",
            f"<rect{_attributes(width=width, height=height, rx=8, fill='#fff')}/>",
            *parts,
            "</svg>\n",
        ]
    )


def _panel(area: Area, panel: Mapping[str, Any], name: str) -> Iterator[str]:
    """Yield the elements of a panel: axes, lines, marks, text."""
    rectangle = _attributes(x=area.left, y=area.top, width=area.width, height=area.height)
    yield f'<clipPath id="{name}"><rect{rectangle}/></clipPath>'
    yield from _axes(area)
    yield f'<g clip-path="url(#{name})">'
    for trace in panel["data"]:
        yield from _lines(area, trace)
    yield "</g>"
    for trace in panel["data"]:  # not clipped: a mark may lie on the edge
        yield from _marks(area, trace)
    for note in panel["layout"]["annotations"]:
        yield _note(area, note)


def _axes(area: Area) -> Iterator[str]:
    """Yield grid, ticks and titles of both axes."""
    bottom, right = area.top + area.height, area.left + area.width
    for x in ticks(area.axes["x"]):
        at = area.x(x)
        yield f'<line class="grid"{_attributes(x1=at, x2=at, y1=area.top, y2=bottom)}/>'
        yield _text(f"{x:g}", at, bottom + 16, 11, "middle")
    for y in ticks(area.axes["y"]):
        at = area.y(y)
        yield f'<line class="grid"{_attributes(x1=area.left, x2=right, y1=at, y2=at)}/>'
        yield _text(f"{y:g}", area.left - 6, at + 4, 11, "end")
    corner = _path([(area.left, area.top), (area.left, bottom), (right, bottom)])
    yield f'<path class="axis" d="{corner}"/>'
    yield _text(_title(area, "x"), area.left + area.width / 2, bottom + 36, 12, "middle")
    x, y = area.left - 40, area.top + area.height / 2
    turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"'
    yield _text(_title(area, "y"), x, y, 12, "middle", turned)


def _title(area: Area, letter: str) -> str:
    return str((area.axes[letter].get("title") or {}).get("text", ""))


def ticks(of_axis: Mapping[str, Any]) -> list[float]:
    """Return an axis's ticks: its own, or some five round numbers."""
    values = of_axis.get("tickvals")
    if values is not None:
        return [float(value) for value in values]
    low, high = sorted(of_axis["range"])
    if of_axis.get("type") == "log":
        return [10.0**power for power in range(ceil(low), floor(high) + 1)]
    step = of_axis.get("dtick")
    if step is None:
        least = (high - low) / 6
        power = 10 ** floor(log10(least))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)
    return [round(n * step, 10) for n in range(ceil(low / step), floor(high / step) + 1)]


def _lines(area: Area, trace: Mapping[str, Any]) -> Iterator[str]:
    """Yield a trace's band, or its line with a gap where a value is missing."""
    line = trace.get("line") or {}
    if "lines" not in trace.get("mode", "lines"):
        return
    points = zip(trace["x"], trace["y"], strict=True)
    parts = [list(part) for known, part in groupby(points, lambda p: p[1] is not None) if known]
    for part in parts:
        path = _path([(area.x(x), area.y(y)) for x, y in part])
        if trace.get("fill") == "toself":
            colour, opacity = _colour(trace["fillcolor"])
            yield f'<path d="{path}Z"{_attributes(fill=colour, fill_opacity=opacity)}/>'
        elif len(part) > 1:
            dash = DASHES.get(line.get("dash", ""))
            look = {"stroke": line["color"], "stroke_width": line["width"]}
            look |= {"stroke_dasharray": dash, "opacity": trace.get("opacity")}
            yield f'<path fill="none" d="{path}"{_attributes(**look)}/>'


def _marks(area: Area, trace: Mapping[str, Any]) -> Iterator[str]:
    """Yield a trace's marks."""
    if "markers" not in trace.get("mode", "lines"):
        return
    marker = trace["marker"]
    colours, edge = marker["color"], marker.get("line") or {}
    for position, (x, y) in enumerate(zip(trace["x"], trace["y"], strict=True)):
        if y is None:
            continue
        fill = colours if isinstance(colours, str) else colours[position]
        look = {"fill": fill, "stroke": edge.get("color"), "fill_opacity": marker.get("opacity")}
        cx, cy, half = area.x(x), area.y(y), marker["size"] / 2
        corners = SHAPES.get(marker.get("symbol", ""))
        if corners is None:
            yield f"<circle{_attributes(cx=cx, cy=cy, r=half, **look)}/>"
        else:
            path = _path([(cx + half * a, cy + half * b) for a, b in corners])
            yield f'<path d="{path}Z"{_attributes(**look)}/>'


def _note(area: Area, note: Mapping[str, Any]) -> str:
    """Return an annotation without arrow."""
    place = {}
    for letter in "xy":
        value, is_fraction = note[letter], note[f"{letter}ref"].endswith("domain")
        if is_fraction:
            start, length = (area.left, area.width) if letter == "x" else (area.top, area.height)
            place[letter] = start + length * (value if letter == "x" else 1 - value)
        elif area.axes[letter].get("type") == "log":  # Plotly places annotations by the logarithm
            place[letter] = getattr(area, letter)(10**value)
        else:
            place[letter] = getattr(area, letter)(value)
    size = (note.get("font") or {}).get("size", 12)
    x = place["x"] + note.get("xshift", 0)
    y = place["y"] - note.get("yshift", 0) + size * BASELINES[note.get("yanchor", "middle")]
    return _text(_spans(note["text"]), x, y, size, ANCHORS[note.get("xanchor", "center")], raw=True)


def _spans(text: str) -> str:
    """Return the HTML of a text, bold or with a coloured mark, as SVG."""
    text = re.sub(r'<span style="color:(#\w+)">', r'<tspan style="fill:\1">', text)
    text = text.replace("</span>", "</tspan>").replace("<b>", '<tspan font-weight="bold">')
    return text.replace("</b>", "</tspan>")


def _text(
    text: str, x: float, y: float, size: float, anchor: str, more: str = "", raw: bool = False
) -> str:
    look = _attributes(x=x, y=y, font_size=size, text_anchor=anchor)
    return f"<text{look}{more}>{text if raw else escape(text)}</text>"


def _path(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _colour(colour: str) -> tuple[str, float | None]:
    """Return `rgba(r, g, b, a)` as `#rrggbb` and its opacity."""
    red, green, blue, opacity = map(float, re.findall(r"[\d.]+", colour))
    return f"#{int(red):02x}{int(green):02x}{int(blue):02x}", opacity


def _attributes(**values: Any) -> str:
    """Return the values that are not None as an element's attributes."""
    shown = {
        name.replace("_", "-"): f"{value:.4g}" if isinstance(value, float) else str(value)
        for name, value in values.items()
        if value is not None
    }
    return "".join(f' {name}="{escape(value)}"' for name, value in shown.items())
