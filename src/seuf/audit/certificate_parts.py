"""What a certificate says, part by part: plain text, which `certificate` escapes and lays out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from seuf.audit import certificate_page as words
from seuf.audit.certificate_method import objective, scope, selection
from seuf.audit.certificate_numbers import UNKNOWN, said, share, when
from seuf.audit.certificate_scores import forgotten
from seuf.audit.check import FAIL, NOTE, PASS

Report = Mapping[str, Any]

RESULTS = {PASS: "passed", FAIL: "failed", NOTE: "not looked at"}
SHOWN = 8  # tensors, experts or files that are named; the rest is counted
BASE_STUDY = "sandbox"  # conf/base: it needs no --env
PLAIN = re.compile(r"\w[\w./-]*", re.ASCII)  # a shell takes it as it stands


class Part(NamedTuple):
    """A part of the page; what is empty is left out.

    Attributes:
        title: Its headline.
        text: Paragraphs.
        facts: Names and values.
        table: Rows of cells, the headers first.
        items: A list.
        commands: To type.
    """

    title: str
    text: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    table: Sequence[Sequence[str]] = ()
    items: Sequence[str] = ()
    commands: Sequence[str] = ()


def parts(report: Report) -> list[Part]:
    """Return all parts in the order in which they are read."""
    rest = [_asked, _done, _changed, _forgotten, _not_tested, _checks]
    return [part(report) for part in [*rest, _who, _gone, _where, _hashes]]


def _asked(report: Report) -> Part:
    title, request = "What was asked", report.get("request")
    if not request:
        return Part(title, ["No request is attached: this page does not say who asked, or why."])
    keys = {"Request": "id", "Date": "date", "Reason": "reason", "Records": "records"}
    return Part(title, facts=[(name, said(request.get(key))) for name, key in keys.items()])


def _done(report: Report) -> Part:
    base, row = report.get("base") or {}, report.get("settings") or {}
    facts = [
        ("Base model", said(base.get("name"))),
        ("Its digest (SHA-256)", said(base.get("digest"))),
        ("Method", f"{said(report.get('method'))}, of the study {said(report.get('study'))}"),
        ("What could change", scope(row)),
        ("How", objective(row)),
    ]
    if row.get("selection"):
        facts.append(("Experts chosen", selection(row["selection"])))
    if experts := report.get("experts"):
        facts.append(("Experts", _listed([f"layer {la}, expert {ex}" for la, ex in experts])))
    if row.get("anchor_weight"):
        facts.append(("Router held", "A penalty kept the router near what it was (anchor loss)."))
    return Part("What was done", facts=[*facts, ("Parameters changed", _share(report))])


def _share(report: Report) -> str:
    changes = report.get("changes") or {}
    if not changes.get("total"):
        return UNKNOWN
    changed, total = changes["changed"], changes["total"]
    return f"{changed:,} of {total:,} ({share(changed, total)})"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return "; ".join([*names[:SHOWN], *([f"and {more} more"] if more > 0 else [])])


def _changed(report: Report) -> Part:
    title, changes = "What changed, and what did not", report.get("changes") or {}
    if not changes.get("total"):  # the audit ended before it came to the weights
        return Part(title, ["The weights were not compared: what changed is not known."])
    tensors = changes["tensors"]
    text = (
        f"Tensors (blocks of weights) that differ from the base model: {len(tensors)}. Tensors "
        f"that equal it to the last bit: {changes['equal']}."
    )
    rows = [[one["key"], f"{one['elements']:,}", f"{one['largest']:.3g}"] for one in tensors]
    more = len(rows) - SHOWN
    items = [f"{more} more are in the audit's own report."] if more > 0 else []
    head = ["tensor", "weights", "largest change"]
    return Part(title, [text], table=[head, *rows[:SHOWN]] if rows else [], items=items)


def _forgotten(report: Report) -> Part:
    text, table = forgotten(report.get("scores"))
    return Part("How well it was forgotten", text, table=table)


def _not_tested(report: Report) -> Part:
    scores = report.get("scores") or {}
    compared = any(scores.get(name) is not None for name in words.COMPARISONS)
    items = words.NOT_TESTED + ([] if compared else [words.NOT_COMPARED])
    return Part("What was not tested", ["None of these is covered by this page:"], items=items)


def _checks(report: Report) -> Part:
    rows = [[c["name"], RESULTS.get(c["result"], c["result"]), c["text"]] for c in report["checks"]]
    return Part("The checks", table=[["check", "result", "what was found"], *rows])


def _who(report: Report) -> Part:
    method, study = _typed(report.get("method"), "METHOD"), _typed(report.get("study"), "STUDY")
    delta = _typed((report.get("delta") or {}).get("path"), "DELTA")
    here = f"kedro audit {method}" + ("" if study == BASE_STUDY else f" --env {study}")
    there = f"kedro audit verify FILE --delta {delta} --base BASE --key PUBLIC_KEY"
    return Part("Who can check it, and how", items=words.NEEDS, commands=[here, there])


def _typed(name: str | None, otherwise: str) -> str:
    """Return a name that can be typed into a shell, a placeholder for any other."""
    return name if name and PLAIN.fullmatch(name) else otherwise


def _gone(report: Report) -> Part:
    title = "Inputs that can no longer be read again"
    gone = [one["path"] for one in report.get("materials") or [] if not one["here"]]
    if not report.get("materials"):
        return Part(title, ["The inputs are not recorded."])
    if not gone:
        return Part(title, ["None: all recorded inputs were there and were read again."])
    return Part(title, ["These are no longer there; they are known by their hash."], items=gone)


def _where(report: Report) -> Part:
    title, runs = "Where and when", report.get("runs") or []
    audited = f"Audited {when(report.get('audited'))}, {_commit(report)}."
    if not runs:
        return Part(title, [audited, "No record of the run is attached."])
    head = ["stage", "started", "seconds", "device", "Python, torch", "code"]
    return Part(title, [audited], table=[head, *map(_run, runs)])


def _run(run: Mapping[str, Any]) -> list[str]:
    environment = run.get("environment") or {}
    cuda = (environment.get("torch") or {}).get("cuda")
    device = (cuda or {}).get("device") or f"CPU: {said(environment.get('processor'))}"
    torch = said((environment.get("packages") or {}).get("torch"))
    seconds = run.get("seconds")
    return [
        said(run.get("stage")),
        when(run.get("started")),
        UNKNOWN if seconds is None else f"{seconds:,.1f}",
        device,
        f"{said(environment.get('python'))}, {torch}",
        _commit(run, length=10),
    ]


def _commit(record: Mapping[str, Any], length: int = 40) -> str:
    commit = record.get("commit")
    clean = "" if record.get("clean", True) else " with changes that are not in it"
    return f"commit {str(commit)[:length]}{clean}" if commit else "commit not recorded"


def _hashes(report: Report) -> Part:
    delta, request = report.get("delta") or {}, report.get("request") or {}
    materials = report.get("materials") or []
    files = [one for one in materials if one["role"] != "code"]  # the commit names the code
    rows = [
        ["delta", said(delta.get("path")), said(delta.get("sha256"))],
        ["base model", "all tensors", said((report.get("base") or {}).get("digest"))],
        *([["request", "records, salted", said(request["digest"])]] if "digest" in request else []),
        *([one["role"], one["path"], _hash(one)] for one in files[:SHOWN]),
    ]
    items = [words.SMALL_FILES] if any(one.get("confidential") for one in files[:SHOWN]) else []
    if more := len(materials) - len(files[:SHOWN]):
        items.append(
            f"Of {more} more files, code and others, the audit's own report has the hashes."
        )
    return Part("Hashes (SHA-256)", table=[["what", "name", "hash"], *rows], items=items)


def _hash(material: Mapping[str, Any]) -> str:
    if material.get("confidential"):
        return "confidential, left out"
    return material["sha256"] or f"MD5 only, which is no proof: {said(material.get('md5'))}"
