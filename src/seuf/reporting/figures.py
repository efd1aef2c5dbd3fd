"""Draw the figures of a study: the paper's 1a, 2 and 3, and how every method looks in them.

Colour tells the objective and symbol the family: what a method's name says after its last `_` and
before it, as `rmu` and `contrast` in `contrast_rmu`. The report's table uses the same styles.
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
DOTTED = {"color": FAINT, "width": 1.5, "dash": "dot"}

SETS = ["forget", "retain"]
SET_COLOURS = {"forget": "#3d4b5c", "retain": "#bcc5ce"}  # greys: colours stand for objectives
MAX_LISTED_EXPERTS = 12  # of one rule
MAX_LAYERS = 8  # that are drawn


class Style(NamedTuple):
    """How a method is drawn.

    Attributes:
        family: What its name says before the last `_`.
        objective: What its name says after it; empty if it was not unlearned.
        colour: The objective's.
        symbol: The family's, by Plotly's name.
        glyph: The same symbol as a character.
    """

    family: str
    objective: str
    colour: str
    symbol: str
    glyph: str


def method_styles(comparison: pd.DataFrame) -> dict[str, Style]:
    """Return the style of each method; one that trained nothing is a black cross."""
    rows = by_method(comparison)
    names: dict[str, tuple[str, str]] = {}
    for name, row in rows.items():
        if row["trained_share"] > 0:
            family, _, objective = name.rpartition("_")
            names[name] = (family, objective) if family and objective else (name, "other")
    symbols = dict(zip(dict.fromkeys(f for f, _ in names.values()), cycle(SYMBOLS), strict=False))
    colours = dict(zip(dict.fromkeys(o for _, o in names.values()), cycle(COLOURS), strict=False))
    trained = {
        name: Style(
            family, objective, colours[objective], symbols[family], SYMBOLS[symbols[family]]
        )
        for name, (family, objective) in names.items()
    }
    return {name: trained.get(name, Style(name, "", INK, "x", "✖")) for name in rows}


def efficacy_utility(comparison: pd.DataFrame) -> go.Figure:
    """Return Fig. 1a of the paper: what is forgotten against what is left, one marker a method.

    Dotted lines are chance and the original's utility. The star where they meet, in the upper
    corner on the left, is the ideal: nothing else is lost.
    """
    styles, rows, figure = method_styles(comparison), by_method(comparison), go.Figure()
    original = original_method(comparison)
    utility = rows[original]["utility"] if original else None
    chance = next(iter(comparison["chance"].dropna()), None)
    if utility is not None:
        figure.add_hline(y=utility, line=DOTTED)
    if chance is not None:
        figure.add_vline(x=chance, line=DOTTED)
        figure.add_annotation(
            x=chance,
            text=f"guessing: {chance:.2f}",
            y=1,
            yref="paper",
            yanchor="bottom",
            showarrow=False,
            font={"color": FAINT, "size": 12},
        )
    if utility is not None and chance is not None:
        star = {"symbol": "star-open", "size": 20, "color": FAINT}
        figure.add_scatter(x=[chance], y=[utility], mode="markers", marker=star, name="the ideal")
    for method, row in rows.items():
        figure.add_trace(_marker(method, row, styles[method]))
    trained = [style for style in styles.values() if style.objective]
    figure.add_traces(
        _objective_legend(
            trained, lambda colour: {"mode": "markers", "marker": {"color": colour, "size": 11}}
        )
    )
    for place, (family, symbol) in enumerate({s.family: s.symbol for s in trained}.items()):
        marker = {"color": INK, "symbol": symbol, "size": 11}
        title = None if place else "family"
        figure.add_trace(
            _legend_entry(family, title, mode="markers", marker=marker, legendgroup="family")
        )
    forget, retain = (measure(comparison, what) for what in ("forget", "utility"))
    figure.update_xaxes(title=f"{forget} on forget questions (lower is better)")
    figure.update_yaxes(title=f"{retain} on retain questions (higher is better)")
    return _themed(figure, height=540)


def _marker(method: str, row: dict[str, Any], style: Style) -> go.Scatter:
    name, edge = escape(method), {"color": "white", "width": 1}
    bars = {"color": style.colour, "thickness": 1, "width": 0}
    errors = [row["forget_efficacy_stderr"], row["utility_stderr"]]
    error_x, error_y = (None if pd.isna(e) else {"array": [float(e)], **bars} for e in errors)
    return go.Scatter(
        x=[float(row["forget_efficacy"])],
        y=[float(row["utility"])],
        error_x=error_x,
        error_y=error_y,
        mode="markers",
        marker={"color": style.colour, "symbol": style.symbol, "size": 13, "line": edge},
        name=name,
        showlegend=not style.objective,
        legendgroup=f"objective {style.objective}" if style.objective else None,
        hovertemplate=f"<b>{name}</b><br>forget %{{x:.3f}}<br>retain %{{y:.3f}}<extra></extra>",
    )


def overlap_over_steps(comparison: pd.DataFrame, logs: Mapping[str, pd.DataFrame]) -> go.Figure:
    """Return Fig. 3 of the paper: do tokens still go to the experts they went to, step by step?

    A column of panels for each family of methods, a row for each set.

    Args:
        comparison: One row a method.
        logs: The training log of each method; an empty one draws nothing.
    """
    curves = {method: kept_curve(log) for method, log in logs.items()}
    curves = {method: curve for method, curve in curves.items() if not curve.empty}
    styles = {m: style for m, style in method_styles(comparison).items() if m in curves}
    families = list(dict.fromkeys(style.family for style in styles.values()))
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
    rows = by_method(comparison)
    for method, style in styles.items():
        curve, column = curves[method], families.index(style.family) + 1
        kept = curve["kept"] if rows[method]["changed_tensors"] else curve["step"] == 0
        for row, name in enumerate(SETS, start=1):
            line = _line(method, style, curve["step"], curve[name], kept)
            figure.add_trace(line, row=row, col=column)
    figure.add_traces(
        _objective_legend(
            styles.values(), lambda colour: {"mode": "lines", "line": {"color": colour, "width": 3}}
        )
    )
    dot = {"color": INK, "size": 10}
    figure.add_trace(
        _legend_entry("checkpoint kept", " ", mode="markers", marker=dot, legendgroup="k")
    )
    return _themed(figure, height=560)


def kept_curve(log: pd.DataFrame) -> pd.DataFrame:
    """Return the overlaps of the learning rate that was kept, from step 0, where all overlap is 1.

    Returns:
        Columns `step`, `forget`, `retain` and `kept`, true at the checkpoint that was kept;
        no row if the log has none.
    """
    evaluated = log.dropna(subset=["overlap_forget", "overlap_retain"])
    kept = evaluated[evaluated["kept"]]
    if kept.empty:
        return pd.DataFrame(columns=["step", *SETS, "kept"])
    rate = evaluated[evaluated["learning_rate"] == kept["learning_rate"].iloc[0]]
    return pd.DataFrame(
        {
            "step": rate["step"].astype(int).tolist(),
            "forget": rate["overlap_forget"].astype(float).tolist(),
            "retain": rate["overlap_retain"].astype(float).tolist(),
            "kept": rate["kept"].tolist(),
        }
    )


def _line(
    method: str, style: Style, steps: pd.Series, overlap: pd.Series, kept: pd.Series
) -> go.Scatter:
    name, sizes = escape(method), [10 if is_kept else 0 for is_kept in kept]
    return go.Scatter(
        x=steps.tolist(),
        y=overlap.tolist(),
        mode="lines+markers",
        line={"color": style.colour, "width": 2},
        marker={"color": style.colour, "size": sizes, "opacity": 1, "line": {"width": 0}},
        name=name,
        legendgroup=f"objective {style.objective}",
        showlegend=False,
        hovertemplate=f"<b>{name}</b><br>step %{{x}}: %{{y:.3f}}<extra></extra>",
    )


def tokens_per_expert(
    forget: pd.DataFrame, retain: pd.DataFrame, selected: Mapping[str, Mapping[str, Any]]
) -> go.Figure:
    """Return Fig. 2 of the paper: few experts take most tokens of the forget set.

    One panel for each layer in which an expert was selected, see `layers_to_draw`.

    Args:
        forget: The routing table of the forget set.
        retain: That of the retain set.
        selected: What each selection rule chose.
    """
    rules, layers = rules_by_expert(selected), layers_to_draw(selected)
    panels = max(len(layers), 1)
    figure = make_subplots(
        rows=panels,
        subplot_titles=[f"layer {layer}" for layer in layers],
        vertical_spacing=0.3 / panels,
    )
    for row, layer in enumerate(layers, start=1):
        shares = ranked_shares(forget, retain, layer)
        _draw_layer(figure, row, shares)
        here = {expert: names for (at, expert), names in rules.items() if at == layer}
        _mark_selected(figure, row, shares, here)
    title = "expert, most used on the forget set first"
    if not_drawn := len({layer for layer, _ in rules}) - len(layers):
        title += f"; layers not drawn: {not_drawn}"
    figure.update_layout(
        bargap=0.25,
        bargroupgap=0,
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
    )
    figure.update_yaxes(title="share of tokens", tickformat=".0%", rangemode="tozero")
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_xaxes(title=title, row=panels, col=1)
    return _themed(figure, height=80 + 260 * panels)


def layers_to_draw(selected: Mapping[str, Mapping[str, Any]]) -> list[int]:
    """Return the first layers that rules chose from; rules of many experts ask for no panel."""
    choices = [choice["experts"] for choice in selected.values()]
    few = [experts for experts in choices if len(experts) <= MAX_LISTED_EXPERTS] or choices
    layers = dict.fromkeys(layer for experts in few for layer, _ in experts)
    return sorted(list(layers)[:MAX_LAYERS])


def counted(experts: Collection[Sequence[int]]) -> str:
    """Return `93 experts in 24 layers`."""
    layers = len({layer for layer, _ in experts})
    return f"{len(experts)} experts in {layers} layer{'s' if layers > 1 else ''}"


def rules_by_expert(
    selected: Mapping[str, Mapping[str, Any]],
) -> dict[tuple[int, int], list[str]]:
    """Return, for each selected (layer, expert), the rules that chose it."""
    rules: dict[tuple[int, int], list[str]] = {}
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
    """Draw two bars an expert, and the even share k / E, their mean, as a dotted line."""
    experts = [str(expert) for expert in shares.index]
    for name, colour in SET_COLOURS.items():
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
    figure.add_hline(y=float(shares["forget"].mean()), line=DOTTED, row=row, col=1)


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


def _objective_legend(
    styles: Iterable[Style], drawn: Callable[[str], dict[str, Any]]
) -> list[go.Scatter]:
    """Return a legend entry for each objective, which also switches it off.

    Args:
        styles: Of the methods in the figure.
        drawn: Returns, for a colour, how the entry is drawn: `mode` and its style.
    """
    colours = {style.objective: style.colour for style in styles}
    return [
        _legend_entry(
            objective,
            None if place else "objective",
            legendgroup=f"objective {objective}",
            **drawn(colour),
        )
        for place, (objective, colour) in enumerate(colours.items())
    ]


def _legend_entry(name: str, title: str | None, **drawn: Any) -> go.Scatter:
    """Return a trace that is in the legend only; `title` opens a group of entries."""
    heading = {} if title is None else {"legendgrouptitle": {"text": title}}
    return go.Scatter(x=[None], y=[None], name=escape(name), hoverinfo="skip", **heading, **drawn)


def _themed(figure: go.Figure, height: int) -> go.Figure:
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
