"""The report: the study in a few sentences, its table and figures, on one page.

The page opens anywhere, with no network. `report` fills `PAGE`, at the end of the texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from seuf.reporting.comparison import (
    MISSING,
    Row,
    best_method,
    by_method,
    measure,
    number,
    original_method,
    readable,
    spread_over_draws,
)
from seuf.reporting.figures import MAX_LISTED_EXPERTS, counted, method_styles

PLOTLY = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
}
CAPTIONS = {
    "efficacy_utility": (
        "Forgetting against utility",
        "Each mark is a method, scored on questions that had no part in choosing its checkpoint. "
        "Up and to the left is better: the star is a model that guesses on what it should forget "
        "and knows all else as before. Bars are one standard error. Click an objective to hide its "
        "methods.",
    ),
    "tokens_per_expert": (
        "Which experts handle the forget set",
        "Share of the tokens that go to each expert of the original model, in layers where a rule "
        "chose an expert; arrows name the rule. The dotted line is an even share: k of E. A high "
        "dark bar beside a low light one is a specialist of the forget set; two high bars are a "
        "generalist, which all knowledge needs.",
    ),
    "overlap_over_steps": (
        "Does routing stay where it was",
        "Share of the chosen experts that the original model chose too, on the same tokens, while "
        "unlearning goes on; only the learning rate that was kept. Upper row: forget set, lower "
        "row: retain set. The dot is the checkpoint that was kept; at step 0 it is the original. A "
        "falling line is a router that sends tokens elsewhere instead of an expert that forgets.",
    ),
}

GLOSSARY = {
    "forget accuracy (FE)": "Share of right answers about what is to be forgotten, the paper's "
    "forget efficacy. Lower is better, down to the accuracy of guessing.",
    "retain accuracy (UT)": "Share of right answers about everything else, the paper's utility. "
    "Higher is better.",
    "balance": "Retain accuracy minus what forget accuracy is above guessing. Checkpoints are "
    "chosen by it, on other questions than those reported here.",
    "overlap": "Share of the experts chosen for a token that the original model chose too. 1 means "
    "that routing is as it was.",
    "weights trained": "Share of the model's parameters that were in training.",
    "score, margin": "What a rule gave the expert it chose, and how much less the runner-up got. "
    "Affinity: mean gate probability on the forget set. Contrast: minus that on the retain set. "
    "ESFT: share of a layer's top-k slots, or affinity; nobody is next. A number at a rule's name "
    "is a rank: affinity_2 takes the second best.",
    "stability": "Share of a layer's six best experts that all samples and a subset of 100,000 "
    "tokens agree on, and that two such subsets do, as in the paper's Table 8; of a smaller set "
    "that its two halves do. Of ESFT by affinity: of all that a half chooses. By chance it is six "
    "of the layer's experts.",
    "± ": "One standard error of the mean over questions. It does not tell how much another "
    "random seed would change.",
}

GENERATION_GLOSSARY = {
    "ROUGE-L": "Share of the true answer's words that a generated answer has in the same order.",
}

LIMITS = [
    "Numbers are of one base model, one seed and these questions; differences within two standard "
    "errors are no ranking.",
    "Low accuracy is not proof that the knowledge is gone: attacks that bring it back "
    "(relearning, other prompts, forcing other experts) are not part of these scores.",
    "Each method is one point of a trade-off. Compare methods at equal forget accuracy before "
    "you call one better.",
    "Seconds are those of the machine that ran the study, all learning rates together.",
]

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>SEUF: what was forgotten, what is left</title>
<style>
:root { color-scheme: light dark; --ink: #1f2933; --soft: #5b6773; --line: #dfe3e8;
  --page: #f6f7f9; --card: #fff; --best: #e8f3fb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #a3adb8; --line: #36404a;
  --page: #14181d; --card: #1c2228; --best: #17324a; } }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .6rem; letter-spacing: -.015em; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .8rem; }
.summary { font-size: 1.1rem; max-width: 56rem; margin: 0 0 1.4rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .8rem; }
.tiles div, .wide, figure { background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; }
.tiles div { padding: .8rem 1rem; }
.tiles b { display: block; font-size: 1.45rem; font-variant-numeric: tabular-nums; }
.tiles span, figcaption, small, dd { color: var(--soft); }
.tiles span { font-size: .85rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .8rem; text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; font-size: .82rem; white-space: normal;
  vertical-align: bottom; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
tbody tr + tr td { border-top: 1px solid var(--line); }
tr.best td { background: var(--best); font-weight: 600; }
td i { font-style: normal; display: inline-block; width: 1.3em; } td small { font-size: .82em; }
figure { margin: 0; padding: 0 0 .9rem; color-scheme: light; overflow: hidden; }
figure > div { background: #fff; }
figcaption { padding: .8rem 1.2rem 0; font-size: .92rem; max-width: 54rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1.4rem; margin: 0; }
dt { font-weight: 600; } dd { margin: 0; }
li { margin: .3rem 0; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .6rem; } }
@media print { body { background: #fff; } figure, .wide { break-inside: avoid; } }
</style>
<script>$plotly</script>
</head>
<body>
<main>
<h1>What was forgotten, what is left</h1>
<p class="summary">$summary</p>
$headline
<h2>The methods</h2>
$comparison
$efficacy_utility
$tokens_per_expert
<h2>The selected experts</h2>
$experts
$overlap_over_steps
<h2>Glossary</h2>
<dl>$glossary</dl>
<h2>Limits</h2>
<ul>$limits</ul>
</main>
</body>
</html>
"""

Rows = dict[str, Row]


def report(
    comparison: pd.DataFrame,
    figures: Mapping[str, go.Figure],
    selected: Mapping[str, Mapping[str, Any]],
) -> str:
    """Return the page as HTML.

    Args:
        comparison: One row a method.
        figures: By their keys in `CAPTIONS`.
        selected: What each selection rule chose.
    """
    tiles = [
        f"<div><b>{escape(value)}</b><span>{escape(what)}</span></div>"
        for value, what in headline(comparison)
    ]
    generated = any("ROUGE" in header for header in readable(comparison)[0])
    glossary = GLOSSARY | GENERATION_GLOSSARY if generated else GLOSSARY
    return Template(PAGE).substitute(
        plotly=get_plotlyjs(),
        summary=escape(summary(comparison)),
        headline=f'<div class="tiles">{"".join(tiles)}</div>' if tiles else "",
        comparison=_comparison(comparison),
        experts=_experts(selected),
        glossary="".join(f"<dt>{escape(t)}</dt><dd>{escape(d)}</dd>" for t, d in glossary.items()),
        limits="".join(f"<li>{escape(limit)}</li>" for limit in LIMITS),
        **{name: _figure(name, figure) for name, figure in figures.items()},
    )


def summary(comparison: pd.DataFrame) -> str:
    """Return what the best method reached, and which others are as good within their errors."""
    best, original = best_method(comparison), original_method(comparison)
    if best is None:
        return "No method changed the model: all numbers below are those of the original."
    rows = by_method(comparison)
    judged = [r for r in rows.values() if r["trained_share"] > 0 and not pd.isna(r["balance"])]
    methods = f"{len(judged)} method{'s' if len(judged) > 1 else ''}"
    before = rows[original] if original else None
    sentences = [f"{best} has the best balance of {methods}: {_reached(rows[best], before)}."]
    if not pd.isna(rows[best]["forget_efficacy_stderr"]):
        sentences.append(_rivals(rows, best))
    if before is not None and not rows[best]["balance"] > before["balance"]:
        sentences.append("No method has a better balance than the original model.")
    return " ".join(sentences)


def headline(comparison: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the best method's numbers, each with what it says; none if there is no best."""
    best, original = best_method(comparison), original_method(comparison)
    if best is None:
        return []
    rows = by_method(comparison)
    row = rows[best]
    changes = {
        name: f"{rows[original][name]:.3f} → {row[name]:.3f}" if original else f"{row[name]:.3f}"
        for name in ("forget_efficacy", "utility")
    }
    forget, retain = (measure(comparison, what) for what in ("forget", "utility"))
    return [
        (changes["forget_efficacy"], f"{forget} on forget questions"),
        (changes["utility"], f"{retain} on retain questions"),
        (number(row["trained_share"], ".2%"), "of the weights were trained"),
        (number(row["routing_overlap_retain"], ".1%"), "of retain routing as before"),
    ]


def _reached(row: Row, before: Row | None) -> str:
    """Return what a method gives of right answers: `it answers 50.0% of the forget questions`."""
    parts = []
    for subject, name, column in (
        ("forget", "forget_efficacy", "forget_measure"),
        ("retain", "utility", "utility_measure"),
    ):
        is_accuracy = row[column] == "accuracy"
        verb = "answers" if is_accuracy else "gives"
        what = f"the {subject} questions" if is_accuracy else f"the answers to {subject} questions"
        guessing = ""
        if subject == "forget" and row["chance"] > 0:
            guessing = f", {row['chance']:.0%} by guessing"
        was = f" ({before[name]:.1%} before{guessing})" if before else ""
        same = subject == "retain" and row["forget_measure"] == row["utility_measure"]
        parts.append(f"{'' if same else f'{verb} '}{row[name]:.1%} of {what}{was}")
    return f"it {' and '.join(parts)}"


def _rivals(rows: Rows, best: str) -> str:
    """Name the methods whose balance is not two standard errors below the best one's."""

    def is_as_good(row: Row) -> bool:
        names = ("forget_efficacy_stderr", "utility_stderr")
        errors = [one[name] for one in (row, rows[best]) for name in names]
        spread = sum(float(error) ** 2 for error in errors if not pd.isna(error)) ** 0.5
        return bool(rows[best]["balance"] - row["balance"] <= 2 * spread)

    # the number of changed tensors is NaN of a model that was not unlearned, as `retrained`
    rivals = [name for name, row in rows.items() if row["changed_tensors"] > 0 and name != best]
    near = [name for name in rivals if is_as_good(rows[name])]
    if not near:
        return "No other method is within two standard errors of it."
    are = "is" if len(near) == 1 else "are"
    return f"Within two standard errors of it {are} {', '.join(near)}."


def _figure(name: str, figure: go.Figure) -> str:
    drawn = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,  # Plotly would make up a new one each time
        config=PLOTLY,
    )
    title, caption = CAPTIONS[name]
    return f"<h2>{title}</h2><figure>{drawn}<figcaption>{caption}</figcaption></figure>"


def _comparison(comparison: pd.DataFrame) -> str:
    """Return the table of methods, each with its symbol, the best one marked."""
    headers, rows = readable(comparison)
    styles, best = method_styles(comparison), best_method(comparison)
    body = []
    for method, *cells in rows:
        style = styles[method]
        colour = f' style="color:{style.colour}"' if style.objective else ""  # ink, light or dark
        first = f'<i{colour} aria-hidden="true">{style.glyph}</i> {escape(method)}'
        marked = ' class="best"' if method == best else ""
        body.append(_row([first, *map(_number_cell, cells)], marked))
    below = "".join(f"<p>{escape(sentence)}</p>" for sentence in spread_over_draws(comparison))
    return _table(headers, body) + below


def _number_cell(cell: str) -> str:
    value, plus_minus, error = cell.partition(" ± ")
    return f"{escape(value)}<small> ± {escape(error)}</small>" if plus_minus else escape(value)


def _experts(selected: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of what each rule chose; of a rule of many experts only how many."""
    headers = ["rule", "layer", "expert", "score", "margin", "runner-up", "stability"]
    rows = []
    for rule, choice in selected.items():
        experts, runner_up = choice["experts"], choice["runner_up"]
        about_all = [
            number(choice["margin"], ".4f"),
            MISSING if runner_up is None else f"layer {runner_up[0]}, expert {runner_up[1]}",
            stability(choice),
        ]
        if len(experts) > MAX_LISTED_EXPERTS:
            rows.append([rule, MISSING, counted(experts), MISSING, *about_all])
            continue
        scores = choice["scores"] or [None] * len(experts)
        rows += [
            [rule, str(layer), str(expert), number(score, ".4f"), *about_all]
            for (layer, expert), score in zip(experts, scores, strict=True)
        ]
    doubts = [f"{rule}: {text}" for rule, of in selected.items() for text in of["warnings"]]
    listed = "".join(f"<li>{escape(doubt)}</li>" for doubt in doubts)
    table = _table(headers, [_row([escape(cell) for cell in cells]) for cells in rows])
    return table + (f"<ul>{listed}</ul>" if doubts else "")


def stability(choice: Mapping[str, Any]) -> str:
    """Return `94%, 87% between subsets`, or of a set too small for these `80% of halves`."""
    if choice["stability_subset"] is None:
        halves = number(choice["stability_halves"], ".0%")
        return halves if halves == MISSING else f"{halves} of halves"
    between = choice["stability_two_subsets"]
    return f"{choice['stability_subset']:.0%}, {between:.0%} between subsets"


def _table(headers: Sequence[str], rows: Sequence[str]) -> str:
    names = [escape(name).replace(" ↓", "&nbsp;↓").replace(" ↑", "&nbsp;↑") for name in headers]
    head = "".join(f"<th>{name}</th>" for name in names)
    table = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="wide"><table>{table}</table></div>'


def _row(cells: Sequence[str], attributes: str = "") -> str:
    return f"<tr{attributes}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
