"""What `dvc status` believes of a project though it is not so.

DVC takes a file for unchanged while its time of change, size and inode are as they were, and trusts
what is read-only in its cache. Here the bytes are read. Beside them the checks look at what can
spoil a run though no stage depends on it: processes that outlived DVC, locks, leftovers, the disk.
Nothing is mended: each finding says how. Begin at `CHECKS`, at the end.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from dvc.repo import Repo

from kedro_dvc.configuration import KINDS
from kedro_dvc.disk import LockedOutput, StudiesOnDisk, counted, gigabytes, listed, objects_of
from kedro_dvc.project import dvc_file, study_names
from kedro_dvc.sync import sync

WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
SUFFIXES = (".yml", ".yaml", ".json")  # what Kedro reads
RUNNERS = {"dvc", "kedro"}  # the commands that start stages


class Finding(NamedTuple):
    """One line for the user: its level, what it is, and the way out."""

    level: str
    text: str


ok = partial(Finding, "ok")
warning = partial(Finding, "warning")  # the user should know; no result is wrong because of it
error = partial(Finding, "ERROR")  # a result may be wrong because of it


def examine(root: Path, studies: list[str], whole_cache: bool) -> Iterator[Finding]:
    """Yield what every check finds, as it is found.

    Args:
        root: The project's root, which is also the working directory.
        studies: Those whose files are looked at.
        whole_cache: Read all of DVC's cache, not only what these studies need of it.
    """
    with Repo(str(root)) as repo:
        disk = StudiesOnDisk(root, studies, repo, whole_cache)
        for check in CHECKS:
            yield from check(disk)


def stages(disk: StudiesOnDisk) -> Iterator[Finding]:
    """Check that each dvc.yaml is what the project makes."""
    behind = 0
    for study in disk.studies:
        try:
            if sync(disk.root, study, write=False):
                behind += 1
                yield error(f"{dvc_file(study)} is behind the project: run `kedro dvc sync`")
        except Exception as problem:  # of any kind: the project's own code is run
            behind += 1
            yield error(f"{dvc_file(study)} cannot be made from the project: {problem}")
    if not behind:
        yield ok(f"dvc.yaml of {listed(disk.studies)} is what the project makes")


def orphans(disk: StudiesOnDisk) -> Iterator[Finding]:
    """Look for stages that still run though DVC, which started them, does not."""
    try:
        runners = {pid for pid, _ in lock_holders(disk)}
    except ValueError:  # `locks` tells of it
        runners = set()
    orphaned = defaultdict(list)
    for process in psutil.process_iter():
        stage = _stage_of(process, disk.root)
        if stage is None:
            continue
        for parent in _answer(process.parents, []):
            words = {Path(word).name.removesuffix(".exe") for word in _answer(parent.cmdline, [])}
            runs_stages = parent.pid in runners or words & RUNNERS
            if runs_stages and not _stage_of(parent, disk.root):  # a stage is a `kedro run` itself
                break
        else:
            orphaned[stage].append(process.pid)
    for stage, pids in orphaned.items():
        yield error(
            f"{stage} still runs without DVC and may write its outputs at any time: "
            f"`kill {' '.join(map(str, pids))}`"
        )
    if not orphaned:
        yield ok("no stage runs without DVC")


def locks(disk: StudiesOnDisk) -> Iterator[Finding]:
    """Look for processes that use files of stages, or have died meanwhile."""
    try:
        holders = lock_holders(disk)
    except ValueError:
        table = disk.from_root(Path(disk.repo.tmp_dir, "rwlock"))
        yield error(f"{table} is broken, and DVC cannot run: delete it")
        return
    for pid, command in sorted(holders):
        if psutil.pid_exists(pid):
            yield warning(f"process {pid} ({command}) is at work: look again when it has ended")
        else:
            yield warning(f"process {pid} ({command}) died with files locked, DVC unlocks them")
    if not holders:
        yield ok("no process has files of stages locked")


def lock_holders(disk: StudiesOnDisk) -> set[tuple[int, str]]:
    """Return the processes in DVC's table of locks, each with its command.

    Raises:
        ValueError: If the file holds no JSON.
    """
    try:
        table = json.loads(Path(disk.repo.tmp_dir, "rwlock").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return set()
    readers = [one for path in table.get("read", {}).values() for one in path]
    writers = table.get("write", {}).values()
    return {(one["pid"], one["cmd"]) for one in (*readers, *writers)}


def _stage_of(process: psutil.Process, root: Path) -> str | None:
    """Return the stage of this project that a process belongs to."""
    values = _answer(process.environ, {})
    ours = os.path.realpath(values.get("DVC_ROOT", "/")) == os.path.realpath(root)
    return values.get("DVC_STAGE") if ours else None


def _answer(question: Callable[[], Any], otherwise: Any) -> Any:
    """Return what a process answers, if it is still there and ours to ask."""
    try:
        return question()
    except (psutil.Error, OSError):
        return otherwise


def outputs(disk: StudiesOnDisk) -> Iterator[Finding]:
    """Compare the outputs in the workspace with the lock files."""
    missing: Counter[str] = Counter()
    wrong = 0
    for output in disk.outputs:
        md5 = disk.md5(output.path)
        if md5 is None:
            missing[output.study] += 1
        elif md5 != output.md5:
            wrong += 1
            yield _changed(disk, output, md5)
    right = len(disk.outputs) - missing.total() - wrong
    yield ok(f"{counted(right, 'output')} in the workspace as dvc.lock records")
    for study, number in missing.items():
        yield warning(
            f"{counted(number, 'output')} of {study} not in the workspace: "
            f"`dvc pull {dvc_file(study)}` or `kedro dvc run --env {study}`"
        )


def _changed(disk: StudiesOnDisk, output: LockedOutput, md5: str) -> Finding:
    """Return that an output has other bytes, and the commands that bring its own back."""
    name = disk.from_root(output.path)
    if not disk.is_unchanged_to_dvc(output.path):
        return warning(
            f"{name} has changed since its stage ran: "
            f"`dvc repro {output.stage}` will restore it or make it again"
        )
    needed, typed = set(objects_of(disk.cache, output.md5)), shlex.quote(name)
    damaged = [disk.from_root(disk.objects[one]) for one in sorted(needed & disk.damaged_objects)]
    if disk.is_cached(output.path) and not damaged and needed <= disk.objects.keys():
        way_out = f"rm -rf {typed} && dvc checkout {typed}"
    else:
        first = f"rm -f {shlex.join(damaged)} && " if damaged else ""
        way_out = f"{first}dvc repro --force --single-item {output.stage}"
    return error(
        f"{name} is not what its stage wrote ({md5[:8]}, recorded is {output.md5[:8]}) and DVC "
        f"does not notice: `{way_out}`"
    )


def objects(disk: StudiesOnDisk) -> Iterator[Finding]:
    """Compare the objects in DVC's cache with their names."""
    for md5 in sorted(disk.damaged_objects):
        yield _damaged(disk, disk.from_root(disk.objects[md5]), disk.needed_objects.get(md5, []))
    needed = len(disk.needed_objects.keys() & disk.objects.keys())
    yield ok(
        f"{counted(disk.objects_read - len(disk.damaged_objects), 'object')} in DVC's cache as "
        f"named; the outputs need {needed} of {disk.objects_read}"
    )


def _damaged(disk: StudiesOnDisk, name: str, outputs: list[LockedOutput]) -> Finding:
    """Return that an object is damaged, and how the outputs that consist of it get another."""
    if not outputs:
        return warning(f"{name} is damaged; no output looked at is made of it: delete it")
    paths = listed({disk.from_root(output.path) for output in outputs})
    whole = [output for output in outputs if disk.md5(output.path) == output.md5]
    path = shlex.quote(disk.from_root(whole[0].path)) if whole else ""
    again = f"commit {path}" if whole else f"repro {outputs[0].stage}"
    return error(
        f"{name} is damaged, and a checkout would make {paths} of it: "
        f"`rm -f {shlex.quote(name)} && dvc {again}`, or instead of the latter `dvc fetch` if a "
        "remote has it"
    )


def links(disk: StudiesOnDisk) -> Iterator[Finding]:
    """Look for outputs through which DVC's cache can be written."""
    cached = [path.stat() for path in disk.objects.values() if path.exists()]
    inodes = {(facts.st_dev, facts.st_ino) for facts in cached}
    writable = False
    for path, files in disk.files.items():
        facts_of_files = [file.stat() for file in files.values() if file.exists()]
        if any(s.st_mode & WRITABLE and (s.st_dev, s.st_ino) in inodes for s in facts_of_files):
            writable = True
            name = disk.from_root(path)
            yield warning(
                f"{name} is a link into DVC's cache that can be written to: "
                f"`dvc unprotect {shlex.quote(name)}` makes it a file of its own"
            )
    if not writable:
        yield ok("no output is a writable link into DVC's cache")


def leftovers(disk: StudiesOnDisk) -> Iterator[Finding]:
    """Look beside outputs for what a write that did not end has left."""
    folders = {output.path.parent for output in disk.outputs}
    names = {disk.from_root(path) for folder in folders for path in folder.glob("*.tmp")}
    if names:
        yield warning(f"left by a write that did not end, delete if nothing runs: {listed(names)}")
    else:
        yield ok("no half-written file lies beside an output")


def unread_configuration(disk: StudiesOnDisk) -> Iterator[Finding]:
    """Look for configuration that no study reads."""
    studies, unread = study_names(disk.root), set()
    for folder in {path.parent for path in disk.root.glob("conf/*/*")}:
        if folder.name in studies:
            continue
        prefixes = ("",) if folder.name == "local" else KINDS
        for path in folder.rglob("*"):
            parts = path.relative_to(folder).parts
            is_read = path.suffix in SUFFIXES and any(part.startswith(prefixes) for part in parts)
            if is_read and not path.name.startswith("credentials"):
                unread.add(disk.from_root(path))
    if unread:
        yield warning(f"no study reads {listed(unread)}: what is set there changes no run")
    else:
        yield ok("all configuration belongs to a study")


def cache_place(disk: StudiesOnDisk) -> Iterator[Finding]:
    """Check that DVC can link outputs into its cache."""
    links = disk.repo.config["cache"].get("type", [])
    if "symlink" in links or file_system(disk.root) == file_system(disk.cache):
        yield ok("outputs can be links into DVC's cache")
        return
    yield warning(
        f"DVC's cache, {disk.cache}, is on another file system: every output is a copy, and "
        "each checkout makes one; move the cache with `dvc cache dir PATH`"
    )


def file_system(path: Path) -> int:
    """Return the file system of a path, or of where it would be made."""
    return next(one for one in (path, *path.parents) if one.exists()).stat().st_dev


def space(disk: StudiesOnDisk) -> Iterator[Finding]:
    """Check that there is room to make all outputs of a study anew."""
    free, enough = shutil.disk_usage(disk.root).free, True
    for study in disk.studies:
        size = sum(output.size for output in disk.outputs if output.study == study)
        if size > free:
            enough = False
            yield warning(
                f"all outputs of {study} take {gigabytes(size)}, {gigabytes(free)} are free: "
                "make room before it runs"
            )
    if enough:
        yield ok(f"{gigabytes(free)} are free: room to make all outputs of any study anew")


CHECKS: tuple[Callable[[StudiesOnDisk], Iterator[Finding]], ...] = (
    stages,
    orphans,
    locks,
    outputs,
    objects,
    links,
    leftovers,
    unread_configuration,
    cache_place,
    space,
)
