"""Processes that share tasks: what they see, the order of what they return, how they fail."""

import os
import signal

import pytest
import torch

from seuf.inputs import InputError
from seuf.unlearning.workers import VISIBLE, shared, visible_gpus, workers


def begin(sent):
    """Return what does what a task says, in a worker."""

    def compute(task):
        if task == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if task == "input":
            raise InputError("Something is missing.")
        if task == "bug":
            raise KeyError("what")
        return task, os.environ.get(VISIBLE), sent, torch.are_deterministic_algorithms_enabled()

    return compute


@pytest.mark.slow  # each of three processes imports torch
def test_worker_i_sees_gpu_i_mod_n_and_results_are_in_the_order_of_the_tasks():
    """The first tasks go to the workers in turn: 0, 1, 2; two GPUs serve three workers."""
    before = os.environ.get(VISIBLE)
    torch.use_deterministic_algorithms(True)
    try:
        with workers(begin, b"study", 3, ["4", "GPU-7"]) as among:
            first = shared(among, [0, 1, 2], "tasks")
            more = shared(among, list(range(10)), "tasks")
    finally:
        torch.use_deterministic_algorithms(False)

    assert [seen for _, seen, *_ in first] == ["4", "GPU-7", "4"]
    assert [task for task, *_ in more] == list(range(10))
    assert {(sent, exact) for *_, sent, exact in more} == {(b"study", True)}
    assert os.environ.get(VISIBLE) == before
    assert not any(worker.process.is_alive() for worker in among)


def test_a_task_that_fails_is_named():
    """What is wrong with one task ends no worker, but for the last."""
    failures = {
        "memory": (InputError, r"memory ran out \(CUDA out of memory.*SEUF_WORKERS"),
        "input": (InputError, "Something is missing.$"),
        "bug": (RuntimeError, "Traceback"),
        "die": (InputError, r"its process died \(exit code -9\); if memory ran out, .*"),
    }
    with workers(begin, b"", 1) as among:
        for task, (error, text) in failures.items():
            with pytest.raises(error, match=f"^task {task}: {text}") as raised:
                shared(among, ["first", task, "last"], "tasks", lambda task: f"task {task}")
            assert ("\n" in str(raised.value)) == (task == "bug")


def test_the_gpus_are_those_that_this_process_sees(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    monkeypatch.delenv(VISIBLE, raising=False)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv(VISIBLE, "3, GPU-5")
    assert visible_gpus() == ["3", "GPU-5"]
