"""A study's configuration as it is written: which key of which file defines what.

DVC compares values in YAML files, so each parameter and each catalog entry is traced to its file
and key, and on through `${globals:...}`. A top-level key that a study names is the study's alone,
as settings.py has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from kedro.config import OmegaConfigLoader

from seuf.errors import InputError

BASE = "base"
REFERENCE = re.compile(r"\$\{(globals:)?([\w.]+)")


class Definition(NamedTuple):
    """Where a top-level key is defined, and as what."""

    file: str
    value: Any


class Address(NamedTuple):
    """A key of a file; without a key the whole file."""

    file: str
    key: str | None


Definitions = dict[str, dict[str, Definition]]


def definitions(project: Path, config: OmegaConfigLoader) -> Definitions:
    """Return the parameters, the catalog and the globals of a study, each key with its file."""
    kinds = ("parameters", "catalog", "globals")
    return {kind: dict(_definitions(project, config, kind)) for kind in kinds}


def addresses(defined: Definitions, kind: str, key: str) -> set[Address]:
    """Return all that defines a parameter, a catalog entry or a global.

    The name of a dataset factory holds a dot, as in `{method}.delta`, and DVC takes a dot for the
    way into a mapping: there the whole file is taken.

    Raises:
        InputError: If nothing defines the key.
    """
    top, *way = [key] if key in defined[kind] else key.split(".")
    try:
        file, value = defined[kind][top]
        for part in way:
            value = value[part]
    except (KeyError, TypeError):
        raise InputError(f"{key!r} is in no {kind} file of the study.") from None
    found = {Address(file, None if "." in top else key)}
    for is_global, name in REFERENCE.findall(str(value)):
        found |= addresses(defined, "globals" if is_global else kind, name)
    return found


def as_params(found: Iterable[Address]) -> list[dict[str, list[str] | None]]:
    """Return the addresses as DVC writes them: each file with its keys, or with None for all."""
    keys: dict[str, list[str] | None] = {}
    for file, key in sorted(found, key=lambda address: (address.file, address.key or "")):
        listed = keys.setdefault(file, [] if key else None)
        if listed is not None and key:
            listed.append(key)
    return [{file: listed} for file, listed in keys.items()]


def _definitions(
    project: Path, config: OmegaConfigLoader, kind: str
) -> Iterator[tuple[str, Definition]]:
    for folder in (BASE, config.env or BASE):
        conf = Path(config.conf_source, folder)
        found = {path for pattern in config.config_patterns[kind] for path in conf.glob(pattern)}
        for path in sorted(path for path in found if path.suffix in (".yml", ".yaml")):
            file = str(path.relative_to(project))
            values = yaml.load(path.read_text(), yaml.CSafeLoader) or {}
            yield from ((key, Definition(file, value)) for key, value in values.items())
