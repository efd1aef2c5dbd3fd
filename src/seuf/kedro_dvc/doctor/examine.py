"""What `dvc status` believes of a project though it is not so.

DVC takes a file for unchanged while its time of change, size and inode are as they were, and trusts
what is read-only in its cache. Here the bytes are read. Nothing is mended: each finding says how.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from dvc.repo import Repo

from seuf.kedro_dvc.doctor.contents import links, objects, outputs
from seuf.kedro_dvc.doctor.findings import Finding, error, listed, ok
from seuf.kedro_dvc.doctor.patient import Patient
from seuf.kedro_dvc.doctor.processes import locks, orphans
from seuf.kedro_dvc.doctor.surroundings import cache_place, leftovers, space, unread_configuration
from seuf.kedro_dvc.generation.sync import sync
from seuf.kedro_dvc.project.study import dvc_file


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
