"""Fig. 2 of the paper: few experts take most tokens of the forget set."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from seuf.reporting.looks import FAINT, INK, styled

Expert = tuple[int, int]
FEW = 12  # experts of a rule that are told one by one
PANELS = 8
SETS = {"forget": "#3d4b5c", "retain": "#bcc5ce"}  # greys: colours stand for objectives


def tokens_per_expert(
    forget: pd.DataFrame, retain: pd.DataFrame, selected: Mapping[str, Mapping[str, Any]]
) -> go.Figure:
    """Return one panel for each layer in which an expert was selected, see `layers_to_draw`.

    Args:
        forget: The routing table of the forget set.
        retain: That of the retain set.
        selected: What each selection rule chose.
    """
    rules = rules_by_expert(selected)
    layers = layers_to_draw(selected)
    figure = make_subplots(
        rows=max(len(layers), 1),
        subplot_titles=[f"layer {layer}" for layer in layers],
        vertical_spacing=0.3 / max(len(layers), 1),
    )
    for row, layer in enumerate(layers, start=1):
        shares = ranked_shares(forget, retain, layer)
        _draw_layer(figure, row, shares)
        _mark_selected(
            figure, row, shares, {e: who for (at, e), who in rules.items() if at == layer}
        )
    left_out = len({layer for layer, _ in rules}) - len(layers)
    return _finished(figure, rows=max(len(layers), 1), left_out=left_out)


def layers_to_draw(selected: Mapping[str, Mapping[str, Any]]) -> list[int]:
    """Return the first layers that rules chose from; rules of many experts ask for no panel."""
    choices = [choice["experts"] for choice in selected.values()]
    few = [experts for experts in choices if len(experts) <= FEW] or choices
    layers = dict.fromkeys(layer for experts in few for layer, _ in experts)
    return sorted(list(layers)[:PANELS])


def counted(experts: Collection[Sequence[int]]) -> str:
    """Return `93 experts in 24 layers`."""
    layers = len({layer for layer, _ in experts})
    return f"{len(experts)} experts in {layers} layer{'s' if layers > 1 else ''}"


def rules_by_expert(selected: Mapping[str, Mapping[str, Any]]) -> dict[Expert, list[str]]:
    """Return, for each selected (layer, expert), the rules that chose it."""
    rules: dict[Expert, list[str]] = {}
    for rule, choice in selected.items():
        for layer, expert in choice["experts"]:
            rules.setdefault((layer, expert), []).append(rule)
    return rules


def ranked_shares(forget: pd.DataFrame, retain: pd.DataFrame, layer: int) -> pd.DataFrame:
    """Return `forget` and `retain`, the token shares of a layer's experts, falling by `forget`."""
    shares = {
        name: table[table["layer"] == layer].set_index("expert")["token_share"]
        for name, table in zip(SETS, (forget, retain), strict=True)
    }
    return pd.DataFrame(shares).sort_values("forget", ascending=False, kind="stable")


def _draw_layer(figure: go.Figure, row: int, shares: pd.DataFrame) -> None:
    experts = [str(expert) for expert in shares.index]
    for name, colour in SETS.items():
        bars = go.Bar(
            x=experts,
            y=shares[name].tolist(),
            name=f"{name} set",
            marker={"color": colour},
            legendgroup=name,
            showlegend=row == 1,
            hovertemplate=f"expert %{{x}}<br>{name} %{{y:.1%}}<extra></extra>",
        )
        figure.add_trace(bars, row=row, col=1)
    ticks: dict[str, Any] = {"tickangle": 0, "tickfont": {"size": 12 if len(experts) <= 32 else 9}}
    figure.update_xaxes(**ticks, dtick=1 if len(experts) <= 64 else None, row=row, col=1)
    even = {"color": FAINT, "width": 1.5, "dash": "dot"}
    figure.add_hline(y=float(shares["forget"].mean()), line=even, row=row, col=1)


def _mark_selected(
    figure: go.Figure, row: int, shares: pd.DataFrame, rules: Mapping[int, list[str]]
) -> None:
    """Point at each selected expert; neighbours get labels of different heights."""
    marked = [expert for expert in shares.index if expert in rules]
    for place, expert in enumerate(marked):
        figure.add_annotation(
            x=shares.index.get_loc(expert),  # the bar's position: '4' would be read as bar number 4
            y=float(shares.loc[expert].max()),
            text=escape(", ".join(rules[expert])),
            arrowhead=2,
            arrowcolor=INK,
            ax=0,
            ay=-28 - 18 * (place % 3),
            font={"color": INK, "size": 12},
            bgcolor="rgba(255, 255, 255, 0.8)",  # a neighbour's bar may be taller
            row=row,
            col=1,
        )


def _finished(figure: go.Figure, rows: int, left_out: int) -> go.Figure:
    title = "expert, most used on the forget set first"
    title += f"; layers not drawn: {left_out}" if left_out else ""
    figure.update_layout(bargap=0.25, bargroupgap=0, legend={"orientation": "h", "x": 0})
    figure.update_layout(legend={"y": 1, "yanchor": "bottom"})
    figure.update_yaxes(title="share of tokens", tickformat=".0%", rangemode="tozero")
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_xaxes(title=title, row=rows, col=1)
    return styled(figure, height=80 + 260 * rows)
