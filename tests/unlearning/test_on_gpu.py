"""What `kedro run` does on a GPU: strictly deterministic, several methods in one process.

`pytest -m gpu tests/unlearning/test_on_gpu.py` takes less than a minute there.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from seuf.benchmarks.headline import HeadlineScorer
from seuf.benchmarks.records import Question
from seuf.benchmarks.settings import ScoringSettings
from seuf.moe.architectures import moe_layers
from seuf.moe.batches import by_length
from seuf.moe.digests import sums_of_bits
from seuf.moe.loading import LanguageModel, load
from seuf.moe.loss import mean_nll
from seuf.moe.routing import capture_routing
from seuf.unlearning.pilot import choose_layer
from seuf.unlearning.settings import Method, PilotSettings
from tests.tiny import tiny_language_model
from tests.unlearning.runs import FORGET, RETAIN, SETTINGS, FirstIsWorst, method, run

pytestmark = pytest.mark.gpu
STEPS = {"steps": 8, "evaluate_every": 4, "threads": 1}
ALL_EXPERTS = [(layer, expert) for layer in (0, 1) for expert in (0, 2, 3)]
ROWS: dict[str, tuple[Method, Any]] = {
    "expert": (method(objective="gdiff"), [(1, 2)]),
    "expert by RMU": (method(objective="rmu", steering_norms=3.0), [(1, 2)]),
    "expert by NPO": (method(objective="npo"), [(0, 1)]),
    "micro-batches": (method(objective="gdiff", micro_batch_size=1), [(1, 2)]),
    "kl": (method(objective="gdiff", retain_loss="kl"), [(1, 2)]),
    "kl in micro-batches": (
        method(objective="gdiff", retain_loss="kl", micro_batch_size=1),
        [(1, 2)],
    ),
    "trace": (method(objective="gdiff", retain_loss="trace"), [(1, 2)]),
    "held router": (method(objective="gdiff", router_null_space=0.5), [(1, 2)]),
    "esft": (method(objective="ga"), ALL_EXPERTS),
    "everything": (method("everything", "gdiff"), []),
    "everything by KL": (method("everything", "gdiff", retain_loss="kl"), []),
    "routers": (method("everything", "ga", only="routers"), []),
    "lora": (method("lora", "gdiff", rank=2), []),
    "deletion": (method("deletion", None, selection="affinity"), [(1, 2)]),
}


@pytest.fixture(autouse=True)
def strictly_deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    yield
    torch.use_deterministic_algorithms(False)


def on_gpu(device: str = "cuda") -> LanguageModel:
    base = tiny_language_model()
    base.model.to(device, torch.bfloat16)
    return base


def taken(base: LanguageModel, name: str, **settings: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the log of a row and what it changed."""
    of, experts = ROWS[name]
    done = run(base, of, experts=experts, judge=FirstIsWorst(), **STEPS | settings)
    return done.log, done.delta.tensors


@pytest.mark.parametrize("name", ROWS)
def test_a_method_gives_the_same_bytes_again_recorded_or_not(name):
    """All runs are of one process: a graph, its memory and its stream serve one after the other."""
    base = on_gpu()
    before = sums_of_bits(base.model)

    (log, changed), *others = (taken(base, name, cuda_graph=graph) for graph in (True, True, False))

    assert changed
    for other_log, other in others:
        assert [row["loss"] for row in other_log] == [row["loss"] for row in log]
        assert other.keys() == changed.keys()
        assert all(torch.equal(other[key], changed[key]) for key in changed)
    assert sums_of_bits(base.model) == before


def test_methods_one_after_the_other_leave_no_memory_behind():
    base = on_gpu()
    taken(base, "everything")  # libraries keep workspaces
    used = []

    for name in ("expert", "everything", "lora", "expert", "everything", "lora"):
        taken(base, name)
        gc.collect()
        used.append(torch.cuda.memory_allocated())

    assert max(used[3:]) <= max(used[:3])


def test_a_pilot_tries_every_layer_and_leaves_the_model_as_it_was():
    base = on_gpu()
    before = sums_of_bits(base.model)
    settings = SETTINGS.model_copy(update=STEPS)
    candidates = [[(layer.index, 2)] for layer in moe_layers(base.model)]
    pilot = PilotSettings(steps=6, evaluate_every=3)

    choices = [
        choose_layer(
            base,
            FORGET,
            RETAIN,
            candidates,
            method(objective="gdiff"),
            FirstIsWorst(),
            settings,
            pilot,
        )
        for _ in range(2)
    ]

    assert choices[0].trials == choices[1].trials
    assert {row["layer"] for row in choices[0].trials} == {one[0][0] for one in candidates}
    assert sums_of_bits(base.model) == before


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("name", ["expert", "expert by RMU", "everything", "lora", "trace"])
def test_a_method_on_another_than_the_current_gpu_gives_the_bytes_of_the_first(name):
    (log, changed), (other_log, other) = (
        taken(on_gpu(device), name) for device in ("cuda:0", "cuda:1")
    )

    assert [row["loss"] for row in log] == [row["loss"] for row in other_log]
    assert all(torch.equal(other[key].cpu(), changed[key].cpu()) for key in changed)


SPREAD = {"head with the input": (0, 1, 1, 1, 0), "upper layer apart": (0, 0, 1, 1, 1)}


def over_two_gpus(folder: Path, places: tuple[int, ...]) -> LanguageModel:
    """Return the model of `on_gpu` with its parts on two GPUs, as accelerate puts them there."""
    on_gpu("cpu").save(folder)
    parts = ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "lm_head"]
    device_map: dict[str, str | int] = {**dict(zip(parts, places, strict=True))}
    return load(str(folder), device_map={**device_map, "model.rotary_emb": 0})


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("places", SPREAD.values(), ids=SPREAD)
@pytest.mark.parametrize("name", ROWS)
def test_a_method_on_a_model_over_two_gpus_gives_the_bytes_of_one(name, places, tmp_path):
    """Norms of gradients over two GPUs are added in another order: whole models only come close."""
    spread = over_two_gpus(tmp_path, places)
    before = sums_of_bits(spread.model)

    log, changed = taken(on_gpu(), name)
    other_log, other = taken(spread, name)

    assert other.keys() == changed.keys()
    if len({layer for layer, _ in ROWS[name][1]}) == 1:
        assert [row["loss"] for row in other_log] == [row["loss"] for row in log]
        assert all(torch.equal(other[key].cpu(), changed[key].cpu()) for key in changed)
    else:
        losses = [row["loss"] for row in log[1:]]
        assert [row["loss"] for row in other_log[1:]] == pytest.approx(losses, rel=0.05, abs=0.05)
    assert sums_of_bits(spread.model) == before


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("places", SPREAD.values(), ids=SPREAD)
def test_routing_is_captured_over_two_gpus_as_on_one(places, tmp_path):
    one, other = (
        capture_routing(base.model, by_length(FORGET, 2, base.padding))
        for base in (on_gpu(), over_two_gpus(tmp_path, places))
    )

    assert torch.equal(one.affinity, other.affinity)


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_a_look_gives_what_it_gives_on_a_cpu(device):
    if int(device[-1]) >= torch.cuda.device_count():
        pytest.skip("needs two GPUs")
    questions = [
        Question(f"Who is {name}?", [f"{name} {word}" for word in "abcd"], 0, "", "forget", "test")
        for name in ("Ada", "Bo", "Cy", "Di")
    ]
    texts, losses, answers = ["Ada lives in Oslo.", "Bo is in Rome, and Cy is not."], [], []

    for where in ("cpu", device):
        base = tiny_language_model()
        base.model.to(where)
        scorer = HeadlineScorer(base, questions, ScoringSettings(batch_size=2, max_length=16))
        answers.append(scorer.choices.passes.log_likelihoods(base.model))
        losses.append(mean_nll(base, texts))

    assert answers[1] == pytest.approx(answers[0], rel=1e-3)
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
