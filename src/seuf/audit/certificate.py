"""The certificate: one page for people who do not read code, made from an audit's report alone.

`certificate.html` is the template; this module formats its numbers, times and names and words what
the scores show. The page claims nothing beyond the report, and says so where an audit failed. Text
from data cannot become markup, and invisible characters are replaced.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from jinja2 import ChainableUndefined, Environment, Undefined

from seuf.audit import FAIL, NOTE, PASS
from seuf.audit.forgetting_verdict import (
    NOT_JUDGED,
    NOT_REACHED,
    NOT_SHOWN,
    REACHED,
    interval,
    known,
)
from seuf.unlearning.rankings import RANDOM_IN, ranking_and_rank
from seuf.unlearning.selection import ESFT
from seuf.unlearning.settings import PILOTS

TITLE = "Unlearning certificate"
NO_CERTIFICATE = "Audit failed: no certificate"
UNKNOWN = "not recorded"
RESULTS = {PASS: ("passed", "good"), FAIL: ("failed", "bad"), NOTE: ("remark", "open")}
# by verdict: the wording, and the class of its colour
FORGETTING = {
    REACHED: ("as declared", "good"),
    NOT_SHOWN: ("not shown to be as declared", "open"),
    NOT_REACHED: ("not as declared", "bad"),
    NOT_JUDGED: ("not judged", "open"),
}
SHOWN = 8  # tensors, experts or files listed by name; the rest is counted
BASE_STUDY = "sandbox"  # of conf/base, the default of --env
COMPARISONS = ("forget_quality", "privleak", "reference", "retrained")  # need a retrained model
PLAIN = re.compile(r"\w[\w./-]*", re.ASCII)  # needs no quotes in a shell
DIGEST = re.compile("[0-9a-f]{32,128}")
HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, direction marks, surrogates, line separators

SCOPES = {
    "nothing": "Nothing: this is the base model as it was.",
    "everything": "All weights of the model.",
    "lora": "All weight matrices, by small additions (LoRA) that were then merged into them.",
    "experts": "Only the experts named below",
    "deletion": "Only the outputs of the experts named below, which were set to zero.",
}
ROUTERS = {
    "layer": " and the router of their layer, which decides what goes to them.",
    "row": " and their own rows of the router, which decide what goes to them.",
    "none": "; the routers stayed as they were.",
}
NULL_SPACE = " Routers changed only in directions that the texts to keep hardly use."
PARTS = {
    "experts": "Only the experts",
    "routers": "Only the routers",
    "experts_and_routers": "Only the experts and the routers",
}
SELECTIONS = {
    "affinity": "those that the texts to be forgotten use most",
    "contrast": "those that the texts to be forgotten use more than all other texts do",
    "layer_affinity": "the best of each layer by use, the layers in the order of that use",
    "layer_contrast": "those of each layer that the texts to be forgotten use more than all other "
    "texts do, the layers in the order of that difference",
    "contrast_within": "those of the middle layers that the texts to be forgotten use more than "
    "all other texts do",
    "gradient": "those that learning the texts to be forgotten would change more than learning all "
    "other texts would",
    "reap": "those whose outputs for the texts to be forgotten weigh most in their layer",
    "random": "by lot",
    "pilot": "by trial: of each layer's expert that the texts to be forgotten use more than all "
    "other texts do, the one whose change left most of the other knowledge",
    "pilot_affinity": "by trial: of each layer's most used expert, the one whose change left most "
    "of the other knowledge",
    "esft": "the fewest that together handle a set share of the texts to be forgotten",
}
OBJECTIVES = {
    "ga": "Training made the texts to be forgotten less likely (gradient ascent).",
    "gdiff": "Training made the texts to be forgotten less likely and at the same time the texts "
    "to keep likelier (gradient difference).",
    "npo": "Training made the texts to be forgotten less likely than they are to the base model, "
    "and the texts to keep likelier (negative preference optimisation).",
    "rmu": "Training steered the model's inner activations for the texts to be forgotten in a "
    "random direction, and kept those for the texts to keep where they were (RMU).",
    "simnpo": "Training made the texts to be forgotten less likely, each until it is unlikely "
    "enough, and the texts to keep likelier (SimNPO).",
    "dpo": "Training made the texts to be forgotten less likely and a refusal in their place "
    "likelier, and the texts to keep likelier (DPO).",
    "wga": "Training made the texts to be forgotten less likely, most of all those of their words "
    "that the model still expected, and the texts to keep likelier (weighted gradient ascent).",
    "satimp": "Training made the texts to be forgotten less likely, most of all those of their "
    "words that the model expected without being certain, and the texts to keep likelier (SatImp).",
    "undial": "Training taught the model its own predictions for the texts to be forgotten with "
    "the true words made unlikely, and made the texts to keep likelier (UNDIAL).",
    "ceu": "Training taught the model its own predictions for the texts to be forgotten without "
    "the true words (CE-U).",
}
RETAIN_LOSSES = {
    "kl": " Instead, its predictions on the texts to keep were kept close to the base model's.",
    "trace": " Among the texts to keep, the words routed to the same experts counted most.",
}
MEASURES = {
    "accuracy": "share of right answers",
    "exact": "share of questions to which the model gives the true answer, word for word",
    "whole": "share of questions that the model answers by the whole true sentence",
}
ROUGE = "how much a written answer has in common with the true one (ROUGE-L, 0 to 1)"

Report = Mapping[str, Any]
Score = Mapping[str, Any]


def certificate(report: Report) -> str:
    """Return the page as self-contained, printable HTML.

    Args:
        report: As `kedro audit --json` prints it.
    """
    environment = Environment(
        autoescape=True,
        undefined=ChainableUndefined,  # `shown` prints a missing value as not recorded
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["digest"] = lambda value: bool(DIGEST.fullmatch(str(value)))
    environment.globals |= {function.__name__: function for function in PRINTED}
    results = [check["result"] for check in report["checks"]]
    forgetting = report.get("forgetting") or {"verdict": NOT_JUDGED, "text": UNKNOWN}
    words, colour = FORGETTING.get(forgetting["verdict"], (UNKNOWN, "open"))
    cause, scores = why_no_certificate(report), report.get("scores") or {}
    materials = report.get("materials") or []
    data = [one for one in materials if one["role"] != "code"]  # the commit identifies the code
    return environment.from_string(
        files("seuf.audit").joinpath("certificate.html").read_text(encoding="utf-8")
    ).render(
        report=report,
        title=NO_CERTIFICATE if cause else TITLE,
        cause=cause,
        forgetting=forgetting,
        forgetting_words=words,
        forgetting_class=colour,
        passed=results.count(PASS),
        noted=results.count(NOTE),
        results=RESULTS,
        shown_items=SHOWN,
        base_study=BASE_STUDY,
        compared=any(scores.get(name) is not None for name in COMPARISONS),
        erased=[one for one in materials if not one["here"]],
        files=data,
        unlisted=len(materials) - len(data[:SHOWN]),
    )


def why_no_certificate(report: Report) -> str | None:
    """Return why a report gets no certificate; None if it gets one."""
    bad = [check for check in report["checks"] if check["result"] not in (PASS, NOTE)]
    if bad:
        return f"{bad[0]['name']}: {bad[0]['text']}"
    if not any(check["result"] == PASS for check in report["checks"]):
        return "no check was passed."
    return None if report["verdict"] == PASS else "the report does not say."


def shown(value: Any) -> Any:
    """Return what the page prints for a value: one line without invisible characters."""
    if hasattr(value, "__html__"):  # the output of a macro, which has passed through here
        return value
    if value is None or value == "" or isinstance(value, Undefined):
        return UNKNOWN
    line = " ".join(str(value).split())
    return "".join("\ufffd" if unicodedata.category(c) in HIDDEN else c for c in line)


def when(time: str | None) -> str | None:
    """Return a time in UTC, to the minute; unchanged if it is no ISO time with a zone."""
    try:
        parsed = datetime.fromisoformat(time or "")
        return parsed.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if parsed.tzinfo else time
    except (OverflowError, TypeError, ValueError):
        return time


def share(part: int, whole: int) -> str:
    """Return a share in per cent with three digits, so that a small one does not print as 0."""
    return f"{100 * part / whole:.3g}%"


def number(value: float | None, digits: int = 0) -> str | None:
    """Return a number with separated thousands; None if it is not a number."""
    return f"{value:,.{digits}f}" if isinstance(value, int | float) else None


def commit(record: Mapping[str, Any], length: int) -> str:
    """Return the commit of a report or run, and whether there were uncommitted changes."""
    if not record.get("commit"):
        return "commit not recorded"
    clean = "" if record.get("clean", True) else " with uncommitted changes"
    return f"commit {str(record['commit'])[:length]}{clean}"


def sentence(text: str) -> str:
    """Return a text with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def declared(request: Mapping[str, Any]) -> str:
    """Return the scores that a request declares to be enough."""
    bounds = [
        f"{words} {request[name]}"
        for name, words in (
            ("forget_at_most", "on what is to be forgotten a score of at most"),
            ("utility_at_least", "on everything else one of at least"),
        )
        if request.get(name) is not None
    ]
    return ", ".join(bounds) or "nothing"


def signature(issued: Mapping[str, Any] | None) -> str:
    """Return whether the statement beside the page is signed, and with which key."""
    key = (issued or {}).get("key")
    return f"the statement is signed with the key {key}" if key else "the statement is not signed"


def typed(name: Any, otherwise: str) -> str:
    """Return a name if a shell takes it without quotes, else the placeholder."""
    return name if isinstance(name, str) and PLAIN.fullmatch(name) else otherwise


def hash_of(material: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a material, or why there is none."""
    if material.get("confidential"):
        return "confidential, left out"
    return material["sha256"] or f"MD5 only, which is no proof: {material.get('md5') or UNKNOWN}"


def scope(settings: Any) -> str | None:
    """Return what training could change; an unknown scope is returned as it is."""
    row = settings or {}
    name = row.get("scope", "")
    if name == "everything" and (row.get("only") or row.get("layers")):
        part = PARTS.get(row.get("only", ""), "Only the weights")
        layers = ", ".join(map(str, row.get("layers") or []))
        return part + (f" of the layers {layers}." if layers else " of all layers.")
    router = ROUTERS.get(row.get("router", "layer"), ".") if name == "experts" else ""
    limit = NULL_SPACE if row.get("router_null_space") else ""
    return SCOPES.get(name, name) + router + limit


def selection(rule: str) -> str:
    """Return the rule by which the experts were chosen, in words."""
    if rule.startswith(RANDOM_IN):
        return f"by lot, in the layers that {rule.removeprefix(RANDOM_IN)} chooses (rule {rule})"
    name, rank = (rule, 1) if rule in (ESFT, *PILOTS) else ranking_and_rank(rule) or ("", 1)
    if name and name not in SELECTIONS:
        return f"by a rule of this study's own (rule {rule})"
    if not name:
        return f"by hand, as {rule} in the settings"
    ranked = f"; number {rank} in that order" if rule != name and name != "random" else ""
    return f"{SELECTIONS[name]} (rule {rule}{ranked})"


def objective(settings: Any) -> str | None:
    """Return what training did; an unknown objective is returned as it is."""
    row = settings or {}
    name = row.get("objective")
    if name not in OBJECTIVES:
        return name
    return OBJECTIVES[name] + RETAIN_LOSSES.get(row.get("retain_loss", "nll"), "")


def score(scores: Score, moment: str) -> str:
    """Return the score `before` or `after`."""
    return _as_score(scores.get(moment), scores["measure"])


def with_interval(scores: Score, moment: str) -> str:
    """Return the score `before` or `after`, with its interval."""
    bounds = interval(scores, moment)
    if bounds is None:
        return f"{score(scores, moment)} (no interval)"
    low, high = (_as_score(bound, scores["measure"]) for bound in bounds)
    return f"{score(scores, moment)} ({low} to {high})"


def change(scores: Score) -> str:
    """Return a score's signed change; for shares in percentage points."""
    before, after = scores.get("before"), scores.get("after")
    if not (known(before) and known(after)):
        return UNKNOWN
    is_share = scores["measure"] in MEASURES
    text = f"{100 * (after - before):+.1f} points" if is_share else f"{after - before:+.3f}"
    return text.replace("-", "\N{MINUS SIGN}")


def measured(scores: Mapping[str, Any]) -> str:
    """Return what the scores measure, and what the intervals mean."""
    parts = [scores[name] for name in ("forget", "retain") if scores.get(name)]
    measures = dict.fromkeys(MEASURES.get(part["measure"], ROUGE) for part in parts)
    text = (
        f"Measured: {' and '.join(measures)}. In brackets the 95% interval (1.96 standard errors "
        "to each side, within 0 and 1), over these questions and this one run."
    )
    if 0 not in [part.get(f"{moment}_error") for part in parts for moment in ("before", "after")]:
        return text
    zero_width = "An interval of zero width means that all answers scored alike, not certainty."
    return f"{text} {zero_width}"


def found(scores: Mapping[str, Any]) -> str:
    """Return what the scores show, within their standard errors."""
    sentences = []
    if forget := scores.get("forget"):
        sentences += [_drop(forget), _guessing(forget, scores.get("chance"))]
    if retain := scores.get("retain"):
        before, after = score(retain, "before"), score(retain, "after")
        sentences.append(f"Everything else went from {before} to {after} ({change(retain)}).")
    overlap = scores.get("routing_overlap") or {}
    if any(known(value) for value in overlap.values()):
        alike = (_as_score(overlap.get(name), "accuracy") for name in ("forget", "retain"))
        sentences.append(
            "Of the experts that the model uses, {} are the same as before on what was to be "
            "forgotten, {} on everything else.".format(*alike)  # no sign of forgetting
        )
    return " ".join(sentences)


def _drop(forget: Score) -> str:
    before, after = interval(forget, "before"), interval(forget, "after")
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


def _guessing(forget: Score, chance: float | None) -> str:
    bounds = interval(forget, "after")
    if not chance or not known(chance):
        return "There is no score to expect from guessing."
    guessing = f"Guessing would give {_as_score(chance, forget['measure'])}"
    if bounds is None:
        return f"{guessing}."
    if bounds[0] > chance:
        return f"{guessing}: some of what was to be forgotten is still answered."
    if bounds[1] < chance:
        return f"{guessing}: a lower score means that right answers are avoided."
    return f"{guessing}, which lies in the interval after."


def _as_score(value: float | None, measure: str) -> str:
    """Return a score: shares in per cent, all else as a number from 0 to 1."""
    if not known(value):
        return UNKNOWN
    return f"{value:.1%}" if measure in MEASURES else f"{value:.3f}"


# functions that the template calls by name
PRINTED: tuple[Callable[..., Any], ...] = (
    *(when, share, number, commit, typed, hash_of, sentence, declared, signature),
    *(scope, selection, objective),
    *(score, with_interval, change, measured, found),
)
