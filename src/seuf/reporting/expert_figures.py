"""Draw how experts are used and chosen: attribution, the paper's Fig. 2, and a pilot's trials.

A warning sign marks a choice that another sample of the data might not repeat.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from seuf.forgetting import TARGETS, outcome, rank_of_outcome
from seuf.reporting.preflight import margin, stability
from seuf.reporting.styles import (
    COLOURS,
    FAINT,
    GLYPHS,
    INK,
    KNOWN,
    SYMBOLS,
    Label,
    at,
    axes_of,
    axis,
    family,
    grid,
    heading,
    name_beside,
    rule_name,
    themed,
)

SETS = ("forget", "retain")
SET_COLOURS = {"forget": "#55677D", "retain": "#A9B4BF"}  # greys: colours stand for rules
DOTTED = {"color": FAINT, "width": 1.5, "dash": "dot"}
TARGET_COLOURS = dict(zip(TARGETS, ("#6FBFA5", "#009E73", "#00785A"), strict=True))
MAX_LISTED_EXPERTS = 12  # of one rule; of more only the number is given
MAX_LAYERS = 8  # drawn, a panel each
WARNING_SIGN = "⚠"

Choices = Mapping[str, Mapping[str, Any]]


def attribution(forget: pd.DataFrame, retain: pd.DataFrame, selected: Choices) -> go.Figure:
    """Return affinity and contrast of all experts by layer, the chosen ones marked and named.

    The first panel has a line through each layer's highest affinity on the forget set, and one
    through the same expert's on the retain set; the second a line through the highest difference.
    Faint dots are all experts.

    Args:
        forget: The routing table of the forget set: `layer`, `expert`, `affinity`.
        retain: That of the retain set.
        selected: What each selection rule chose.
    """
    names = ["layer", "expert"]
    both = forget[[*names, "affinity"]].merge(
        retain[[*names, "affinity"]], on=names, suffixes=("_forget", "_retain")
    )
    both["contrast"] = both["affinity_forget"] - both["affinity_retain"]
    figure = grid(2, spacing=0.24)
    panels = {"affinity": "affinity_forget", "contrast": "contrast"}
    for panel, (title, column) in enumerate(panels.items(), 1):
        axes = axes_of(panel)
        figure.add_scatter(
            x=both["layer"].tolist(),
            y=both[column].tolist(),
            mode="markers",
            marker={"color": FAINT, "size": 4, "opacity": 0.35},
            text=both["expert"].tolist(),
            hovertemplate=f"layer %{{x}}, expert %{{text}}<br>{title} %{{y:.4f}}<extra></extra>",
            **axes,
        )
        best = both.loc[both.groupby("layer")[column].idxmax()]
        curves = {"contrast": "highest"}
        if title == "affinity":
            curves = {f"affinity_{name}": f"{name} set" for name in SETS}
        ends = []
        for curve, label in curves.items():
            colour = SET_COLOURS["retain" if curve == "affinity_retain" else "forget"]
            figure.add_scatter(
                x=best["layer"].tolist(),
                y=best[curve].tolist(),
                mode="lines",
                line={"color": colour, "width": 2},
                hovertemplate=f"layer %{{x}}, {label}: %{{y:.4f}}<extra></extra>",
                **axes,
            )
            ends.append(Label(float(best[curve].iloc[-1]), colour, "▬", label))
        values = both.set_index(names)
        marks = _mark_choices(figure, axes, values[column], selected)
        low, high = float(both[column].min()), float(both[column].max())
        low, high = min(low, 0.0), high + 0.08 * (high - min(low, 0.0) or 1.0)
        name_beside(figure, panel, [*ends, *marks], low, high)
        figure.add_annotation(**heading(panel, f"{title} by layer"))
        figure.update_yaxes(range=[low, high], selector={"anchor": f"x{axis(panel)}"})
    figure.update_xaxes(title="layer", tick0=0, dtick=ceil(both["layer"].nunique() / 8))
    return themed(figure)


def doubts(selected: Choices) -> list[str]:
    """Return the warnings of all rules: choices that are near-ties or unstable."""
    return [
        f"{rule}: {warning}"
        for rule, choice in selected.items()
        for warning in choice.get("warnings") or ()
    ]


def tokens_per_expert(forget: pd.DataFrame, retain: pd.DataFrame, selected: Choices) -> go.Figure:
    """Return Fig. 2 of the paper: each expert's share of the tokens of both sets.

    Each layer of `layers_to_draw` is a panel.

    Args:
        forget: The routing table of the forget set: `layer`, `expert`, `token_share`.
        retain: That of the retain set.
        selected: What each selection rule chose.
    """
    rules, layers = rules_by_expert(selected), layers_to_draw(selected)
    figure = grid(len(layers), spacing=0.16)
    for panel, layer in enumerate(layers, start=1):
        shares = ranked_shares(forget, retain, layer)
        _draw_layer(figure, panel, shares)
        selecting = {expert: names for (at, expert), names in rules.items() if at == layer}
        _mark_selected(figure, panel, shares, selecting)
        figure.add_annotation(**heading(panel, f"layer {layer}"))
    title = "expert, most used on the forget set first"
    if not_drawn := len({layer for layer, _ in rules}) - len(layers):
        title += f"; layers not drawn: {not_drawn}"
    figure.update_layout(bargap=0.25, bargroupgap=0)
    figure.update_yaxes(title="share of tokens", tickformat=".0%", rangemode="tozero")
    figure.update_xaxes(type="category", showgrid=False, title=title)
    return themed(figure, rows=ceil(len(layers) / 2))


def trials_by_layer(trials: Mapping[str, pd.DataFrame], chosen: Mapping[str, int]) -> go.Figure:
    """Return a pilot's trials: utility at equal forgetting of one expert of each layer.

    Args:
        trials: For each method the paths of its trials, with `layer`, and with `forgotten` and
            `utility` on the selection questions.
        chosen: The layer chosen for each method.
    """
    figure = grid(len(trials))
    for panel, (method, table) in enumerate(trials.items(), 1):
        best = utility_by_layer(table)
        figure.add_annotation(**heading(panel, escape(method)))
        labels = []
        for target, colour in TARGET_COLOURS.items():
            utility = best[target].dropna()
            if utility.empty:
                continue
            figure.add_scatter(
                x=utility.index.tolist(),
                y=utility.tolist(),
                mode="lines+markers",
                line={"color": colour, "width": 2},
                marker={"color": colour, "size": 7},
                hovertemplate=f"layer %{{x}}: %{{y:.3f}} at {target:g}<extra></extra>",
                **axes_of(panel),
            )
            labels.append(Label(float(utility.iloc[-1]), colour, "●", f"at {target:g}"))
        reached = [value for value in best.to_numpy().ravel() if not np.isnan(value)]
        low, high = max(min(reached, default=0.0) - 0.08, 0.0), 1.04
        name_beside(figure, panel, labels, low, high)
        if method in chosen:
            _mark_chosen_layer(figure, panel, chosen[method])
        ends = [best.index.min() - 0.5, best.index.max() + 0.5]
        axes = {"range": ends, "dtick": max(1, len(best) // 8)}
        figure.update_xaxes(**axes, selector={"anchor": f"y{axis(panel)}"})
        figure.update_yaxes(range=[low, high], selector={"anchor": f"x{axis(panel)}"})
    figure.update_xaxes(title="layer of the expert that was tried")
    figure.update_yaxes(title="utility")
    return themed(figure, rows=ceil(len(trials) / 2))


def utility_by_layer(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the best utility of a layer's trials where each target is first reached.

    Returns:
        A row a layer, a column a target; missing where no learning rate reaches it.
    """
    evaluated = trials.dropna(subset=["forgotten"]).sort_values("step", kind="stable")
    rows: dict[int, dict[float, float | None]] = {}
    for layer, of_layer in evaluated.groupby("layer"):
        paths: list[Any] = [
            path.to_dict("records") for _, path in of_layer.groupby(["expert", "learning_rate"])
        ]
        rows[int(layer)] = {  # type: ignore[arg-type]
            target: max((outcome(path, target) for path in paths), key=rank_of_outcome)["utility"]
            for target in TARGETS
        }
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(TARGETS)).astype(float)


def layers_to_draw(selected: Choices) -> list[int]:
    """Return the layers drawn: of rules that chose few experts, or of all rules if none did."""
    choices = [choice["experts"] for choice in selected.values()]
    few = [experts for experts in choices if len(experts) <= MAX_LISTED_EXPERTS] or choices
    layers = dict.fromkeys(layer for experts in few for layer, _ in experts)
    return sorted(list(layers)[:MAX_LAYERS])


def counted(experts: Collection[Sequence[int]]) -> str:
    """Return `93 experts in 24 layers`."""
    layers = len({layer for layer, _ in experts})
    return f"{len(experts)} experts in {layers} layer{'s' if layers > 1 else ''}"


def rules_by_expert(selected: Choices) -> dict[tuple[int, int], list[str]]:
    """Return, for each selected (layer, expert), the rules that chose it."""
    rules: dict[tuple[int, int], list[str]] = {}
    for rule, choice in selected.items():
        for layer, expert in choice["experts"]:
            rules.setdefault((layer, expert), []).append(rule)
    return rules


def ranked_shares(forget: pd.DataFrame, retain: pd.DataFrame, layer: int) -> pd.DataFrame:
    """Return the token shares of a layer's experts on both sets, the highest `forget` first."""
    shares = {
        name: table[table["layer"] == layer].set_index("expert")["token_share"]
        for name, table in zip(SETS, (forget, retain), strict=True)
    }
    return pd.DataFrame(shares).sort_values("forget", ascending=False, kind="stable")


def _mark_choices(
    figure: go.Figure, axes: Mapping[str, str], values: pd.Series, selected: Choices
) -> list[Label]:
    """Mark the expert of each rule that chose a single one; return the marks' labels."""
    labels = []
    rules = [rule for rule, choice in selected.items() if len(choice["experts"]) == 1]
    others = [rule for rule in rules if family(rule_name(rule)) not in KNOWN]
    for rule in rules:
        choice = selected[rule]
        ((layer, expert),) = choice["experts"]
        position = others.index(rule) if rule in others else 0
        unlisted = (COLOURS[position % len(COLOURS)], SYMBOLS[position % len(SYMBOLS)])
        colour, symbol = KNOWN.get(family(rule_name(rule)), unlisted)
        if (layer, expert) not in values.index:
            continue
        value = float(values[(layer, expert)])
        sign = f" {WARNING_SIGN}" if choice.get("warnings") else ""
        certainty = ", ".join(
            f"{name} {text}"
            for name, text in (("margin", margin(choice)), ("stability", stability(choice)))
            if text
        )
        figure.add_scatter(
            x=[layer],
            y=[value],
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 12, "line": {"color": "white"}},
            hovertemplate=f"<b>{escape(rule)}</b>: layer {layer}, expert {expert}<br>%{{y:.4f}}"
            f"{certainty and '<br>'}{certainty}<extra></extra>",
            **axes,
        )
        text = f"{escape(rule_name(rule))} {layer}:{expert}{sign}"
        labels.append(Label(value, colour, GLYPHS[symbol], text))
    return labels


def _draw_layer(figure: go.Figure, panel: int, shares: pd.DataFrame) -> None:
    """Draw two bars an expert, and an even share as a dotted line."""
    name, experts = axis(panel), [str(expert) for expert in shares.index]
    for which, colour in SET_COLOURS.items():
        figure.add_bar(
            x=experts,
            y=shares[which].tolist(),
            name=f"{which} set",
            marker={"color": colour},
            hovertemplate=f"expert %{{x}}<br>{which} %{{y:.1%}}<extra></extra>",
            **axes_of(panel),
        )
    ticks: dict[str, Any] = {"tickangle": 0, "dtick": ceil(len(experts) / 16)}
    figure.update_xaxes(**ticks, selector={"anchor": f"y{name}"})
    even = float(shares["forget"].mean())
    place = {"xref": f"x{name} domain", "yref": f"y{name}"}
    figure.add_shape(type="line", x0=0, x1=1, y0=even, y1=even, line=DOTTED, **place)
    key = "  ".join(
        f'<span style="color:{colour}">■</span> {which} set'
        for which, colour in SET_COLOURS.items()
    )
    figure.add_annotation(
        **at(panel, 1, 1), text=key, xanchor="right", yanchor="bottom", yshift=16, font={"size": 11}
    )


def _mark_selected(
    figure: go.Figure, panel: int, shares: pd.DataFrame, rules: Mapping[int, list[str]]
) -> None:
    """Point at each selected expert; neighbours get labels of different heights."""
    marked = [expert for expert in shares.index if expert in rules]
    for position, expert in enumerate(marked):
        figure.add_annotation(
            xref=f"x{axis(panel)}",
            yref=f"y{axis(panel)}",
            x=shares.index.get_loc(expert),  # the bar's position: '4' would be read as bar number 4
            y=float(shares.loc[expert].max()),
            text=escape(", ".join(rules[expert])),
            arrowhead=2,
            arrowcolor=FAINT,
            ax=0,
            ay=-24 - 15 * (position % 3),
            font={"color": INK, "size": 11},
        )


def _mark_chosen_layer(figure: go.Figure, panel: int, layer: int) -> None:
    place = {"xref": f"x{axis(panel)}", "yref": f"y{axis(panel)} domain"}
    line = {"color": FAINT, "width": 1, "dash": "dot"}
    figure.add_shape(type="line", x0=layer, x1=layer, y0=0, y1=1, line=line, **place)
    figure.add_annotation(
        **place,
        x=layer,
        y=1,
        text=f"chosen: layer {layer}",
        showarrow=False,
        xanchor="left",
        xshift=-4,
        yanchor="bottom",
        font={"size": 10},
    )
