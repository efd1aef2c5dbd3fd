"""How a study's parameters lie over those of base.

Which parts of which files make up a value, where a study's configuration lies over base's.

A study's configuration as it is written: which key of which file defines what.

DVC compares values in YAML files, so each parameter and each catalog entry is traced to its file
and key, and on through `${globals:...}`. Where a study lies over base (see `loader`), a parameter
may be defined in part by each.

YAML that DVC and Kedro read differently: what one compares is not what the other runs with.

DVC reads YAML 1.2, Kedro mostly 1.1: `no` is a text to the one and false to the other, `010` ten
or eight, `2024-01-01` a date or a text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from kedro.config import OmegaConfigLoader
from omegaconf import OmegaConf
from yaml import YAMLError

from kedro_dvc.files import WorkflowError

REPLACE = "_replace_"


def merged(base: Any, study: Any) -> Any:
    """Return what a study's value makes of base's.

    Mappings are merged key by key, at any depth. One that says `_replace_: true` takes the place
    of base's whole, as does anything that is no mapping.
    """
    if not isinstance(study, dict):
        return study
    below = base if isinstance(base, dict) and not study.get(REPLACE) else {}
    own = {key: merged(below.get(key), value) for key, value in study.items() if key != REPLACE}
    return {**below, **own}


class StudyConfigLoader(OmegaConfigLoader):
    """Kedro's loader, whose soft merge knows `_replace_`."""

    @staticmethod
    def _soft_merge(
        config: dict[str, Any], env_config: dict[str, Any], env_path: str | None = None
    ) -> Any:
        return merged(config, env_config)


class Definition(NamedTuple):
    """Where a top-level key is defined, and as what."""

    file: str
    value: Any


class Part(NamedTuple):
    """A value in a file, and the keys that lead to it from the top-level one."""

    file: str
    way: list[str]
    value: Any


class _Found(NamedTuple):
    value: Any
    replaces: bool = False  # all below it


def last(layers: list[Definition], way: list[str]) -> Iterator[Part]:
    """Yield what defines a value where the last layer that has the top-level key has all of it."""
    for file, value in layers[-1:]:
        found = _at(value, way)
        if found is not None:
            yield Part(file, way, found.value)


def merged_parts(layers: list[Definition], way: list[str]) -> Iterator[Part]:
    """Yield the parts that together define a value where layers are merged key by key.

    Args:
        layers: What each layer says of the top-level key, the lowest first.
        way: The keys that lead on from there.
    """
    for place, (file, value) in enumerate(layers):
        found = _at(value, way)
        if found is None:
            continue
        above = (_overlay(layer.value, way) for layer in layers[place + 1 :])
        yield from _not_overridden(file, way, found.value, [over for over in above if over])


def _at(value: Any, way: list[str]) -> _Found | None:
    for part in way:
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return _Found(value)


def _overlay(value: Any, way: list[str]) -> _Found | None:
    """Return what a higher layer puts over a value; None if it leaves it alone."""
    for part in way:
        if not isinstance(value, Mapping) or value.get(REPLACE):
            return _Found(None, replaces=True)
        if part not in value:
            return None
        value = value[part]
    return _Found(value, replaces=not isinstance(value, Mapping) or bool(value.get(REPLACE)))


def _not_overridden(file: str, way: list[str], value: Any, above: list[_Found]) -> Iterator[Part]:
    """Yield what of a value no higher layer overrides: whole, or key by key."""
    if any(over.replaces for over in above):
        return
    if not above or not isinstance(value, Mapping):
        yield Part(file, way, value)
        return
    for key, item in value.items():
        over = (_overlay(one.value, [key]) for one in above)
        yield from _not_overridden(file, [*way, key], item, [one for one in over if one])


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
    found = list(merged_parts(layers, way) if kind == "parameters" else last(layers, way))
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
    from dvc.utils.serialize import YAMLFileCorruptedError, load_yaml  # half a second

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
