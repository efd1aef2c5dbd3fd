"""What one expert of each layer keeps: the figure of a sweep, drawn from its table.

Each rule is a line. A layer that does not forget `LAYERS_AT` is a gap in it and a cross at the foot
of the panel. A layer that only a method's own run trained is a mark beside the lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from math import ceil

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from seuf.forgetting import LAYERS_AT
from seuf.reporting.figures import Scale, extent, faded, round_ticks
from seuf.reporting.layers import ALL, ORIGINAL, OWN_RUN, PILOT, READ, column_of, layer_table
from seuf.reporting.styles import (
    EVERYTHING,
    FAINT,
    GLYPHS,
    KNOWN,
    Label,
    axes_of,
    axis,
    grid,
    heading,
    name_beside,
    objective_name,
    share_name,
    themed,
)
from seuf.reporting.svg import svg

SHARE = share_name(LAYERS_AT)
TITLES = {"utility": ("utility", "utility"), "general_loss": ("loss on other text", "nats a token")}
# Label and mark size by a name in `chosen_by`; the last drawn is the smallest, so all stay visible.
CHOICES = {"affinity": ("paper", 15), "contrast": ("contrast", 13), PILOT: ("pilot", 10)}
WIDE = 3  # greatest loss over least from which the axis is logarithmic
SHOWN_AT_LEAST = 0.5  # share of the bases that must reach it for their mean to be drawn
FOOT = 0.03  # of a panel's height: where a cross marks a layer that does not reach it


def compare_layers(
    paths: pd.DataFrame, trials: Sequence[pd.DataFrame]
) -> tuple[pd.DataFrame, go.Figure, str]:
    """Return the table of layers, its figure, and the first objective's figure as SVG.

    Args:
        paths: See `layer_table`.
        trials: See `layer_table`, as several tables.
    """
    table = layer_table(pd.concat(trials, ignore_index=True), paths)
    first = table["objective"].eq(table["objective"].iloc[0])
    return table, layers_figure(table), svg(layers_figure(table[first]))


def layers_figure(table: pd.DataFrame) -> go.Figure:
    """Return utility and general loss by layer where `LAYERS_AT` is forgotten, two panels a row.

    Each objective is a row of panels, each rule a line with its interval. Of several bases the line
    is their mean and each base a faint point. A mean is hollow, and has no interval, where not all
    bases reach the share; a cross at the foot is a layer where fewer than half do.

    Args:
        table: See `layer_table`.
    """
    objectives = list(dict.fromkeys(table["objective"]))
    measured = [name for name in READ if table[column_of(name)].notna().any()]
    panels = [(objective, name) for objective in objectives for name in measured]
    figure = grid(len(panels), spacing=0.24)
    for panel, (objective, name) in enumerate(panels, 1):
        _draw_panel(figure, panel, table[table["objective"] == objective], name)
        title = f"{objective_name(str(objective))}: {TITLES[name][0]}"
        figure.add_annotation(**heading(panel, escape(title)))
    ticks = {"tick0": 0, "dtick": max(1, ceil(table["layer"].nunique() / 6)), "tickangle": 0}
    figure.update_xaxes(title="layer of the expert that is trained", **ticks)
    return themed(figure, rows=ceil(len(panels) / 2))


def _draw_panel(figure: go.Figure, panel: int, here: pd.DataFrame, name: str) -> None:
    """Draw a number of an objective by layer: references, lines with intervals, choices."""
    value = column_of(name)
    axes = axes_of(panel)
    several = here["base"].eq(ALL).any()
    drawn = here[here["base"].eq(ALL)] if several else here
    single = here[here["base"].ne(ALL)]
    scale = _scale(here, value, name)
    bottom, top = map(scale.place, scale.y)
    foot = bottom + FOOT * (top - bottom)
    foot = 10**foot if scale.is_log else foot  # as a value, not a place on the axis
    labels, missing = _draw_references(figure, axes, drawn, value, scale), list[int]()
    swept = drawn["layer"].notna() & ~drawn["chosen_by"].str.contains(OWN_RUN, na=False)
    for rule, rows in drawn[swept].groupby("rule", sort=False):
        colour, _ = KNOWN[str(rule)]
        rows = rows.sort_values("layer")
        bases = single[single["rule"].eq(rule)].dropna(subset=[value]) if several else rows[:0]
        figure.add_scatter(
            x=bases["layer"].tolist(),
            y=bases[value].tolist(),
            mode="markers",
            marker={"color": colour, "size": 4, "opacity": 0.35},
            text=bases["base"].tolist(),
            hovertemplate=f"{rule}, layer %{{x}}, %{{text}}: %{{y:.3f}}<extra></extra>",
            **axes,
        )
        last = _draw_line(figure, axes, rows, value, colour)
        missing += (unreached := rows.loc[~_is_drawn(rows, value), "layer"].tolist())
        figure.add_scatter(
            x=unreached,
            y=[foot] * len(unreached),
            mode="markers",
            marker={"color": colour, "symbol": "x", "size": 7, "opacity": 0.7},
            hovertemplate=f"{rule}, layer %{{x}}: {SHARE} not reached<extra></extra>",
            **axes,
        )
        if last is not None:
            labels.append(Label(scale.place(last), colour, "▬", f"by {rule}"))
    labels += _mark_choices(figure, axes, single, value, foot, scale)
    if missing:
        labels.append(Label(scale.place(foot), FAINT, "✖", "not reached"))
    name_beside(figure, panel, labels, bottom, top)
    figure.update_yaxes(
        title=f"{TITLES[name][1]}, {SHARE} forgotten",
        range=[bottom, top],
        type="log" if scale.is_log else "linear",
        tickvals=round_ticks(*scale.y) if scale.is_log else None,
        nticks=6,
        selector={"anchor": f"x{axis(panel)}"},
    )
    figure.update_xaxes(range=scale.x, selector={"anchor": f"y{axis(panel)}"})


def _draw_references(
    figure: go.Figure, axes: Mapping[str, str], drawn: pd.DataFrame, value: str, scale: Scale
) -> list[Label]:
    """Draw what the original and training everything keep, across all layers."""
    labels = []
    looks = {ORIGINAL: (FAINT, "dot", "┄"), EVERYTHING: (KNOWN[EVERYTHING][0], "dash", "╌")}
    for reference, (colour, dash, glyph) in looks.items():
        for at in drawn.loc[drawn["rule"].eq(reference), value].dropna():
            figure.add_scatter(
                x=list(scale.x),
                y=[at, at],
                mode="lines",
                line={"color": colour, "width": 1.5, "dash": dash},
                hovertemplate=f"{reference}: %{{y:.3f}}<extra></extra>",
                **axes,
            )
            labels.append(Label(scale.place(at), colour, glyph, reference))
    return labels


def _draw_line(
    figure: go.Figure, axes: Mapping[str, str], rows: pd.DataFrame, value: str, colour: str
) -> float | None:
    """Draw a rule's line, with gaps where a layer has no number; return its last value."""
    is_drawn = _is_drawn(rows, value)
    is_sure = rows[f"{value}_low"].notna() & rows["reached"].eq(rows["bases"])
    for sure, part in groupby(zip(is_sure, rows.to_dict("records"), strict=True), lambda p: p[0]):
        if sure:
            known = [row for _, row in part]
            known = [known[0], *known, known[-1]]  # a layer by itself has a band too
            x = [row["layer"] for row in known]
            x[0], x[-1] = x[0] - 0.25, x[-1] + 0.25
            low, high = ([row[f"{value}{end}"] for row in known] for end in ("_low", "_high"))
            figure.add_scatter(
                x=[*x, *reversed(x)],
                y=[*high, *reversed(low)],
                fill="toself",
                fillcolor=faded(colour),
                mode="lines",
                line={"width": 0},
                hoverinfo="skip",
                **axes,
            )
    shown = rows[value].where(is_drawn)
    partly = rows["reached"] < rows["bases"]
    about = [
        f"layer {row['layer']}, expert {row['expert']}"
        if pd.notna(row["expert"])
        else f"layer {row['layer']}, {row['reached']} of {row['bases']} bases"
        for row in rows.to_dict("records")
    ]
    figure.add_scatter(
        x=rows["layer"].tolist(),
        y=[None if pd.isna(y) else y for y in shown],
        mode="lines+markers",
        line={"color": colour, "width": 2},
        marker={
            "color": ["white" if hollow else colour for hollow in partly],
            "size": 5,
            "line": {"color": colour, "width": 1},
        },
        text=about,
        hovertemplate=f"{rows['rule'].iloc[0]}, %{{text}}<br>%{{y:.3f}}<extra></extra>",
        **axes,
    )
    return float(shown.dropna().iloc[-1]) if shown.notna().any() else None


def _mark_choices(
    figure: go.Figure,
    axes: Mapping[str, str],
    single: pd.DataFrame,
    value: str,
    foot: float,
    scale: Scale,
) -> list[Label]:
    """Mark the layers chosen on each base, at the foot where they do not reach the share."""
    labels = []
    for by, (label, size) in CHOICES.items():
        chosen = single[[by in str(names).split() for names in single["chosen_by"]]]
        if chosen.empty:
            continue
        colour, symbol = KNOWN[by]
        places = chosen[value].fillna(foot).tolist()
        figure.add_scatter(
            x=chosen["layer"].tolist(),
            y=places,
            mode="markers",
            marker={
                "color": colour,
                "symbol": symbol,
                "size": size,
                "line": {"color": "white", "width": 1},
            },
            hovertemplate=f"<b>chosen, {label}</b>: layer %{{x}}<extra></extra>",
            **axes,
        )
        first, last = chosen["layer"].min(), chosen["layer"].max()
        layers = f"{first}" if first == last else f"{first}\N{EN DASH}{last}"
        at = scale.place(float(np.mean(places)))
        labels.append(Label(at, colour, GLYPHS[symbol], f"{label} {layers}"))
    return labels


def _is_drawn(rows: pd.DataFrame, value: str) -> pd.Series:
    """Return which rows have a number that enough of the bases reach."""
    return rows[value].notna() & (rows["reached"] >= SHOWN_AT_LEAST * rows["bases"])


def _scale(here: pd.DataFrame, value: str, name: str) -> Scale:
    """Return the ends of a panel's axes: they hold all numbers but may cut intervals."""
    layers, values = here["layer"].dropna(), here[value].dropna()
    x = (float(layers.min()) - 1, float(layers.max()) + 1) if len(layers) else (0.0, 1.0)
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.5, 1.0)
    if name != "utility" and high > WIDE * low:
        return Scale(x, (low / 1.15, high * 1.12), is_log=True)
    room = 0.12 * extent(low, high)
    return Scale(x, (max(low - room, -0.02), high + room))
