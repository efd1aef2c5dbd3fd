"""The runs of a study as their records tell of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seuf.audit.lineage import recorded
from seuf.errors import InputError
from seuf.kedro_dvc.project.study import dvc_file
from seuf.kedro_dvc.running.records import read_record


def recorded_runs(project: Path, study: str) -> list[dict[str, Any]]:
    """Return the records of the stages in a study's dvc.lock, oldest first, each with its inputs.

    Raises:
        InputError: If the study has not run, or a record is not what it should be.
    """
    stages = recorded((project / dvc_file(study)).with_suffix(".lock"))
    found = []
    for stage in stages.values():
        try:
            record = read_record(project, study, stage.node)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"The record of {stage.name} cannot be read: {error}") from error
        if record is not None:
            inputs = {path: held.md5 for path, held in stage.deps.items() if held is not None}
            found.append({**record, "stage": stage.name, "inputs": inputs})
    return sorted(found, key=lambda record: record["started"])
