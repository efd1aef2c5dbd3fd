"""What the evaluation stage writes of one method."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from seuf.benchmarks.records import Question
from seuf.benchmarks.settings import ScoringSettings
from seuf.inputs import InputError
from seuf.moe.deltas import Delta
from seuf.moe.digests import model_digest
from seuf.pipelines.evaluation.nodes import evaluate, score
from tests.tiny import some_change, tiny_language_model

SUBJECTS = ("forget", "retain", "unseen")
TEXTS = [{"text": f"{name} lives in Rome, and has for long."} for name in ("Ada", "Bo", "Cy")] * 20


def records(reference: str = "Oslo.") -> list[dict[str, Any]]:
    """Return five questions of each subject and part."""
    return [
        Question(
            question=f"{part} {number}: where does Ada live?",
            choices=["Oslo.", "Rome."],
            answer=0,
            topic=subject,
            subject=subject,
            part=part,
            reference=reference,
        )._asdict()
        for subject in SUBJECTS
        for part in ("selection", "test")
        for number in range(5)
    ]


@pytest.fixture(scope="module")
def scores() -> dict[str, Any]:
    """What is written of a change to one expert of a random model."""
    base = tiny_language_model()
    change = Delta.of(base.model, some_change(base.model), model_digest(base.model))
    about = {"trained_share": 0.1, "method": {"scope": "experts"}, "experts": [(1, 1)]}
    settings = ScoringSettings(headline="produced", max_length=64, probe_tokens=64)
    questions = records()
    return evaluate(base, replace(change, about=about), TEXTS, TEXTS, questions, settings)


def test_both_measures_are_told_of_every_subject(scores):
    for subject in SUBJECTS:
        assert scores["questions"][subject]["questions"] == 5
        assert scores["produced"][subject]["questions"] == 5
        assert len(scores["produced"][subject]["answers"]) == 5
        assert scores["headline"][subject]["measure"] == scores["produced"][subject]["measure"]
        accuracy = scores["questions"][subject]
        assert scores["measures"][f"choices_{subject}"]["value"] == accuracy["accuracy"]
        assert scores["measures"][f"nll_{subject}"] == scores["produced"][subject]["nll"]


def test_eight_answers_are_shown_before_and_after(scores):
    """Of five questions the four are 0, 1, 2 and 3 (5 * 3 // 4), the two are 0 and 2."""
    shown = scores["examples"]

    assert [one["subject"] for one in shown] == ["forget"] * 4 + ["retain"] * 2 + ["unseen"] * 2
    numbers = [one["question"].removeprefix("test ")[0] for one in shown]
    assert "".join(numbers) == "01230202"
    assert {one["reference"] for one in shown} == {"Oslo."}
    assert all(one["before"] != one["after"] for one in shown)


def test_a_study_of_choices_has_produced_answers_beside():
    settings = ScoringSettings(max_length=64)

    told = score(tiny_language_model(), records(), settings)

    assert {one["measure"] for one in told["headline"].values()} == {"accuracy"}
    assert [name for name in told["measures"] if name.startswith("choices")] == []
    assert [name for name in told["measures"] if name.startswith("produced")] == [
        f"produced_{subject}" for subject in SUBJECTS
    ]


def test_without_references_nothing_is_produced():
    told = score(tiny_language_model(), records(reference=""), ScoringSettings(max_length=64))

    assert "produced" not in told
    assert told["measures"] == {}
    with pytest.raises(InputError, match="headline is produced, but no question about"):
        score(tiny_language_model(), records(""), ScoringSettings(headline="produced"))
