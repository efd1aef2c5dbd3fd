"""Fig. 3 of the paper: do tokens still go to the experts they went to, step by step?"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from seuf.reporting.comparison import by_method
from seuf.reporting.looks import INK, Look, legend_entry, looks, objective_entries, styled

SETS = ["forget", "retain"]


def overlap_over_steps(comparison: pd.DataFrame, logs: Mapping[str, pd.DataFrame]) -> go.Figure:
    """Return a column of panels for each family of methods, a row for each set.

    Args:
        comparison: One row a method.
        logs: The training log of each method; an empty one draws nothing.
    """
    every = {method: kept_curve(log) for method, log in logs.items()}
    curves = {method: curve for method, curve in every.items() if not curve.empty}
    seen = {m: look for m, look in looks(comparison).items() if m in curves}
    families = list(dict.fromkeys(look.family for look in seen.values()))
    figure = _panels(families)
    rows = by_method(comparison)
    for method, look in seen.items():
        column = families.index(look.family) + 1
        for row, name in enumerate(SETS, start=1):
            curve = curves[method][["step", name]].rename(columns={name: "overlap"})
            kept = curves[method]["kept"] if rows[method]["changed_tensors"] else curve["step"] == 0
            figure.add_trace(_line(curve, kept, method, look), row=row, col=column)
    for entry in _legend(seen):
        figure.add_trace(entry)
    return styled(figure, height=560)


def kept_curve(log: pd.DataFrame) -> pd.DataFrame:
    """Return the looks of the learning rate that was kept, from step 0, where all overlap is 1.

    Returns:
        Columns `step`, `forget`, `retain` and `kept`, which is true at the look with the best
        balance of all; no row if the log has no look.
    """
    looked = log.dropna(subset=["balance", "overlap_forget", "overlap_retain"])
    if looked.empty:
        return pd.DataFrame(columns=["step", *SETS, "kept"])
    best = looked.sort_values("balance", ascending=False, kind="stable").iloc[0]
    rate = looked[looked["learning_rate"] == best["learning_rate"]]
    return pd.DataFrame(
        {
            "step": [0, *rate["step"].astype(int)],
            "forget": [1.0, *rate["overlap_forget"].astype(float)],
            "retain": [1.0, *rate["overlap_retain"].astype(float)],
            "kept": [False, *(rate["step"] == best["step"])],
        }
    )


def _panels(families: list[str]) -> go.Figure:
    columns = max(len(families), 1)
    figure = make_subplots(
        rows=len(SETS),
        cols=columns,
        shared_xaxes=True,
        shared_yaxes="all",
        column_titles=[escape(family) for family in families] or None,
        horizontal_spacing=0.1 / columns,
        vertical_spacing=0.06,
    )
    for row, name in enumerate(SETS, start=1):
        figure.update_yaxes(title=f"overlap on {name} set", row=row, col=1)
    figure.update_xaxes(title="optimizer step", row=len(SETS))
    return figure


def _line(curve: pd.DataFrame, kept: pd.Series[bool], method: str, look: Look) -> go.Scatter:
    name = escape(method)
    return go.Scatter(
        x=curve["step"].tolist(),
        y=curve["overlap"].tolist(),
        mode="lines+markers",
        line={"color": look.colour, "width": 2},
        marker=_dots(look, kept),
        name=name,
        legendgroup=f"objective {look.objective}",
        showlegend=False,
        hovertemplate=f"<b>{name}</b><br>step %{{x}}: %{{y:.3f}}<extra></extra>",
    )


def _dots(look: Look, kept: pd.Series[bool]) -> dict[str, Any]:
    sizes = [10 if here else 0 for here in kept]
    return {"color": look.colour, "size": sizes, "opacity": 1, "line": {"width": 0}}


def _legend(seen: Mapping[str, Look]) -> list[go.Scatter]:
    entries = objective_entries(
        seen.values(), lambda colour: {"mode": "lines", "line": {"color": colour, "width": 3}}
    )
    dot = {"color": INK, "size": 10}
    return [
        *entries,
        legend_entry("checkpoint kept", " ", mode="markers", marker=dot, legendgroup="k"),
    ]
