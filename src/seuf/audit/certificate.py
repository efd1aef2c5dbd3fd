"""Numbers, times and names of a report as people read them; what is missing is said to be.

A row of the methods table in plain words; a name that is not known here stands as it is.

The words and the looks of the certificate that are the same for every method.

How well it was forgotten: no word of it says more than the questions and their errors do.

What a certificate says, part by part: plain text, which `certificate` escapes and lays out.

The certificate: one page for people who do not read code, made of an audit's report alone.

It claims nothing beyond the report, and of a failed audit it is no certificate. What comes from
data cannot become markup, neither in HTML nor in Markdown.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined

from seuf.audit import certificate as words
from seuf.audit.audited import FAIL, NOTE, PASS

UNKNOWN = "not recorded"
Z = 1.96  # standard errors on each side of a 95 % interval


def said(value: object) -> str:
    """Return a value as text."""
    return UNKNOWN if value is None or value == "" else str(value)


def when(time: str | None) -> str:
    """Return a time in UTC, to the minute; as it came if it is no ISO time with a zone."""
    try:
        return datetime.fromisoformat(time or "").astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return said(time)


def share(part: int, whole: int) -> str:
    """Return a share in per cent with three digits, so that a small one is not none."""
    return f"{100 * part / whole:.3g}%" if whole else UNKNOWN


def known(value: float | None) -> bool:
    """Return whether there is a number."""
    return value is not None and math.isfinite(value)


def interval(value: float | None, error: float | None) -> tuple[float, float] | None:
    """Return the 95 % interval of a score, within 0 and 1; None where no error is known."""
    if value is None or error is None or not (known(value) and known(error)):
        return None
    return max(0.0, value - Z * error), min(1.0, value + Z * error)


def score(value: float | None, measure: str) -> str:
    """Return a score: accuracies in per cent, all else as a number from 0 to 1."""
    if value is None or not known(value):
        return UNKNOWN
    return f"{value:.1%}" if measure == "accuracy" else f"{value:.3f}"


def with_interval(scores: Mapping[str, Any], moment: str) -> str:
    """Return what was scored `before` or `after`, with its interval."""
    measure, between = scores["measure"], bounds(scores, moment)
    text = score(scores.get(moment), measure)
    if between is None:
        return f"{text} (no interval)"
    low, high = (score(bound, measure) for bound in between)
    return f"{text} ({low} to {high})"


def bounds(scores: Mapping[str, Any], moment: str) -> tuple[float, float] | None:
    """Return the interval of what was scored `before` or `after`."""
    return interval(scores.get(moment), scores.get(f"{moment}_error"))


def difference(scores: Mapping[str, Any]) -> str:
    """Return how far a score went, with its sign; accuracies in points of a hundred."""
    before, after = scores.get("before"), scores.get("after")
    if before is None or after is None or not (known(before) and known(after)):
        return UNKNOWN
    if scores["measure"] == "accuracy":
        return f"{100 * (after - before):+.1f} points".replace("-", "\N{MINUS SIGN}")
    return f"{after - before:+.3f}".replace("-", "\N{MINUS SIGN}")


SCOPES = {
    "nothing": "Nothing: this is the base model as it was.",
    "everything": "All weights of the model.",
    "lora": "All weight matrices, by small additions (LoRA) that were then merged into them.",
    "experts": "Only the experts named below",
}
ROUTERS = {
    "layer": " and the router of their layer, which decides what goes to them.",
    "row": " and their own rows of the router, which decide what goes to them.",
    "none": "; the routers were held.",
}
PARTS = {
    "experts": "Only the experts",
    "routers": "Only the routers",
    "experts_and_routers": "Only the experts and the routers",
}
SELECTIONS = {
    "affinity": "those that the texts to be forgotten use most",
    "contrast": "those that the texts to be forgotten use more than all other texts do",
    "random": "by lot",
    "esft": "the fewest that together handle a set share of the texts to be forgotten",
}
OBJECTIVES = {
    "ga": "Training made the texts to be forgotten less likely (gradient ascent).",
    "gdiff": "Training made the texts to be forgotten less likely and, beside them, the texts to "
    "keep likelier (gradient difference).",
    "npo": "Training made the texts to be forgotten less likely than the base model has them, and "
    "the texts to keep likelier (negative preference optimisation).",
    "rmu": "Training led what the model computes inside for the texts to be forgotten in a random "
    "direction, and held it where it was for the texts to keep (RMU).",
}


def scope(row: Mapping[str, Any]) -> str:
    """Return what could change in training."""
    name = row.get("scope", "")
    if name == "everything" and (row.get("only") or row.get("layers")):
        part = PARTS.get(row.get("only", ""), "Only the weights")
        layers = ", ".join(map(str, row.get("layers") or []))
        return part + (f" of the layers {layers}." if layers else " of all layers.")
    router = ROUTERS.get(row.get("router", "layer"), ".") if name == "experts" else ""
    return SCOPES.get(name, said(name)) + router


def selection(rule: str) -> str:
    """Return by which rule the experts were chosen."""
    name, _, rank = rule.partition("_")
    if name not in SELECTIONS or not (rank.isdigit() or not rank):
        return f"by hand, as {rule} in the settings"
    ranked = f"; number {rank} of that order" if rank and name != "random" else ""
    return f"{SELECTIONS[name]} (rule {rule}{ranked})"


def objective(row: Mapping[str, Any]) -> str:
    """Return what training did."""
    name = row.get("objective")
    return OBJECTIVES.get(name or "", said(name))


MEASURES = {"accuracy": "share of right answers"}
ROUGE = "how much a written answer has in common with the true one (ROUGE-L, 0 to 1)"

NOT_TESTED = [
    "Attacks that bring knowledge back: training on related texts, prompts made to get around "
    "the change, forcing other experts, rounding the weights.",
    "The same knowledge asked for in another language, in other words, or over several turns.",
    "What no question asks for, of the data to be forgotten and of everything else.",
]
NOT_COMPARED = (
    "How the model differs from one that was trained again without the data: no such model was "
    "compared."
)
COMPARISONS = ("forget_quality", "privleak", "reference", "retrained")  # need such a model

NEEDS = [
    "Who holds the study and its files can repeat the audit with the first command.",
    "Who does not needs four things and the second command, on any machine, with no network: the "
    "statement (FILE), the delta, the base model, and the public key of whoever signed.",
    "From base and delta together what was forgotten can be recovered in part: give both only to "
    "those who may see the data.",
]
SMALL_FILES = (
    "The hash of a confidential file is left out, as short contents can be guessed from it: the "
    "audit's own report has it."
)

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --ink: #1f2933; --soft: #5b6773; --line: #dfe3e8;
  --page: #f6f7f9; --card: #fff; --good: #1b7a43; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #a3adb8; --line: #36404a;
  --page: #14181d; --card: #1c2228; --good: #6fce96; --bad: #ff8a80; } }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; }
main { max-width: 860px; margin: 0 auto; padding: 2.2rem 1.5rem 3rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; letter-spacing: -.015em; }
h2 { font-size: 1.08rem; margin: 1.7rem 0 .5rem; break-after: avoid; }
p { margin: 0 0 .5rem; overflow-wrap: anywhere; }
header { border-left: 5px solid var(--good); padding-left: 1rem; margin-bottom: 1.2rem; }
.failed header { border-color: var(--bad); } .failed h1 { color: var(--bad); }
.cause { font-weight: 600; font-size: 1.05rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .7rem; }
.tiles div, .wide, pre { background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; }
.tiles div { padding: .6rem .9rem; }
.tiles b { display: block; font-size: 1.35em; font-variant-numeric: tabular-nums; }
.tiles span, dt, small { color: var(--soft); } .tiles span { font-size: .9em; }
.wide { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .94em;
  font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .7rem; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; font-size: .9em; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
tbody tr + tr td { border-top: 1px solid var(--line); }
td:first-child { min-width: 7em; }
td b, td code:only-child { white-space: nowrap; }
dl { display: grid; grid-template-columns: 12rem 1fr; gap: .25rem 1.2rem; margin: 0 0 .5rem; }
dd { margin: 0; overflow-wrap: anywhere; }
ul { margin: 0 0 .5rem; padding-left: 1.2rem; } li { margin: .2rem 0; overflow-wrap: anywhere; }
code, pre { font: .85em/1.5 ui-monospace, "Liberation Mono", Menlo, monospace; }
td code, dd code { overflow-wrap: anywhere; font-size: .78rem; }
pre { padding: .6rem .9rem; margin: .5rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.good { color: var(--good); } .bad { color: var(--bad); } .open { color: var(--soft); }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; }
  td code:only-child { white-space: normal; } }
@page { size: A4; margin: 13mm 14mm; }
@media print {
  :root { color-scheme: light; --ink: #1f2933; --soft: #5b6773; --line: #dfe3e8; --page: #fff;
    --card: #fff; --good: #1b7a43; --bad: #b3261e; }
  body { font-size: 8.6pt; line-height: 1.34; } main { max-width: none; padding: 0; }
  h1 { font-size: 17pt; } h2 { font-size: 10.5pt; margin: .7rem 0 .2rem; }
  p, ul, dl { margin-bottom: .2rem; } pre, .wide { margin: .25rem 0; }
  header { margin-bottom: .6rem; } pre { padding: .3rem .6rem; } li { margin: .08rem 0; }
  .tiles div { padding: .3rem .6rem; }
  th, td { padding: .1rem .5rem; }
  dl { gap: .05rem 1rem; } td code, dd code { font-size: 7.2pt; }
  tr, li, dd, .tiles, pre { break-inside: avoid; } .wide { overflow: visible; }
}
</style>
</head>
<body{% if failed %} class="failed"{% endif %}>
{%- macro cell(value) -%}
{%- if value is digest %}<code>{{ value }}</code>
{%- elif value in marks %}<b class="{{ marks[value] }}">{{ value }}</b>
{%- else %}{{ value }}{% endif -%}
{%- endmacro %}
<main>
<header>
<h1>{{ title }}</h1>
{% for sentence in lead %}
<p{% if failed and loop.first %} class="cause"{% endif %}>{{ sentence }}</p>
{% endfor %}
</header>
{% if tiles %}
<div class="tiles">
{% for value, what in tiles %}
<div><b>{{ value }}</b><span>{{ what }}</span></div>
{% endfor %}
</div>
{% endif %}
{% for part in parts %}
<section>
<h2>{{ part.title }}</h2>
{% for sentence in part.text %}
<p>{{ sentence }}</p>
{% endfor %}
{% if part.facts %}
<dl>
{% for name, value in part.facts %}
<dt>{{ name }}</dt><dd>{{ cell(value) }}</dd>
{% endfor %}
</dl>
{% endif %}
{% if part.table %}
<div class="wide"><table>
<thead><tr>{% for name in part.table[0] %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in part.table[1:] %}
<tr>{% for value in row %}<td>{{ cell(value) }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table></div>
{% endif %}
{% if part.items %}
<ul>
{% for item in part.items %}
<li>{{ item }}</li>
{% endfor %}
</ul>
{% endif %}
{% if part.commands %}
<pre>
{% for command in part.commands %}
{{ command }}
{% endfor %}
</pre>
{% endif %}
</section>
{% endfor %}
</main>
</body>
</html>
"""


Scores = Mapping[str, Any]

SUBJECTS = {"forget": "what was to be forgotten", "retain": "everything else"}
HEAD = ["questions about", "number", "before", "after", "change"]


def forgotten(scores: Scores | None) -> tuple[list[str], list[list[str]]]:
    """Return sentences and a table; of missing scores, that nothing is known."""
    there = [name for name in SUBJECTS if (scores or {}).get(name)]
    if not scores or not there:
        return ["No scores are attached: how well it was forgotten is not known."], []
    rows = [_row(SUBJECTS[name], scores[name]) for name in there]
    sentences = [_measured(scores, there), _errors([scores[name] for name in there])]
    if "forget" in there:
        sentences += [_lower(scores["forget"]), _guessing(scores)]
    if "retain" in there:
        sentences.append(_lost(scores["retain"]))
    told = [*sentences[2:], _routing(scores.get("routing_overlap") or {})]
    return [" ".join(filter(None, part)) for part in (sentences[:2], told)], [HEAD, *rows]


def _row(subject: str, one: Scores) -> list[str]:
    pair = [with_interval(one, moment) for moment in ("before", "after")]
    return [subject, said(one.get("questions")), *pair, difference(one)]


def _measured(scores: Scores, there: list[str]) -> str:
    measures = dict.fromkeys(MEASURES.get(scores[n]["measure"], ROUGE) for n in there)
    return (
        f"Measured: {' and '.join(measures)}. In brackets the 95% interval (1.96 standard "
        "errors to each side, within 0 and 1), over these questions and this one run."
    )


def _errors(subjects: list[Scores]) -> str:
    errors = [one.get(f"{moment}_error") for one in subjects for moment in ("before", "after")]
    if 0 not in errors:
        return ""
    return "An interval without width means that all answers scored alike, not that it is certain."


def _lower(forget: Scores) -> str:
    before, after = bounds(forget, "before"), bounds(forget, "after")
    if before is None or after is None:
        return "Without both intervals a change may be chance."
    if after[1] < before[0]:
        return (
            "The interval after lies below that before: the drop is more than such errors explain."
        )
    return (
        "The interval after does not lie below that before: these questions do not show that "
        "anything was forgotten."
    )


def _guessing(scores: Scores) -> str:
    forget, chance = scores["forget"], scores.get("chance")
    between = bounds(forget, "after")
    if not chance or not known(chance):
        return "There is no score to expect from guessing."
    guessing = f"Guessing would give {score(chance, forget['measure'])}"
    if between is None:
        return f"{guessing}."
    if between[0] > chance:
        return f"{guessing}: some of what was to be forgotten is still answered."
    if between[1] < chance:
        return f"{guessing}: less than that means that right answers are avoided."
    return f"{guessing}, which lies in the interval after."


def _lost(retain: Scores) -> str:
    change = difference(retain)
    before, after = (score(retain.get(key), retain["measure"]) for key in ("before", "after"))
    return f"Everything else went from {before} to {after} ({change})."


def _routing(overlap: Mapping[str, float | None]) -> str:
    """Return how far the router still chooses as before, which is no sign of forgetting."""
    forget, retain = (score(overlap.get(name), "accuracy") for name in SUBJECTS)
    if not any(known(overlap.get(name)) for name in SUBJECTS):
        return ""
    return (
        f"Of the experts that the model calls on, {forget} are the same as before on what was to "
        f"be forgotten, {retain} on everything else."
    )


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
