"""Checks of what is claimed: the expert from the routing, the scores from the answers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from html import unescape
from statistics import mean
from typing import TYPE_CHECKING, Any

from seuf.audit.subject import Check, Subject, failed, noted, passed
from seuf.moe.deltas import Delta

if TYPE_CHECKING:
    from seuf.benchmarks.records import Question

CLOSE = 1e-9  # two sums of the same numbers


def choice(subject: Subject, delta: Delta) -> Iterator[Check]:
    """Look whether the delta's method is the study's, and its experts those that routing names."""
    from seuf.unlearning.settings import Method

    method, about = Method.model_validate(subject.settings), delta.about
    if about.get("method") != method.model_dump():
        yield failed("method", f"the delta was made by other settings of {subject.method}")
    seed = subject.study.config["parameters"].get("seed")
    if about.get("seed") != seed:
        yield failed("method", f"the delta was made with seed {about.get('seed')}, not {seed}")
    yield passed("method", f"settings and seed are the study's: {_told(subject.settings)}")
    if method.selection is not None:
        yield _selection(subject, method.selection, about.get("experts"))


def _selection(subject: Subject, rule: str, experts: Any) -> Check:
    chosen = subject.read("selected_experts")[rule]["experts"]
    again = _selected_again(subject)[rule]["experts"]
    if experts != chosen:
        return failed("expert", f"the delta's experts {experts} are not those of {rule}: {chosen}")
    if [list(one) for one in again] != chosen:
        return failed("expert", f"the recorded routing leads {rule} to {again}, not to {chosen}")
    names = ", ".join(f"expert {expert} of layer {layer}" for layer, expert in chosen[:4])
    return passed("expert", f"{rule} chooses {names} from the recorded routing, worked out again")


def _selected_again(subject: Subject) -> dict[str, Any]:
    import pandas as pd

    from seuf.pipelines.expert_selection.nodes import select_experts
    from seuf.unlearning.selection import SelectionSettings

    parameters = subject.study.config["parameters"]
    tables = [subject.project / subject.path(f"routing_{name}") for name in ("forget", "retain")]
    forget, retain = (pd.read_csv(path) for path in tables)
    settings = SelectionSettings.model_validate(parameters["expert_selection"])
    return select_experts(forget, retain, settings, parameters["seed"])


def scores(subject: Subject) -> Iterator[Check]:
    """Work the scores out again from the answers, and hold them against every later table."""
    from seuf.benchmarks.headline import headline
    from seuf.benchmarks.records import Question

    found = subject.read("scores")
    if subject.here("questions"):
        asked = [Question(**one) for one in subject.read("questions") if one["part"] == "test"]
        generate = subject.study.config["parameters"]["evaluation"].get("generate", False)
        answered = [question for question in asked if question.is_free_answer(generate)]
        wrong = [*_wrong_choices(found, asked), *_wrong_answers(found, answered)]
        yield from (failed("answers", text) for text in wrong)
        yield passed("answers", f"accuracies worked out again from {_number(found)} answers")
    else:
        yield noted("answers", "the questions are erased: answers cannot be held against them")
    if not _same(headline(found), found["headline"]):
        yield failed("scores", f"the headline of {subject.path('scores')} is not of its scores")
    yield from _reported(subject, found)


def _wrong_choices(found: dict[str, Any], asked: list[Question]) -> Iterator[str]:
    for name, scored in found.get("questions", {}).items():
        right = [one.answer for one in asked if one.subject == name and one.is_multiple_choice()]
        answers = scored["answers"]
        if len(answers) != len(right) or scored["questions"] != len(right):
            yield f"{name}: {len(answers)} answers to {len(right)} questions"
            continue
        accuracy = mean(a == r for a, r in zip(answers, right, strict=True))
        if not _same(accuracy, scored["accuracy"]):
            yield f"{name}: the answers make an accuracy of {accuracy}, not {scored['accuracy']}"


def _wrong_answers(found: dict[str, Any], asked: list[Question]) -> Iterator[str]:
    from seuf.benchmarks.answers import MEASURES
    from seuf.benchmarks.records import ANSWER_KINDS

    for subject, kinds in found.get("generation", {}).items():
        for kind, scored in kinds.items():
            if not ANSWER_KINDS[kind].whole:  # its references are cut by the model's tokenizer
                continue
            held = [q.reference for q in asked if (q.subject, q.kind) == (subject, kind)]
            if len(held) != len(scored["answers"]):
                yield f"{subject} {kind}: {len(scored['answers'])} answers to {len(held)} questions"
                continue
            measure = MEASURES[ANSWER_KINDS[kind].measure]
            value = mean(measure(r, a) for r, a in zip(held, scored["answers"], strict=True))
            if not _same(value, scored["value"]):
                yield f"{subject} {kind}: the answers make {value}, not {scored['value']}"


def _reported(subject: Subject, found: dict[str, Any]) -> Iterator[Check]:
    import pandas as pd

    from seuf.reporting.comparison import by_method, readable

    table = pd.read_csv(subject.project / subject.path("comparison"))
    row, metrics = by_method(table)[subject.method], subject.read("metrics")[subject.method]
    claimed = {
        "forget_efficacy": found["headline"]["forget"]["value"],
        "utility": found["headline"]["retain"]["value"],
        "changed_tensors": found["changed_tensors"],
        "routing_overlap_forget": found["routing_overlap"]["forget"],
        "routing_overlap_retain": found["routing_overlap"]["retain"],
    }
    for name, value in claimed.items():
        for where, held in (("comparison", row[name]), ("metrics", metrics[name])):
            if not _same(float(held), float(value)):
                yield failed("report", f"{name} is {held} in {subject.path(where)}, not {value}")
    cells = next(cells for cells in readable(table)[1] if cells[0] == subject.method)
    if " ".join(cells) not in _rows((subject.project / subject.path("report")).read_text("utf-8")):
        yield failed("report", f"{subject.path('report')} shows other numbers of {subject.method}")
    yield passed("report", "metrics, table and report show these scores")


def _rows(page: str) -> set[str]:
    """Return the rows of the tables in a page as plain text, without the mark of the method."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.DOTALL)
    bare = (re.sub(r"<i\b[^>]*>.*?</i>", "", row) for row in rows)
    return {" ".join(unescape(re.sub(r"</td>|<[^>]+>", _space, row)).split()) for row in bare}


def _space(tag: re.Match[str]) -> str:
    return " " if tag[0] == "</td>" else ""


def _same(one: Any, other: Any) -> bool:
    """Tell if two results of the same arithmetic agree, NaN with NaN."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, float | int) and isinstance(other, float | int):
        both_nan = math.isnan(one) and math.isnan(other)
        return both_nan or math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE)
    return bool(one == other)


def _number(found: dict[str, Any]) -> int:
    chosen = sum(scored["questions"] for scored in found.get("questions", {}).values())
    kinds = [k for kinds in found.get("generation", {}).values() for k in kinds.values()]
    return chosen + sum(kind["questions"] for kind in kinds)


def _told(settings: dict[str, Any]) -> str:
    shown = ("scope", "selection", "objective", "anchor_weight")
    return ", ".join(f"{key} {settings[key]}" for key in shown if settings.get(key))
