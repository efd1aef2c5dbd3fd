"""YAML that DVC and Kedro read differently: what one compares is not what the other runs with.

DVC reads YAML 1.2, Kedro mostly 1.1: `no` is a text to the one and false to the other, `010` ten
or eight, `2024-01-01` a date or a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dvc.utils.serialize import YAMLFileCorruptedError, load_yaml
from kedro.config import OmegaConfigLoader
from omegaconf import OmegaConf
from yaml import YAMLError

from seuf.kedro_dvc.errors import WorkflowError
from seuf.kedro_dvc.project.configuration import BASE, KINDS, config_files


def check_yaml(project: Path, config: OmegaConfigLoader) -> None:
    """Raise if a file of a study's configuration means different things to DVC and to Kedro.

    Raises:
        WorkflowError: Naming each place, what each reads there, and what to write instead.
    """
    wrong = [
        line
        for folder in dict.fromkeys((BASE, config.env or BASE))
        for kind in KINDS
        for path in config_files(config, kind, folder)
        for line in _differences(path, str(path.relative_to(project)))
    ]
    if wrong:
        raise WorkflowError("; ".join(wrong))


def _differences(path: Path, name: str) -> Iterator[str]:
    try:
        kedro = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        dvc = load_yaml(str(path)) or {}
    except YAMLError as error:
        raise WorkflowError(f"{name} is no YAML: {_on_one_line(error)}") from error
    except YAMLFileCorruptedError as error:
        raise WorkflowError(f"{name} is no YAML to DVC: {_on_one_line(error.__cause__)}") from error
    for way, ours, theirs in _unequal("", dvc, kedro):
        yield (
            f"{name}: {way} is {ours!r} to DVC and {theirs!r} to Kedro: write true or false, "
            "quote texts and dates, begin no number with 0"
        )


def _on_one_line(error: BaseException | None) -> str:
    return " ".join(str(error).split())


def _unequal(way: str, ours: Any, theirs: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping) and ours.keys() == theirs.keys():
        for key in ours:
            yield from _unequal(f"{way}.{key}".lstrip("."), ours[key], theirs[key])
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for place, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from _unequal(f"{way}[{place}]", one, other)
    elif type(ours) is not type(theirs) or ours != theirs:
        yield way, ours, theirs
