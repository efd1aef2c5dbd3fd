"""A study's configuration as it is written: which key of which file defines what.

DVC compares values in YAML files, so each parameter and each catalog entry is traced to its file
and key, and on through `${globals:...}`. Where a study lies over base (see `loader`), a parameter
may be defined in part by each.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from kedro.config import OmegaConfigLoader

from seuf.kedro_dvc.errors import WorkflowError
from seuf.kedro_dvc.project.layers import Definition, Part, last, merged

BASE = "base"
KINDS = ("parameters", "catalog", "globals")
REFERENCE = re.compile(r"\$\{(globals:)?([\w.]+)")  # ${way.to.it} or ${globals:way.to.it}
CHOICE = re.compile(r"\[\$\{globals:([\w.]+)\}\]")  # ${ways[${globals:way}]}


class Address(NamedTuple):
    """A key of a file; without a key the whole file."""

    file: str
    key: str | None


Layer = dict[str, Definition]
Definitions = dict[str, list[Layer]]  # of each kind: base, then the study if it is another


def definitions(project: Path, config: OmegaConfigLoader) -> Definitions:
    """Return the parameters, the catalog and the globals of a study, each key with its file."""
    folders = dict.fromkeys((BASE, config.env or BASE))
    return {
        kind: [dict(_definitions(project, config, kind, folder)) for folder in folders]
        for kind in KINDS
    }


def config_files(config: OmegaConfigLoader, kind: str, folder: str) -> list[Path]:
    """Return the YAML files of a kind in a folder of conf/."""
    conf = Path(config.conf_source, folder)
    found = {path for pattern in config.config_patterns[kind] for path in conf.glob(pattern)}
    return sorted(path for path in found if path.suffix in (".yml", ".yaml"))


def addresses(
    defined: Definitions, kind: str, key: str, without: Collection[str] = ()
) -> set[Address]:
    """Return all that defines a parameter, a catalog entry or a global.

    The name of a dataset factory holds a dot, as in `{method}.delta`, and DVC takes a dot for the
    way into a mapping: there the whole file is taken, or where the factory is but a reference, as
    in `${_unlearned.delta}`, what it refers to.

    Args:
        defined: The study's configuration.
        kind: One of `KINDS`.
        key: The name; into a parameter with dots.
        without: What of a catalog entry does not count.

    Raises:
        WorkflowError: If nothing defines the key.
    """
    whole = any(key in layer for layer in defined[kind])
    top, *way = [key] if whole else key.split(".")
    layers = [layer[top] for layer in defined[kind] if top in layer]
    found = list(merged(layers, way) if kind == "parameters" else last(layers, way))
    if not found:
        raise WorkflowError(f"{key!r} is in no {kind} file of the study.")
    parts = [part for one in found for part in _that_count(kind, one, without)]
    return {
        address
        for part in parts
        for address in (*_own(top, part), *_referred(defined, kind, part.value, without))
    }


def as_params(found: Iterable[Address]) -> list[dict[str, list[str] | None]]:
    """Return the addresses as DVC writes them: each file with its keys, or with None for all."""
    keys: dict[str, list[str] | None] = {}
    for file, key in sorted(found, key=lambda address: (address.file, address.key or "")):
        listed = keys.setdefault(file, [] if key else None)
        if listed is not None and key:
            listed.append(key)
    return [{file: listed} for file, listed in keys.items()]


def _that_count(kind: str, part: Part, without: Collection[str]) -> list[Part]:
    file, way, value = part
    if kind != "catalog" or not isinstance(value, Mapping) or "type" not in value:
        return [part]
    return [Part(file, [*way, key], value[key]) for key in value if key not in without]


def _own(top: str, part: Part) -> list[Address]:
    if "." not in top:
        return [Address(part.file, ".".join([top, *part.way]))]
    only_refers = isinstance(part.value, str) and part.value.startswith("${")
    return [] if only_refers else [Address(part.file, None)]


def _referred(
    defined: Definitions, kind: str, value: Any, without: Collection[str]
) -> Iterator[Address]:
    """Yield the addresses of all that a value refers to, as it stands or nested."""
    text = str(value)
    for name in CHOICE.findall(text):
        yield from addresses(defined, "globals", name)
    text = CHOICE.sub(lambda match: f".{_global(defined, match[1])}", text)
    for is_global, name in REFERENCE.findall(text):
        yield from addresses(defined, "globals" if is_global else kind, name, without)


def _global(defined: Definitions, name: str) -> Any:
    top, *way = name.split(".")
    layers = [layer[top] for layer in defined["globals"] if top in layer]
    return next(last(layers, way)).value


def _definitions(
    project: Path, config: OmegaConfigLoader, kind: str, folder: str
) -> Iterator[tuple[str, Definition]]:
    for path in config_files(config, kind, folder):
        file = str(path.relative_to(project))
        values = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader) or {}
        yield from ((key, Definition(file, value)) for key, value in values.items())
