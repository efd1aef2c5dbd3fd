"""Checks of what lies around the stages and can spoil a run, though no stage depends on it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from seuf.kedro_dvc.doctor.findings import Finding, gigabytes, listed, ok, warning
from seuf.kedro_dvc.doctor.patient import Patient
from seuf.kedro_dvc.project.configuration import KINDS
from seuf.kedro_dvc.project.study import study_names

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
