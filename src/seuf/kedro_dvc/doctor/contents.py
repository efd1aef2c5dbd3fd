"""Checks that read bytes: outputs in the workspace, and objects in DVC's cache."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from seuf.kedro_dvc.doctor.findings import Finding, counted, error, listed, ok, warning
from seuf.kedro_dvc.doctor.integrity import objects_of
from seuf.kedro_dvc.doctor.patient import Patient
from seuf.kedro_dvc.doctor.recorded import Recorded
from seuf.kedro_dvc.project.study import dvc_file

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
