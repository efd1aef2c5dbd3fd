"""Checks that read bytes: outputs in the workspace, and objects in DVC's cache.

Checks of what lies around the stages and can spoil a run, though no stage depends on it.

Checks of processes: stages that outlive DVC, and locks that outlive their holders.

What `dvc status` believes of a project though it is not so.

DVC takes a file for unchanged while its time of change, size and inode are as they were, and trusts
what is read-only in its cache. Here the bytes are read. Nothing is mended: each finding says how.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from dvc.repo import Repo

from kedro_dvc.configuration import KINDS
from kedro_dvc.disk import (
    Finding,
    Patient,
    Recorded,
    counted,
    error,
    gigabytes,
    listed,
    ok,
    warning,
)
from kedro_dvc.hashing import objects_of
from kedro_dvc.project import dvc_file, study_names
from kedro_dvc.sync import sync

WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def outputs(patient: Patient) -> Iterator[Finding]:
    """Hold the outputs in the workspace against the lock files."""
    missing: Counter[str] = Counter()
    wrong = 0
    for output in patient.outputs:
        md5 = patient.md5(output.path)
        if md5 is None:
            missing[output.study] += 1
        elif md5 != output.md5:
            wrong += 1
            yield _differs(patient, output, md5)
    right = len(patient.outputs) - missing.total() - wrong
    yield ok(f"{counted(right, 'output')} in the workspace as dvc.lock records")
    for study, number in missing.items():
        yield warning(
            f"{counted(number, 'output')} of {study} not in the workspace: "
            f"`dvc pull {dvc_file(study)}` or `kedro dvc run --env {study}`"
        )


def _differs(patient: Patient, output: Recorded, md5: str) -> Finding:
    name = patient.name(output.path)
    if not patient.believed(output.path):
        return warning(
            f"{name} has changed since its stage ran: "
            f"`dvc repro {output.stage}` will restore it or make it again"
        )
    return error(
        f"{name} is not what its stage wrote ({md5[:8]}, recorded is {output.md5[:8]}) and DVC "
        f"does not notice: `{_way_back(patient, output)}`"
    )


def _way_back(patient: Patient, output: Recorded) -> str:
    """Return the commands that replace an output that DVC takes for unchanged."""
    needed = set(objects_of(patient.cache, output.md5))
    damaged = [patient.name(patient.objects[md5]) for md5 in sorted(needed & patient.damaged)]
    if patient.cached(output.path) and not damaged and needed <= patient.objects.keys():
        return f"rm -rf {(name := patient.name(output.path))} && dvc checkout {name}"
    first = f"rm -f {' '.join(damaged)} && " if damaged else ""
    return f"{first}dvc repro --force --single-item {output.stage}"


def objects(patient: Patient) -> Iterator[Finding]:
    """Hold the objects in DVC's cache against their names."""
    for md5 in sorted(patient.damaged):
        name = patient.name(patient.objects[md5])
        yield _damaged(patient, name, patient.needed.get(md5, []))
    read = patient.md5s.keys() & set(patient.objects.values())
    needed = len(patient.needed.keys() & patient.objects.keys())
    yield ok(
        f"{counted(len(read) - len(patient.damaged), 'object')} in DVC's cache as named; "
        f"the outputs need {needed} of {len(read)}"
    )


def _damaged(patient: Patient, name: str, outputs: list[Recorded]) -> Finding:
    """Return what is wrong with an object, and how the outputs that consist of it get another."""
    if not outputs:
        return warning(f"{name} is damaged; no output looked at is made of it: delete it")
    paths = listed({patient.name(output.path) for output in outputs})
    whole = [output for output in outputs if patient.md5(output.path) == output.md5]
    again = f"commit {patient.name(whole[0].path)}" if whole else f"repro {outputs[0].stage}"
    return error(
        f"{name} is damaged, and a checkout would make {paths} of it: "
        f"`rm -f {name} && dvc {again}`, or instead of the latter `dvc fetch` if a remote has it"
    )


def links(patient: Patient) -> Iterator[Finding]:
    """Look for outputs through which DVC's cache can be written."""
    cached = [path.stat() for path in patient.objects.values() if path.exists()]
    inodes = {(facts.st_dev, facts.st_ino) for facts in cached}
    found = False
    for path, files in patient.files.items():
        if any(_writable_link(file, inodes) for file in files.values()):
            found = True
            yield warning(
                f"{patient.name(path)} is a link into DVC's cache that can be written to: "
                f"`dvc unprotect {patient.name(path)}` makes it a file of its own"
            )
    if not found:
        yield ok("no output is a writable link into DVC's cache")


def _writable_link(file: Path, inodes: set[tuple[int, int]]) -> bool:
    if not file.exists():
        return False
    facts = file.stat()
    return (facts.st_dev, facts.st_ino) in inodes and bool(facts.st_mode & WRITABLE)


SUFFIXES = (".yml", ".yaml", ".json")  # what Kedro reads


def leftovers(patient: Patient) -> Iterator[Finding]:
    """Look beside outputs for what a write that did not end has left."""
    folders = {output.path.parent for output in patient.outputs}
    found = {patient.name(path) for folder in folders for path in folder.glob("*.tmp")}
    if found:
        yield warning(f"left by a write that did not end, delete if nothing runs: {listed(found)}")
    else:
        yield ok("no half-written file lies beside an output")


def unread_configuration(patient: Patient) -> Iterator[Finding]:
    """Look for configuration that no study reads."""
    studies = study_names(patient.root)
    folders = {path.parent for path in patient.root.glob("conf/*/*")}
    others = [folder for folder in folders if folder.name not in studies]
    unread = {patient.name(path) for folder in others for path in _configuration(folder)}
    if unread:
        yield warning(f"no study reads {listed(unread)}: what is set there changes no run")
    else:
        yield ok("all configuration belongs to a study")


def cache_place(patient: Patient) -> Iterator[Finding]:
    """Look whether DVC can link outputs into its cache."""
    links = patient.repo.config["cache"].get("type", [])
    if "symlink" in links or device(patient.root) == device(patient.cache):
        yield ok("outputs can be links into DVC's cache")
        return
    yield warning(
        f"DVC's cache, {patient.cache}, is on another file system: every output is a copy, and "
        "each checkout makes one; move the cache with `dvc cache dir PATH`"
    )


def space(patient: Patient) -> Iterator[Finding]:
    """Look whether there is room to make all outputs of a study anew."""
    free, enough = shutil.disk_usage(patient.root).free, True
    for study in patient.studies:
        size = sum(output.size for output in patient.outputs if output.study == study)
        if size > free:
            enough = False
            yield warning(
                f"all outputs of {study} take {gigabytes(size)}, {gigabytes(free)} are free: "
                "make room before it runs"
            )
    if enough:
        yield ok(f"{gigabytes(free)} are free: room to make all outputs of any study anew")


def device(path: Path) -> int:
    """Return the file system of a path, or of where it would be made."""
    return next(one for one in (path, *path.parents) if one.exists()).stat().st_dev


def _configuration(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder that look as if a run would read them."""
    prefixes = ("",) if folder.name == "local" else KINDS
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        is_read = path.suffix in SUFFIXES and any(part.startswith(prefixes) for part in parts)
        if is_read and not path.name.startswith("credentials"):
            yield path


RUNNERS = {"dvc", "kedro"}  # the commands that start stages


class Holder(NamedTuple):
    """A process that has told DVC that it uses files of stages."""

    pid: int
    command: str


def locks(patient: Patient) -> Iterator[Finding]:
    """Look for processes that use files of stages, or have died meanwhile."""
    try:
        found = holders(patient.locks)
    except ValueError:
        yield error(f"{patient.name(patient.locks)} is broken, and DVC cannot run: delete it")
        return
    for pid, command in sorted(found):
        if psutil.pid_exists(pid):
            yield warning(f"process {pid} ({command}) is at work: look again when it has ended")
        else:
            yield warning(f"process {pid} ({command}) died with files locked, DVC unlocks them")
    if not found:
        yield ok("no process has files of stages locked")


def orphans(patient: Patient) -> Iterator[Finding]:
    """Look for stages that still run though DVC, which started them, does not."""
    runners, lost = _holding(patient.locks), defaultdict(list)
    for process in psutil.process_iter():
        stage = _stage(process, patient.root)
        if stage and not any(_starts_stages(one, patient.root, runners) for one in _above(process)):
            lost[stage].append(process.pid)
    for stage, pids in lost.items():
        yield error(
            f"{stage} still runs without DVC and may write its outputs at any time: "
            f"`kill {' '.join(map(str, pids))}`"
        )
    if not lost:
        yield ok("no stage runs without DVC")


def holders(table: Path) -> set[Holder]:
    """Return the processes in DVC's table of locks.

    Raises:
        ValueError: If the file holds no JSON.
    """
    try:
        locked = json.loads(table.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return set()
    readers = [one for path in locked.get("read", {}).values() for one in path]
    writers = locked.get("write", {}).values()
    return {Holder(one["pid"], one["cmd"]) for one in (*readers, *writers)}


def _holding(table: Path) -> set[int]:
    try:
        return {one.pid for one in holders(table)}
    except ValueError:
        return set()


def _stage(process: psutil.Process, root: Path) -> str | None:
    """Return the stage of this project that a process belongs to."""
    values = _asked(process.environ, {})
    ours = os.path.realpath(values.get("DVC_ROOT", "/")) == os.path.realpath(root)
    return values.get("DVC_STAGE") if ours else None


def _starts_stages(process: psutil.Process, root: Path, runners: Collection[int]) -> bool:
    words = {Path(word).name.removesuffix(".exe") for word in _asked(process.cmdline, [])}
    runs = process.pid in runners or bool(words & RUNNERS)
    return runs and not _stage(process, root)  # a stage is itself a `kedro run`


def _above(process: psutil.Process) -> list[psutil.Process]:
    found: list[psutil.Process] = _asked(process.parents, [])
    return found


def _asked(question: Any, otherwise: Any) -> Any:
    """Return what a process answers, if it is still there and ours to ask."""
    try:
        return question()
    except (psutil.Error, OSError):
        return otherwise


def examine(root: Path, studies: list[str], whole_cache: bool) -> Iterator[Finding]:
    """Yield what every check finds, as it is found.

    Args:
        root: The project's root, which is also the working directory.
        studies: Those whose files are looked at.
        whole_cache: Read all of DVC's cache, not only what these studies need of it.
    """
    with Repo(str(root)) as repo:
        patient = Patient(root, studies, repo, whole_cache)
        for check in CHECKS:
            yield from check(patient)


def stages(patient: Patient) -> Iterator[Finding]:
    """Look whether each dvc.yaml is what the project makes."""
    behind = 0
    for study in patient.studies:
        try:
            if sync(patient.root, study, write=False):
                behind += 1
                yield error(f"{dvc_file(study)} is behind the project: run `kedro dvc sync`")
        except Exception as problem:  # of any kind: the project's own code is run
            behind += 1
            yield error(f"{dvc_file(study)} cannot be made from the project: {problem}")
    if not behind:
        yield ok(f"dvc.yaml of {listed(patient.studies)} is what the project makes")


CHECKS: tuple[Callable[[Patient], Iterator[Finding]], ...] = (
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
