"""What a stage depends on, and whether it was edited since this process began or since a commit.

DVC reads a stage's code only after the stage has run. If a file were edited meanwhile, dvc.lock
would name code that never ran. So all code and configuration is read when the process begins, and
compared later.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from kedro_dvc.evidence import COMMIT
from kedro_dvc.files import WorkflowError, git, load_yaml
from kedro_dvc.project import dvc_file
from kedro_dvc.stages import expanded, node_of

DECIDING = ("conf", "src", "pyproject.toml", "requirements.lock", "dvc.yaml", "studies/*/dvc.yaml")
SOURCES = ("src/**/*.py", "conf/**/*.yml", "conf/**/*.yaml")
OURS = ("src/", "conf/")  # dependencies of a stage that are no data

Files = Mapping[str, bytes]  # by path from the project's root
log = logging.getLogger(__name__)

_at_start: dict[Path, Files] = {}  # by project
_warned: set[Path] = set()  # projects outside git


class Watched(NamedTuple):
    """What a stage depends on, as its dvc.yaml says.

    Attributes:
        paths: Code: files, and folders with all that is in them.
        parameters: Configuration files with the keys that count; None stands for the whole file.
        data: Input files and folders.
    """

    paths: list[str]
    parameters: dict[str, list[str] | None]
    data: list[str]

    def edited(self, before: Files, now: Files) -> list[str]:
        """Return the files that differ; configuration files only if a watched value does."""
        return sorted(
            name
            for name in before.keys() | now.keys()
            if before.get(name) != now.get(name)
            and (self._is_code(name) or self._has_other_values(name, before, now))
        )

    def edited_since(self, commit: str | None, project: Path) -> bool:
        """Return whether anything differs from a commit; True if git cannot tell."""
        if not COMMIT.fullmatch(commit or ""):  # git could take it for an option
            return True
        files = ["--", *self.paths, *self.parameters]
        changed = _git(project, "diff", "--name-only", "--relative", "-z", f"{commit}", *files)
        added = _git(project, "ls-files", "--others", "-z", *files)
        if changed is None or added is None:
            return True
        names = [name for name in (changed + added).split("\0") if name]
        if any(map(self._is_code, names)):
            return True
        texts = {name: _git(project, "show", f"{commit}:./{name}") or "" for name in names}
        then = {name: os.fsencode(text) for name, text in texts.items()}
        now = {name: text for name, text in sources(project).items() if name in then}
        return bool(self.edited(then, now))

    def _is_code(self, name: str) -> bool:
        return any(name == path or name.startswith(f"{path}/") for path in self.paths)

    def _has_other_values(self, name: str, before: Files, now: Files) -> bool:
        if name not in self.parameters:
            return False
        try:
            values = [yaml.load(one.get(name, b""), yaml.CSafeLoader) for one in (before, now)]
        except yaml.YAMLError:  # read in the middle of an edit
            return True
        keys = self.parameters[name]
        if keys is None:
            return values[0] != values[1]
        return any(_at(values[0], key) != _at(values[1], key) for key in keys)


def _at(content: Any, key: str) -> Any:
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def watched_by(project: Path, study: str, node: str) -> Watched | None:
    """Return what a node's stage depends on; None if dvc.yaml has no such stage."""
    file = project / dvc_file(study)
    return _watched(file, file.stat().st_mtime_ns).get(node) if file.is_file() else None


@lru_cache(maxsize=4)
def _watched(file: Path, changed: int) -> dict[str, Watched]:
    """Return what the stages of a dvc.yaml depend on, by node."""
    return {
        node_of(stage, name): Watched(
            [path for path in stage.get("deps", []) if path.startswith(OURS)],
            {path: keys for entry in stage.get("params", []) for path, keys in entry.items()},
            [path for path in stage.get("deps", []) if not path.startswith(OURS)],
        )
        for name, stage in expanded(load_yaml(file)["stages"])
    }


def sources(project: Path) -> Files:
    """Return all code and configuration of a project."""
    files = (file for pattern in SOURCES for file in project.glob(pattern))
    return {str(file.relative_to(project)): file.read_bytes() for file in files if file.is_file()}


def keep_sources(project: Path) -> None:
    """Keep all code and configuration as it is now, when the process begins."""
    _at_start[project.resolve()] = sources(project)


def edited_since_start(project: Path, study: str, node: str) -> list[str]:
    """Return the files that a stage depends on and that were edited since this process began.

    Args:
        project: The project's root.
        study: The study of the stage.
        node: The node that the stage runs, or the name of a stage that runs none.
    """
    watched = watched_by(project, study, node)
    now = sources(project)
    return watched.edited(_at_start.setdefault(project.resolve(), now), now) if watched else []


def commit_of(project: Path) -> tuple[str | None, bool]:
    """Return the commit, and whether all that decides a result is committed."""
    head = _git(project, "rev-parse", "HEAD")
    # a user's git may be configured to ignore untracked files
    changed = _git(project, "status", "--porcelain", "--untracked-files=all", "--", *DECIDING)
    return (head or "").strip() or None, changed == ""


def check_repository(project: Path) -> None:
    """Raise if git cannot read the project's repository, as records could name no commit.

    A project without a repository may run; a warning says once that no audit can pass.

    Raises:
        WorkflowError: With git's reason, such as that another user owns the repository.
    """
    try:
        git(project, "rev-parse", "--git-dir")
    except WorkflowError as error:
        if any((one / ".git").exists() for one in (project, *project.resolve().parents)):
            raise WorkflowError(f"no commit can be recorded: {error}") from None
        if project not in _warned:
            _warned.add(project)
            log.warning("Records name no commit, and no audit can pass: %s", error)


def _git(project: Path, *command: str) -> str | None:
    try:
        return git(project, *command)
    except WorkflowError:
        return None
