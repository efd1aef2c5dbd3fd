"""What one expert of each layer keeps: a table and a figure of a sweep.

A sweep (`unlearning.settings.PilotSettings`) has trained the best expert of every layer, by one
rule or several, each a row `pilot` of the table of methods. Here utility and general loss are read
off the paths of the test questions where they first forget `LAYERS_AT`, interpolated between two
looks. A path that does not come so far has no number: the line has a gap there, and a mark.

Of several learning rates of a layer the one counts that keeps most on the selection questions. If a
sweep leaves out the layer that affinity or contrast takes (`pilot.every`), the number there is that
of their method's own run; it is marked, and belongs to no line.

Intervals of several bases are those of `seuf.reporting.statistics`, over bases and questions; of
one base they are over questions only. Begin with `layer_table`; `layers_figure` draws it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from seuf.forgetting import LAYERS_AT, outcome, rank_of_outcome
from seuf.reporting.comparison import pairs_of
from seuf.reporting.figures import Scale, extent, faded, round_ticks
from seuf.reporting.spread import answers_of
from seuf.reporting.statistics import Path, Paths, RunKey
from seuf.reporting.styles import (
    EVERYTHING,
    FAINT,
    GLYPHS,
    KNOWN,
    Label,
    axis,
    grid,
    heading,
    method_styles,
    name_beside,
    objective_name,
    themed,
)
from seuf.reporting.svg import svg

ALL = "all"  # bases
ORIGINAL = "original"
PILOT = "pilot"
OWN_RUN = "own_run"
READ = {"utility": "test_utility", "general_loss": "general_loss"}  # at LAYERS_AT, of a path
SAID = {"utility": ("utility", "utility"), "general_loss": ("loss on other text", "nats a token")}
NUMBERS = [f"{name}_at_{100 * LAYERS_AT:g}{end}" for name in READ for end in ("", "_low", "_high")]
ABOUT_LAYER = ["objective", "rule", "base", "layer", "expert", "learning_rate"]
COLUMNS = [*ABOUT_LAYER, *NUMBERS, "reached", "bases", "chosen_by"]
# By a name in `chosen_by`; of several at one place the last is the smallest.
CHOICES = {"affinity": ("paper", 15), "contrast": ("contrast", 13), PILOT: ("pilot", 10)}
WIDE = 3  # times the least loss: from there on the axis is logarithmic
SHOWN_AT_LEAST = 0.5  # of the bases must reach the share for a mean of them to be drawn
FOOT = 0.03  # of a panel's height, where it is marked that a layer does not reach it


class Series(NamedTuple):
    """What is read off at a share forgotten: of a rule in a layer, or of training everything."""

    objective: str
    rule: str
    layer: int | None


def compare_layers(
    paths: pd.DataFrame, trials: Sequence[pd.DataFrame]
) -> tuple[pd.DataFrame, go.Figure, str]:
    """Return the table of layers, its figure, and as a picture (SVG) that of the first objective.

    Args:
        paths: See `layer_table`.
        trials: The same, as several tables.
    """
    table = layer_table(pd.concat(trials, ignore_index=True), paths)
    first = table["objective"].eq(table["objective"].iloc[0])
    return table, layers_figure(table), svg(layers_figure(table[first]))


def layer_table(trials: pd.DataFrame, paths: pd.DataFrame) -> pd.DataFrame:
    """Return what one expert of each layer keeps, a row a base, and of several bases one for all.

    Rows of the rules `everything` and `original`, which have no layer, are what to compare with.

    Args:
        trials: Of one sweep or of several: `base`, `seed`, `objective`, `rule`, `layer`, `expert`,
            `chosen` and the columns of a log.
        paths: Of the study's methods, see `seuf.reporting.comparison.ABOUT_RUN`.

    Returns:
        `COLUMNS`: numbers are missing where the share is not reached; `reached` says on how many
        `bases` it is, `chosen_by` which of affinity, contrast and the pilot took the layer, with
        `own_run` where the sweep leaves it out.
    """
    about, found = _best_trials(trials)
    about_own, own = _runs_beside({series for series, *_ in found}, paths)
    objectives = list(dict.fromkeys(trials["objective"]))
    for method, style in method_styles(paths).items():
        if style.label == EVERYTHING and style.objective in objectives:
            runs = paths[paths["method"].eq(method) & paths["chosen"].eq(True)]
            by_run: Any = runs.groupby(["base", "seed"], sort=False)
            for (base, seed), path in by_run:
                key = Series(style.objective, EVERYTHING, None), str(base), int(seed)
                found[key] = path.sort_values("step")
    found, about, beside = found | own, about | about_own, {series for series, _ in about_own}
    bases = list(dict.fromkeys(trials["base"].astype(str)))
    rows = [row for objective in objectives for row in _original(paths, objective, bases)]
    read = {name: _read(found, column) for name, column in READ.items()}
    for series in dict.fromkeys(series for series, *_ in found):
        reached = 0
        for base in bases:
            if series in beside and (series, base) not in about:
                continue
            row = {**series._asdict(), "base": base, **about.get((series, base), {}), "bases": 1}
            for name, of in read.items():
                row |= _numbers(of, name, series, base)
            row["reached"] = int(not pd.isna(row[NUMBERS[0]]))
            reached += row["reached"]
            rows.append(row)
        if len(bases) > 1 and series not in beside:
            over_all = {"base": ALL, "reached": reached, "bases": len(bases)}
            for name, of in read.items():
                over_all |= _numbers(of, name, series)
            rows.append(series._asdict() | over_all)
    table = pd.DataFrame(rows, columns=COLUMNS)
    table["chosen_by"] = _chosen_by(table, trials, paths, own=about_own)
    return table.astype({"layer": "Int64"})


def _best_trials(
    trials: pd.DataFrame,
) -> tuple[dict[tuple[Series, str], dict[str, Any]], dict[tuple[Series, str, int], pd.DataFrame]]:
    """Return, of each layer's best learning rate, its expert and rate, and its path."""
    about, found = {}, {}
    looked = trials.dropna(subset=["forgotten"])
    by_layer: Any = looked.groupby(["objective", "rule", "layer", "base", "seed"], sort=False)
    for (objective, rule, layer, base, seed), tried in by_layer:
        rates: list[pd.DataFrame] = [
            path.sort_values("step") for _, path in tried.groupby("learning_rate")
        ]
        best = max(
            rates,
            key=lambda path: rank_of_outcome(outcome(path.to_dict("records"), LAYERS_AT)),  # type: ignore[arg-type]
        )
        series, first = Series(str(objective), str(rule), int(layer)), best.iloc[0]
        found[series, str(base), int(seed)] = best
        about[series, str(base)] = {name: first[name] for name in ("expert", "learning_rate")}
    return about, found


def _runs_beside(
    swept: Collection[Series], paths: pd.DataFrame
) -> tuple[dict[tuple[Series, str], dict[str, Any]], dict[tuple[Series, str, int], pd.DataFrame]]:
    """Return the same of the runs of affinity and contrast whose layer their sweep leaves out."""
    about, found = {}, {}
    rules = {(series.objective, series.rule) for series in swept}
    chosen = paths[paths["chosen"].eq(True) & paths["selection"].isin(["affinity", "contrast"])]
    by_run: Any = chosen.groupby(["objective", "selection", "base", "seed", "experts"], sort=False)
    for (objective, rule, base, seed, experts), path in by_run:
        layers, numbers = zip(*pairs_of(experts), strict=True)
        series = Series(str(objective), str(rule), layers[0])
        if (objective, rule) in rules and len({*layers}) == 1 and series not in swept:
            found[series, str(base), int(seed)] = path.sort_values("step")
            rate = path["learning_rate"].iloc[-1]
            about[series, str(base)] = {"expert": numbers[0], "learning_rate": rate}
    return about, found


def _read(found: Mapping[tuple[Series, str, int], pd.DataFrame], column: str) -> Paths | None:
    """Return what all paths give of a column of the test questions; None if it is not there."""
    answers = {}
    for (series, base, seed), path in found.items():
        looks = path.dropna(subset=["test_forget_efficacy"])
        if looks[column].isna().any():
            continue
        answered = answers_of(path)
        if column != READ["utility"]:  # a number for each look: no question to be drawn again
            answered = Path(answered.forget, looks[[column]].to_numpy(float), answered.chance)
        answers[RunKey(str(series), base, seed)] = answered
    return Paths.of(answers, [LAYERS_AT]) if answers else None


def _numbers(
    read: Paths | None, name: str, series: Series, base: str | None = None
) -> dict[str, float]:
    """Return a value at `LAYERS_AT` with its interval: over questions of a base, or over bases."""
    value = low = high = np.nan
    if read is not None and str(series) in read.methods:
        place = read.methods.index(str(series))
        if base is None:
            value, low, high, *_ = read.utility(str(series), LAYERS_AT)
        elif base in read.bases:
            at = read.bases.index(base)
            measured, drawn = read.measured[place, at, :, 0], read.resampled[place, at, :, 0]
            if not np.isnan(measured).all():
                value = float(np.nanmean(measured))
                seeds = ~np.isnan(measured)
                low, high = np.nanpercentile(drawn[seeds].mean(axis=0), [2.5, 97.5])
    if name == "utility":
        low, high = np.clip([low, high], 0, 1)
    names = [column for column in NUMBERS if column.startswith(f"{name}_at")]
    return dict(zip(names, (value, float(low), float(high)), strict=True))


def _original(paths: pd.DataFrame, objective: str, bases: list[str]) -> Iterator[dict[str, Any]]:
    """Yield what the untouched model keeps, which is all, on each base and on all."""
    names = {column: _column(name) for name, column in READ.items()}
    starts = paths[paths["step"].eq(0)]
    looked = starts[list(names)].astype(float).set_index(starts["base"].astype(str))
    values = looked.groupby(level=0).mean().rename(columns=names).reindex(bases)
    about = {"objective": objective, "rule": ORIGINAL}
    for base in bases:
        yield {**about, "base": base, **values.loc[base], "reached": 1, "bases": 1}
    if len(bases) > 1:
        number = len(bases)
        yield {**about, "base": ALL, **values.mean(), "reached": number, "bases": number}


def _chosen_by(
    table: pd.DataFrame, trials: pd.DataFrame, paths: pd.DataFrame, own: Collection[Any]
) -> list[str | None]:
    """Return, for each row of a base, who chose that layer by this rule: `affinity pilot`.

    Args:
        table: See `layer_table`.
        trials: As there.
        paths: As there.
        own: Series and bases whose number is that of their method's own run.
    """
    globally: dict[tuple[str, str], list[int]] = {}
    ranked = paths[paths["selection"].isin(["affinity", "contrast"])].dropna(subset=["experts"])
    by_rule: Any = ranked.groupby([ranked["base"].astype(str), "selection"])
    for (base, rule), rows in by_rule:
        globally[base, rule] = [layer for layer, _ in pairs_of(rows["experts"].iloc[0])]
    names = ["objective", "rule", "base", "layer"]
    by_trial = trials[trials["chosen"].eq(True)].astype({"base": str})
    piloted = set(by_trial[names].itertuples(index=False, name=None))
    chosen = []
    for row in table.to_dict("records"):
        by = [row["rule"]] * (row["layer"] in globally.get((row["base"], row["rule"]), []))
        by += [PILOT] * (tuple(row[name] for name in names) in piloted)
        by += [OWN_RUN] * (((row["objective"], row["rule"], row["layer"]), row["base"]) in own)
        chosen.append(" ".join(by) or None)
    return chosen


def layers_figure(table: pd.DataFrame) -> go.Figure:
    """Return utility and general loss by layer where `LAYERS_AT` is forgotten, two panels a row.

    A row of panels an objective. A line a rule, with its interval; where there are several bases
    each of them is a faint point, and a mean is drawn hollow where not all of them come so far. A
    cross at the foot of a panel is a layer where fewer than half do. An interval is drawn where all
    do.

    Args:
        table: See `layer_table`.
    """
    objectives = list(dict.fromkeys(table["objective"]))
    measured = [name for name in READ if table[_column(name)].notna().any()]
    panels = [(objective, name) for objective in objectives for name in measured]
    figure = grid(len(panels), spacing=0.24)
    for panel, (objective, name) in enumerate(panels, 1):
        _draw_panel(figure, panel, table[table["objective"] == objective], name)
        title = f"{objective_name(str(objective))}: {SAID[name][0]}"
        figure.add_annotation(**heading(panel, escape(title)))
    ticks = {"tick0": 0, "dtick": max(1, ceil(table["layer"].nunique() / 6)), "tickangle": 0}
    figure.update_xaxes(title="layer of the expert that is trained", **ticks)
    return themed(figure, rows=ceil(len(panels) / 2))


def _draw_panel(figure: go.Figure, panel: int, here: pd.DataFrame, name: str) -> None:
    """Draw a number of an objective by layer: references, lines with intervals, choices."""
    value = _column(name)
    axes = {"xaxis": f"x{axis(panel)}", "yaxis": f"y{axis(panel)}"}
    several = here["base"].eq(ALL).any()
    drawn = here[here["base"].eq(ALL)] if several else here
    single = here[here["base"].ne(ALL)]
    scale = _scale(here, value, name)
    bottom, top = map(scale.place, scale.y)
    foot = bottom + FOOT * (top - bottom)
    foot = 10**foot if scale.is_log else foot
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
        ends = _draw_line(figure, axes, rows, value, colour)
        missing += (not_here := rows.loc[~_is_drawn(rows, value), "layer"].tolist())
        figure.add_scatter(
            x=not_here,
            y=[foot] * len(not_here),
            mode="markers",
            marker={"color": colour, "symbol": "x", "size": 7, "opacity": 0.7},
            hovertemplate=f"{rule}, layer %{{x}}: {_share()} not reached<extra></extra>",
            **axes,
        )
        if ends is not None:
            labels.append(Label(scale.place(ends), colour, "▬", f"by {rule}"))
    labels += _mark_choices(figure, axes, single, value, foot, scale)
    if missing:
        labels.append(Label(scale.place(foot), FAINT, "✖", "not reached"))
    name_beside(figure, panel, labels, bottom, top)
    figure.update_yaxes(
        title=f"{SAID[name][1]}, {_share()} forgotten",
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
    """Draw a rule's line, broken where a layer has no number; return where it ends."""
    is_drawn = _is_drawn(rows, value)
    is_sure = rows[f"{value}_low"].notna() & rows["reached"].eq(rows["bases"])
    for sure, part in groupby(zip(is_sure, rows.to_dict("records"), strict=True), lambda p: p[0]):
        if sure:
            known = [row for _, row in part]
            known = [known[0], *known, known[-1]]  # so that a layer by itself has a band, too
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
    """Mark the layers that were chosen on each base, at the foot where they do not reach it."""
    labels = []
    for by, (said, size) in CHOICES.items():
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
            hovertemplate=f"<b>chosen, {said}</b>: layer %{{x}}<extra></extra>",
            **axes,
        )
        first, last = chosen["layer"].min(), chosen["layer"].max()
        layers = f"{first}" if first == last else f"{first}\N{EN DASH}{last}"
        at = scale.place(float(np.mean(places)))
        labels.append(Label(at, colour, GLYPHS[symbol], f"{said} {layers}"))
    return labels


def _is_drawn(rows: pd.DataFrame, value: str) -> pd.Series:
    """Return of which layers there is a number that stands for its bases."""
    return rows[value].notna() & (rows["reached"] >= SHOWN_AT_LEAST * rows["bases"])


def _scale(here: pd.DataFrame, value: str, name: str) -> Scale:
    """Return the ends of a panel's axes: all numbers are within, intervals may be cut."""
    layers, values = here["layer"].dropna(), here[value].dropna()
    x = (float(layers.min()) - 1, float(layers.max()) + 1) if len(layers) else (0.0, 1.0)
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.5, 1.0)
    if name != "utility" and high > WIDE * low:
        return Scale(x, (low / 1.15, high * 1.12), is_log=True)
    room = 0.12 * extent(low, high)
    return Scale(x, (max(low - room, -0.02), high + room))


def _column(name: str) -> str:
    return f"{name}_at_{100 * LAYERS_AT:g}"


def _share() -> str:
    return f"{LAYERS_AT:g}".lstrip("0")
