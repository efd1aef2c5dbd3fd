"""Stages several at once: the same files and lock, whatever ends first or fails."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.exceptions import ReproductionError

from kedro_dvc.executors.jobs import Job, LostError, run_job
from kedro_dvc.executors.local import LocalProcesses
from kedro_dvc.files import WorkflowError
from kedro_dvc.resources import VISIBLE, Resources
from kedro_dvc.run import Outcome, reproduce
from tests.kedro_dvc.test_run import TWO_STEPS, Notes
from tests.waiting import LONG, is_running, sleeping, until

# each sleeps .4 s times its last letter: the later it stands, the sooner it ends
RACE = """\
stages:
  train:
    matrix: {way: [c2, b1, a0]}
    cmd: sleep 0.$((4 * $(echo ${item.way} | tail -c 2))) && echo ${item.way} > ${item.way}
    deps: [given]
    outs: ["${item.way}"]
  compare: {cmd: cat c2 b1 a0 > all, deps: [a0, b1, c2], outs: [all]}
"""

DRIVER = """\
from pathlib import Path
from kedro_dvc.executors.local import LocalProcesses
from kedro_dvc.run import Outcome, reproduce
from tests.kedro_dvc.test_run import Notes
reproduce(Path.cwd(), ["dvc.yaml"], Notes(), executor=LocalProcesses(Path.cwd(), 2))
"""


class FailureNoted(Notes):
    """A watcher that writes the file `failure` when a stage has failed."""

    def ended(self, outcome: Outcome) -> None:
        super().ended(outcome)
        if outcome.what == "failed":
            Path("failure").touch()


class Patient(Notes):
    """A watcher that lets a run wait."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: list[str] = []

    def waits(self, why: str) -> None:
        self.reasons.append(why)


def _run(project: Path, jobs: int = 2, notes: Notes | None = None, **options: Any) -> Notes:
    notes = notes or Notes()
    reproduce(project, ["dvc.yaml"], notes, executor=LocalProcesses(project, jobs), **options)
    return notes


def _stages(project: Path, **stages: str) -> None:
    """Write a dvc.yaml of stages that read nothing of each other."""
    made = {name: {"cmd": cmd, "deps": ["given"], "outs": [name]} for name, cmd in stages.items()}
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": made}, sort_keys=False))


@pytest.mark.parametrize("stages", [pytest.param(TWO_STEPS, marks=pytest.mark.slow), RACE])
def test_the_lock_and_the_files_are_those_of_one_after_the_other(project, stages):
    (project / "dvc.yaml").write_text(stages)
    reproduce(project, ["dvc.yaml"], Notes())
    one_by_one = _bytes(project)
    for path in one_by_one:
        if path not in ("dvc.yaml", "given", ".dvcignore"):
            (project / path).unlink()
    shutil.rmtree(project / ".dvc/cache")

    notes = _run(project, jobs=3)

    assert {one.what for one in notes.outcomes} == {"ran"}
    assert all(one.memory > 0 for one in notes.outcomes)
    assert _bytes(project) == one_by_one
    assert (project / ".dvc/tmp/rwlock").read_text() == "{}"


def test_what_has_run_is_unchanged_and_what_was_before_is_restored(project):
    (project / "dvc.yaml").write_text(RACE)
    _run(project)
    assert {one.what for one in _run(project).outcomes} == {"unchanged"}

    (project / "dvc.lock").unlink()

    assert {one.what for one in _run(project).outcomes} == {"restored"}


@pytest.mark.parametrize("alone", [False, True])
def test_stages_are_at_work_at_once(project, alone):
    """Each waits for the file that the other makes first; also those that are asked for alone."""
    wait = "touch begun_{0}; until [ -e begun_{1} ]; do sleep 0.05; done; echo > {0}"
    _stages(project, a=wait.format("a", "b"), b=wait.format("b", "a"))

    outcomes = _run(project, single_item=alone).outcomes

    assert {one.what for one in outcomes} == {"ran"}


def test_after_a_failure_no_stage_begins_but_those_at_work_are_recorded(project):
    good = "until [ -e failure ]; do sleep 0.05; done; echo > good"
    _stages(project, bad="exit 3", good=good, later="echo > later")
    notes = FailureNoted()

    with pytest.raises(ReproductionError, match="bad") as raised:
        _run(project, notes=notes)

    told = "failed to run: exit 3, exited with 3"
    assert str(raised.value.__cause__) == told
    assert {one.stage: one.what for one in notes.outcomes} == {"bad": "failed", "good": "ran"}


def test_a_failure_before_the_command_begins_ends_the_run_too(project):
    """As of a file that is missing, or that another run holds; it once waited for ever."""
    _stages(project, bad="echo > bad", later="echo > later")
    (project / "given").unlink()
    notes = Notes()

    with pytest.raises(ReproductionError, match="bad") as raised:
        _run(project, jobs=1, notes=notes)

    assert "given" in str(raised.value.__cause__)
    assert {one.stage: one.what for one in notes.outcomes} == {"bad": "failed"}


def test_keep_going_leaves_out_what_needs_the_stage_alone(project):
    (project / "dvc.yaml").write_text(RACE.replace("sleep", "test ${item.way} != b1 && sleep"))
    notes = Notes()

    with pytest.raises(ReproductionError, match="train@b1"):
        _run(project, notes=notes, on_error="keep-going")

    whats = {one.stage: one.what for one in notes.outcomes}
    assert whats == {"train@c2": "ran", "train@b1": "failed", "train@a0": "ran"}


def test_a_frozen_stage_does_not_wait_for_what_is_left_out(project):
    """It reads the output of `middle`, which needs what has failed, and runs without."""
    stages: dict[str, Any] = {
        "bad": {"cmd": "exit 1", "outs": ["bad"]},
        "middle": {"cmd": "cp bad middle", "deps": ["bad"], "outs": ["middle"]},
        "last": {"cmd": "cp middle last", "deps": ["middle"], "outs": ["last"], "frozen": True},
    }
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    for name in ("middle", "last"):
        (project / name).write_text(name)
    notes = Notes()

    with pytest.raises(ReproductionError, match="bad"):
        _run(project, notes=notes, on_error="keep-going")

    assert {one.stage: one.what for one in notes.outcomes}["bad"] == "failed"
    assert "middle" not in notes.begun
    assert "last" in notes.begun


def test_a_process_that_dies_fails_its_stage_by_name_and_the_run_goes_on(project):
    _stages(project, bad="kill -9 $PPID", good="sleep 0.5; echo > good")
    notes = Notes()

    with pytest.raises(ReproductionError):
        _run(project, notes=notes, on_error="keep-going")

    assert {one.stage: one.what for one in notes.outcomes} == {"bad": "failed", "good": "ran"}


def test_what_a_failed_stage_wrote_last_is_told(project):
    _stages(project, bad="echo the reason; exit 1")
    notes = Notes()

    with pytest.raises(ReproductionError):
        _run(project, notes=notes)

    assert "the reason" in notes.outcomes[0].output


def test_what_a_stage_wrote_is_told_also_if_it_succeeds_or_dies(project):
    _stages(project, dies="echo its last words; kill -9 $PPID", good="echo a note; echo > good")
    notes = Notes()

    with pytest.raises(ReproductionError):
        _run(project, notes=notes, on_error="keep-going")

    written = {one.stage: (one.output or "").splitlines()[-1] for one in notes.outcomes}
    assert written == {"dies": "its last words", "good": "a note"}


def test_warnings_of_a_job_are_told_each_once(tmp_path):
    def command(text: str) -> bool:
        for _ in range(2):
            logging.getLogger("node").warning("mind %s", text)
            logging.getLogger("node").info("by the way")
        warnings.warn("of Python", stacklevel=1)
        return True

    ended = run_job(tmp_path, Job("a", ["this"], ".", Resources()), command)

    first, second = ended.warnings
    assert first == "mind this"
    assert re.search(r"UserWarning:\s+of Python", second)  # on two lines once transformers is here


def test_ctrl_c_ends_the_stages_and_leaves_dvc_in_order(project):
    """What it stops would take an hour: nobody waits for that."""
    wait = "until grep -q ' a:' dvc.lock; do sleep 0.05; done; touch begun"
    _stages(project, a="echo > a", b=f"{wait}; sleep {LONG}; echo > b", c=f"sleep {LONG}; echo > c")

    def press() -> None:
        until((project / "begun").exists)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    notes = Notes()
    with pytest.raises(KeyboardInterrupt):
        _run(project, notes=notes)

    assert {one.what for one in notes.outcomes} == {"ran", "stopped"}
    assert (project / ".dvc/tmp/rwlock").read_text() == "{}"
    assert list(yaml.safe_load((project / "dvc.lock").read_text())["stages"]) == ["a"]


def test_while_a_stage_waits_for_another_command_others_go_on(project):
    """Another process seems to write what `a` writes, until it ends; `b` is what ends it."""
    with sleeping() as other:
        _stages(project, a="echo > a", b=f"echo > b; kill {other.pid}")
        threading.Thread(target=other.wait, daemon=True).start()  # no zombie is left of it
        lock = {"write": {str(project / "a"): {"pid": other.pid, "cmd": "dvc"}}, "read": {}}
        (project / ".dvc/tmp/rwlock").write_text(json.dumps(lock))
        notes = Patient()

        _run(project, notes=notes, wait=True)

    assert [one.stage for one in notes.outcomes] == ["b", "a"]
    assert "is busy" in notes.reasons[0]


@pytest.mark.slow
def test_a_killed_run_leaves_no_stage_behind_and_the_next_takes_over(project):
    hold = "echo $$ > pid; touch begun; sleep $(cat seconds); echo > b"
    _stages(project, a="echo x >> tried; echo > a", b=hold)
    (project / "seconds").write_text(str(LONG))
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    lock = project / "dvc.lock"

    def are_at_work() -> bool:
        assert driver.poll() is None
        return (project / "begun").exists() and lock.exists() and "  a:" in lock.read_text()

    try:
        until(are_at_work)
    finally:
        driver.kill()
        driver.wait()

    pid = int((project / "pid").read_text())
    until(lambda: not is_running(pid))
    (project / "seconds").write_text("0")
    notes = _run(project)
    assert {one.stage: one.what for one in notes.outcomes} == {"a": "unchanged", "b": "ran"}
    assert (project / "tried").read_text().count("x") == 1


def test_each_stage_sees_the_gpu_that_it_is_given(project, monkeypatch):
    """Nothing is said of them: each gets a whole one, as it may use it."""
    monkeypatch.setenv(VISIBLE, "5,7")
    (project / "dvc.yaml").write_text(
        RACE.replace("echo ${item.way} >", 'sleep .5 && echo "$CUDA_VISIBLE_DEVICES" >')
    )

    _run(project, jobs=4)

    seen = {(project / name).read_text().strip() for name in ("a0", "b1", "c2")}
    assert seen == {"5", "7"}


def _job(name: str, **needs: Any) -> Job:
    return Job(name, ["true"], ".", Resources(**needs))


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalProcesses:
    """The processes of a machine that has two GPUs and 64 GB, eight at once."""
    monkeypatch.setenv(VISIBLE, "0,1")
    monkeypatch.setattr("kedro_dvc.executors.local.memory_gb", lambda: 64.0)
    return LocalProcesses(tmp_path, 8)


def _admitted(executor: LocalProcesses, *jobs: Job) -> list[str]:
    return [job.stage for job in executor.admit(jobs)]


def test_four_quarters_share_a_gpu(two_gpus):
    """Two GPUs hold eight; a ninth would have no process either."""
    quarters = [_job(f"quarter {number}", gpu=0.25) for number in range(8)]

    assert len(_admitted(two_gpus, *quarters)) == 8
    two_gpus.release(quarters[0])
    assert _admitted(two_gpus, _job("half", gpu=0.5), _job("none", gpu=0)) == ["none"]


def test_what_an_earlier_stage_waits_for_no_later_one_gets(two_gpus):
    """The pair waits for a GPU, so the last one must not take what is left; without GPU it may."""
    assert _admitted(two_gpus, _job("first", gpu=1)) == ["first"]

    waiting = (_job("pair", gpu=2), _job("last", gpu=1), _job("light", gpu=0))
    assert _admitted(two_gpus, *waiting) == ["light"]


def test_memory_is_shared_out(two_gpus):
    big = [_job(f"big {number}", gpu=0, memory_gb=40) for number in range(2)]

    assert _admitted(two_gpus, *big, _job("other", gpu=0)) == ["big 0", "other"]


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ({"gpu": 3}, "x asks for gpu: 3; this machine has 2."),
        ({"memory_gb": 65}, "x asks for memory_gb: 65; this machine has 64."),
    ],
)
def test_resources_that_nobody_has_are_refused_at_the_start(two_gpus, needs, message):
    with pytest.raises(WorkflowError, match=message):
        two_gpus.check([_job("x", **needs)])


def test_a_stopped_executor_takes_no_more(two_gpus):
    job = _job("x", gpu=0)
    two_gpus.admit([job])
    two_gpus.stop()

    with pytest.raises(LostError, match="x was stopped"):
        two_gpus.submit(job)


def _bytes(project: Path) -> dict[str, bytes]:
    files = (path for path in project.rglob("*") if ".dvc" not in path.parts and path.is_file())
    return {str(path.relative_to(project)): path.read_bytes() for path in files}
