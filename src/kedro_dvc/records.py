"""What ran: the record that each stage's run leaves, and the check that its code stayed as it was.

DVC records what a stage read and wrote, but not when it ran, how long, where and from which commit.
A run of one node, which is what a stage is, leaves `evidence/<study>/runs/<node>.json`, made to be
committed beside dvc.lock. It names the outputs by SHA-256, so that it belongs to these bytes and to
no others, and tells how long it took and the most memory that it held. Package versions and
hardware are in `evidence/environments`, one file for all runs that share them, named after its own
digest.

A record stays as it is when the stage runs again and nothing is new: the same outputs, from code
and parameters that are those of the recorded commit. An output that no second run makes to the
byte, as it holds seconds, says so in the catalog (`metadata: {dvc: {reproducible: false}}`), and
records leave it out.

DVC reads a stage's code only after the stage has run. If a file was edited meanwhile, dvc.lock
would name code that never ran. So all code and configuration is read when the process begins, and
again after the node has run and after its outputs are saved: if a file that the stage watches has
changed, the stage fails. Its input files are not read for this: the stage fails if one was written
to while it ran, by size, time and inode, which is how DVC tells. What remains is the moment between
the last look and DVC's.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from datetime import UTC, datetime
from functools import cache, lru_cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil
import yaml
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Node, Pipeline
from kedro.utils import find_kedro_project

from kedro_dvc.configuration import BASE
from kedro_dvc.evidence import (
    COMMIT,
    Record,
    digest_of,
    environment_path,
    read_record,
    record_path,
    text_of,
)
from kedro_dvc.files import WorkflowError, git, load_yaml, path_of, stamp, write_text
from kedro_dvc.hashing import sha256s
from kedro_dvc.project import dvc_file
from kedro_dvc.stages import expanded, node_of

DECIDING = ("conf", "src", "pyproject.toml", "requirements.lock", "dvc.yaml", "studies/*/dvc.yaml")
SOURCES = ("src/**/*.py", "conf/**/*.yml", "conf/**/*.yaml")
OURS = ("src/", "conf/")  # of what a stage depends on, that which is no data
INTERVAL = 0.05  # seconds between two measurements of memory

Files = Mapping[str, bytes]  # by path from the project's root
Inputs = Mapping[str, Any]
log = logging.getLogger(__name__)


class RunRecords:
    """Writes the record of a stage that has run, unless its code was edited meanwhile.

    Args:
        facts: Returns what the project wants to be recorded beside it, by name, after a node has
            run with these inputs.
    """

    def __init__(self, facts: Callable[[Inputs], Record] = lambda inputs: {}) -> None:
        self._facts = facts
        if project := find_kedro_project(Path.cwd()):
            _at_start[project.resolve()] = sources(project)  # no node is imported yet

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Remember the study."""
        self._project, self._study = Path(context.project_path), context.env or BASE

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline) -> None:
        """Note the time, the commit and the inputs; a run of several nodes is no stage's.

        Raises:
            WorkflowError: If there is a repository that git cannot read.
        """
        self._start, self._started = time.perf_counter(), datetime.now(UTC)
        self._node = pipeline.nodes[0] if len(pipeline.nodes) == 1 else None
        self._memory = MemoryPeak()
        if self._node is None:
            return
        check_repository(self._project)
        self._commit, self._clean = commit_of(self._project)
        watched = watched_by(self._project, self._study, self._node.name)
        self._inputs = {name: self._stamp(name) for name in (watched.data if watched else ())}
        self._memory.start()

    @hook_impl
    def after_node_run(self, inputs: dict[str, Any]) -> None:
        """Fail before outputs are saved if code or inputs changed; note the project's own facts."""
        if self._node is not None:
            self._check(self._node)
            self._own = self._facts(inputs)

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Measure no longer."""
        if self._node is not None:
            self._memory.stop()

    @hook_impl
    def after_pipeline_run(self, catalog: CatalogProtocol) -> None:
        """Write the record, unless there is one that says the same."""
        if self._node is None:
            return
        self._memory.stop()
        self._check(self._node)
        seconds = round(time.perf_counter() - self._start, 2)
        datasets = [catalog.get(name) for name in self._node.outputs]
        paths = [path for one in datasets if (path := path_of(one)) and _is_reproducible(one)]
        outputs = {os.path.relpath(p, self._project): s for p, s in sha256s(paths).items()}
        if is_recorded(self._project, self._study, self._node.name, outputs):
            return
        record = {
            "node": self._node.name,
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": seconds,
            "memory": {"resident": self._memory.resident, "on_device": self._memory.on_device},
            "commit": self._commit,
            "clean": self._clean,
            "environment": _environment(self._project),
            "outputs": outputs,
            **self._own,
        }
        write_text(record_path(self._project, self._study, self._node.name), text_of(record))

    def _check(self, node: Node) -> None:
        """Raise if what the stage watches is not as it was when it began."""
        files = edited_since_start(self._project, self._study, node.name)
        files += [name for name, before in self._inputs.items() if self._stamp(name) != before]
        if files:
            raise WorkflowError(
                f"{', '.join(files)}: edited since {node.name} began, which ran with what was "
                "there before. Nothing is recorded: run the stage again."
            )

    def _stamp(self, name: str) -> Hashable:
        return stamp(self._project / name)


class MemoryPeak:
    """While entered, measures the memory of this process and of those it has started.

    Attributes:
        resident: The most that was resident at a measurement, in bytes.
        on_device: The most that torch has allocated on the current CUDA device, in bytes, in this
            process; None without.
    """

    def __init__(self) -> None:
        self.resident = 0
        self.on_device: int | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to measure."""
        if (cuda := _cuda()) is not None:
            cuda.reset_peak_memory_stats()
        self._thread.start()

    def stop(self) -> None:
        """End, if it has begun."""
        if self._thread.ident is None:
            return
        self._over.set()
        self._thread.join()
        if (cuda := _cuda()) is not None:
            self.on_device = cuda.max_memory_allocated()

    def _measure(self) -> None:
        process, known = psutil.Process(), set[int]()
        while True:
            children = process.children(recursive=True)
            total = 0
            # one that has just been forked would count this process's memory as its own
            for one in (process, *(child for child in children if child.pid in known)):
                try:
                    total += one.memory_info().rss
                except psutil.NoSuchProcess:  # it has ended since
                    continue
            known = {child.pid for child in children}
            self.resident = max(self.resident, total)
            if self._over.wait(INTERVAL):
                return


def _cuda() -> Any:
    """Return torch.cuda if some stage has begun to use it, else None."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def is_recorded(project: Path, study: str, node: str, outputs: dict[str, str]) -> bool:
    """Return whether a record has these outputs, from what the stage watches now."""
    try:
        record = read_record(project, study, node)
    except (ValueError, KeyError, TypeError):
        return False
    watched = watched_by(project, study, node)
    if record is None or watched is None or not record["clean"]:
        return False
    same = (record["node"], record["outputs"]) == (node, outputs)
    return same and not watched.edited_since(record["commit"], project)


def take_record(project: Path, name: str, text: str, commit: tuple[str | None, bool]) -> None:
    """Write what a run on another machine has recorded, where no repository tells the commit.

    Args:
        project: The project's root.
        name: The file's path from there: a record, or an environment.
        text: What it says there.
        commit: The one whose code has run, and whether it was all of it.
    """
    path = project / name
    if path.parent.name != "runs":
        if not path.is_file():
            write_text(path, text)
        return
    record = json.loads(text)
    if not is_recorded(project, path.parent.parent.name, record["node"], record["outputs"]):
        write_text(path, text_of({**record, "commit": commit[0], "clean": commit[1]}))


def _environment(project: Path) -> str:
    """Write this process's environment if it is new; return its name."""
    text = text_of(machine())
    path = environment_path(project, name := digest_of(text))
    if not path.is_file():
        write_text(path, text)
    return name


@cache
def machine() -> dict[str, Any]:
    """Return what does not change while a process lives: Python, processor, package versions."""
    packages = {one.metadata["Name"]: one.version for one in distributions()}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "packages": dict(sorted(packages.items(), key=lambda pair: pair[0].lower())),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def _is_reproducible(dataset: object) -> bool:
    metadata = getattr(dataset, "metadata", None) or {}
    return bool((metadata.get("dvc") or {}).get("reproducible", True))


class Watched(NamedTuple):
    """What a stage watches.

    Attributes:
        paths: Code, and folders with all that is in them.
        parameters: Keys of the files of configuration; None stands for the whole file.
        data: Files and folders that it reads.
    """

    paths: list[str]
    parameters: dict[str, list[str] | None]
    data: list[str]

    def edited(self, before: Files, now: Files) -> list[str]:
        """Return the files that differ; those of configuration only if a watched value does."""
        return sorted(
            name
            for name in before.keys() | now.keys()
            if before.get(name) != now.get(name)
            and (self._is_code(name) or self._other_values(name, before, now))
        )

    def edited_since(self, commit: str | None, project: Path) -> bool:
        """Return whether something watched is not as in a commit; True if nobody can know."""
        if not COMMIT.fullmatch(commit or ""):  # git would take some words for options
            return True
        files = ["--", *self.paths, *self.parameters]
        changed = _git(project, "diff", "--name-only", "--relative", "-z", f"{commit}", *files)
        added = _git(project, "ls-files", "--others", "-z", *files)
        if changed is None or added is None:
            return True
        names = [name for name in (changed + added).split("\0") if name]
        then = {name: _git(project, "show", f"{commit}:./{name}") or "" for name in names}
        now = {name: text for name, text in sources(project).items() if name in then}
        return any(map(self._is_code, names)) or bool(
            self.edited({name: os.fsencode(text) for name, text in then.items()}, now)
        )

    def _is_code(self, name: str) -> bool:
        return any(name == path or name.startswith(f"{path}/") for path in self.paths)

    def _other_values(self, name: str, before: Files, now: Files) -> bool:
        if name not in self.parameters:
            return False
        try:
            values = [yaml.load(one.get(name, b""), yaml.CSafeLoader) for one in (before, now)]
        except yaml.YAMLError:  # amid an edit
            return True
        keys = self.parameters[name]
        if keys is None:
            return values[0] != values[1]
        return any(_at(values[0], key) != _at(values[1], key) for key in keys)


_at_start: dict[Path, Files] = {}  # by project


def edited_since_start(project: Path, study: str, node: str) -> list[str]:
    """Return the files that a stage watches and that were edited since this process began.

    Args:
        project: The project's root.
        study: The stage's.
        node: The one that the stage runs, or the name of a stage that runs none.
    """
    watched = watched_by(project, study, node)
    now = sources(project)
    return watched.edited(_at_start.setdefault(project.resolve(), now), now) if watched else []


def sources(project: Path) -> Files:
    """Return all code and configuration of a project."""
    files = (file for pattern in SOURCES for file in project.glob(pattern))
    return {str(file.relative_to(project)): file.read_bytes() for file in files if file.is_file()}


def watched_by(project: Path, study: str, node: str) -> Watched | None:
    """Return what dvc.yaml says that a stage watches; None if it has no such stage."""
    file = project / dvc_file(study)
    return _watched(file, file.stat().st_mtime_ns).get(node) if file.is_file() else None


@lru_cache(maxsize=4)
def _watched(file: Path, changed: int) -> dict[str, Watched]:
    """Return what the stages of a dvc.yaml watch, by node."""
    content = load_yaml(file)
    return {
        node_of(stage, name): Watched(
            [path for path in stage.get("deps", []) if path.startswith(OURS)],
            {path: keys for entry in stage.get("params", []) for path, keys in entry.items()},
            [path for path in stage.get("deps", []) if not path.startswith(OURS)],
        )
        for name, stage in expanded(content["stages"])
    }


def _at(content: Any, key: str) -> Any:
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def commit_of(project: Path) -> tuple[str | None, bool]:
    """Return the commit, and whether all that decides a result is as it was committed."""
    head = _git(project, "rev-parse", "HEAD")
    # a user's git may be told to pass over what is untracked
    changed = _git(project, "status", "--porcelain", "--untracked-files=all", "--", *DECIDING)
    return (head or "").strip() or None, changed == ""


def check_repository(project: Path) -> None:
    """Raise if a project is in a repository that git cannot read: records would name no commit.

    A project that is in none may run, but is told once that no audit can pass.

    Raises:
        WorkflowError: With git's own reason, such as that the repository is another user's.
    """
    try:
        git(project, "rev-parse", "--git-dir")
    except WorkflowError as error:
        if any((one / ".git").exists() for one in (project, *project.resolve().parents)):
            raise WorkflowError(f"no commit can be recorded: {error}") from None
        if project not in _told:
            _told.add(project)
            log.warning("Records name no commit, and no audit can pass: %s", error)


_told: set[Path] = set()  # projects outside git


def _git(project: Path, *command: str) -> str | None:
    try:
        return git(project, *command)
    except WorkflowError:
        return None
