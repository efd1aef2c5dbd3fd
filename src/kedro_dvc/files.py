"""Helpers for every module: the error shown as one line, files, YAML and JSON, and git.

Imports nothing slow: a command that finds nothing to do takes as long as its imports.
"""

from __future__ import annotations

import errno
import json
import math
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import click

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]
import yaml

DISK_ERRORS = "EACCES EPERM EROFS ENOSPC EDQUOT EIO".split()
PATH_ERRORS = "EEXIST EISDIR ENOTDIR ENAMETOOLONG ELOOP".split()
ONE_LINE_ERRORS = {getattr(errno, name) for name in (*DISK_ERRORS, *PATH_ERRORS)}
NO_SPACE = os.strerror(errno.ENOSPC)  # safetensors raises errors of its own with this text
STARTED_IN = "kedro_dvc.started_in"  # key in click's context: the folder of the user's shell
LOGGING, LOGGING_SWITCH = "conf/logging.yml", "KEDRO_LOGGING_CONFIG"  # where Kedro looks for it
IGNORED = "__pycache__"  # folders that DVC and this package pass over


class WorkflowError(click.ClickException):
    """An error of the user's project or command; the message says what to do."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message on one line."""
        click.echo(f"error: {self.format_message()}", file=file, err=file is None)


class UserPath(click.Path):
    """A path relative to the user's shell, though the command works in the project's root."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; absolute if the user is not in the root."""
        root, path = enter_project(), Path(value).expanduser()
        here = click.get_current_context().meta[STARTED_IN]
        return path if here == root else here / path


def enter_project() -> Path:
    """Change to the root of the Kedro project around the working directory, and return it.

    Kedro runs commands in the user's folder, but a project's paths are relative to its root.
    Outside a project nothing changes.
    """
    meta = click.get_current_context().meta
    if STARTED_IN not in meta:
        here = meta[STARTED_IN] = Path.cwd()
        root = next(filter(_is_project, (here, *here.parents)), here)
        os.chdir(root)
        if root != here:
            _log_as_project(root)
    return Path.cwd()


def require_clean_stdout() -> None:
    """Raise if Kedro has already printed to stdout, where a program expects a command's output.

    Before any command begins, Kedro looks for conf/logging.yml in the working directory. Below the
    project's root it finds none and prints a line of its own.

    Raises:
        WorkflowError: With what to do.
    """
    root = enter_project()
    if click.get_current_context().meta[STARTED_IN] != root and not os.environ.get(LOGGING_SWITCH):
        raise WorkflowError(
            "below the project's root Kedro prints a line to stdout first: call this from "
            f"{root}, or set {LOGGING_SWITCH}={root / LOGGING}"
        )


def _log_as_project(root: Path) -> None:
    """Apply the project's logging configuration, if this is a Kedro command."""
    kedro, path = sys.modules.get("kedro.framework.project"), root / LOGGING
    if kedro is not None and path.is_file() and not os.environ.get(LOGGING_SWITCH):
        kedro.LOGGING.configure(load_yaml(path))


def _is_project(folder: Path) -> bool:
    """Return whether a folder is a Kedro project; Kedro itself may not be installed."""
    path = folder / "pyproject.toml"
    return path.is_file() and "[tool.kedro]" in path.read_text(encoding="utf-8", errors="replace")


def path_of(dataset: object) -> Path | None:
    """Return the file or folder of a data set; None if it has none."""
    path = getattr(dataset, "_filepath", None)
    return Path(str(path)) if path else None


def files_of(path: Path) -> list[Path]:
    """Return the file at a path, or all files in that folder; nothing if it does not exist."""
    if path.is_file():
        return [path]
    return sorted(one for one in path.rglob("*") if one.is_file())


def files_of_output(path: Path) -> list[Path]:
    """Return `files_of` a path but those in a folder below it that is `IGNORED`, as by DVC."""
    return [file for file in files_of(path) if IGNORED not in file.relative_to(path).parts]


Stamp = list[list[Any]]  # a row of name, inode, size and time for each file; as JSON has it


def stamp(path: Path) -> Stamp:
    """Return a value that changes when a file, or one in a folder, is written."""
    facts = ((str(file), file.stat()) for file in files_of_output(path))
    return [[name, s.st_ino, s.st_size, s.st_mtime_ns] for name, s in facts]


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it; create its folder if necessary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # two processes may write at once
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def problem_of_disk(error: BaseException) -> str | None:
    """Return an error of disk, permissions or path as one line; None for any other error."""
    if isinstance(error, OSError) and error.errno in ONE_LINE_ERRORS:
        return f"{error.filename or 'a file'}: {error.strerror}"
    if isinstance(error, sqlite3.OperationalError) and "disk" in str(error):
        return f"DVC cannot write its database of files: {error}; the disk may be full"
    return str(error).splitlines()[0] if NO_SPACE in str(error) else None


def strict_json(text: str | bytes) -> Any:
    """Return the content of a JSON text that every JSON reader reads in the same way.

    Raises:
        ValueError: If it is not JSON, has a key twice, a number that is not finite, or is nested
            too deeply.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"it has the key {max(keys, key=keys.count)!r} twice")
        return content

    def finite(number: str) -> float:
        if not math.isfinite(value := float(number)):
            raise ValueError(f"{number} is not a JSON number")
        return value

    try:
        read = json.loads(text, object_pairs_hook=unique, parse_float=finite, parse_constant=finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return read


def load_yaml(path: Path) -> Any:
    """Return the content of a YAML file that a program wrote.

    Raises:
        WorkflowError: If it is not YAML, see `broken_yaml`.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise WorkflowError(broken_yaml(path, error)) from None


def broken_yaml(path: Path, error: Exception) -> str:
    """Return one line on why a dvc.yaml or dvc.lock cannot be read, and what to do."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    marked = next((n for n, line in enumerate(lines, 1) if line.startswith("<<<<<<< ")), None)
    name = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    why = f"cannot be read: {' '.join(str(error).split())}"
    if marked:
        why = f"has a merge conflict in line {marked}"
    if path.suffix == ".lock":
        return (
            f"{name} {why}. Take one side, `git checkout --ours {name}` (or --theirs); the next "
            "run adds what that side lacks."
        )
    return f"{name} {why}. `kedro dvc sync` rewrites it."


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder among the processes of this machine; create it if necessary.

    On Windows, where stages run one after the other, nothing is locked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
        yield


def git(project: Path, *command: str) -> str:
    """Return what a git command prints; bytes that are not UTF-8 become surrogates.

    Raises:
        WorkflowError: If it fails, with git's reason, or if git is not installed.
    """
    try:
        # with `git replace` a commit can show content that it does not hold
        command = ("git", "--no-replace-objects", *command)
        made = subprocess.run(command, cwd=project, capture_output=True)
    except FileNotFoundError:
        raise WorkflowError("git is not installed") from None
    if made.returncode:
        reason = made.stderr.decode(errors="replace")
        raise WorkflowError(" ".join(reason.split()).removeprefix("fatal: "))
    return made.stdout.decode(errors="surrogateescape")
