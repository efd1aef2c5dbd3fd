"""A copy of the project in which the smoke study has run, made once for all tests and processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner, Result
from dvc.cli import main as dvc
from dvc.repo import Repo, lock_repo
from filelock import FileLock

from kedro_dvc.project import take_part
from seuf.cli import cli
from seuf.pipelines.study import _configuration

ROOT = Path(__file__).parents[2]
KEPT = ("original", "seuf_gdiff")  # the least that is still a comparison, to save time
STUDY = "studies/smoke/dvc.yaml"
LOCK = "studies/smoke/dvc.lock"
METRICS = "studies/smoke/data/08_reporting/metrics.json"
TABLES = [f"studies/smoke/data/08_reporting/{name}" for name in ("comparison.csv", "comparison.md")]
UNCACHED = [f"studies/smoke/data/08_reporting/{name}" for name in ("headline.json", "paths.csv")]
IN_GIT = [METRICS, *TABLES, *UNCACHED]
RUN = ("kedro", "dvc", "run", "--env", "smoke")
GUARD = "in_sync"
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

    def invoke(self, *command: str) -> Result:
        """Run a command of this package in this process: it has imported torch and DVC already.

        The code is that of the tests, whatever a test has changed in this copy of it.
        """
        _configuration.cache_clear()  # of another process
        with chdir(self.root), pytest.MonkeyPatch.context() as patch:
            patch.setenv("KEDRO_ENV", "base")
            return CliRunner().invoke(cli, command)

    def dvc(self, *command: str) -> str:
        """Return what a command of DVC that goes well prints, made in this process.

        Not what it logs, as `repro` does of the stages that it runs.
        """
        printed = StringIO()
        with chdir(self.root), redirect_stdout(printed):
            assert dvc([*command]) == 0, printed.getvalue()
        return printed.getvalue()

    def repro(self, *targets: str) -> list[str]:
        """Return the stages that `dvc repro` runs; DVC is in this process, its stages are not."""
        with self.opened() as repo, pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", ENVIRONMENT["PATH"])
            patch.delenv("KEDRO_ENV", raising=False)
            ran = repo.reproduce([*targets] or [STUDY])
        return [stage.addressing.rpartition(":")[2] for stage in ran]

    def stale(self) -> list[str]:
        """Return the stages that DVC would run again, beside the guard of the others."""
        with self.opened() as repo:
            return sorted({name.rpartition(":")[2] for name in repo.status([STUDY])} - {GUARD})

    @contextmanager
    def opened(self) -> Iterator[Repo]:
        """Open DVC's repository, which reads its files once for all that it is then asked."""
        with chdir(self.root), Repo() as repo, lock_repo(repo):
            yield repo

    def replace(self, path: str, old: str, new: str) -> None:
        """Replace a text that stands in a file."""
        text = (self.root / path).read_text()
        assert old in text, f"{old!r} is not in {path}"
        (self.root / path).write_text(text.replace(old, new))

    def commit(self) -> None:
        """Commit all that git sees."""
        self.done("git", "add", "--all")
        self.done("git", "commit", "--quiet", "--allow-empty", "--message", "x")

    def copy(self, root: Path) -> Project:
        """Return a copy of this project."""
        root.parent.mkdir(parents=True, exist_ok=True)
        self.done("cp", "-a", str(self.root), str(root))
        return Project(root)


class World(NamedTuple):
    """What all tests begin with. Nothing changes it: they take copies.

    Attributes:
        begun: The project before anything has run, with a first commit.
        project: The project after `kedro dvc run --env smoke`, with the lock, the records and the
            metrics in a second commit.
        printed: What that printed.
    """

    begun: Project
    project: Project
    printed: str


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> World:
    """The study that has run: one process of the tests runs it, the others wait."""
    base = tmp_path_factory.getbasetemp()
    shared = (base if worker_id == "master" else base.parent) / "world"
    begun, project, printed = Project(shared / "begun"), shared / "project", shared / "printed.txt"
    with FileLock(f"{shared}.lock"):
        if not printed.exists():
            _begin(begun)
            output = begun.copy(project).done(*RUN)
            Project(project).done("git", "add", "--force", *IN_GIT)
            Project(project).commit()
            printed.write_text(output)
    return World(begun, Project(project), printed.read_text())


@pytest.fixture(scope="session")
def _own(world: World, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return world.project.copy(tmp_path_factory.mktemp("own") / "project")


@pytest.fixture
def project(_own: Project) -> Iterator[Project]:
    """The project after the study has run; changes to its files are undone after the test."""
    yield _own
    _own.done("git", "restore", "--staged", "--worktree", ".")
    if not (_own.root / STAMP).exists():  # a guard that fails leaves none
        _own.dvc("checkout", "--quiet", STUDY)


def stages_in(output: str) -> list[str]:
    """Return the stages that DVC says it runs."""
    lines = output.splitlines()
    return [line.split(":")[1].strip("'") for line in lines if line.startswith("Running stage")]


def _begin(project: Project) -> None:
    """Copy the project with the smoke study alone, of two methods, and begin a history.

    The seed comes from the globals, as a study could have it.
    """
    listed = ["git", "ls-files", "-co", "--exclude-standard"]
    for name in subprocess.check_output(listed, cwd=ROOT, text=True).splitlines():
        other = name.endswith(("dvc.lock", "dvc.yaml")) and name != STUDY
        if (ROOT / name).is_file() and not other:
            (project.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, project.root / name)
    path = project.root / "conf/smoke/parameters.yml"
    lines = path.read_text().splitlines(keepends=True)
    table = lines.index("methods:\n") + 1
    rows = [line for line in lines[table:] if line.strip().startswith((*KEPT, "_replace_"))]
    path.write_text("".join(lines[:table] + rows))
    project.replace("conf/base/parameters.yml", "\nseed: 0", "\nseed: ${globals:seed}")
    project.replace("conf/base/globals.yml", "study:", "seed: 0\nstudy:")
    take_part(project.root, "smoke")
    project.done("git", "init", "--quiet")
    project.done("git", "config", "user.name", "n")
    project.done("git", "config", "user.email", "n@n")
    assert project.invoke("dvc", "sync", "--env", "smoke").exit_code == 0
    project.commit()  # runs record the commit that they are from
