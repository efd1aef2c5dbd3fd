"""A copy of the project in which the smoke study has run, once for all tests and processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import pytest
from dvc.repo import Repo, lock_repo
from filelock import FileLock

from tests.workflow.attempts import Attempts, stages_in, two_attempts

ROOT = Path(__file__).parents[2]
KEPT = ("original", "seuf_gdiff")  # the least that is still a comparison, to save time
STUDY = "studies/smoke/dvc.yaml"
GUARD = "in_sync"
AUTHOR = ("git", "-c", "user.name=n", "-c", "user.email=n@n")
STAMP = ".in_sync/smoke"
ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if key != "KEDRO_ENV"},
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "KEDRO_DISABLE_TELEMETRY": "1",
    "DVC_NO_ANALYTICS": "1",
}


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
        return stages_in(self.done(*command))

    def stale(self) -> list[str]:
        """Return the stages that DVC would run again, beside the guard of the others."""
        with self.opened() as repo:
            return stale(repo)

    @contextmanager
    def opened(self) -> Iterator[Repo]:
        """Open DVC's repository, which reads its files once for all that it is then asked."""
        with chdir(self.root), Repo() as repo, lock_repo(repo):
            yield repo

    def replace(self, path: str, old: str, new: str) -> None:
        """Replace a text that stands in a file."""
        text = (self.root / path).read_text()
        assert old in text
        (self.root / path).write_text(text.replace(old, new))


def stale(repo: Repo) -> list[str]:
    """Return the stages that DVC would run again, beside the guard of the others."""
    return sorted({name.rpartition(":")[2] for name in repo.status([STUDY])} - {GUARD})


def planned(repo: Repo, stage: str) -> list[str]:
    """Return what a `dvc repro` of this stage would run, beside the guard."""
    done = repo.reproduce([f"{STUDY}:{stage}"], dry=True)
    return sorted({stage.addressing.rpartition(":")[2] for stage in done} - {GUARD})


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
def attempts(fresh: Project, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Attempts:
    """What it took to run the study in `fresh`: one process of the tests does, others copy."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    made, told = shared / "study", shared / "attempts.json"
    with FileLock(shared / "study.lock"):
        if told.exists():
            shutil.rmtree(fresh.root)
            shutil.copytree(made, fresh.root, symlinks=True)
        else:
            told.write_text(json.dumps(two_attempts(fresh, STUDY)))
            shutil.copytree(fresh.root, made, symlinks=True)
    return Attempts(*json.loads(told.read_text()))


@pytest.fixture
def project(fresh: Project, attempts: Attempts) -> Iterator[Project]:
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
    project.done("git", "add", "--all")  # runs record the commit that they are from
    project.done(*AUTHOR, "commit", "--quiet", "--message", "begin")
    return project
