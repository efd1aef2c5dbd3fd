"""Stages start processes that share the model, or what is scored; the first one's is returned."""

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch

from seuf.benchmarks.records import Passage, Question
from seuf.benchmarks.settings import ScoringSettings
from seuf.inputs import InputError
from seuf.moe.deltas import Delta
from seuf.moe.digests import model_digest
from seuf.moe.loading import LanguageModel
from seuf.moe.settings import ExternalModelSettings
from seuf.moe.sharding import gathered
from seuf.pipelines import processes
from seuf.pipelines.evaluation.nodes import evaluate, score_reference
from seuf.pipelines.processes import in_processes
from seuf.pipelines.routing_capture.nodes import capture_routing
from seuf.pipelines.unlearning.nodes import unlearn
from seuf.unlearning.attribution import RoutingSettings
from seuf.unlearning.settings import Method, UnlearningSettings
from tests.pipelines.test_evaluation import TEXTS, records
from tests.pipelines.test_unlearning import QUESTIONS
from tests.tiny import some_change, tiny_language_model

DEVICES = "evaluation.devices"
NAMES = ("Ada", "Bo", "Cy", "Di", "Ed", "Flo")
NEEDS_TWO = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


def without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no GPU be seen here, nor by processes that are started."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def made(base: LanguageModel, sharded: int, devices: int = 1, **of_row: Any) -> Any:
    """Return delta, log and times of GDiff, full by default, in so many processes."""
    row = {"scope": "everything", "objective": "gdiff", "learning_rates": [1e-2]}
    return unlearn(
        base,
        {"by_hand": {"experts": [[1, 1]]}},
        [{"text": f"{name} lives in Oslo."} for name in ("Ada", "Bo", "Cy")],
        [{"text": f"{name} lives in Rome."} for name in ("Di", "Ed", "Flo")],
        QUESTIONS,
        [{"text": "Oslo is in Norway."}],
        Method(**row | of_row),
        UnlearningSettings(
            steps=2, batch_size=2, evaluate_every=1, threads=1, probe_tokens=16, sharded=sharded
        ),
        ScoringSettings(batch_size=4, devices=devices),
        0,
    )


@pytest.mark.slow
@pytest.mark.timeout(900)  # processes import torch, beside others' work
def test_two_processes_make_the_delta_and_the_log_of_one(language_model):
    (one, log, _), (other, other_log, seconds) = (made(language_model, n) for n in (1, 2))

    assert (other.base, other.dtypes, other.about) == (one.base, one.dtypes, one.about)
    assert other.tensors.keys() == one.tensors.keys()
    for key, tensor in one.tensors.items():
        assert (other.tensors[key] - tensor).norm() < 5e-3 * tensor.norm(), key
    assert list(other_log.columns) == list(log.columns)
    for name in ("loss", "gradient_norm", "general_loss"):
        assert other_log[name].tolist() == pytest.approx(log[name].tolist(), rel=1e-3, nan_ok=True)
    assert seconds["seconds"] > 0
    with other.applied_to(language_model.model):
        pass


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_a_process_says_is_wrong_is_one_line_here(language_model):
    with pytest.raises(InputError, match="there is no layer 7"):
        made(language_model, 2, layers=[7])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_looks_shared_by_two_devices_choose_the_same_bits(language_model, monkeypatch):
    """Every look passes the same batches, each on one of the two, and training is what it was."""
    without_gpus(monkeypatch)
    row = {"scope": "experts", "selection": "by_hand"}

    (one, log, _), (other, other_log, _) = (made(language_model, 1, n, **row) for n in (1, 2))

    assert other.tensors.keys() == one.tensors.keys() != set()
    assert all(torch.equal(other.tensors[key], tensor) for key, tensor in one.tensors.items())
    pd.testing.assert_frame_equal(other_log, log)


def captured(base: LanguageModel, devices: int) -> tuple[Any, list[int]]:
    """Return the tables of a capture, and how many passes each of the processes made."""
    passes = []
    towns = ("Oslo", "Rome")
    texts = [
        {"text": f"{i} {name} lives in {town}. " * 2}
        for i in range(20)
        for name in NAMES
        for town in towns
    ]
    with base.model.model.register_forward_pre_hook(lambda *_: passes.append(1)):
        tables = capture_routing(
            base,
            texts[::2],
            texts[1::2],
            RoutingSettings(batch_size=16, max_length=48, subset_tokens=200, devices=devices),
            seed=0,
        )
    return tables, gathered(len(passes))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_devices_capture_the_routing_of_one_to_the_bit(language_model, monkeypatch):
    """And each makes half of the passes, or one more than that of each set."""
    without_gpus(monkeypatch)

    one, [alone] = captured(language_model, 1)
    other, passes = in_processes(captured, language_model, {"devices": 2}, 2, DEVICES)
    by_node, _ = captured(language_model, 2)

    for tables in (other, by_node):
        for table, expected in zip(tables, one, strict=True):
            pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert sum(passes) == alone
    assert max(passes) <= alone / 2 + 2


def evaluated(base: LanguageModel, **given: Any) -> tuple[Any, list[int]]:
    """Return what `evaluate` does, and how many passes each of the processes made."""
    passes = []
    with base.model.model.register_forward_hook(lambda *_: passes.append(1)):
        scores = evaluate(base, **given)
    return scores, gathered(len(passes))


@pytest.mark.parametrize(
    "device",
    [
        pytest.param("cpu", marks=pytest.mark.slow),
        pytest.param("cuda", marks=[pytest.mark.gpu, NEEDS_TWO]),
    ],
)
@pytest.mark.timeout(900)
def test_two_devices_score_what_one_scores_to_the_bit(device, monkeypatch):
    """Choices by the harness, free and produced answers, truth ratios, passages and examples."""
    if device == "cpu":
        without_gpus(monkeypatch)
    base = tiny_language_model()
    change = Delta.of(base.model, some_change(base.model), model_digest(base.model))
    base.model.to(device)
    delta = replace(change, about={"trained_share": 0.1, "method": {}, "experts": [(1, 1)]})
    paraphrased = Question(
        question="Where does Ada live?",
        choices=["In Oslo.", "Ada lives in Oslo.", "In Rome.", "In Bonn."],
        answer=0,
        topic="forget",
        subject="forget",
        part="test",
        kind="truth",
    )
    passages = [
        Passage(text=f"{name} lives in {town} and is {age}.", group=group)._asdict()
        for name, town, age, group in [
            ("Ada", "Oslo", 31, "forget"),
            ("Bo", "Oslo", 7, "forget"),
            ("Cy", "Rome", 19, "retain"),
            ("Di", "Bonn", 20, "retain"),
        ]
    ]
    given = {
        "delta": delta,
        "forget_set": TEXTS[:6],
        "retain_set": TEXTS[:6],
        "questions": [*records(), paraphrased._asdict()],
        "passages": passages,
    }
    settings = ScoringSettings(
        batch_size=2, max_length=48, probe_tokens=64, generate=True, max_new_tokens=8
    )

    given["evaluation"] = settings
    one, [alone] = evaluated(base, **given)
    other, passes = in_processes(evaluated, base, given, 2, DEVICES)

    assert {"questions", "generation", "produced", "truth", "membership"} < one.keys()
    assert other == one
    assert sum(passes) == alone
    assert max(passes) < 0.7 * alone


def test_a_stage_starts_as_many_processes_as_its_study_says(language_model, monkeypatch):
    monkeypatch.setattr(processes, "in_processes", lambda node, *given: (node, *given[2:]))
    scoring = ScoringSettings(devices=3)

    assert evaluate(language_model, None, [], [], [], scoring) == (evaluate, 3, DEVICES)
    assert score_reference(language_model, [], scoring) == (score_reference, 3, DEVICES)
    assert made(language_model, 1, 3) == (unlearn, 3, DEVICES)
    assert made(language_model, 2, 3) == (unlearn, 2, "unlearning.sharded")
    one_expert = {"scope": "experts", "selection": "by_hand"}
    assert made(language_model, 2, 3, **one_expert) == (unlearn, 3, DEVICES)
    routing = RoutingSettings(devices=3)
    started = (capture_routing, 3, "routing_capture.devices")
    assert capture_routing(language_model, [], [], routing, 0) == started


def test_a_model_on_several_devices_is_not_copied(language_model):
    spread = ExternalModelSettings(path="nowhere", device_map="auto")

    with pytest.raises(InputError, match=r"base_model\.device_map to null"):
        made(replace(language_model, source=spread), 1, 2)


def test_fewer_gpus_than_processes_is_one_line(language_model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    with pytest.raises(InputError, match=r"evaluation\.devices is 2, and 1 GPUs are visible"):
        made(language_model, 1, 2)
