"""A study's configuration, and which key of which file defines each value.

A study is a folder of conf/ on top of conf/base. Its parameters are merged into those of base key
by key; its catalog entries and globals replace those of the same name.

DVC compares values in YAML files, so each parameter and each catalog entry is traced to its file
and key, and on through `${globals:...}`. A parameter may be defined partly in each folder.

DVC reads YAML 1.2 and Kedro mostly 1.1: `no` is text to one and false to the other, `010` is ten or
eight, `2024-01-01` is a date or text. DVC would compare other values than Kedro runs with, so such
YAML is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from copy import deepcopy
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from kedro.config import OmegaConfigLoader
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kedro_dvc.files import WorkflowError

BASE = "base"
KINDS = ("parameters", "catalog", "globals")
REPLACE = "_replace_"
REFERENCE = re.compile(r"\$\{(globals:)?([\w.]+)")  # ${path.to.it} or ${globals:path.to.it}
CHOICE = re.compile(r"\[\$\{globals:([\w.]+)\}\]")  # ${choices[${globals:choice}]}
ABSENT = object()


class StudyConfigLoader(OmegaConfigLoader):
    """Kedro's loader with `merged` as its soft merge, and `~` allowed in a filepath.

    The files of each kind are read once.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._loaded: dict[str, dict[str, Any]] = {}
        super().__init__(*args, **options)

    def __getitem__(self, key: str) -> dict[str, Any]:
        """Return a kind of configuration, such as `catalog`, as a copy that Kedro may change.

        Raises:
            WorkflowError: If it has a reference that cannot be resolved.
        """
        if key in self.data:  # set by hand
            return super().__getitem__(key)
        if key not in self._loaded:
            self._loaded[key] = self._load(key)
        return deepcopy(self._loaded[key])

    def _load(self, key: str) -> dict[str, Any]:
        try:
            content = super().__getitem__(key)
        except OmegaConfBaseException as error:
            raise WorkflowError(
                f"The {key} of conf/{self.env or BASE} cannot be read: {_one_line(error)}. "
                "Environment variables are not read: write a path in full, or with ~ for your home."
            ) from error
        for entry in content.values() if key == "catalog" else ():
            if isinstance(entry, dict) and str(entry.get("filepath", "")).startswith("~"):
                entry["filepath"] = str(Path(entry["filepath"]).expanduser())
        return content

    @staticmethod
    def _soft_merge(
        config: dict[str, Any], env_config: dict[str, Any], env_path: str | None = None
    ) -> Any:
        return merged(config, env_config)


def _one_line(error: OmegaConfBaseException) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines())


def merged(base: Any, study: Any) -> Any:
    """Return a value of base overridden by the study's.

    Mappings are merged key by key, at any depth. A mapping with `_replace_: true` replaces base's
    as a whole, and so does anything that is no mapping.
    """
    if not isinstance(study, dict):
        return study
    below = base if isinstance(base, dict) and not study.get(REPLACE) else {}
    own = {key: merged(below.get(key), value) for key, value in study.items() if key != REPLACE}
    return {**below, **own}


class Definition(NamedTuple):
    """A top-level key: the file that defines it, and its value there."""

    file: str
    value: Any


class Address(NamedTuple):
    """A key in a file; a key of None stands for the whole file."""

    file: str
    key: str | None


class Part(NamedTuple):
    """A value in a file, and the path of keys below its top-level key."""

    file: str
    path: list[str]
    value: Any


Layers = list[dict[str, Definition]]  # by top-level key: base, then the study if it is another one


def definitions(project: Path, config: OmegaConfigLoader) -> dict[str, Layers]:
    """Return the keys of a study's configuration by kind, each with the file that defines it."""
    defined: dict[str, Layers] = {kind: [] for kind in KINDS}
    for kind, layers in defined.items():
        for folder in dict.fromkeys((BASE, config.env or BASE)):
            layers.append({})
            for path in config_files(config, kind, folder):
                file = str(path.relative_to(project))
                values = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader) or {}
                layers[-1] |= {key: Definition(file, value) for key, value in values.items()}
    return defined


def config_files(config: OmegaConfigLoader, kind: str, folder: str) -> list[Path]:
    """Return the YAML files of a kind in a folder of conf/."""
    conf = Path(config.conf_source, folder)
    found = {path for pattern in config.config_patterns[kind] for path in conf.glob(pattern)}
    return sorted(path for path in found if path.suffix in (".yml", ".yaml"))


def naming(project: Path, config: OmegaConfigLoader, path: str) -> str:
    """Return which key of a study names a file, as the end of a message; "" if none does."""
    wanted, defined = _resolved(project, path), definitions(project, config)
    for kind in ("globals", "catalog"):
        for key, value in config[kind].items():
            where = key
            if isinstance(value, Mapping):
                value, where = value.get("filepath"), f"{key}.filepath"
            if isinstance(value, str) and _resolved(project, value) == wanted:
                file = next((of[key].file for of in reversed(defined[kind]) if key in of), None)
                return f" (`{where}` of {file})" if file else ""
    return ""


def _resolved(project: Path, path: str) -> Path:
    """Return a path from the project's root; `~nobody` of an unknown user is kept as it is."""
    try:
        return project / Path(path).expanduser()
    except RuntimeError:
        return project / path


def addresses(
    defined: Mapping[str, Layers], kind: str, key: str, without: Collection[str] = ()
) -> set[Address]:
    """Return every key that defines a parameter, a catalog entry or a global.

    DVC takes a dot in a key for a path into a mapping, and the name of a dataset factory may hold
    one, as in `{model}.metrics`. For such a name the whole file is returned, or, if the factory is
    only a reference such as `${_of_model.metrics}`, what it refers to.

    Args:
        defined: The study's configuration.
        kind: One of `KINDS`.
        key: The name; with dots for a path into a parameter.
        without: Keys of a catalog entry that are left out.

    Raises:
        WorkflowError: If nothing defines the key.
    """
    is_whole = any(key in layer for layer in defined[kind])
    top, *path = [key] if is_whole else key.split(".")
    layers = [layer[top] for layer in defined[kind] if top in layer]
    parts = list(_merged_parts(layers, path) if kind == "parameters" else _last(layers, path))
    if not parts:
        raise WorkflowError(f"{key!r} is in no {kind} file of the study.")
    found: set[Address] = set()
    for file, path, value in parts:
        values = [(path, value)]
        if kind == "catalog" and isinstance(value, Mapping) and "type" in value:
            values = [([*path, one], value[one]) for one in value if one not in without]
        for inner_path, inner in values:
            if "." not in top:
                found.add(Address(file, ".".join([top, *inner_path])))
            elif not (isinstance(inner, str) and inner.startswith("${")):
                found.add(Address(file, None))
            found |= _referred_to(defined, kind, inner, without)
    return found


def as_params(found: Iterable[Address]) -> list[dict[str, list[str] | None]]:
    """Return addresses as dvc.yaml lists them: each file with its keys, or with None for all."""
    keys: dict[str, list[str] | None] = {}
    for file, key in sorted(found, key=lambda address: (address.file, address.key or "")):
        listed = keys.setdefault(file, [] if key else None)
        if listed is not None and key:
            listed.append(key)
    return [{file: listed} for file, listed in keys.items()]


def _referred_to(
    defined: Mapping[str, Layers], kind: str, value: Any, without: Collection[str]
) -> set[Address]:
    """Return the addresses of all references in a value, however deep they are."""
    found: set[Address] = set()

    def chosen(match: re.Match[str]) -> str:
        top, *path = match[1].split(".")
        found.update(addresses(defined, "globals", match[1]))
        layers = [layer[top] for layer in defined["globals"] if top in layer]
        return f".{next(_last(layers, path)).value}"

    for is_global, name in REFERENCE.findall(CHOICE.sub(chosen, str(value))):
        found |= addresses(defined, "globals" if is_global else kind, name, without)
    return found


def _last(layers: list[Definition], path: list[str]) -> Iterator[Part]:
    """Yield the part that defines a value where the last layer replaces the others."""
    for file, value in layers[-1:]:
        if (inner := _at(value, path)) is not ABSENT:
            yield Part(file, path, inner)


def _merged_parts(layers: list[Definition], path: list[str]) -> Iterator[Part]:
    """Yield the parts that together define a value where layers are merged key by key."""
    for (file, value), above in zip(layers, [*layers[1:], None], strict=False):
        if (inner := _at(value, path)) is not ABSENT:
            override = ABSENT if above is None else _override(above.value, path)
            yield from _not_overridden(file, path, inner, override)


def _override(value: Any, path: list[str]) -> Any:
    """Return what a layer puts over the value at a path below it; `ABSENT` if it leaves it alone.

    None, like any value that is no mapping, replaces what is below as a whole.
    """
    for key in path:
        if not isinstance(value, Mapping) or value.get(REPLACE):
            return None
        if key not in value:
            return ABSENT
        value = value[key]
    return value


def _not_overridden(file: str, path: list[str], value: Any, override: Any) -> Iterator[Part]:
    """Yield what is left of a value under its override: whole, or key by key."""
    if override is ABSENT:
        yield Part(file, path, value)
    elif not isinstance(override, Mapping) or override.get(REPLACE):
        return
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _not_overridden(file, [*path, key], inner, override.get(key, ABSENT))
    else:
        yield Part(file, path, value)


def _at(value: Any, path: list[str]) -> Any:
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return ABSENT
        value = value[key]
    return value


def check_yaml(project: Path, config: OmegaConfigLoader) -> None:
    """Raise if DVC and Kedro read a configuration file differently.

    Raises:
        WorkflowError: With each place, what each reads there, and what to write instead.
    """
    wrong = [
        line
        for folder in dict.fromkeys((BASE, config.env or BASE))
        for kind in KINDS
        for path in config_files(config, kind, folder)
        for line in _differences(path.read_text(encoding="utf-8"), str(path.relative_to(project)))
    ]
    if wrong:
        raise WorkflowError("; ".join(wrong))


@lru_cache(maxsize=256)  # each study checks the files of base
def _differences(text: str, name: str) -> tuple[str, ...]:
    """Return where DVC and Kedro read a file's text differently."""
    from dvc.utils.serialize import YAMLFileCorruptedError, parse_yaml  # takes half a second

    try:
        kedro = OmegaConf.to_container(OmegaConf.load(StringIO(text)), resolve=False)
        dvc = parse_yaml(text, name)
    except yaml.YAMLError as error:
        raise WorkflowError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error
    except OmegaConfBaseException as error:
        raise WorkflowError(f"{name} cannot be read: {_one_line(error)}") from error
    except YAMLFileCorruptedError as error:
        cause = " ".join(str(error.__cause__).split())
        raise WorkflowError(f"{name} is not valid YAML for DVC: {cause}") from error
    return tuple(
        f"{name}: {path_in_file} is {of_dvc!r} to DVC and {of_kedro!r} to Kedro: write true or "
        "false, quote text and dates, and start no number with 0"
        for path_in_file, of_dvc, of_kedro in _unequal("", dvc, kedro)
    )


def _unequal(path: str, dvc: Any, kedro: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(dvc, Mapping) and isinstance(kedro, Mapping) and dvc.keys() == kedro.keys():
        for key in dvc:
            yield from _unequal(f"{path}.{key}".lstrip("."), dvc[key], kedro[key])
    elif isinstance(dvc, list) and isinstance(kedro, list) and len(dvc) == len(kedro):
        for number, (one, other) in enumerate(zip(dvc, kedro, strict=True)):
            yield from _unequal(f"{path}[{number}]", one, other)
    elif type(dvc) is not type(kedro) or dvc != kedro:
        yield path, dvc, kedro
