"""How methods and figures look: what is trained gives the colour, the objective the panel.

The colours suit the colour-blind and stand out on white and on dark grey. Every figure names its
lines beside them instead of in a legend. A figure is a grid of small panels, which the report takes
apart (`panels_of`) to arrange them as the screen or the paper allows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

# After Okabe and Ito's palette; methods that are not in `KNOWN` take them in this order.
COLOURS = ["#56B4E9", "#8F8F1F", "#CC79A7", "#44AA99", "#C0504D"]
SYMBOLS = ["triangle-up", "triangle-down", "hexagon", "pentagon", "cross", "star", "bowtie"]
GLYPHS = {
    "square": "■",
    "circle": "●",
    "diamond": "◆",
    "star": "★",
    "x": "✖",
    "triangle-up": "▲",
    "triangle-down": "▼",
    "hexagon": "⬢",
    "pentagon": "⬟",
    "cross": "✚",
    "bowtie": "⧓",
}
EVERYTHING, DELETION = "everything", "deletion"  # scopes
KNOWN = {  # by family, see `family`
    EVERYTHING: ("#7D8894", "square"),
    "affinity": ("#1F83C4", "circle"),
    "contrast": ("#D55E00", "diamond"),
    "pilot": ("#009E73", "star"),
    "LoRA": ("#E69F00", "triangle-up"),
    "ESFT": ("#A0673A", "hexagon"),
    "random": ("#B0699A", "x"),
    "random in layer": ("#A98BD9", "bowtie"),  # in the layer that a rule chooses
    "random in pilot": ("#7A6FD0", "triangle-down"),
}
RULE_NAMES = {"lora": "LoRA", "esft": "ESFT"}
OBJECTIVES = {
    "ga": "GA",
    "gdiff": "GDiff",
    "npo": "NPO",
    "rmu": "RMU",
    "simnpo": "SimNPO",
    "dpo": "DPO",
    "wga": "WGA",
    "satimp": "SatImp",
    "undial": "UNDIAL",
    "ceu": "CE-U",
    "deletion": "deletion, no training",
}
INK, FAINT, GRID = "#1f2933", "#8a94a0", "#e8ebee"
FONT = "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', Arial, sans-serif"
PANEL_HEIGHT = 300  # pixels
LABEL_GAP = 0.095  # of a panel's height, between two names beside it
MARGIN = {"l": 52, "t": 48, "b": 46}


class Style(NamedTuple):
    """How a method is drawn.

    Attributes:
        label: What is trained: `everything`, or the rule that chose the experts.
        objective: What is minimised; empty if the method is not unlearning.
        colour: The label's.
        symbol: The label's, by Plotly's name.
    """

    label: str
    objective: str
    colour: str
    symbol: str

    @property
    def glyph(self) -> str:
        """The symbol as a character."""
        return GLYPHS[self.symbol]


def method_styles(table: pd.DataFrame) -> dict[str, Style]:
    """Return the style of each method; one that minimises nothing is a grey cross.

    Args:
        table: With `method`, `objective`, `scope` and `selection`: a comparison, or paths.
    """
    rows = with_objective(table).drop_duplicates("method").set_index("method")
    labels: dict[str, str] = {}
    for method, row in rows.iterrows():
        if pd.notna(row["objective"]):
            labels[str(method)] = _label(str(method), row, rows)
    families = list(dict.fromkeys(family(label) for label in labels.values()))
    others = [name for name in families if name not in KNOWN]
    looks = dict(KNOWN)
    for position, name in enumerate(others):
        looks[name] = (COLOURS[position % len(COLOURS)], SYMBOLS[position % len(SYMBOLS)])
    return {
        str(method): Style(labels[method], str(row["objective"]), *looks[family(labels[method])])
        if method in labels
        else Style(str(method), "", FAINT, "x")
        for method, row in rows.iterrows()
    }


def with_objective(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with `deletion` as the objective of methods that change without training."""
    return table.assign(objective=table["objective"].where(table["scope"] != DELETION, DELETION))


def objective_name(objective: str) -> str:
    """Return an objective's usual name."""
    return OBJECTIVES.get(objective, objective)


def rule_name(rule: str) -> str:
    """Return a selection rule's name in figures: `random in pilot` for `random_in:pilot`."""
    return RULE_NAMES.get(rule, rule.replace("random_in:", "random in "))


def spread_out(ideal: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return places near the ideal ones, at least `gap` apart and between the bounds."""
    order = sorted(range(len(ideal)), key=lambda index: ideal[index])
    places, floor = [0.0] * len(ideal), low
    for index in order:
        places[index] = floor = max(ideal[index], floor)
        floor += gap
    ceiling = high
    for index in reversed(order):
        places[index] = ceiling = min(places[index], ceiling)
        ceiling -= gap
    return places


class Label(NamedTuple):
    """A name beside a panel.

    Attributes:
        place: The ideal y, in the axis's own units.
        colour: The mark's.
        glyph: The mark.
        text: The name, as HTML.
    """

    place: float
    colour: str
    glyph: str
    text: str


def name_beside(
    figure: go.Figure, panel: int, labels: Sequence[Label], low: float, high: float
) -> list[float]:
    """Write labels to the right of a panel without overlap, and return their places.

    Args:
        figure: See `grid`.
        panel: The panel's number, from 1.
        labels: In any order.
        low: Place of the panel's lower end.
        high: Place of its upper end.
    """
    gap = min(LABEL_GAP, 1 / max(len(labels), 1)) * (high - low)
    ideal = [label.place for label in labels]
    places = spread_out(ideal, gap, low + gap / 2, high - gap / 2)
    for place, label in zip(places, labels, strict=True):
        figure.add_annotation(
            **{**at(panel, 1, 0), "yref": f"y{axis(panel)}", "y": place},
            text=f'<span style="color:{label.colour}">{label.glyph}</span> {label.text}',
            xanchor="left",
            yanchor="middle",
            xshift=3,
            font={"size": 12},
        )
    return places


def grid(panels: int, spacing: float = 0.2) -> go.Figure:
    """Return a figure of so many panels, two a row."""
    columns = min(2, max(panels, 1))
    rows = max(ceil(panels / 2), 1)
    cells: list[dict[str, Any] | None] = [
        {} if cell < max(panels, 1) else None for cell in range(rows * columns)
    ]
    return make_subplots(
        rows=rows,
        cols=columns,
        specs=[cells[row * columns : (row + 1) * columns] for row in range(rows)],
        horizontal_spacing=spacing,
        vertical_spacing=0.32 / rows,
    )


def themed(figure: go.Figure, rows: int = 1) -> go.Figure:
    """Give a figure the fonts, grid and margins of all figures, and return it."""
    beside = [
        note.text for note in figure.layout.annotations if note.xanchor == "left" and note.x == 1
    ]
    longest = max((len(re.sub("<.*?>", "", text)) for text in beside), default=0)
    line = {"linecolor": FAINT, "gridcolor": GRID, "zeroline": False, "ticks": "outside"}
    figure.update_layout(
        template="plotly_white",
        height=PANEL_HEIGHT * max(rows, 1),
        font={"family": FONT, "size": 12, "color": INK},
        margin={**MARGIN, "r": 16 + 8 * longest},  # room for what is named beside
        showlegend=False,
        hoverlabel={"font": {"family": FONT}},
    )
    axes = {**line, "tickcolor": FAINT, "ticklen": 4, "tickfont": {"size": 11}}
    figure.update_xaxes(**axes, title={"standoff": 6, "font": {"size": 12}})
    figure.update_yaxes(**axes, title={"standoff": 6, "font": {"size": 12}})
    return figure


def heading(panel: int, text: str) -> dict[str, Any]:
    """Return the annotation that is a panel's title; panels count from 1."""
    return {
        **at(panel, 0, 1.0),
        "text": f"<b>{text}</b>",
        "xanchor": "left",
        "yanchor": "bottom",
        "yshift": 16,
        "font": {"size": 14},
    }


def at(panel: int, x: float, y: float) -> dict[str, Any]:
    """Return the place of an annotation without arrow, in fractions of a panel's size."""
    name = axis(panel)
    places = {"xref": f"x{name} domain", "yref": f"y{name} domain", "x": x, "y": y}
    return {**places, "showarrow": False}


def axis(panel: int) -> str:
    """Return the suffix of a panel's axes in Plotly: empty for the first panel, then `2`."""
    return "" if panel == 1 else str(panel)


def axes_of(panel: int) -> dict[str, str]:
    """Return the arguments that put a trace into a panel; panels count from 1."""
    return {"xaxis": f"x{axis(panel)}", "yaxis": f"y{axis(panel)}"}


def share_name(share: float) -> str:
    """Return a share forgotten as figures and tables write it: `.75`."""
    return f"{share:.2g}".lstrip("0")


def panels_of(figure: go.Figure) -> list[dict[str, Any]]:
    """Return each panel of a figure as the `data` and `layout` that `Plotly.newPlot` takes.

    Args:
        figure: One whose traces, shapes and annotations each belong to one panel.
    """
    whole = figure.to_plotly_json()
    layout = whole["layout"]
    shared = {k: v for k, v in layout.items() if k[:5] not in ("xaxis", "yaxis")}
    panels = []
    for name in sorted((k[5:] for k in layout if k[:5] == "xaxis"), key=lambda n: int(n or 1)):
        own = {"x": f"x{name}", "y": f"y{name}"}
        axes = {
            f"{letter}axis": {
                key: value
                for key, value in layout[f"{letter}axis{name}"].items()
                if key not in ("domain", "anchor", "matches")
            }
            for letter in own
        }
        traces = [t for t in whole["data"] if t.get("xaxis", "x") == own["x"]]
        panels.append(
            {
                "data": [{**t, "xaxis": "x", "yaxis": "y"} for t in traces],
                "layout": {
                    **shared,
                    **axes,
                    "height": PANEL_HEIGHT,
                    "shapes": _moved(layout.get("shapes", ()), own),
                    "annotations": _moved(layout.get("annotations", ()), own),
                },
            }
        )
    return panels


def _moved(marks: Iterable[Mapping[str, Any]], own: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the shapes or annotations of a panel, moved to the axes x and y."""
    moved = []
    for mark in marks:
        refs = {letter: str(mark[f"{letter}ref"]).split() for letter in own}
        if any(refs[letter][0] == own[letter] for letter in own):
            new = {f"{letter}ref": " ".join([letter, *refs[letter][1:]]) for letter in own}
            moved.append({**mark, **new})
    return moved


def _label(method: str, row: pd.Series, rows: pd.DataFrame) -> str:
    """Return what a method trains, or its own name if a shorter-named method trains the same."""
    trained = rows["selection"].fillna(rows["scope"])
    alike = rows.index[(rows["objective"] == row["objective"]) & (trained == trained[method])]
    if method == min(alike, key=len):
        return rule_name(str(trained[method]))
    return method.replace(f"_{row['objective']}", "", 1)


def family(label: str) -> str:
    """Return the label that decides the look: all draws of random experts share one."""
    if re.fullmatch(r"random(_\d+)?", label):
        return "random"
    if label.startswith("random in ") and label not in KNOWN:
        return "random in layer"
    return label
