"""What every module may import: the error that is shown as one line, files, and git.

Nothing heavy is imported, as a command that finds nothing to do takes no longer than its imports.
"""

from __future__ import annotations

import errno
import json
import math
import os
import sqlite3
import subprocess
import sys
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import click

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]
import yaml

OF_DISKS = "EACCES EPERM EROFS ENOSPC EDQUOT EIO".split()
OF_PATHS = "EEXIST EISDIR ENOTDIR ENAMETOOLONG ELOOP".split()  # a file where a folder is to be
TOLD = {getattr(errno, name) for name in (*OF_DISKS, *OF_PATHS)}  # in a line
NO_SPACE = os.strerror(errno.ENOSPC)  # safetensors raises errors of its own with these words
STANDS = "kedro_dvc.stands"  # in click's context: where the user stands
LOGGING, LOGGING_SWITCH = "conf/logging.yml", "KEDRO_LOGGING_CONFIG"  # where Kedro looks for it


class WorkflowError(click.ClickException):
    """Something that DVC cannot follow or a command cannot do; the message says what to do."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message on one line."""
        click.echo(f"error: {self.format_message()}", file=file, err=file is None)


class UserPath(click.Path):
    """A path from where the user stands, though the command works in the project's root."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path, absolute if the user stands elsewhere than in the root."""
        root, path = enter_project(), Path(value).expanduser()
        here = click.get_current_context().meta[STANDS]
        return path if here == root else here / path


def enter_project() -> Path:
    """Make the root of the Kedro project that one stands in the working directory, and return it.

    Kedro runs its commands where one stands, and the paths of a project lead from its root.
    Outside a project nothing changes.
    """
    stands = click.get_current_context().meta
    if STANDS not in stands:
        here = stands[STANDS] = Path.cwd()
        root = next(filter(_is_project, (here, *here.parents)), here)
        os.chdir(root)
        if root != here:
            _log_as_project(root)
    return Path.cwd()


def require_clean_stdout() -> None:
    """Raise unless what a command prints for programs is all that comes on stdout.

    Kedro looks for the project's logging where one stands, before any command begins. Below the
    root it finds none, and has then printed a line of its own.

    Raises:
        WorkflowError: With what to do.
    """
    root = enter_project()
    stands = click.get_current_context().meta[STANDS]
    if stands != root and not os.environ.get(LOGGING_SWITCH):
        raise WorkflowError(
            "below the project's root Kedro begins stdout with a line of its own: call this from "
            f"{root}, or set {LOGGING_SWITCH}={root / LOGGING}"
        )


def _log_as_project(root: Path) -> None:
    """Let Kedro, if it is what was called, log from now on as the project says."""
    kedro, path = sys.modules.get("kedro.framework.project"), root / LOGGING
    if kedro is not None and path.is_file() and not os.environ.get(LOGGING_SWITCH):
        kedro.LOGGING.configure(load_yaml(path))


def _is_project(folder: Path) -> bool:
    """Return whether Kedro takes a folder for a project; it may not be installed."""
    path = folder / "pyproject.toml"
    return path.is_file() and "[tool.kedro]" in path.read_text(encoding="utf-8", errors="replace")


def path_of(dataset: object) -> Path | None:
    """Return where a data set keeps its data; None if that is in no file."""
    path = getattr(dataset, "_filepath", None)
    return Path(str(path)) if path else None


def files_of(path: Path) -> list[Path]:
    """Return the file at a path, or all files in the folder that it is; none if it is not there."""
    return sorted(one for one in (path, *path.rglob("*")) if one.is_file())


def stamp(path: Path) -> Hashable:
    """Return what changes when a file, or one in a folder, is written."""
    facts = ((file, file.stat()) for file in files_of(path))
    return tuple((str(file), s.st_ino, s.st_size, s.st_mtime_ns) for file, s in facts)


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # two may write at once
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def problem_of_disk(error: BaseException) -> str | None:
    """Return in one line what is wrong with a disk, rights or a path; None of any other error."""
    if isinstance(error, OSError) and error.errno in TOLD:
        return f"{error.filename or 'a file'}: {error.strerror}"
    if isinstance(error, sqlite3.OperationalError) and "disk" in str(error):
        return f"what DVC notes of files cannot be written: {error}; the disk may be full"
    return str(error).splitlines()[0] if NO_SPACE in str(error) else None


def strict_json(text: str | bytes) -> Any:
    """Return what a JSON text says, if all readers of it would read the same.

    Raises:
        ValueError: If it is no JSON, has a key twice, a number that is infinite or none, or is
            nested too deeply.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"it has the key {max(keys, key=keys.count)!r} twice")
        return content

    def finite(number: str) -> float:
        if not math.isfinite(value := float(number)):
            raise ValueError(f"{number} is no number that JSON has")
        return value

    try:
        read = json.loads(text, object_pairs_hook=unique, parse_float=finite, parse_constant=finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return read


def load_yaml(path: Path) -> Any:
    """Return the content of a YAML file that is made by a program.

    Raises:
        WorkflowError: If it is none, see `broken_yaml`.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise WorkflowError(broken_yaml(path, error)) from None


def broken_yaml(path: Path, error: Exception) -> str:
    """Return in one line why a dvc.yaml or dvc.lock cannot be read, and what to do."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    marked = next((n for n, line in enumerate(lines, 1) if line.startswith("<<<<<<< ")), None)
    name = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    why = f"cannot be read: {' '.join(str(error).split())}"
    if marked:
        why = f"holds the conflict of a merge, line {marked}"
    if path.suffix == ".lock":
        return (
            f"{name} {why}. Take one side, `git checkout --ours {name}` (or --theirs); the next "
            "run makes what that side lacks."
        )
    return f"{name} {why}. `kedro dvc sync` writes it anew."


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Let no two processes of this machine be inside the context of one folder; make it if need be.

    On Windows, where stages run one after the other, it is only made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
        yield


def git(project: Path, *command: str) -> str:
    """Return what a command of git prints; bytes that are no UTF-8 become surrogates.

    Raises:
        WorkflowError: With git's own reason, or that it is not installed.
    """
    try:
        # `git replace` lets a commit show what it does not hold
        command = ("git", "--no-replace-objects", *command)
        made = subprocess.run(command, cwd=project, capture_output=True)
    except FileNotFoundError:
        raise WorkflowError("git is not installed") from None
    if made.returncode:
        reason = made.stderr.decode(errors="replace")
        raise WorkflowError(" ".join(reason.split()).removeprefix("fatal: "))
    return made.stdout.decode(errors="surrogateescape")
