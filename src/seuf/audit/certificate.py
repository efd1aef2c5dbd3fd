"""The certificate: one page for people who do not read code, made of an audit's report alone.

It claims nothing beyond the report, and of a failed audit it is no certificate. What comes from
data cannot become markup, neither in HTML nor in Markdown.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2 import Environment, StrictUndefined

from seuf.audit.certificate_numbers import said, score, share, when
from seuf.audit.certificate_page import PAGE
from seuf.audit.certificate_parts import RESULTS, Part, Report, parts
from seuf.audit.check import FAIL, NOTE, PASS

TITLE = "Unlearning certificate"
NO_CERTIFICATE = "Audit failed: no certificate"
MARKS = {RESULTS[PASS]: "good", RESULTS[FAIL]: "bad", RESULTS[NOTE]: "open"}

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, direction marks, surrogates, line separators
_MARKUP = re.compile(r"([\\`*_{}\[\]<>|#~&!$])")


def certificate_html(report: Report) -> str:
    """Return the page as HTML that needs nothing else and can be printed.

    Args:
        report: What `kedro audit --json` prints.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests["digest"] = lambda value: bool(re.fullmatch("[0-9a-f]{32,128}", value))
    return environment.from_string(PAGE).render(**_page(report), marks=MARKS) + "\n"


def certificate_markdown(report: Report) -> str:
    """Return the page as Markdown.

    Args:
        report: What `kedro audit --json` prints.
    """
    page = _page(report)
    blocks = [f"# {page['title']}", *map(_escaped, page["lead"])]
    for part in page["parts"]:
        blocks += _blocks(part)
    return "\n\n".join(blocks) + "\n"


def _page(report: Report) -> dict[str, Any]:
    """Return what either form says, with nothing in it that cannot be seen."""
    failed = _first_cause(report) is not None
    said_parts = parts(report)
    if failed:  # what was found comes before what the records claim
        said_parts.sort(key=lambda part: part.title != "The checks")
    return {
        "title": NO_CERTIFICATE if failed else TITLE,
        "failed": failed,
        "lead": _visible(_lead(report)),
        "tiles": [] if failed else _visible(_tiles(report)),
        "parts": [Part(*_visible(part)) for part in said_parts],
    }


def _first_cause(report: Report) -> str | None:
    """Return why there is no certificate, None if there is one."""
    bad = [check for check in report["checks"] if check["result"] not in (PASS, NOTE)]
    if bad:
        return f"{bad[0]['name']}: {bad[0]['text']}"
    if not any(check["result"] == PASS for check in report["checks"]):
        return "no check was passed."
    return None if report["verdict"] == PASS else "the report names none."


def _lead(report: Report) -> list[str]:
    what = f"{said(report.get('method'))} of the study {said(report.get('study'))}"
    if cause := _first_cause(report):
        return [
            f"First cause: {cause}",
            f"The audit of {what} on {when(report.get('audited'))} found what should not be. What "
            "stands below helps to find out why; it is no evidence for the model.",
        ]
    results = [check["result"] for check in report["checks"]]
    notes = results.count(NOTE)
    open_ = f"; {notes} could not be made and did not have to be" if notes else ""
    return [
        f"The audit of {what} on {when(report.get('audited'))} passed {results.count(PASS)} of "
        f"{len(results)} checks{open_}.",
        "This page is evidence of what was changed in a model, from what, and of how it answered "
        "a fixed set of questions before and after. It is no proof that what was to be forgotten "
        "cannot be brought back.",
    ]


def _tiles(report: Report) -> list[tuple[str, str]]:
    scores, changes = report.get("scores") or {}, report.get("changes") or {}
    subjects = {"forget": "on what was to be forgotten", "retain": "on everything else"}
    tiles = [(_from_to(scores[key]), text) for key, text in subjects.items() if scores.get(key)]
    if changes.get("total"):
        tiles.append((share(changes["changed"], changes["total"]), "of the parameters changed"))
    passed = sum(check["result"] == PASS for check in report["checks"])
    return [*tiles, (f"{passed} of {len(report['checks'])}", "checks passed")]


def _from_to(scores: Mapping[str, Any]) -> str:
    before, after = (score(scores.get(key), scores["measure"]) for key in ("before", "after"))
    return f"{before} → {after}"


def _visible(value: Any) -> Any:
    """Return texts, however nested, on one line each and with no character that hides."""
    if not isinstance(value, str):
        return [_visible(one) for one in value]
    line = " ".join(value.split())
    return "".join("\ufffd" if unicodedata.category(c) in _HIDDEN else c for c in line)


def _escaped(text: str) -> str:
    """Return a text that Markdown shows as it is, links of bare addresses included."""
    return _MARKUP.sub(r"\\\1", text).replace("://", r":\//").replace("www.", r"www\.")


def _blocks(part: Part) -> Iterator[str]:
    yield f"## {part.title}"
    yield from map(_escaped, part.text)
    if part.facts:
        yield _table([("", ""), *part.facts])
    if part.table:
        yield _table(part.table)
    if part.items:
        yield "\n".join(f"- {_escaped(item)}" for item in part.items)
    if part.commands:
        yield "\n".join(["```sh", *part.commands, "```"])  # a list would take in an indented one


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(map(_escaped, row))} |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
