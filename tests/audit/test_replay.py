"""When a delta that was made again is the recorded one; `tests/workflow` makes one again."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline

from kedro_dvc import records
from kedro_dvc.evidence import record_path
from kedro_dvc.records import RunRecords, machine
from seuf.audit import FAIL, PASS
from seuf.audit.replay import TOLERANCE, compare_deltas, relative_differences, same_arithmetic
from seuf.moe.deltas import Delta
from tests.audit.folders import EXPERT, unlearned
from tests.tiny import loaded

NODE = Node(lambda: 1, None, "out", name="methods.seuf_ga.unlearn")


@pytest.fixture
def study(tmp_path: Path) -> Any:
    return SimpleNamespace(project=tmp_path, name="mine")


def ran_on(study: Any, monkeypatch: pytest.MonkeyPatch, environment: dict[str, Any]) -> None:
    """Leave the record of a run in an environment."""
    monkeypatch.setattr(records, "machine", lambda: environment)
    manager = _create_hook_manager()  # as Kedro calls it: with what a hook asks for
    manager.register(RunRecords())
    context = SimpleNamespace(project_path=study.project, env=study.name)
    given = {"pipeline": Pipeline([NODE]), "catalog": DataCatalog({"out": object()})}
    manager.hook.after_context_created(context=context)
    manager.hook.before_pipeline_run(run_params={}, **given)
    manager.hook.after_node_run(
        node=NODE, catalog=given["catalog"], inputs={}, outputs={}, is_async=False, run_id="1"
    )
    manager.hook.after_pipeline_run(run_params={}, run_result={}, **given)


def test_on_the_kind_of_processor_and_torch_of_then(study, monkeypatch):
    ran_on(study, monkeypatch, machine())

    assert same_arithmetic(study, NODE)


@pytest.mark.parametrize(
    "other",
    [{"processor": "another"}, {"packages": {**machine()["packages"], "torch": "1.0"}}],
    ids=["another processor", "another torch"],
)
def test_elsewhere_not(study, monkeypatch, other):
    ran_on(study, monkeypatch, {**machine(), **other})

    assert not same_arithmetic(study, NODE)


def test_a_record_that_is_missing_or_broken_excuses_nothing(study, monkeypatch):
    assert same_arithmetic(study, NODE)

    ran_on(study, monkeypatch, {**machine(), "processor": "another"})
    path = record_path(study.project, study.name, NODE.name)
    path.write_text(json.dumps({**json.loads(path.read_text()), "environment": "none"}))

    assert same_arithmetic(study, NODE)


KEY = EXPERT["qwen2_moe"].format(2)


@pytest.fixture
def done(tmp_path):
    """A base and its delta, in which every number is 0.5 more."""
    return unlearned("qwen2_moe", tmp_path)


@pytest.fixture
def held_against(done, tmp_path):
    """Tells what comes of a delta made again, after a function has changed the recorded one."""

    def tell(change, exact=True):
        made, recorded = tmp_path / "made", tmp_path / "recorded"
        done.delta.save(made)
        kept = Delta.load(made)
        change(kept)
        kept.save(recorded)
        return compare_deltas(made, recorded, loaded(done.base), exact)

    return tell


def by(share):
    """Return what moves all numbers of one tensor by a share of its change."""

    def move(delta):
        delta.tensors[KEY] += 0.5 * share

    return move


@pytest.mark.parametrize("exact", [False, True])
def test_the_same_bytes_pass(held_against, exact):
    check = held_against(lambda delta: None, exact)

    assert (check.result, "equal to the byte" in check.text) == (PASS, True)


def test_one_bit_fails_where_bytes_should_be_equal_and_its_tensor_is_named(held_against):
    def flip(delta):
        delta.tensors[KEY].view(torch.int32)[0, 0] ^= 1

    check = held_against(flip)

    assert (check.result, f"differs in {KEY} by" in check.text) == (FAIL, True)


def test_where_rounding_may_differ_less_than_the_tolerance_passes_and_is_told(held_against):
    check = held_against(by(TOLERANCE / 2), exact=False)

    assert check.result == PASS
    assert f"most {KEY} by 0.07 of its change" in check.text  # 0.075 / 1.075


@pytest.mark.parametrize(("share", "exact"), [(TOLERANCE * 2, False), (TOLERANCE / 2, True)])
def test_more_than_the_tolerance_fails_and_else_anything_does(held_against, share, exact):
    check = held_against(by(share), exact)

    assert (check.result, KEY in check.text) == (FAIL, True)
    assert ("0.15 is allowed" in check.text) == (not exact)


def test_a_delta_that_changes_nothing_is_far_from_one_that_does(done):
    """It parts by the whole change, 1, though the weights themselves are near each other."""
    base = loaded(done.base)
    before = {key: base.get_parameter("lm_head.weight").detach() for key in ("lm_head.weight",)}
    made, recorded = (
        Delta({"lm_head.weight": before["lm_head.weight"] + small}, "") for small in (0, 1e-4)
    )

    assert relative_differences(made, recorded, before)["lm_head.weight"] == pytest.approx(1.0)


def test_a_recorded_tensor_that_changes_nothing_is_infinitely_far():
    one = torch.ones(2)

    assert relative_differences(Delta({"a": one + 1}, ""), Delta({"a": one}, ""), {"a": one}) == {
        "a": float("inf")
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda delta: delta.tensors.pop(KEY), f"only one of them changes {KEY}"),
        (lambda delta: delta.about.update(seed=7), "its header has another 'about'"),
        (
            lambda delta: delta.tensors.update({KEY: delta.tensors[KEY].half()}),
            f"{KEY} has another shape or type",
        ),
    ],
)
def test_what_differs_beside_numbers_fails_even_then(held_against, change, message):
    check = held_against(change, exact=False)

    assert (check.result, message in check.text) == (FAIL, True)


def test_other_bytes_around_the_same_tensors_fail(done, tmp_path):
    made, recorded = tmp_path / "made", tmp_path / "recorded"
    done.delta.save(made)
    length = int.from_bytes(made.read_bytes()[:8], "little")
    padded = (length + 8).to_bytes(8, "little") + made.read_bytes()[8 : 8 + length] + b" " * 8
    recorded.write_bytes(padded + made.read_bytes()[8 + length :])

    check = compare_deltas(made, recorded, loaded(done.base), exact=False)

    assert (check.result, check.text.endswith("equal tensors, but other bytes")) == (FAIL, True)


def test_a_recorded_delta_that_is_truncated_fails(done, tmp_path):
    made, recorded = tmp_path / "made", tmp_path / "recorded"
    done.delta.save(made)
    recorded.write_bytes(made.read_bytes()[:-1])

    check = compare_deltas(made, recorded, loaded(done.base), exact=False)

    assert (check.result, f"{recorded} cannot be read" in check.text) == (FAIL, True)
