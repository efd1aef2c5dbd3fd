"""What may be said of what a stage needs, and which GPUs are there."""

from __future__ import annotations

from typing import Any

import pytest

from kedro_dvc.files import WorkflowError
from kedro_dvc.resources import VISIBLE, Resources, _checked, visible_gpus


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"gpus": 1}, "'gpus' is not a resource; known: cpu, gpu, gpu_share, memory_gb"),
        ({"gpu": True}, "gpu is True, but must be a number from 0"),
        ({"cpu": "2"}, "cpu is '2', but must be a number from 0"),
        ({"memory_gb": -1}, "memory_gb is -1, but must be a number from 0"),
        ({"gpu": float("inf")}, "gpu is inf, but must be a number from 0"),
        ({"gpu_share": float("nan")}, "gpu_share is nan, but must be a number from 0"),
        ({"gpu": 1.5}, "gpu is 1.5, but above 1 must be a whole number"),
        ({"gpu_share": 2}, "gpu_share is 2, but must be at most 1"),
        ([1], r"\[1\] is not a mapping"),
    ],
)
def test_what_no_stage_can_need_is_refused_with_its_place(said: Any, message: str):
    with pytest.raises(WorkflowError, match=f"parameters of x: {message}"):
        _checked(said, "parameters of x")


def test_a_stage_of_which_nothing_is_said_takes_a_gpu_where_there_is_one():
    assert Resources().gpus(machine_has_some=True) == 1
    assert Resources().gpus(machine_has_some=False) == 0
    assert Resources(gpu=2).gpus(machine_has_some=False) == 2  # so that it is refused


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [("", []), ("-1", []), ("NoDevFiles", []), ("3, GPU-5f", ["3", "GPU-5f"])],
)
def test_the_gpus_are_those_that_the_environment_names(visible, gpus, monkeypatch):
    monkeypatch.setenv(VISIBLE, visible)

    assert visible_gpus() == gpus
