"""Recompute the recorded results: the experts from the routing, the scores from the answers."""

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
from seuf.unlearning.settings import Experts

if TYPE_CHECKING:
    from seuf.benchmarks.records import Question

log = logging.getLogger(__name__)
CLOSE = 1e-9  # tolerance for two sums of the same numbers


def check_method(audited: AuditedMethod) -> Iterator[Check]:
    """Check that the delta was made with the study's settings, seed and experts."""
    from seuf.unlearning.settings import Method, pilot_rule

    settings, about = audited.settings, audited.delta.about
    method = Method.model_validate(settings)
    if about.get("method") != method.model_dump():
        yield failed("method", f"the delta was made with other settings of {audited.method}")
    seed = audited.study.config["parameters"].get("seed")
    if about.get("seed") != seed:
        yield failed("method", f"the delta was made with seed {about.get('seed')}, not {seed}")
    shown = ("scope", "selection", "objective", "anchor_weight")
    text = ", ".join(f"{key} {settings[key]}" for key in shown if settings.get(key))
    yield passed("method", f"settings and seed are the study's: {text}")
    rule, experts = method.selection, about.get("experts")
    if rule is None:
        return
    if pilot_rule(rule):
        source, chosen = "trials", audited.read("chosen_layer")["experts"]
        again = _experts_of_trials(audited, rule)
    else:
        source, chosen = "routing", audited.read("selected_experts")[rule]["experts"]
        again = _experts_of_routing(audited, rule)
    if experts != chosen:
        yield failed("expert", f"the delta's experts {experts} are not those of {rule}: {chosen}")
    elif [list(one) for one in again] != chosen:
        text = f"from the recorded {source} {rule} chooses {again}, not {chosen}"
        yield failed("expert", text)
    else:
        names = ", ".join(f"expert {expert} of layer {layer}" for layer, expert in chosen[:4])
        text = f"{rule} chooses {names} from the recorded {source}, computed again"
        yield passed("expert", text)


def _experts_of_routing(audited: AuditedMethod, rule: str) -> Experts:
    """Return the experts that a rule selects from the recorded routing."""
    import pandas as pd

    from seuf.pipelines.expert_selection.nodes import routing_table
    from seuf.unlearning.selection import SelectionSettings, seed_of_draw, select_experts

    parameters = audited.study.config["parameters"]
    paths = [audited.project / audited.path(f"routing_{name}") for name in ("forget", "retain")]
    forget, retain = (routing_table(pd.read_csv(path)) for path in paths)
    settings = SelectionSettings.model_validate(parameters["expert_selection"])
    seed = seed_of_draw(parameters["base_seed"], parameters["seed"])
    selected = select_experts(forget, retain, settings, seed)[rule]
    for sentence in selected.warnings:  # other rules' warnings do not concern this method
        warn_once(log, f"Rule {rule}: {sentence}.")
    return selected.experts


def _experts_of_trials(audited: AuditedMethod, rule: str) -> Experts:
    """Return the experts that the recorded trials select, or the random control beside them."""
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
    candidates = best_of_layers(
        routing, routing_table(retain), str(pilot_rule(rule)), top, settings.every
    )
    rows: Any = trials.astype(object).where(trials.notna(), None).to_dict("records")
    best = candidates[judge_layers(candidates, rows, settings.target)[1]]
    if rule not in CONTROLS:
        return best
    seed = seed_of_draw(parameters["base_seed"], parameters["seed"])
    return random_beside(best, routing, seed).experts


def check_scores(audited: AuditedMethod) -> Iterator[Check]:
    """Check the scores against the answers, and all tables against the scores."""
    from seuf.benchmarks.headline import headline
    from seuf.benchmarks.records import Question

    recorded, delta = audited.read("scores"), audited.delta
    if recorded["experts"] != [list(one) for one in audited.experts]:
        yield failed("scores", f"they name experts {recorded['experts']}, not the delta's")
    if recorded["changed_tensors"] != len(delta.tensors):
        named = f"{recorded['changed_tensors']} changed tensors"
        yield failed("scores", f"they name {named}; the delta has {len(delta.tensors)}")
    if audited.exists("questions"):
        questions = [Question(**one) for one in audited.read("questions") if one["part"] == "test"]
        generate = audited.study.config["parameters"]["evaluation"].get("generate", False)
        wrong = [
            *_wrong_choices(recorded, questions),
            *_wrong_answers(recorded, [one for one in questions if one.is_free_answer(generate)]),
            *_wrong_produced(recorded, questions),
        ]
        yield from (failed("answers", text) for text in wrong)
        kinds = [k for kinds in recorded.get("generation", {}).values() for k in kinds.values()]
        produced = recorded.get("produced", {}).values()
        parts = [*recorded.get("questions", {}).values(), *kinds, *produced]
        count = sum(part["questions"] for part in parts)
        yield passed("answers", f"accuracies computed again from {count} answers")
    else:
        yield noted("answers", "the questions are missing: answers cannot be compared with them")
    by = audited.study.config["parameters"]["evaluation"].get("headline", "choices")
    if not _same(headline(recorded, by), recorded["headline"]):
        yield failed(
            "scores", f"the headline of {audited.path('scores')} is not that of its scores"
        )
    yield from _check_report(audited, recorded)


def _wrong_choices(recorded: dict[str, Any], asked: list[Question]) -> Iterator[str]:
    """Yield a sentence for each multiple-choice score that its answers do not give."""
    from seuf.benchmarks.choices import macro_accuracy

    for name, scored in recorded.get("questions", {}).items():
        questions = [q for q in asked if q.scored_as() == name and q.is_multiple_choice()]
        answers = scored["answers"]
        if len(answers) != len(questions) or scored["questions"] != len(questions):
            yield f"{name}: {len(answers)} answers to {len(questions)} questions"
            continue
        right = [float(a == q.answer) for a, q in zip(answers, questions, strict=True)]
        yield from _wrong_mean(name, right, "an accuracy of ", scored["accuracy"], scored)
        by_topic, stated = macro_accuracy(questions, answers), scored["macro_accuracy"]
        if not _same(by_topic, stated):
            yield f"{name}: the answers make an accuracy by topic of {by_topic}, not {stated}"


def _wrong_answers(recorded: dict[str, Any], asked: list[Question]) -> Iterator[str]:
    """Yield a sentence for each free-answer score that its answers do not give."""
    from seuf.benchmarks.answers import MEASURES
    from seuf.benchmarks.records import ANSWER_KINDS

    for subject, kinds in recorded.get("generation", {}).items():
        for name, scored in kinds.items():
            kind = ANSWER_KINDS[name]
            if not kind.whole_reference:  # the model's tokenizer cuts its references
                continue
            references = [q.reference for q in asked if (q.subject, q.kind) == (subject, name)]
            answers = scored["answers"]
            if len(references) != len(answers):
                yield f"{subject} {name}: {len(answers)} answers to {len(references)} questions"
                continue
            measure = MEASURES[kind.measure]
            values = [measure(r, a) for r, a in zip(references, answers, strict=True)]
            yield from _wrong_mean(f"{subject} {name}", values, "", scored["value"], scored)


def _wrong_produced(recorded: dict[str, Any], asked: list[Question]) -> Iterator[str]:
    """Yield a sentence for each score of produced answers that the answers do not give."""
    from seuf.benchmarks.produced import right_or_wrong

    for subject, scored in recorded.get("produced", {}).items():
        questions = [one for one in asked if one.subject == subject and one.is_produced()]
        if len(questions) != len(scored["answers"]):
            yield f"{subject}: {len(scored['answers'])} answers to {len(questions)} questions"
            continue
        values = right_or_wrong(questions, scored["answers"])
        yield from _wrong_mean(subject, values, "a share of ", scored["value"], scored)


def _wrong_mean(
    name: str, values: Sequence[float], what: str, stated: float, scored: dict[str, Any]
) -> Iterator[str]:
    """Yield a sentence if a mean over answers is wrong, and one if its standard error is.

    A single answer has no standard error.

    Args:
        name: The group of questions.
        values: The score of each answer.
        what: What the mean is, such as "an accuracy of ".
        stated: The recorded mean.
        scored: The record with the standard error.
    """
    from seuf.benchmarks.answers import mean_with_error

    computed, stated_error = mean_with_error(values), scored["standard_error"]
    if not _same(computed["value"], stated):
        yield f"{name}: the answers make {what}{computed['value']}, not {stated}"
    if len(values) > 1 and not _same(computed["standard_error"], stated_error):
        error = computed["standard_error"]
        yield f"{name}: the answers make a standard error of {error}, not {stated_error}"


def _check_report(audited: AuditedMethod, recorded: dict[str, Any]) -> Iterator[Check]:
    """Check that metrics, table and report show the method's scores."""
    import pandas as pd

    from seuf.benchmarks.records import utility_subject
    from seuf.reporting.comparison import by_method, readable

    table = pd.read_csv(audited.project / audited.path("comparison"))
    utility = recorded["headline"][utility_subject(recorded["headline"])]
    row, metrics = by_method(table)[audited.method], audited.read("metrics")[audited.method]
    scores = {
        "forget_efficacy": recorded["headline"]["forget"]["value"],
        "utility": utility["value"],
        "changed_tensors": recorded["changed_tensors"],
        "routing_overlap_forget": recorded["routing_overlap"]["forget"],
        "routing_overlap_retain": recorded["routing_overlap"]["retain"],
    }
    for name, value in scores.items():
        for where, shown in (("comparison", row[name]), ("metrics", metrics[name])):
            if not _same(float(shown), float(value)):
                yield failed("report", f"{name} is {shown} in {audited.path(where)}, not {value}")
    cells = next(cells for cells in readable(table)[1] if cells[0] == audited.method)
    page = (audited.project / audited.path("report")).read_text(encoding="utf-8")
    if " ".join(cells) not in _table_rows(page):
        yield failed("report", f"{audited.path('report')} shows other numbers of {audited.method}")
    yield from _check_tables(audited)
    yield passed("report", "metrics, table and report show these scores")


def _check_tables(audited: AuditedMethod) -> Iterator[Check]:
    """Compare every row of all methods' tables with tables made again from the recorded results.

    That includes the original's row, the scores before. If a result is missing, nothing is
    compared: it was erased, or the check `bytes` has failed.
    """
    from seuf.pipelines.headline.nodes import write_headline
    from seuf.pipelines.reporting.nodes import compare_methods

    nodes = audited.study.pipelines["reporting"].nodes
    node = next(one for one in nodes if "comparison" in one.outputs)
    results = [name for name in node.inputs if not name.startswith("params:")]
    if not all(map(audited.exists, (*results, *node.outputs))):
        return
    parameters = audited.study.config["parameters"]
    outputs = compare_methods(
        parameters["base_seed"], parameters["seed"], **{one: audited.load(one) for one in results}
    )
    again = dict(zip(node.outputs, outputs, strict=True))
    if audited.exists("headline"):
        again["headline"] = write_headline(outputs[0])
    for name, content in again.items():
        if not _same(_plain(content), _plain(audited.load(name))):
            text = f"{audited.path(name)} is not what the results of all methods make"
            yield failed("report", text)


def _plain(content: Any) -> Any:
    """Return a table as a list of rows, as a saved file reads; anything else unchanged."""
    import pandas as pd

    if not isinstance(content, pd.DataFrame):
        return content
    saved = pd.read_csv(StringIO(content.to_csv(index=False)), low_memory=False)
    return [list(saved.columns), *saved.astype(object).values.tolist()]


def _table_rows(page: str) -> set[str]:
    """Return the table rows of a page as plain text, without the methods' colour marks."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.DOTALL)
    texts = (re.sub(r"<i\b[^>]*>.*?</i>", "", row).replace("</td>", " ") for row in rows)
    return {" ".join(unescape(re.sub(r"<[^>]+>", "", text)).split()) for text in texts}


def _same(one: Any, other: Any) -> bool:
    """Return whether two results agree up to rounding, NaN with NaN."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float | int) and isinstance(other, float | int):
        both_nan = math.isnan(one) and math.isnan(other)
        return both_nan or math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE)
    return bool(one == other)
