"""Draw the path of each method through unlearning: the paper's Fig. 1a and 3.

A path begins at the original, on the left, and goes right as more is forgotten. Several runs of a
method are drawn as their mean at equal forgetting, with a band.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from seuf.forgetting import TARGETS, value_at
from seuf.reporting.styles import (
    FAINT,
    Label,
    Style,
    axes_of,
    axis,
    grid,
    heading,
    method_styles,
    name_beside,
    objective_name,
    share_name,
    themed,
    with_objective,
)

UTILITY, GENERAL_LOSS = "test_utility", "general_loss"
SAME = 1e-3  # utilities or losses that differ by less are taken as equal
GRID_STEPS = 40  # of the share forgotten, from 0 to 1, at which means are taken
DOTTED = {"color": FAINT, "width": 1, "dash": "dot"}
SETS = ("forget", "retain")


class Line(NamedTuple):
    """A method's path in one panel.

    Attributes:
        style: How it is drawn.
        x: One value a point, the original's first.
        y: The same.
        kept: The kept checkpoint; of several runs their mean.
        low: One standard deviation below y; None for a single run.
        high: One standard deviation above y.
        all_runs: How many points all runs reach; the line is dotted after them.
        about: The text on hovering over each point.
    """

    style: Style
    x: list[float]
    y: list[float]
    kept: tuple[float, float] | None
    low: list[float] | None
    high: list[float] | None
    all_runs: int
    about: list[str]


class Scale(NamedTuple):
    """The axes that all panels of a figure share.

    Attributes:
        x: Left and right end.
        y: Lower and upper end.
        is_log: Whether y is drawn on a logarithmic axis.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    is_log: bool = False

    def place(self, y: float) -> float:
        """Return y in the axis's own units, in which Plotly takes annotations and ranges."""
        return log10(max(y, 1e-9)) if self.is_log else y


def forgetting_paths(
    paths: pd.DataFrame,
    what: str = UTILITY,
    beside: Mapping[str, tuple[float, float]] | None = None,
) -> go.Figure:
    """Return Fig. 1a of the paper as paths: what is left against what is forgotten.

    Each objective is a panel. Vertical lines mark guessing, and the shares forgotten at which
    methods are compared.

    Args:
        paths: See `seuf.reporting.comparison.ABOUT_RUN`; of one run a method or of several.
        what: The column of what is left.
        beside: Models that were not unlearned here, by name: (forget efficacy, what is left).
    """
    paths = with_objective(paths)
    drawn = paths[paths["chosen"].eq(True)].dropna(subset=["test_forgotten", what])
    styles = method_styles(paths)
    objectives = list(dict.fromkeys(drawn["objective"].dropna()))
    figure = grid(len(objectives))
    start = drawn[drawn["step"] == 0]
    if start.empty:
        return themed(figure)
    original, chance = start["test_forget_efficacy"].mean(), drawn["test_chance"].mean()

    def efficacy(forgotten: float) -> float:
        return float(original - forgotten * (original - chance))

    by_objective = [
        [
            _path(method_rows, styles[str(method)], what, efficacy)
            for method, method_rows in rows.groupby("method", sort=False)
        ]
        for _, rows in drawn.groupby("objective", sort=False)
    ]
    ends = list((beside or {}).values())
    scale = _scale([line for lines in by_objective for line in lines], ends, chance, what)
    for panel, (objective, lines) in enumerate(zip(objectives, by_objective, strict=True), 1):
        figure.add_annotation(**heading(panel, escape(objective_name(str(objective)))))
        for share in (*TARGETS, 1.0):
            _mark_share(figure, panel, efficacy(share), share_name(share))
        _name_shares(figure, panel, efficacy(TARGETS[0]))
        for line in lines:
            _draw(figure, panel, line)
        _mark_model(figure, panel, "original", original, float(start[what].mean()), scale)
        for name, (x, y) in (beside or {}).items():
            _mark_model(figure, panel, name, x, y, scale)
        _label_lines(figure, panel, lines, scale)
    title = "utility" if what == UTILITY else "nats a token, other text"
    figure.update_xaxes(range=scale.x, title="forget efficacy: right answers left", nticks=6)
    ends_of_axis = [scale.place(y) for y in scale.y]
    figure.update_yaxes(
        range=ends_of_axis, title=title, type="log" if scale.is_log else "linear", nticks=6
    )
    if scale.is_log:
        figure.update_yaxes(tickvals=round_ticks(*scale.y))
    return themed(figure, rows=ceil(len(objectives) / 2))


def overlap_over_steps(paths: pd.DataFrame) -> go.Figure:
    """Return Fig. 3 of the paper: how many tokens keep their experts, step by step.

    Each objective and set is a panel; of several runs the first is drawn.

    Args:
        paths: See `seuf.reporting.comparison.ABOUT_RUN`.
    """
    paths = with_objective(paths)
    drawn = paths[paths["chosen"].eq(True)].dropna(subset=["objective", "overlap_forget"])
    drawn = drawn.groupby(["method", "step"], sort=False, as_index=False).first()
    styles, objectives = method_styles(paths), list(dict.fromkeys(drawn["objective"]))
    figure = grid(len(SETS) * len(objectives))
    scale = Scale((0, float(drawn["step"].max()) if len(drawn) else 1.0), (0.0, 1.04))
    panel = 0
    for objective in objectives:
        for name in SETS:
            panel += 1
            lines = []
            of_objective = drawn[drawn["objective"] == objective]
            for method, rows in of_objective.groupby("method", sort=False):
                steps, overlap = rows["step"].tolist(), rows[f"overlap_{name}"].tolist()
                kept = rows[rows["kept"].eq(True)]
                dot = None
                if len(kept):
                    dot = (float(kept["step"].iloc[0]), float(kept[f"overlap_{name}"].iloc[0]))
                about = [f"step {s}: {o:.3f}" for s, o in zip(steps, overlap, strict=True)]
                style = styles[str(method)]
                lines.append(Line(style, steps, overlap, dot, None, None, len(steps), about))
            for line in lines:
                _draw(figure, panel, line)
            title = f"{escape(objective_name(objective))}, {name} set"
            figure.add_annotation(**heading(panel, title))
            _label_lines(figure, panel, lines, scale, at_end=True)
    figure.update_xaxes(title="optimizer step", range=scale.x)
    figure.update_yaxes(title="overlap", range=scale.y)
    return themed(figure, rows=ceil(panel / 2))


def mean_path(runs: Sequence[pd.DataFrame], what: str) -> pd.DataFrame:
    """Return the mean of several runs at equal forgetting.

    Args:
        runs: The path of each run, from the original on.
        what: The column of what is left.

    Returns:
        `forgotten`, from 0 to the last share that half of the runs reach; `mean` and sample
        `deviation` over the runs that reach it; `runs`, their number.
    """
    rows = []
    for forgotten in np.linspace(0, 1, GRID_STEPS + 1):
        found = [
            value_at(run["test_forgotten"].tolist(), run[what].tolist(), float(forgotten))
            for run in runs
        ]
        values = [value for value in found if value is not None]
        if 2 * len(values) < len(runs):
            break
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        rows.append((float(forgotten), float(np.mean(values)), deviation, len(values)))
    return pd.DataFrame(rows, columns=["forgotten", "mean", "deviation", "runs"])


def _path(rows: pd.DataFrame, style: Style, what: str, efficacy: Any) -> Line:
    """Return a method's line: the evaluations of its only run, or the mean of its runs."""
    runs = [run.sort_values("step") for _, run in rows.groupby(["base", "seed"], sort=False)]
    kept = rows[rows["kept"].eq(True)]
    if len(runs) == 1:
        (run,) = runs
        x, y = run["test_forget_efficacy"].tolist(), run[what].tolist()
        dot = (kept["test_forget_efficacy"].iloc[0], kept[what].iloc[0]) if len(kept) else None
        about = [
            f"step {step}: FE {fe:.3f}, {left:.3f}"
            for step, fe, left in zip(run["step"], x, y, strict=True)
        ]
        return Line(style, x, y, dot, None, None, len(x), about)
    mean = mean_path(runs, what)
    x, y = [efficacy(forgotten) for forgotten in mean["forgotten"]], mean["mean"].tolist()
    dot = (efficacy(kept["test_forgotten"].mean()), kept[what].mean()) if len(kept) else None
    about = [
        f"{forgotten:.0%} forgotten: {left:.3f} ± {deviation:.3f}, {count:.0f} runs"
        for forgotten, left, deviation, count in mean.itertuples(index=False)
    ]
    low, high = ((mean["mean"] + sign * mean["deviation"]).tolist() for sign in (-1, 1))
    return Line(style, x, y, dot, low, high, int((mean["runs"] == len(runs)).sum()), about)


def _scale(
    lines: Sequence[Line], ends: Sequence[tuple[float, float]], chance: float, what: str
) -> Scale:
    """Return the axes; x falls to the right, so that forgetting goes there."""
    xs = [x for line in lines for x in line.x] + [x for x, _ in ends] + [chance]
    ys = [y for line in lines for y in line.y] + [y for _, y in ends]
    room = 0.04 * (max(xs) - min(xs))
    x = (max(xs) + room, min(xs) - room)
    if what != UTILITY:
        return Scale(x, (min(ys) / 1.15, max(ys) * 1.15), is_log=True)
    room = 0.06 * extent(min(ys), max(ys))
    return Scale(x, (max(min(ys) - room, -0.02), max(ys) + room))


def _draw(figure: go.Figure, panel: int, line: Line) -> None:
    """Draw a band if there is one, the path, and the kept checkpoint on top."""
    axes, style = axes_of(panel), line.style
    if line.low is not None and line.high is not None:
        figure.add_scatter(
            x=[*line.x, *reversed(line.x)],
            y=[*line.high, *reversed(line.low)],
            fill="toself",
            fillcolor=faded(style.colour),
            line={"width": 0},
            hoverinfo="skip",
            **axes,
        )
    is_single = line.low is None
    parts = [(0, line.all_runs, "solid"), (max(line.all_runs - 1, 0), len(line.x), "dot")]
    for begin, end, dash in parts:
        if end - begin < 2 and dash == "dot":
            continue
        figure.add_scatter(
            x=line.x[begin:end],
            y=line.y[begin:end],
            mode="lines+markers" if is_single else "lines",
            line={"color": style.colour, "width": 2, "dash": dash},
            marker={"color": style.colour, "size": 4},
            text=line.about[begin:end],
            name=escape(style.label),
            hovertemplate=f"<b>{escape(style.label)}</b><br>%{{text}}<extra></extra>",
            **axes,
        )
    if line.kept is not None:
        edge = {"color": "white", "width": 1}
        figure.add_scatter(
            x=[line.kept[0]],
            y=[line.kept[1]],
            mode="markers",
            marker={"color": style.colour, "symbol": style.symbol, "size": 12, "line": edge},
            name=f"{escape(style.label)}, kept",
            hovertemplate=f"<b>{escape(style.label)}</b>, kept<extra></extra>",
            **axes,
        )


def _label_lines(
    figure: go.Figure, panel: int, lines: Sequence[Line], scale: Scale, at_end: bool = False
) -> None:
    """Name each line beside the panel, with a dotted line to its kept checkpoint or its end."""
    lines = [line for line in lines if line.x]
    ends = [(line.x[-1], line.y[-1]) for line in lines]
    if not at_end:
        ends = [line.kept or end for line, end in zip(lines, ends, strict=True)]
    labels = [
        Label(scale.place(y), line.style.colour, line.style.glyph, escape(line.style.label))
        for line, (_, y) in zip(lines, ends, strict=True)
    ]
    places = name_beside(figure, panel, labels, *map(scale.place, scale.y))
    for line, (x, y), place in zip(lines, ends, places, strict=True):
        figure.add_scatter(
            x=[x, scale.x[1]],
            y=[y, 10**place if scale.is_log else place],
            mode="lines",
            line={"color": line.style.colour, "width": 1, "dash": "dot"},
            opacity=0.6,
            hoverinfo="skip",
            **axes_of(panel),
        )


def _mark_share(figure: go.Figure, panel: int, x: float, text: str) -> None:
    """Draw a dotted vertical line with its number above the panel."""
    name = axis(panel)
    place = {"xref": f"x{name}", "yref": f"y{name} domain"}
    figure.add_shape(type="line", x0=x, x1=x, y0=0, y1=1, line=DOTTED, layer="below", **place)
    figure.add_annotation(
        **place, x=x, y=1, yanchor="bottom", showarrow=False, text=text, font={"size": 10}
    )


def _name_shares(figure: go.Figure, panel: int, x: float) -> None:
    """Write `forgotten` before the first number above a panel."""
    place = {"xref": f"x{axis(panel)}", "yref": f"y{axis(panel)} domain"}
    figure.add_annotation(
        **place,
        x=x,
        y=1,
        text="forgotten",
        showarrow=False,
        xanchor="right",
        yanchor="bottom",
        xshift=-10,
        font={"size": 10},
    )


def _mark_model(figure: go.Figure, panel: int, name: str, x: float, y: float, scale: Scale) -> None:
    """Mark a model that has no path, with its name."""
    figure.add_scatter(
        x=[x],
        y=[y],
        mode="markers",
        marker={"color": FAINT, "symbol": "x", "size": 10},
        name=escape(name),
        hovertemplate=f"<b>{escape(name)}</b><br>FE %{{x:.3f}}, %{{y:.3f}}<extra></extra>",
        **axes_of(panel),
    )
    below = scale.place(y) > sum(scale.place(end) for end in scale.y) / 2
    figure.add_annotation(
        xref=f"x{axis(panel)}",
        yref=f"y{axis(panel)}",
        x=x,
        y=scale.place(y),
        text=escape(name),
        showarrow=False,
        xanchor="left",
        xshift=-6,
        yanchor="top" if below else "bottom",
        yshift=-8 if below else 8,
        font={"size": 11},
    )


def extent(low: float, high: float) -> float:
    """Return the distance between two values, or 1 if they are equal up to `SAME`.

    Means of equal values differ by rounding, and such a distance must not fill an axis.
    """
    return high - low if high - low > SAME else 1.0


def round_ticks(low: float, high: float) -> list[float]:
    """Return two to seven or so round numbers for a logarithmic axis."""
    steps = (1, 1.5, 2, 3, 5, 7) if high / low < 30 else (1, 3)
    ticks = [step * 10**power for power in range(-3, 6) for step in steps]
    shown = [tick for tick in ticks if low <= tick <= high]
    if len(shown) > 1:
        return shown
    # a narrow range may lie between two of these
    least = (high - low) / 6
    power = 10 ** floor(log10(least))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)
    return [round(n * step, 10) for n in range(ceil(low / step), floor(high / step) + 1)]


def faded(colour: str) -> str:
    """Return a colour `#rrggbb` as the pale one of a band."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.16)"
