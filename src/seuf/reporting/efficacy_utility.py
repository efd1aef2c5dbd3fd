"""Fig. 1a of the paper: what is forgotten against what is left, one marker a method."""

from __future__ import annotations

from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from seuf.reporting.comparison import by_method, original_method
from seuf.reporting.looks import FAINT, INK, Look, legend_entry, looks, objective_entries, styled
from seuf.reporting.words import measure

DOTTED = {"color": FAINT, "width": 1.5, "dash": "dot"}
ABOVE: dict[str, Any] = {
    "y": 1,
    "yref": "paper",
    "yanchor": "bottom",
    "showarrow": False,
    "font": {"color": FAINT, "size": 12},
}


def efficacy_utility(comparison: pd.DataFrame) -> go.Figure:
    """Return the scatter of all methods; the ideal is the upper corner on the left."""
    seen = looks(comparison)
    figure = go.Figure()
    _draw_ideal(figure, comparison)
    for method, row in by_method(comparison).items():
        figure.add_trace(_marker(row, seen[method]))
    for entry in _legend(seen):
        figure.add_trace(entry)
    forget, retain = (measure(comparison, what) for what in ("forget", "utility"))
    figure.update_xaxes(title=f"{forget} on forget questions (lower is better)")
    figure.update_yaxes(title=f"{retain} on retain questions (higher is better)")
    return styled(figure, height=540)


def _draw_ideal(figure: go.Figure, comparison: pd.DataFrame) -> None:
    """Draw chance, the original's utility, and a star where both meet: nothing else is lost."""
    original = original_method(comparison)
    utility = by_method(comparison)[original]["utility"] if original else None
    chance = next(iter(comparison["chance"].dropna()), None)
    if utility is not None:
        figure.add_hline(y=utility, line=DOTTED)
    if chance is not None:
        figure.add_vline(x=chance, line=DOTTED)
        figure.add_annotation(x=chance, text=f"guessing: {chance:.2f}", **ABOVE)
    if utility is not None and chance is not None:
        star = {"symbol": "star-open", "size": 20, "color": FAINT}
        ideal = go.Scatter(x=[chance], y=[utility], mode="markers", marker=star, name="the ideal")
        figure.add_trace(ideal)


def _marker(row: dict[str, Any], look: Look) -> go.Scatter:
    name = escape(str(row["method"]))
    return go.Scatter(
        x=[float(row["forget_efficacy"])],
        y=[float(row["utility"])],
        error_x=_error(row["forget_efficacy_stderr"], look),
        error_y=_error(row["utility_stderr"], look),
        mode="markers",
        marker=_symbol(look),
        name=name,
        showlegend=not look.objective,
        legendgroup=f"objective {look.objective}" if look.objective else None,
        hovertemplate=f"<b>{name}</b><br>forget %{{x:.3f}}<br>retain %{{y:.3f}}<extra></extra>",
    )


def _symbol(look: Look) -> dict[str, Any]:
    edge = {"color": "white", "width": 1}
    return {"color": look.colour, "symbol": look.symbol, "size": 13, "line": edge}


def _error(value: float, look: Look) -> dict[str, Any] | None:
    if pd.isna(value):
        return None
    return {"array": [float(value)], "color": look.colour, "thickness": 1, "width": 0}


def _legend(seen: dict[str, Look]) -> list[go.Scatter]:
    """Return a key to the colours, which also switches an objective off, and one to the symbols."""
    trained = [look for look in seen.values() if look.objective]
    symbols = {look.family: look.symbol for look in trained}
    entries = objective_entries(
        trained, lambda colour: {"mode": "markers", "marker": {"color": colour, "size": 11}}
    )
    return entries + [
        legend_entry(
            escape(family),
            "family" if place == 0 else None,
            mode="markers",
            marker={"color": INK, "symbol": symbol, "size": 11},
            legendgroup="family",
        )
        for place, (family, symbol) in enumerate(symbols.items())
    ]
