"""A copy of the project in which the smoke study has run, once for all tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import NamedTuple

import pytest
from dvc.repo import Repo

ROOT = Path(__file__).parents[2]
KEPT = ("original", "seuf_gdiff")  # the least that is still a comparison, to save time
STUDY = "studies/smoke/dvc.yaml"
GUARD = "in_sync"
STAMP = ".in_sync/smoke"
ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if key != "KEDRO_ENV"},
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "KEDRO_DISABLE_TELEMETRY": "1",
    "DVC_NO_ANALYTICS": "1",
}


class Killed(NamedTuple):
    """The processes that DVC had started, and the stages; the last of them had not ended."""

    processes: list[int]
    stages: list[str]


class Project:
    """A copy of the project, and the commands a user gives in it."""

    environment = ENVIRONMENT

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            command, cwd=self.root, env=ENVIRONMENT, capture_output=True, text=True, check=False
        )

    def done(self, *command: str) -> str:
        """Return what a command prints, after it has gone well."""
        ended = self.run(*command)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def repro(self) -> list[str]:
        """Return the stages that `dvc repro` has run."""
        return self.stages_of("dvc", "repro", STUDY)

    def stages_of(self, *command: str) -> list[str]:
        """Return the stages that a command of DVC has run."""
        return _stages_in(self.done(*command))

    def stale(self) -> list[str]:
        """Return the stages that DVC would run again, beside the guard of the others."""
        with chdir(self.root), Repo() as repo:
            found = {name.rpartition(":")[2] for name in repo.status([STUDY])}
        return sorted(found - {GUARD})

    def planned(self, *stages: str) -> list[str]:
        """Return what a `dvc repro` of these stages would run, beside the guard."""
        with chdir(self.root), Repo() as repo:
            done = repo.reproduce([f"{STUDY}:{stage}" for stage in stages], dry=True)
            return sorted({stage.addressing.rpartition(":")[2] for stage in done} - {GUARD})

    def replace(self, path: str, old: str, new: str) -> None:
        """Replace a text that stands in a file."""
        text = (self.root / path).read_text()
        assert old in text
        (self.root / path).write_text(text.replace(old, new))

    def kill_during(self, stage: str, sign: str) -> Killed:
        """Kill `dvc repro` when a stage prints a sign."""
        log = self.root / "killed.log"
        with log.open("w") as out:
            command = ["dvc", "repro", STUDY]
            dvc = subprocess.Popen(command, cwd=self.root, env=ENVIRONMENT, stdout=out, stderr=out)
            while sign not in log.read_text().partition(f"{stage}':")[2]:
                assert dvc.poll() is None, log.read_text()
                time.sleep(0.05)
            started = _descendants(dvc.pid)
            dvc.send_signal(signal.SIGKILL)
            dvc.wait()
        return Killed(started, _stages_in(log.read_text()))


def copy_of(project: Project, root: Path) -> Project:
    """Return a copy of a project in which nothing has run."""
    files = project.done("git", "ls-files", "-co", "--exclude-standard").splitlines()
    for name in files:
        if (project.root / name).is_file() and not name.endswith("dvc.lock"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(project.root / name, root / name)
    other = Project(root)
    other.done("git", "init", "--quiet")
    return other


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project in which nothing has run."""
    root = tmp_path_factory.mktemp("project")
    listed = subprocess.check_output(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True
    )
    for name in listed.splitlines():
        other = name.endswith(("dvc.lock", "dvc.yaml")) and name != STUDY  # to save time
        if (ROOT / name).is_file() and not other:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    return _with_two_methods(Project(root))


@pytest.fixture(scope="session")
def interrupted(fresh: Project) -> Killed:
    """What was under way when DVC was killed amid the unlearning of a method."""
    return fresh.kill_during("unlearn@seuf_gdiff", "Loading data from questions")


@pytest.fixture(scope="session")
def resumed(fresh: Project, interrupted: Killed) -> list[str]:
    """The stages that ran in the second attempt."""
    return fresh.repro()


@pytest.fixture
def project(fresh: Project, resumed: list[str]) -> Iterator[Project]:
    """The project after the study has run; changes to its files are undone after the test."""
    fresh.done("git", "add", "--all")
    yield fresh
    fresh.done("git", "restore", ".")
    if not (fresh.root / STAMP).exists():  # a guard that fails leaves none
        fresh.done("dvc", "checkout", "--quiet", STUDY)


def _with_two_methods(project: Project) -> Project:
    """Leave two methods, take the seed from the globals, and begin a history."""
    path = project.root / "conf/smoke/parameters.yml"
    lines = path.read_text().splitlines(keepends=True)
    table = lines.index("methods:\n") + 1
    rows = [line for line in lines[table:] if line.strip().startswith((*KEPT, "_replace_"))]
    path.write_text("".join(lines[:table] + rows))
    project.replace("conf/base/parameters.yml", "\nseed: 0", "\nseed: ${globals:seed}")
    project.replace("conf/base/globals.yml", "study:", "seed: 0\nstudy:")
    project.done("git", "init", "--quiet")
    project.done("kedro", "dvc", "sync", "--env", "smoke")
    return project


def _stages_in(output: str) -> list[str]:
    lines = output.splitlines()
    return [line.split(":")[1].strip("'") for line in lines if line.startswith("Running stage")]


def _descendants(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    below = [pid for child in listed for pid in _descendants(int(child))]
    return [int(child) for child in listed] + below
