"""How a method looks, in every figure and table, and what the figures have in common.

Colour tells the objective and symbol the family: what comes before the last `_` of a method's
name, as `contrast` in `contrast_rmu`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape
from itertools import cycle
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from seuf.reporting.comparison import by_method

# Okabe and Ito without yellow, which fades on white, then darker tones of Paul Tol's
COLOURS = [
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#882255",
    "#332288",
    "#999933",
]
SYMBOLS = {
    "circle": "●",
    "square": "■",
    "diamond": "◆",
    "triangle-up": "▲",
    "triangle-down": "▼",
    "star": "★",
    "hexagon": "⬢",
    "pentagon": "⬟",
}
INK, FAINT = "#1f2933", "#8a94a0"
FONT = "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', Arial, sans-serif"


class Look(NamedTuple):
    """How a method is drawn.

    Attributes:
        family: What its name says before the last `_`.
        objective: What its name says after it.
        colour: The objective's.
        symbol: The family's, by Plotly's name.
        glyph: The same symbol as a character.
    """

    family: str
    objective: str
    colour: str
    symbol: str
    glyph: str


def looks(comparison: pd.DataFrame) -> dict[str, Look]:
    """Return the look of each method; one that trained nothing is a black cross."""
    rows = by_method(comparison)
    parts = {name: _parts(name) for name, row in rows.items() if row["trained_share"] > 0}
    families = dict.fromkeys(family for family, _ in parts.values())
    symbols = dict(zip(families, cycle(SYMBOLS), strict=False))
    objectives = dict.fromkeys(objective for _, objective in parts.values())
    colours = dict(zip(objectives, cycle(COLOURS), strict=False))
    found = {
        name: Look(family, objective, colours[objective], symbols[family], SYMBOLS[symbols[family]])
        for name, (family, objective) in parts.items()
    }
    return {name: found.get(name, Look(name, "", INK, "x", "✖")) for name in rows}


def styled(figure: go.Figure, height: int) -> go.Figure:
    """Give a figure the fonts, grid and margins they all have."""
    line = {"linecolor": FAINT, "gridcolor": "#e8ebee", "zeroline": False, "ticks": "outside"}
    figure.update_layout(
        template="plotly_white",
        height=height,
        font={"family": FONT, "size": 13, "color": INK},
        margin={"l": 70, "r": 20, "t": 40, "b": 60},
        hoverlabel={"font": {"family": FONT}},
        legend={"tracegroupgap": 2, "grouptitlefont": {"size": 12, "color": FAINT}},
    )
    figure.update_xaxes(**line, tickcolor=FAINT, title={"standoff": 8, "font": {"size": 13}})
    figure.update_yaxes(**line, tickcolor=FAINT, title={"standoff": 8, "font": {"size": 13}})
    return figure


def legend_entry(name: str, title: str | None = None, **drawn: Any) -> go.Scatter:
    """Return a trace that is in the legend only; `title` opens a group of entries."""
    heading = {} if title is None else {"legendgrouptitle": {"text": title}}
    return go.Scatter(x=[None], y=[None], name=name, hoverinfo="skip", **heading, **drawn)


def objective_entries(
    seen: Iterable[Look], draw: Callable[[str], dict[str, Any]]
) -> list[go.Scatter]:
    """Return a legend entry for each objective, which also switches it off.

    Args:
        seen: Looks of the methods in the figure.
        draw: Returns, for a colour, how the entry is drawn: `mode` and its style.
    """
    colours = {look.objective: look.colour for look in seen}
    return [
        legend_entry(
            escape(objective),
            "objective" if place == 0 else None,
            legendgroup=f"objective {objective}",
            **draw(colour),
        )
        for place, (objective, colour) in enumerate(colours.items())
    ]


def _parts(name: str) -> tuple[str, str]:
    family, underscore, objective = name.rpartition("_")
    return (family, objective) if underscore and family else (name, "other")
