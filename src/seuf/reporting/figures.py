"""How a method looks, in every figure and table, and what the figures have in common.

Colour tells the objective and symbol the family: what comes before the last `_` of a method's
name, as `contrast` in `contrast_rmu`.

Fig. 1a of the paper: what is forgotten against what is left, one marker a method.

Fig. 3 of the paper: do tokens still go to the experts they went to, step by step?

Fig. 2 of the paper: few experts take most tokens of the forget set.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from html import escape
from itertools import cycle
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from seuf.reporting.comparison import by_method, measure, original_method

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
    for entry in _overlap_legend(seen):
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


def _overlap_legend(seen: Mapping[str, Look]) -> list[go.Scatter]:
    entries = objective_entries(
        seen.values(), lambda colour: {"mode": "lines", "line": {"color": colour, "width": 3}}
    )
    dot = {"color": INK, "size": 10}
    return [
        *entries,
        legend_entry("checkpoint kept", " ", mode="markers", marker=dot, legendgroup="k"),
    ]


Expert = tuple[int, int]
FEW = 12  # experts of a rule that are told one by one
PANELS = 8
TOKEN_SETS = {
    "forget": "#3d4b5c",
    "retain": "#bcc5ce",
}  # greys: colours stand for objectives


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
        for name, table in zip(TOKEN_SETS, (forget, retain), strict=True)
    }
    return pd.DataFrame(shares).sort_values("forget", ascending=False, kind="stable")


def _draw_layer(figure: go.Figure, row: int, shares: pd.DataFrame) -> None:
    experts = [str(expert) for expert in shares.index]
    for name, colour in TOKEN_SETS.items():
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
