"""Check what is claimed: the expert from the routing, the scores from the answers."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Sequence
from html import unescape
from io import StringIO
from typing import TYPE_CHECKING, Any

from seuf.audit import Check, failed, noted, passed
from seuf.audit.audited import AuditedMethod
from seuf.logs import warn_once
from seuf.moe.deltas import Delta

if TYPE_CHECKING:
    from seuf.benchmarks.records import Question

log = logging.getLogger(__name__)
CLOSE = 1e-9  # two sums of the same numbers


def choice(audited: AuditedMethod, delta: Delta) -> Iterator[Check]:
    """Check that the delta's settings are the study's, and its experts those of the routing."""
    from seuf.unlearning.settings import Method, pilot_rule

    settings, about = audited.settings, delta.about
    method = Method.model_validate(settings)
    if about.get("method") != method.model_dump():
        yield failed("method", f"the delta was made by other settings of {audited.method}")
    seed = audited.study.config["parameters"].get("seed")
    if about.get("seed") != seed:
        yield failed("method", f"the delta was made with seed {about.get('seed')}, not {seed}")
    shown = ("scope", "selection", "objective", "anchor_weight")
    text = ", ".join(f"{key} {settings[key]}" for key in shown if settings.get(key))
    yield passed("method", f"settings and seed are the study's: {text}")
    if pilot_rule(method.selection):
        yield _selection_by_trial(audited, str(method.selection), about.get("experts"))
    elif method.selection is not None:
        yield _selection(audited, method.selection, about.get("experts"))


def _selection(audited: AuditedMethod, rule: str, experts: Any) -> Check:
    """Check a delta's experts against those recorded, and these against the recorded routing."""
    import pandas as pd

    from seuf.pipelines.expert_selection.nodes import routing_table
    from seuf.unlearning.selection import SelectionSettings, seed_of_draw, select_experts

    chosen = audited.read("selected_experts")[rule]["experts"]
    parameters = audited.study.config["parameters"]
    paths = [audited.project / audited.path(f"routing_{name}") for name in ("forget", "retain")]
    forget, retain = (routing_table(pd.read_csv(path)) for path in paths)
    settings = SelectionSettings.model_validate(parameters["expert_selection"])
    seed = seed_of_draw(parameters["base_seed"], parameters["seed"])
    again = select_experts(forget, retain, settings, seed)[rule]
    for sentence in again.warnings:  # those of other rules are no concern of this method
        warn_once(log, f"Rule {rule}: {sentence}.")
    return _compared(rule, experts, chosen, again.experts, "routing")


def _selection_by_trial(audited: AuditedMethod, rule: str, experts: Any) -> Check:
    """Check a delta's experts against those that trials chose, and these against the trials."""
    import pandas as pd

    from seuf.pipelines.expert_selection.nodes import routing_table
    from seuf.unlearning.pilot import judge_layers
    from seuf.unlearning.selection import best_of_layers, random_beside, seed_of_draw
    from seuf.unlearning.settings import CONTROLS, PilotSettings, pilot_rule

    parameters = audited.study.config["parameters"]
    settings = PilotSettings.model_validate(parameters.get("pilot", {}))
    forget, retain, trials = (
        pd.read_csv(audited.project / audited.path(name))
        for name in ("routing_forget", "routing_retain", "trials")
    )
    routing, top = routing_table(forget), parameters["expert_selection"].get("top", 1)
    tried = best_of_layers(
        routing, routing_table(retain), str(pilot_rule(rule)), top, settings.every
    )
    rows: Any = trials.astype(object).where(trials.notna(), None).to_dict("records")
    again = tried[judge_layers(tried, rows, settings.target)[1]]
    if rule in CONTROLS:
        seed = seed_of_draw(parameters["base_seed"], parameters["seed"])
        again = random_beside(again, routing, seed).experts
    return _compared(rule, experts, audited.read("chosen_layer")["experts"], again, "trials")


def _compared(rule: str, experts: Any, chosen: Any, again: Any, what: str) -> Check:
    if experts != chosen:
        return failed("expert", f"the delta's experts {experts} are not those of {rule}: {chosen}")
    if [list(one) for one in again] != chosen:
        return failed("expert", f"the recorded {what} leads {rule} to {again}, not to {chosen}")
    names = ", ".join(f"expert {expert} of layer {layer}" for layer, expert in chosen[:4])
    return passed("expert", f"{rule} chooses {names} from the recorded {what}, worked out again")


def scores(audited: AuditedMethod, experts: Any, tensors: int | None) -> Iterator[Check]:
    """Compute the scores again from the answers, and compare every later table with them.

    Args:
        audited: The method.
        experts: Those of its delta, (layer, expert) pairs.
        tensors: How many its delta holds; None if that cannot be read, which has failed.
    """
    from seuf.benchmarks.headline import headline
    from seuf.benchmarks.records import Question

    recorded = audited.read("scores")
    if recorded["experts"] != experts:
        yield failed("scores", f"they are said to be of experts {recorded['experts']}")
    if tensors is not None and recorded["changed_tensors"] != tensors:
        told = f"{recorded['changed_tensors']} changed tensors"
        yield failed("scores", f"they are said to be of {told}; the delta has {tensors}")
    if audited.exists("questions"):
        asked = [Question(**one) for one in audited.read("questions") if one["part"] == "test"]
        generate = audited.study.config["parameters"]["evaluation"].get("generate", False)
        answered = [question for question in asked if question.is_free_answer(generate)]
        wrong = [
            *_wrong_choices(recorded, asked),
            *_wrong_answers(recorded, answered),
            *_wrong_produced(recorded, asked),
        ]
        yield from (failed("answers", text) for text in wrong)
        kinds = [k for kinds in recorded.get("generation", {}).values() for k in kinds.values()]
        produced = recorded.get("produced", {}).values()
        parts = [*recorded.get("questions", {}).values(), *kinds, *produced]
        number = sum(part["questions"] for part in parts)
        yield passed("answers", f"accuracies worked out again from {number} answers")
    else:
        yield noted("answers", "the questions are not here: answers cannot be compared with them")
    by = audited.study.config["parameters"]["evaluation"].get("headline", "choices")
    if not _same(headline(recorded, by), recorded["headline"]):
        yield failed("scores", f"the headline of {audited.path('scores')} is not of its scores")
    yield from _reported(audited, recorded)


def _wrong_choices(recorded: dict[str, Any], asked: list[Question]) -> Iterator[str]:
    from seuf.benchmarks.choices import macro_accuracy

    for name, scored in recorded.get("questions", {}).items():
        questions = [q for q in asked if q.scored_as() == name and q.is_multiple_choice()]
        right = [one.answer for one in questions]
        answers = scored["answers"]
        if len(answers) != len(right) or scored["questions"] != len(right):
            yield f"{name}: {len(answers)} answers to {len(right)} questions"
            continue
        values = [float(a == r) for a, r in zip(answers, right, strict=True)]
        yield from _wrong_mean(name, values, "an accuracy of ", scored["accuracy"], scored)
        by_topic = macro_accuracy(questions, answers)
        if not _same(by_topic, scored["macro_accuracy"]):
            told = scored["macro_accuracy"]
            yield f"{name}: the answers make an accuracy by topic of {by_topic}, not {told}"


def _wrong_answers(recorded: dict[str, Any], asked: list[Question]) -> Iterator[str]:
    from seuf.benchmarks.answers import MEASURES
    from seuf.benchmarks.records import ANSWER_KINDS

    for subject, kinds in recorded.get("generation", {}).items():
        for kind, scored in kinds.items():
            if not ANSWER_KINDS[
                kind
            ].whole_reference:  # its references are cut by the model's tokenizer
                continue
            references = [q.reference for q in asked if (q.subject, q.kind) == (subject, kind)]
            answers = scored["answers"]
            if len(references) != len(answers):
                yield f"{subject} {kind}: {len(answers)} answers to {len(references)} questions"
                continue
            measure = MEASURES[ANSWER_KINDS[kind].measure]
            values = [measure(r, a) for r, a in zip(references, answers, strict=True)]
            yield from _wrong_mean(f"{subject} {kind}", values, "", scored["value"], scored)


def _wrong_produced(recorded: dict[str, Any], asked: list[Question]) -> Iterator[str]:
    from seuf.benchmarks.produced import right_or_wrong

    for subject, scored in recorded.get("produced", {}).items():
        questions = [one for one in asked if one.subject == subject and one.is_produced()]
        if len(questions) != len(scored["answers"]):
            yield f"{subject}: {len(scored['answers'])} answers to {len(questions)} questions"
            continue
        values = right_or_wrong(questions, scored["answers"])
        yield from _wrong_mean(subject, values, "a share of ", scored["value"], scored)


def _wrong_mean(
    name: str, values: Sequence[float], what: str, value: float, scored: dict[str, Any]
) -> Iterator[str]:
    """Yield what is wrong with a mean over answers, and with its standard error.

    Of one answer there is no standard error.

    Args:
        name: Of whom the answers are.
        values: Of the answers.
        what: Goes before the mean.
        value: That is recorded as the mean.
        scored: Has the recorded standard error.
    """
    from seuf.benchmarks.answers import mean_with_error

    made = mean_with_error(values)
    if not _same(made["value"], value):
        yield f"{name}: the answers make {what}{made['value']}, not {value}"
    if len(values) > 1 and not _same(made["standard_error"], scored["standard_error"]):
        error, told = made["standard_error"], scored["standard_error"]
        yield f"{name}: the answers make a standard error of {error}, not {told}"


def _reported(audited: AuditedMethod, recorded: dict[str, Any]) -> Iterator[Check]:
    import pandas as pd

    from seuf.benchmarks.records import utility_subject
    from seuf.reporting.comparison import by_method, readable

    table = pd.read_csv(audited.project / audited.path("comparison"))
    utility = recorded["headline"][utility_subject(recorded["headline"])]
    row, metrics = by_method(table)[audited.method], audited.read("metrics")[audited.method]
    claimed = {
        "forget_efficacy": recorded["headline"]["forget"]["value"],
        "utility": utility["value"],
        "changed_tensors": recorded["changed_tensors"],
        "routing_overlap_forget": recorded["routing_overlap"]["forget"],
        "routing_overlap_retain": recorded["routing_overlap"]["retain"],
    }
    for name, value in claimed.items():
        for where, shown in (("comparison", row[name]), ("metrics", metrics[name])):
            if not _same(float(shown), float(value)):
                yield failed("report", f"{name} is {shown} in {audited.path(where)}, not {value}")
    cells = next(cells for cells in readable(table)[1] if cells[0] == audited.method)
    page = (audited.project / audited.path("report")).read_text(encoding="utf-8")
    if " ".join(cells) not in _table_rows(page):
        yield failed("report", f"{audited.path('report')} shows other numbers of {audited.method}")
    yield from _compared_again(audited)
    yield passed("report", "metrics, table and report show these scores")


def _compared_again(audited: AuditedMethod) -> Iterator[Check]:
    """Yield which of the tables of all methods are not what the recorded results make of them.

    The original's row, from which the scores before are read, and all standard errors among them.
    Nothing if a result is erased: what else is missing has failed by its bytes.
    """
    from seuf.pipelines.headline.nodes import write_headline
    from seuf.pipelines.reporting.nodes import compare_methods

    nodes = audited.study.pipelines["reporting"].nodes
    node = next(one for one in nodes if "comparison" in one.outputs)
    results = [name for name in node.inputs if not name.startswith("params:")]
    if not all(map(audited.exists, (*results, *node.outputs))):
        return
    parameters = audited.study.config["parameters"]
    again = compare_methods(
        parameters["base_seed"], parameters["seed"], **{one: audited.load(one) for one in results}
    )
    headline = {"headline": write_headline(again[0])} if audited.exists("headline") else {}
    for name, made in (*zip(node.outputs, again, strict=True), *headline.items()):
        if not _same(_plain(made), _plain(audited.load(name))):
            text = f"{audited.path(name)} is not what the results of all methods make of it"
            yield failed("report", text)


def _plain(content: Any) -> Any:
    """Return a table as a list of rows, as they are after it was saved; all else as it is."""
    import pandas as pd

    if not isinstance(content, pd.DataFrame):
        return content
    saved = pd.read_csv(StringIO(content.to_csv(index=False)), low_memory=False)
    return [list(saved.columns), *saved.astype(object).values.tolist()]


def _table_rows(page: str) -> set[str]:
    """Return the rows of the tables in a page as plain text, without the mark of the method."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.DOTALL)
    texts = (re.sub(r"<i\b[^>]*>.*?</i>", "", row).replace("</td>", " ") for row in rows)
    return {" ".join(unescape(re.sub(r"<[^>]+>", "", text)).split()) for text in texts}


def _same(one: Any, other: Any) -> bool:
    """Return whether two results of the same arithmetic agree, NaN with NaN."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float | int) and isinstance(other, float | int):
        both_nan = math.isnan(one) and math.isnan(other)
        return both_nan or math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE)
    return bool(one == other)
