"""Write each dvc.yaml from the Kedro project, or compare it; make new studies."""

from __future__ import annotations

import re
import shutil
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from kedro_dvc.configuration import BASE
from kedro_dvc.files import WorkflowError, load_yaml, write_text
from kedro_dvc.project import Study, check_study, dvc_file, for_dvc, load_study
from kedro_dvc.stages import expanded, stages

HEADER = """\
# Generated from the Kedro project by `kedro dvc sync`.
# Change the pipelines, the catalog or the parameters, not this file.
"""
NAME = re.compile(r"[a-z][a-z0-9_]*")
GLOBALS = "globals.yml"
OWN = {"study": "{name}", "data_root": "studies/{name}/data"}  # different in each study


def sync(project: Path, name: str, write: bool = True) -> bool:
    """Return whether the study's dvc.yaml was behind the project; update it if `write`."""
    study = load_study(project, name)
    made = changes(study)
    if made and write:
        write_text(project / dvc_file(name), render(made))
    return bool(made)


def changes(study: Study) -> dict[str, Any]:
    """Return the new content of the study's dvc.yaml; nothing if it is up to date."""
    path = study.project / dvc_file(study.name)
    made = document(study, path)
    return {} if _in_order(made) == _in_order(_read(path)) else made


def private_cache(project: Path) -> None:
    """Create DVC's cache, if there is none, readable by this user only.

    DVC creates it readable by everyone, whatever the permissions of the outputs. An existing cache
    keeps its permissions: a team may share it on purpose.
    """
    if (project / ".dvc").is_dir():
        (project / ".dvc" / "cache").mkdir(mode=0o700, exist_ok=True)


def document(study: Study, path: Path) -> dict[str, Any]:
    """Return the content of a study's dvc.yaml; a stage that is frozen in the file stays frozen.

    Raises:
        WorkflowError: If DVC cannot follow the project.
    """
    frozen = {name for name, stage in _stages_in(path).items() if stage.get("frozen")}
    made: dict[str, Any] = {
        "stages": {
            name: {**stage, "frozen": True} if name in frozen else stage
            for name, stage in stages(study).items()
        }
    }
    up = "" if study.name == BASE else "../../"
    outputs = [name for node in study.pipelines["__default__"].nodes for name in node.outputs]
    written = {name: study.dataset(name) for name in outputs}
    artifacts = {}
    for name, entry in written.items():
        if artifact := for_dvc(entry).get("artifact"):
            key = re.sub(r"[^a-z0-9]+", "-", name.lower())
            artifacts[key] = {"path": up + entry["filepath"], **artifact}
    plots = [plot for name, entry in written.items() for plot in _plots(name, entry, up)]
    return {
        **made,
        **({"plots": plots} if plots else {}),
        **({"artifacts": artifacts} if artifacts else {}),
    }


def _plots(name: str, entry: dict[str, Any], up: str) -> list[dict[str, Any]]:
    """Return the plots of a table that its catalog entry lists under `shown`.

    They belong to no stage, so changing a plot runs nothing. Their `y` is a column of the table.
    """
    return [
        {f"{name}: {plot['y']}": {**plot, "y": {up + entry["filepath"]: plot["y"]}}}
        for plot in for_dvc(entry).get("shown", [])
    ]


def render(made: dict[str, Any]) -> str:
    """Return the text of a dvc.yaml."""
    text = yaml.dump(made, Dumper=_Dumper, sort_keys=False, width=100)
    spaced = re.sub(r"\n(  \S)", r"\n\n\1", text).replace(":\n\n", ":\n")
    return HEADER + re.sub(r"\n(plots|artifacts):", r"\n\n\1:", spaced)


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a dvc.yaml; nothing if it is missing or broken, as after a merge."""
    try:
        content = load_yaml(path) if path.is_file() else {}
    except WorkflowError:
        return {}
    return content if isinstance(content, dict) else {}


def _in_order(content: dict[str, Any]) -> Any:
    """Return a dvc.yaml's content in a form whose equality includes the order of stages."""
    return [
        (part, list(one.items()) if isinstance(one, dict) else one) for part, one in content.items()
    ]


def _stages_in(path: Path) -> dict[str, Any]:
    return _read(path).get("stages") or {}


def nearest_stages(path: Path, name: str) -> list[str]:
    """Return the stages of a dvc.yaml with the most similar names, the nearest first.

    In a study that overrides part of some methods, `unlearn@mine` is called `unlearn-2@mine`.
    """
    made = _stages_in(path)
    return get_close_matches(name, {*made, *(stage for stage, _ in expanded(made))})


class _Dumper(yaml.SafeDumper):
    """Writes no aliases, and None as an empty value, as people do."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "")
)


def new_study(project: Path, name: str, source: str) -> list[str]:
    """Create a study as a copy of another and return the paths written.

    It gets the source's configuration and its own folder for artifacts. Of base, which every study
    inherits, only the globals are copied.

    Raises:
        WorkflowError: If the name is taken or not allowed, or the source does not exist or has no
            globals that say where its artifacts go.
    """
    if not NAME.fullmatch(name) or name == "local":
        raise WorkflowError(
            f"{name!r} cannot be a study: start with a letter and use only a-z, 0-9 and _."
        )
    for taken in (f"conf/{name}", f"studies/{name}"):
        if (project / taken).exists():
            raise WorkflowError(f"{taken} already exists.")
    begin = project / "conf" / check_study(project, source)
    copied = [begin / GLOBALS] if source == BASE else sorted(begin.glob("*.y*ml"))
    made = {path.name: path.read_text("utf-8") for path in copied if path.is_file()}
    for key, value in OWN.items():
        line = rf"(?m)^{key}:.*$"
        if not re.search(line, made.get(GLOBALS, "")):
            raise WorkflowError(f"conf/{source}/{GLOBALS} has no {key!r}: add it.")
        made[GLOBALS] = re.sub(line, f"{key}: {value.format(name=name)}", made[GLOBALS])
    folder = project / "conf" / name
    folder.mkdir()
    try:
        for file, text in made.items():
            (folder / file).write_text(text, encoding="utf-8")
        sync(project, name)
    except BaseException:
        shutil.rmtree(folder)
        raise
    return [*(f"conf/{name}/{file}" for file in sorted(made)), dvc_file(name)]
