"""The HTML page of a report: its style, and the parts it is built from.

The page needs no network, since Plotly's script is in it. The panels of a figure stand side by side
as far as there is room, so that it is readable on a screen, on a phone and on paper.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from string import Template

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from seuf.reporting.styles import panels_of

CLEAR = "rgba(0, 0, 0, 0)"
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light; --ink: #1f2933; --soft: #55616d; --line: #dfe3e8; --grid: #e8ebee;
  --page: #f6f7f9; --card: #fff; --more: #00694d; --less: #b04a00; --warn: #fff6e0;
  --warn-line: #e0a800; }
@media screen and (prefers-color-scheme: dark) { :root { color-scheme: dark; --ink: #e6e9ec;
  --soft: #a9b3bd; --line: #36404a; --grid: #2c353e; --page: #14181d; --card: #1c2228;
  --more: #4fc9a4; --less: #f39a5b; --warn: #33290f; --warn-line: #8f6d00; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; letter-spacing: -.015em; }
h2 { font-size: 1.25rem; margin: 0 0 .4rem; }
h3 { font-size: .95rem; margin: 0 0 .5rem; }
section { margin: 2.8rem 0 0; }
.about { color: var(--soft); font-size: .88rem; margin: 0 0 1.6rem; overflow-wrap: anywhere; }
.lead { font-size: 1.12rem; max-width: 52rem; margin: 0 0 .4rem; }
.caption { color: var(--soft); font-size: .93rem; max-width: 52rem; margin: 0 0 .9rem; }
.card, .wide, details { background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; }
.side-by-side { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); }
.side-by-side > div { min-width: 0; }
.panels { display: flex; flex-wrap: wrap; padding: .6rem .2rem; }
.panel { flex: 0 0 auto; width: 520px; max-width: 100%; }
.wide { overflow-x: auto; } .wide + .wide { margin-top: .8rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .7rem; text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; font-size: .82rem; white-space: normal;
  vertical-align: bottom; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0;
  background: var(--card); }
tbody tr + tr td { border-top: 1px solid var(--line); }
td i { font-style: normal; display: inline-block; width: 1.3em; }
small { color: var(--soft); font-size: .82em; }
.more { color: var(--more); font-weight: 600; } .less { color: var(--less); font-weight: 600; }
.notes { color: var(--soft); font-size: .88rem; margin: .6rem 0 0; max-width: 60rem; }
.warning { background: var(--warn); border: 1px solid var(--warn-line); border-radius: 8px;
  padding: .6rem 1rem; margin: 0 0 1rem; font-size: .93rem; }
.warning ul { margin: 0; padding-left: 1.2rem; }
details { margin: .5rem 0; padding: .5rem 1rem; }
summary { cursor: pointer; font-weight: 600; } summary small { font-weight: 400; }
.example { border-top: 1px solid var(--line); padding: .6rem 0; margin: .5rem 0 0;
  overflow-wrap: anywhere; font-size: .92rem; }
.example b { display: block; } .example .subject { color: var(--soft); font-size: .82rem; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .3rem 1.2rem;
  margin: 0; } .example dl { grid-template-columns: 5.5rem 1fr; gap: .1rem .8rem; }
dt { font-weight: 600; } dd { margin: 0; } dd, .example dt { color: var(--soft); }
.example dt { font-weight: 400; } .example dd { color: var(--ink); }
li { margin: .3rem 0; } .lead + ul { padding-left: 1.2rem; margin: .4rem 0 1.4rem; }
.js-plotly-plot .main-svg { background: transparent !important; }
.js-plotly-plot text { fill: var(--ink) !important; }
.js-plotly-plot .hoverlayer text { fill: revert-layer; }
.js-plotly-plot .gridlayer path { stroke: var(--grid) !important; }
@media (max-width: 40rem) { main { padding: 1.4rem 1rem 3rem; } h1 { font-size: 1.5rem; }
  dl { grid-template-columns: 1fr; } dl:not(.example dl) dd { margin-bottom: .6rem; }
  th, td { padding: .4rem .4rem; } td:first-child { white-space: normal; }
  .side-by-side table { font-size: .84rem; } }
@media print { @page { size: A4; margin: 14mm 12mm; } body { background: #fff; font-size: 10.5pt; }
  main { max-width: none; padding: 0; } section { margin-top: 1.6rem; }
  h1, h2, h3, .caption { break-after: avoid; } .caption, .lead, li, tr, .panel, .warning, .example {
  break-inside: avoid; } .card, .wide, details { border: 0; border-radius: 0; }
  .wide { overflow: visible; } table { font-size: 7.6pt; } th { font-size: 7.2pt; }
  th, td { padding: .18rem .3rem; } thead { display: table-header-group; } .panels { padding: 0; }
  .panel { width: 50%; height: 235px !important; } .side-by-side { grid-template-columns: 1fr 1fr; }
  details:not([open]) { display: none; } }
</style>
<script>$plotly</script>
</head>
<body>
<main>
$content
</main>
<script>
const panels = [...document.querySelectorAll(".panel")];
const config = {displayModeBar: false, responsive: true};
for (const panel of panels) {
  const {data, layout} = JSON.parse(panel.querySelector("script").textContent);
  panel.textContent = "";
  Plotly.newPlot(panel, data, layout, config);
}
// Paper is narrower than the screen, and nothing draws the figures again for it but this
const onPaper = () => panels.forEach(panel => Plotly.relayout(panel, {width: 345, height: 235}));
const onScreen = () => panels.forEach(panel => Plotly.relayout(
  panel, {width: null, height: panel.offsetHeight, autosize: true}));
addEventListener("beforeprint", onPaper);
addEventListener("afterprint", onScreen);
</script>
</body>
</html>
"""


def page(title: str, sections: Iterable[str]) -> str:
    """Return the page as HTML."""
    content = "\n".join(section for section in sections if section)
    return Template(PAGE).substitute(title=escape(title), plotly=get_plotlyjs(), content=content)


def section(title: str, *parts: str, caption: str = "") -> str:
    """Return a part of the page under a heading; caption and parts are HTML."""
    shown = f'<p class="caption">{caption}</p>' if caption else ""
    return f"<section><h2>{escape(title)}</h2>{shown}{''.join(parts)}</section>"


def drawn(name: str, figure: go.Figure) -> str:
    """Return a figure as its panels, each drawn when the page has loaded.

    Args:
        name: The figure's id, unique on the page.
        figure: See `seuf.reporting.styles.panels_of`.
    """
    panels = []
    for number, panel in enumerate(panels_of(figure), 1):
        layout = {
            **panel["layout"],
            "autosize": True,
            "paper_bgcolor": CLEAR,
            "plot_bgcolor": CLEAR,
        }
        layout.pop("template", None)  # each panel would repeat it
        text = json.dumps({"data": panel["data"], "layout": layout}, cls=PlotlyJSONEncoder)
        safe = text.replace("<", "\\u003c")  # so that no text of a study ends the script
        panels.append(
            f'<div class="panel" id="{name}-{number}" style="height:{layout["height"]}px">'
            f'<script type="application/json">{safe}</script></div>'
        )
    return f'<div class="card panels" id="{name}">{"".join(panels)}</div>'


def table(headers: Sequence[str], rows: Iterable[str]) -> str:
    """Return a table of rows made by `row`; it scrolls sideways on a narrow screen."""
    names = [escape(name).replace(" ↓", "&nbsp;↓").replace(" ↑", "&nbsp;↑") for name in headers]
    head = "".join(f"<th>{name}</th>" for name in names)
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="wide"><table>{body}</table></div>'


def row(cells: Iterable[str]) -> str:
    """Return a table's row; cells are HTML."""
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def number_cell(cell: str) -> str:
    """Return a cell as HTML, its standard error, if any, in small print."""
    value, plus_minus, error = cell.partition(" ± ")
    return f"{escape(value)}<small> ± {escape(error)}</small>" if plus_minus else escape(value)


def glossary(entries: Mapping[str, str]) -> str:
    """Return words and their meanings as a definition list."""
    words = (f"<dt>{escape(word)}</dt><dd>{escape(text)}</dd>" for word, text in entries.items())
    return f"<dl>{''.join(words)}</dl>"


def bullets(sentences: Iterable[str]) -> str:
    """Return sentences, given as text, as a bulleted list."""
    return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>"


def note(sentences: Iterable[str]) -> str:
    """Return sentences, given as text, as the notes below a table."""
    return "".join(f'<p class="notes">{escape(sentence)}</p>' for sentence in sentences)


def warning(sentences: Sequence[str]) -> str:
    """Return sentences, given as text, in a warning box; empty if there are none."""
    return f'<div class="warning" role="note">{bullets(sentences)}</div>' if sentences else ""
