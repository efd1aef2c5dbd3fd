"""The stage that tells what will be used before anything is trained."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from seuf.benchmarks.preflight import PreflightSettings
from seuf.benchmarks.records import Question
from seuf.benchmarks.settings import ScoringSettings
from seuf.inputs import InputError
from seuf.pipelines.layer_choice import pipeline as layer_choice
from seuf.pipelines.preflight import pipeline as stage
from seuf.pipelines.preflight.nodes import preflight
from seuf.pipelines.reporting import pipeline as reporting
from seuf.pipelines.unlearning import pipeline as unlearning
from seuf.reporting.preflight import tables
from seuf.unlearning.attribution import RoutingSettings
from seuf.unlearning.settings import UnlearningSettings
from tests.reporting.examples import SELECTED

TEXTS = [{"text": "Ada lives in Oslo, and Bo lives in Rome. " * 4, "prompt": ""}] * 3


def told_of(
    language_model: Any, strict: bool = True, number: int = 10, **training: Any
) -> tuple[dict[str, Any], dict[str, bool]]:
    """Return what is told of three texts and questions whose right answer the model prefers."""
    choices = ["Oslo", "Oslo in the north of the south"]
    questions = [
        Question(f"Question {at}: where is Oslo?", choices, 0, "", subject, part)._asdict()
        for subject in ("forget", "retain")
        for part in ("selection", "test")
        for at in range(number)
    ]
    return preflight(
        language_model,
        TEXTS,
        TEXTS[:2],
        questions,
        [],
        SELECTED,
        RoutingSettings(max_length=16),
        UnlearningSettings(max_length=16, **training),
        ScoringSettings(max_length=64),
        PreflightSettings(strict=strict),
    )


def test_texts_tokens_questions_and_answers_are_told_before_the_work(language_model, caplog):
    """Texts of n tokens and their end, in as few samples of 16 as hold them."""
    caplog.set_level(logging.INFO)
    length = len(language_model.tokenizer(TEXTS[0]["text"])["input_ids"])
    samples = 3 * -(-(length + 1) // 16)

    facts, passed = told_of(language_model)

    assert facts["sets"]["forget"] == {
        "texts": 3, "tokens": 3 * length, "samples": samples, "cut": 0, "cut_in_routing": 0,
    }  # fmt: skip
    assert facts["sets"]["general"] == {"texts": 0, "tokens": 0, "cut": 0}
    assert (passed, facts["warnings"]) == ({"passed": True}, [])
    said = [line for line in caplog.messages if line.startswith("Preflight: ")]
    assert said[0] == (
        f"Preflight: forget: 3 texts, {3 * length} tokens, in {samples} samples; nothing cut"
    )
    assert (
        "Preflight: 10 questions about forget in part test: the model scores 1.000 "
        "(accuracy of choices), guessing 0.500" in said
    )
    assert any(line.startswith("Preflight: rule affinity: expert ") for line in said)


def test_what_is_cut_is_told_with_its_share(language_model):
    """Of each text all but 16 tokens."""
    length = len(language_model.tokenizer(TEXTS[0]["text"])["input_ids"])

    facts, _ = told_of(language_model, long_texts="cut")

    (_, sets), (_, asked) = tables(facts)
    share = (length - 16) / length
    assert sets[0][-1] == f"{3 * (length - 16)} tokens cut ({share:.1%})"
    assert asked[0] == ["forget", "selection", "10", "accuracy of choices", "1.000", "0.500"]


def test_nothing_begins_with_too_few_questions_unless_it_is_allowed(language_model):
    with pytest.raises(InputError, match="Only 9 questions ask for what is to be forgotten"):
        told_of(language_model, number=9)

    facts, passed = told_of(language_model, number=9, strict=False)

    assert len(facts["warnings"]) == 4
    assert passed == {"passed": True}


def test_what_trains_waits_for_the_preflight_of_a_study_that_has_one(monkeypatch):
    """Own data have one; of the sandbox, whose model and data are in git, nothing is asked."""

    def made(study: str) -> dict[str, Any]:
        monkeypatch.setenv("KEDRO_ENV", study)
        pipelines = (layer_choice, unlearning, reporting, stage)
        return {node.name: node for part in pipelines for node in part.create_pipeline().nodes}

    own, sandbox = made("own"), made("base")

    assert own["preflight"].outputs == ["preflight", "preflight_passed"]
    waiting = [name for name, node in own.items() if "preflight_passed" in node.inputs]
    assert waiting == [name for name in own if name.endswith(("unlearn", "choose_layer"))]
    assert "preflight" in own["write_report"].inputs
    assert not any("preflight" in name for node in sandbox.values() for name in node.inputs)
    assert "preflight" not in sandbox
