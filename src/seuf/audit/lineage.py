"""Checks of the way back: commit, dvc.yaml, dvc.lock, every edge, every byte, every run."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from kedro_dvc.disk import counted, gigabytes, listed
from kedro_dvc.project import dvc_file
from kedro_dvc.records import DECIDING, EVIDENCE, commit_of, read_record
from kedro_dvc.stages import stamp
from kedro_dvc.sync import sync
from seuf.audit.subject import (
    Check,
    Stage,
    Subject,
    broken_edges,
    changed_values,
    edges,
    failed,
    noted,
    passed,
    unlike,
    wanted,
)


def commit(subject: Subject) -> Iterator[Check]:
    """Look whether code, configuration, lock and evidence are as they were committed."""
    head, _ = commit_of(subject.project)
    if head is None:
        yield failed("commit", "the project is in no git commit: nothing says which code this is")
        return
    evidence = f"{EVIDENCE}/{subject.study.name}/runs"
    changed = _changed(subject.project, *DECIDING, str(subject.lock), evidence)
    if changed:
        yield failed("commit", f"{listed(changed)} not as in commit {head[:12]}: commit it first")
    else:
        yield passed(
            "commit", f"code, configuration, lock and run records are those of {head[:12]}"
        )


def pipeline(subject: Subject) -> Iterator[Check]:
    """Look whether dvc.yaml is what the project makes, and dvc.lock what dvc.yaml asks for."""
    file = dvc_file(subject.study.name)
    if sync(subject.project, subject.study.name, write=False):
        yield failed("dvc.yaml", f"{file} is behind the project: run `kedro dvc sync`")
    else:
        yield passed("dvc.yaml", f"{file} is what the project makes")
    declared = wanted(subject.project / file)
    for stage in declared.values():
        stage.deps.pop(stamp(subject.study.name), None)
    odd = [text for stage in subject.walked if (text := unlike(stage, declared))]
    odd += [f"{stage.name} writes {path}" for stage in subject.walked for path in _outside(stage)]
    odd += [text for stage in subject.walked for text in changed_values(stage, subject.project)]
    if odd:
        yield failed("lock", f"dvc.lock is not of this dvc.yaml: {odd[0]}")
    else:
        number = counted(len(subject.walked), "stage")
        yield passed("lock", f"command, inputs, outputs and parameters of {number} as asked for")


def _outside(stage: Stage) -> list[str]:
    """Return what a stage writes that lies outside the project."""
    return [path for path in stage.outs if Path(path).is_absolute() or ".." in Path(path).parts]


def lineage(subject: Subject) -> Iterator[Check]:
    """Look whether each stage read what the one before it has written."""
    broken = list(broken_edges(subject.walked, subject.stages))
    if broken:
        yield failed("lineage", listed(broken))
        return
    number = edges(subject.walked, subject.stages)
    behind = counted(len(subject.lineage), "stage")
    yield passed("lineage", f"{behind} behind the delta; all {number} edges join")


def contents(subject: Subject) -> Iterator[Check]:
    """Hold the bytes of all that was read and written against dvc.lock."""
    held = {p: h for stage in subject.walked for p, h in (*stage.deps.items(), *stage.outs.items())}
    for path, expected in held.items():
        found = subject.digests.get(path)
        if found is not None and expected is not None and found.md5 != expected.md5:
            yield failed("bytes", f"{path} is not what dvc.lock records")
    missing = [path for path in held if path not in subject.digests]
    lost = [path for path in missing if path not in subject.confidential]
    if lost:
        yield failed("bytes", f"{listed(lost)} not here: `dvc pull` brings what was shared")
    if gone := [path for path in missing if path in subject.confidential]:
        yield noted("erased", f"{listed(gone)} can no longer be read; known by hash alone")
    read = sum(one.size for one in subject.digests.values())
    yield passed("bytes", f"{counted(len(subject.digests), 'file')}, {gigabytes(read)} read")


def cache(subject: Subject) -> Iterator[Check]:
    """Hold the objects of DVC's cache that outputs consist of against their names."""
    from dvc.repo import Repo

    from kedro_dvc.disk import object_path, objects_of
    from kedro_dvc.hashing import DIRECTORY, file_digests

    with Repo(str(subject.project)) as repo:
        folder = Path(repo.cache.local.path)
    outs = [h for stage in subject.walked for h in stage.outs.values() if h is not None]
    names = dict.fromkeys(name for held in outs for name in objects_of(folder, held.md5))
    found = file_digests((object_path(folder, name) for name in names), tolerant=True)
    for name in names:
        read = found.get(object_path(folder, name))
        if read is not None and read.md5 != name.removesuffix(DIRECTORY):
            yield failed("cache", f"object {name} in DVC's cache is not what its name says")
    yield passed("cache", f"{counted(len(found), 'object')} in DVC's cache as named")


def runs(subject: Subject) -> Iterator[Check]:
    """Hold the outputs against what was recorded of them when they were made, by SHA-256."""
    for stage in subject.walked:
        try:
            record = read_record(subject.project, subject.study.name, stage.node)
        except (ValueError, KeyError, TypeError) as error:
            yield failed("runs", f"the record of {stage.name} cannot be trusted: {error}")
            continue
        if record is None:
            yield failed(
                "runs", f"nothing records the run of {stage.name}: {_again(subject, stage.name)}"
            )
            continue
        if not record["clean"]:
            yield failed("runs", f"{stage.name} ran with changes that were in no commit")
        for path in stage.outs:
            there = subject.digests.get(path)
            if there and record["outputs"].get(path) != there.sha256:
                yield failed(
                    "runs",
                    f"{path} is not what the run of {stage.name} has recorded: "
                    f"{_again(subject, stage.name)}",
                )
    number = counted(len(subject.walked), "stage")
    yield passed("runs", f"outputs of {number} are by SHA-256 what their runs recorded")


def _again(subject: Subject, stage: str) -> str:
    return f"`dvc repro --force --single-item {dvc_file(subject.study.name)}:{stage}`"


def _changed(project: Path, *paths: str) -> list[str]:
    told = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=all", "-z", "--", *paths],
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [line[3:] for line in told.split("\0") if line]


CHECKS: tuple[Callable[[Subject], Iterator[Check]], ...] = (
    commit,
    pipeline,
    lineage,
    contents,
    cache,
    runs,
)
