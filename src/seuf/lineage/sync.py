"""dvc.yaml on disk: written from the project, or held against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from seuf.errors import InputError
from seuf.lineage.configuration import BASE
from seuf.lineage.stages import Stage, stages
from seuf.lineage.study import Study, load_study

HEADER = """\
# Generated from the Kedro project by `kedro dvc sync`.
# Change the pipelines, the catalog or the parameters, not this file.
"""


def dvc_file(name: str) -> Path:
    """Return the study's dvc.yaml, from the project's root."""
    return Path("dvc.yaml") if name == BASE else Path("studies", name, "dvc.yaml")


def sync(project: Path, name: str, write: bool = True) -> bool:
    """Return whether the study's dvc.yaml was behind the project, and write it if asked to."""
    path = project / dvc_file(name)
    study = load_study(project, name)
    made, there = keep_frozen(stages(study), path), _read(path)
    if list(made.items()) == list(there.items()):
        return False
    if write:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(made))
    return True


def check_stage(study: Study, stage: str) -> None:
    """Raise if a stage stands otherwise in dvc.yaml than the study's pipelines have it.

    Args:
        study: The study with the stage's pipeline, others may be missing.
        stage: As DVC addresses it: `studies/smoke/dvc.yaml:unlearn@seuf_ga`, or `unlearn@seuf_ga`
            in the root.

    Raises:
        InputError: If the stage is behind, or of another study.
    """
    path, _, address = stage.rpartition(":")
    if Path(path or "dvc.yaml") != dvc_file(study.name):
        raise InputError(f"{stage} is not of the study {study.name!r}: unset KEDRO_ENV.")
    file = study.project / dvc_file(study.name)
    name = address.partition("@")[0]
    if keep_frozen(stages(study), file).get(name) != _read(file).get(name):
        raise InputError(f"{dvc_file(study.name)} is behind the project: run `kedro dvc sync`.")


def render(made: dict[str, Stage]) -> str:
    """Return the text of a dvc.yaml."""
    return HEADER + yaml.dump({"stages": made}, Dumper=_Dumper, sort_keys=False, width=100)


def _read(path: Path) -> dict[str, Stage]:
    if not path.is_file():
        return {}
    return (yaml.load(path.read_text(), yaml.CSafeLoader) or {}).get("stages", {})


def keep_frozen(made: dict[str, Stage], path: Path) -> dict[str, Stage]:
    """Return the stages; those that someone has frozen in the file stay so."""
    frozen = {name for name, stage in _read(path).items() if stage.get("frozen")}
    return {
        name: {**stage, "frozen": True} if name in frozen else stage for name, stage in made.items()
    }


class _Dumper(yaml.SafeDumper):
    """Writes no aliases, and nothing where there is None, as people do."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "")
)
