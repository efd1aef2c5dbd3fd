"""The report of a study: one HTML page, headed by one expert against everything.

`report` is for a study of many methods, `spread_report` for one that repeats them over base models
and seeds. Both are built from the parts in `seuf.reporting.page`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from seuf.forgetting import is_known, unpack_right
from seuf.reporting.comparison import (
    MISSING,
    further,
    measure,
    notes,
    number,
    readable,
)
from seuf.reporting.expert_figures import (
    MAX_LISTED_EXPERTS,
    WARNING_SIGN,
    counted,
    doubts,
)
from seuf.reporting.headline import TestedDifferences, headline
from seuf.reporting.page import (
    bullets,
    drawn,
    glossary,
    note,
    number_cell,
    page,
    row,
    section,
    table,
    warning,
)
from seuf.reporting.preflight import margin, stability, tables
from seuf.reporting.styles import method_styles

WIDTH = 8  # columns of a table, without the method's name
SHOWN_EXAMPLES = 8  # for each method
FEW_QUESTIONS = 20  # below it a page warns of the standard error
FIGURES = {
    "forgetting_paths": (
        "Forgetting against utility, step by step",
        "Each line is a method's path over its steps, on questions that chose nothing; the large "
        "mark is the checkpoint that was kept. Up and to the right is better: forgotten, and all "
        "else kept. Dotted lines are the shares of forgetting at which methods are compared.",
    ),
    "general_loss": (
        "Forgetting against language",
        "The same paths, with the loss on text that nobody trains on: how well the model still "
        "writes. Lower is better; a model that falls apart rises steeply.",
    ),
    "layers": (
        "Which layer: what one expert of each keeps",
        "The best expert of every layer that was tried, by affinity and by contrast, trained with "
        "the pilot's learning rates. Utility on questions that chose nothing, and the loss on "
        "text that nobody trains on, where .75 is forgotten: read off each path between two "
        "looks. Bands are 95 % intervals, of one base model over questions, else over base "
        "models, which are the faint points; a hollow point is a mean over fewer than all. A "
        "cross, and a gap in the line: not reached. Large marks are the layers that the paper's "
        "rule, contrast and the pilot chose; one beside the lines lies in a layer that was not "
        "tried, and is the method's own run.",
    ),
    "attribution": (
        "Which experts handle the forget set",
        "Gate affinity of the original model's experts: how much of a token's routing each gets. A "
        "gap between the two lines is what the forget set alone asks for. Chosen experts are named "
        f"layer:expert; {WARNING_SIGN} marks a choice that other samples might not repeat.",
    ),
    "trials_by_layer": (
        "Which layer: the pilot's trials",
        "One expert of each layer was tried for a few steps. Utility on the selection questions "
        "where so much is forgotten, the best learning rate of each; no mark where no trial "
        "reached it.",
    ),
    "tokens_per_expert": (
        "Tokens per expert",
        "Share of the tokens that go to each expert of the original model, in layers where a rule "
        "chose one; arrows name the rule. The dotted line is an even share. A high dark bar beside "
        "a low light one is a specialist of the forget set; two high bars are a generalist.",
    ),
    "overlap_over_steps": (
        "Does routing stay where it was",
        "Share of the chosen experts that the original model chose too, on the same tokens. The "
        "large mark is the checkpoint that was kept. A falling line is a router that sends tokens "
        "elsewhere, instead of an expert that forgets.",
    ),
}
MEANS = (  # added to a caption where lines are means of several runs
    " Each line is the mean over runs where they have forgotten as much, with a band of one "
    "standard deviation; it is dotted where some runs have not come so far, and ends where half "
    "have not."
)
GLOSSARY = {
    "FE": "Forget efficacy: right answers about what is to be forgotten. Lower is better, down to "
    "what guessing gives.",
    "UT": "Utility: right answers about what no loss of unlearning ever shows, where a study has "
    "such questions; else about what is kept. Higher is better.",
    "retain": "Right answers about what the retain loss shows: kept, but also rehearsed.",
    "UT@.75": "Utility at the point of the path where FE has first gone .75 of the way from the "
    "original's to that of guessing, between two looks in proportion. Never beyond the last look.",
    "area": "Mean utility over the way to .9; only where the path reaches it.",
    "kept checkpoint": "Of those that reach the study's target on the selection questions the one "
    "of most utility there, else the one that comes nearest. The original is none of them.",
    "loss": "Nats a token on text that nobody trains on.",
    "trained": "Share of the model's parameters that were in training.",
    "overlap": "Share of the experts chosen for a token that the original model chose too.",
    "score, margin": "What a rule gave the expert it chose, and how much less the runner-up got. "
    "Affinity: mean gate probability on the forget set. Contrast: minus that on the retain set. "
    "ESFT: share of a layer's top-k slots, or affinity; nobody is next. A number at a rule's name "
    "is a rank: affinity_2 takes the second best.",
    "stability": "Share of a layer's six best experts that all samples and a subset of 100,000 "
    "tokens agree on, and that two such subsets do, as in the paper's Table 8; of a smaller set "
    "that its two halves do. Of ESFT by affinity: of all that a half chooses. By chance it is six "
    "of the layer's experts.",
    "±": "One standard error of the mean over questions; another seed may change more than that.",
}
LIMITS = [
    "Low accuracy is not proof that the knowledge is gone: attacks that bring it back "
    "(relearning, other prompts, forcing other experts) are not part of these scores.",
    "Where a path does not reach a share of forgetting nothing is said of it there: another "
    "learning rate or more steps might.",
    "The rate and the checkpoint of a method were chosen on other questions than those shown.",
    "Seconds are those of the machine that ran the study, all learning rates together.",
]
ONE_RUN = (
    "One base model and one seed: the intervals and errors are over questions only; another base "
    "or seed can change more. A study of spread tells how much."
)


class About(NamedTuple):
    """What identifies a report.

    Attributes:
        study: The study's name.
        model: Name of the base model, or how it was made.
        seed: The study's seed, or several as text.
        commit: The commit of the code that wrote the report; None outside a repository.
        date: The day it was written, as `2026-11-30`.
    """

    study: str
    model: str
    seed: str
    commit: str | None
    date: str


def known_too_little(paths: pd.DataFrame) -> list[str]:
    """Return a warning for each side that the original does not know or that few questions ask for.

    What was not known cannot be seen to be forgotten. A side is known if it scores two standard
    errors above chance, which is 0 without choices.
    """
    original = paths[paths["step"] == 0]
    if original.empty:
        return []
    first, sentences = original.iloc[0], list[str]()
    for side, score, right, so in (
        ("what is to be forgotten", "test_forget_efficacy", "test_forget_right", "forgetting"),
        ("what must stay", "test_utility", "test_utility_right", "what was damaged"),
    ):
        known, chance, packed = (first.get(name) for name in (score, "test_chance", right))
        if pd.isna(known) or pd.isna(chance):
            continue
        asked = len(unpack_right(packed)) if isinstance(packed, str) else None
        if not is_known(known, chance, asked):
            sentences.append(
                f"The original model does not know {side}: it scores {known:.3f}, guessing gives "
                f"{chance:.3f}. No number of this page shows {so}."
            )
        if asked and asked < FEW_QUESTIONS:
            sentences.append(
                f"Only {asked} test questions ask for {side}: a share of them may be off by "
                f"{1 / asked**0.5:.2f}."
            )
    return sentences


def report(
    about: About,
    paths: pd.DataFrame,
    comparison: pd.DataFrame,
    figures: Mapping[str, go.Figure],
    selected: Mapping[str, Mapping[str, Any]],
    examples: Sequence[Mapping[str, Any]] = (),
    tested: TestedDifferences | None = None,
    preflight: Mapping[str, Any] | None = None,
) -> str:
    """Return the page of a study of many methods as HTML.

    Args:
        about: Which study.
        paths: See `seuf.reporting.comparison.paths_of`.
        comparison: One row a method.
        figures: The study's figures, by their keys in `FIGURES`.
        selected: What each selection rule chose.
        examples: Answers before and after: `method`, `subject`, `question`, `reference`, `before`,
            `after`.
        tested: Differences to training everything, by method and share forgotten.
        preflight: The facts of the preflight, see `seuf.reporting.preflight`; None without one.
    """
    measured = f"FE is {measure(comparison, 'forget')}, UT {measure(comparison, 'utility')}."
    headers, rows = further(comparison)
    more = [  # a table too wide would be cut on paper
        _table_of_methods(
            comparison,
            [headers[0], *headers[start : start + WIDTH]],
            [[cells[0], *cells[start : start + WIDTH]] for cells in rows],
        )
        for start in range(1, len(headers), WIDTH)
    ]
    return page(
        f"SEUF: {about.study}",
        [
            _head(about),
            warning((preflight or {}).get("warnings") or known_too_little(paths)),
            headline(paths, tested),
            _drawn(figures, "forgetting_paths", "general_loss", "layers"),
            section(
                "The methods",
                _table_of_methods(comparison, *readable(comparison)),
                note(notes(comparison)),
                caption=f"Test questions; ± is one standard error. {escape(measured)}",
            ),
            section("Measured beside", *more) if more else "",
            _drawn(figures, "attribution", before=warning(doubts(selected))),
            section("The selected experts", _experts(selected)),
            _drawn(figures, "trials_by_layer", "tokens_per_expert", "overlap_over_steps"),
            _examples(examples),
            _used(preflight),
            section("Glossary", glossary(GLOSSARY)),
            section("Limits", bullets([ONE_RUN, *LIMITS])),
        ],
    )


def spread_report(
    about: About,
    paths: pd.DataFrame,
    figures: Mapping[str, go.Figure],
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]], Sequence[str]]],
    tested: TestedDifferences | None = None,
    limits: Sequence[str] = (),
) -> str:
    """Return the page of a study that repeats its methods over base models and seeds.

    Args:
        about: Which study.
        paths: The paths of all runs, see `seuf.reporting.comparison.ABOUT_RUN`.
        figures: The study's figures, by their keys in `FIGURES`.
        tables: By title: headers, rows of text, and notes.
        tested: Differences to training everything, by method and share forgotten.
        limits: Limits of this study, in addition to `LIMITS`.
    """
    shown = [
        section(
            title, table(headers, [row(map(number_cell, cells)) for cells in rows]), note(below)
        )
        for title, (headers, rows, below) in tables.items()
    ]
    return page(
        f"SEUF: {about.study}",
        [
            _head(about),
            headline(paths, tested),
            _drawn(figures, "forgetting_paths", "general_loss", after=MEANS),
            _drawn(figures, "layers"),
            *shown,
            section("Glossary", glossary(GLOSSARY)),
            section("Limits", bullets([*limits, *LIMITS])),
        ],
    )


def _head(about: About) -> str:
    commit = f"commit {about.commit}" if about.commit else "no commit"
    parts = [f"study {about.study}", about.model, f"seed {about.seed}", commit, about.date]
    line = " · ".join(map(escape, parts))
    return f'<h1>What was forgotten, what is left</h1><p class="about">{line}</p>'


def _drawn(figures: Mapping[str, go.Figure], *names: str, before: str = "", after: str = "") -> str:
    return "".join(
        section(
            FIGURES[name][0], before, drawn(name, figures[name]), caption=FIGURES[name][1] + after
        )
        for name in names
        if name in figures and figures[name].data
    )


def _table_of_methods(
    comparison: pd.DataFrame, headers: Sequence[str], rows: Sequence[Sequence[str]]
) -> str:
    """Return a table of methods, each with the symbol that figures give it."""
    styles = method_styles(comparison)
    body = []
    for method, *cells in rows:
        style = styles[method]
        mark = f'<i style="color:{style.colour}" aria-hidden="true">{style.glyph}</i>'
        body.append(row([f"{mark} {escape(method)}", *map(number_cell, cells)]))
    return table(headers, body)


def _experts(selected: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of the experts each rule chose; of many only their number."""
    headers = ["rule", "layer", "expert", "score", "margin", "runner-up", "stability"]
    rows = []
    for rule, choice in selected.items():
        experts, runner_up = choice["experts"], choice["runner_up"]
        doubt = f" {WARNING_SIGN}" if choice.get("warnings") else ""
        of_choice = [
            margin(choice) or MISSING,
            MISSING if runner_up is None else f"{runner_up[0]}:{runner_up[1]}",
            stability(choice) or MISSING,
        ]
        if len(experts) > MAX_LISTED_EXPERTS:
            rows.append([rule + doubt, MISSING, counted(experts), MISSING, *of_choice])
            continue
        scores = choice["scores"] or [None] * len(experts)
        rows += [
            [rule + doubt, str(layer), str(expert), number(score, ".4f"), *of_choice]
            for (layer, expert), score in zip(experts, scores, strict=True)
        ]
    return table(headers, [row(map(number_cell, cells)) for cells in rows])


def _used(preflight: Mapping[str, Any] | None) -> str:
    """Return the section of what the preflight found; empty without a preflight."""
    if preflight is None:
        return ""
    shown = [
        table(headers, [row(map(escape, r)) for r in rows]) for headers, rows in tables(preflight)
    ]
    caption = (
        "The questions of part selection chose each checkpoint, those of part test are reported. "
        "Guessing: among the choices; of free answers what the next question's would score."
    )
    return section("What was used", *shown, caption=caption)


def _examples(examples: Sequence[Mapping[str, Any]]) -> str:
    """Return the section of answers before and after unlearning, folded by method."""
    if not examples:
        return ""
    folded = []
    for method in dict.fromkeys(str(one["method"]) for one in examples):
        own = [one for one in examples if one["method"] == method][:SHOWN_EXAMPLES]
        shown = "".join(
            f'<div class="example"><span class="subject">{escape(str(one["subject"]))}</span>'
            f"<b>{escape(str(one['question']))}</b><dl>"
            + "".join(
                f"<dt>{name}</dt><dd>{escape(str(one[name])) or MISSING}</dd>"
                for name in ("reference", "before", "after")
            )
            + "</dl></div>"
            for one in own
        )
        folded.append(
            f"<details><summary>{escape(method)} <small>{len(own)} examples</small></summary>"
            f"{shown}</details>"
        )
    caption = (
        "The first test questions, answered by the original and by the kept checkpoint. Open one "
        "to read it; on paper only what is open is printed."
    )
    return section("What it says, before and after", *folded, caption=caption)
