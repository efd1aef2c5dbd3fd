"""The report: one page that opens anywhere, with no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from seuf.reporting.comparison import best_method
from seuf.reporting.draws import spread_over_draws
from seuf.reporting.looks import Look, looks
from seuf.reporting.page import CAPTIONS, GENERATION_GLOSSARY, GLOSSARY, LIMITS, PAGE
from seuf.reporting.summary import headline, summary
from seuf.reporting.tables import MISSING, number, readable
from seuf.reporting.tokens_per_expert import FEW, counted

CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
}


def report(
    comparison: pd.DataFrame,
    figures: Mapping[str, go.Figure],
    selected: Mapping[str, Mapping[str, Any]],
) -> str:
    """Return the page as HTML.

    Args:
        comparison: One row a method.
        figures: By their keys in `page.CAPTIONS`.
        selected: What each selection rule chose.
    """
    return Template(PAGE).substitute(
        plotly=get_plotlyjs(),
        summary=escape(summary(comparison)),
        headline=_tiles(comparison),
        comparison=_comparison(comparison),
        experts=_experts(selected),
        glossary=_glossary(any("ROUGE" in header for header in readable(comparison)[0])),
        limits="".join(f"<li>{escape(limit)}</li>" for limit in LIMITS),
        **{name: _figure(name, figure) for name, figure in figures.items()},
    )


def _figure(name: str, figure: go.Figure) -> str:
    drawn = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,  # Plotly would make up a new one each time
        config=CONFIG,
    )
    title, caption = CAPTIONS[name]
    return f"<h2>{title}</h2><figure>{drawn}<figcaption>{caption}</figcaption></figure>"


def _glossary(generated: bool) -> str:
    words = GLOSSARY | GENERATION_GLOSSARY if generated else GLOSSARY
    return "".join(f"<dt>{escape(word)}</dt><dd>{escape(is_)}</dd>" for word, is_ in words.items())


def _tiles(comparison: pd.DataFrame) -> str:
    tiles = [
        f"<div><b>{escape(value)}</b><span>{escape(what)}</span></div>"
        for value, what in headline(comparison)
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _comparison(comparison: pd.DataFrame) -> str:
    headers, rows = readable(comparison)
    seen, best = looks(comparison), best_method(comparison)
    body = [
        _row(
            [_method(row[0], seen[row[0]]), *map(_measured, row[1:])],
            ' class="best"' if row[0] == best else "",
        )
        for row in rows
    ]
    below = "".join(f"<p>{escape(sentence)}</p>" for sentence in spread_over_draws(comparison))
    return _table(headers, body) + below


def _method(name: str, look: Look) -> str:
    colour = f' style="color:{look.colour}"' if look.objective else ""  # ink, light or dark
    return f'<i{colour} aria-hidden="true">{look.glyph}</i> {escape(name)}'


def _measured(cell: str) -> str:
    value, plus_minus, error = cell.partition(" ± ")
    return f"{escape(value)}<small> ± {escape(error)}</small>" if plus_minus else escape(value)


def _experts(selected: Mapping[str, Mapping[str, Any]]) -> str:
    headers = ["rule", "layer", "expert", "score", "margin", "runner-up", "stability"]
    rows = [
        _row([escape(cell) for cell in cells])
        for rule, choice in selected.items()
        for cells in _choices(rule, choice)
    ]
    return _table(headers, rows)


def _choices(rule: str, choice: Mapping[str, Any]) -> list[list[str]]:
    experts, runner = choice["experts"], choice["runner_up"]
    about_all = [
        number(choice["margin"], ".4f"),
        MISSING if runner is None else f"layer {runner[0]}, expert {runner[1]}",
        number(choice["stability"], ".0%"),
    ]
    if len(experts) > FEW:
        return [[rule, MISSING, counted(experts), MISSING, *about_all]]
    scores = choice["scores"] or [None] * len(experts)
    return [
        [rule, str(layer), str(expert), number(score, ".4f"), *about_all]
        for (layer, expert), score in zip(experts, scores, strict=True)
    ]


def _table(headers: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f"<th>{_header(header)}</th>" for header in headers)
    table = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="wide"><table>{table}</table></div>'


def _header(text: str) -> str:
    return escape(text).replace(" ↓", "&nbsp;↓").replace(" ↑", "&nbsp;↑")


def _row(cells: Sequence[str], attributes: str = "") -> str:
    return f"<tr{attributes}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
