"""A study's configuration: how it lies over that of base, and which key of which file says what.

A study is a folder of conf/ over conf/base. Its parameters are laid over those of base key by key;
its catalog entries and globals replace those of one name.

DVC compares values in YAML files, so each parameter and each catalog entry is traced to its file
and key, and on through `${globals:...}`. A parameter may be defined in part by both folders.

DVC reads YAML 1.2, Kedro mostly 1.1: `no` is a text to the one and false to the other, `010` ten or
eight, `2024-01-01` a date or a text. What one of them compares would not be what the other runs
with, so such YAML is refused.
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
    """Kedro's loader, whose soft merge is `merged`; a filepath may begin with `~`.

    It is the configuration of one moment: the files of a part are read once.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._made: dict[str, dict[str, Any]] = {}
        super().__init__(*args, **options)

    def __getitem__(self, key: str) -> dict[str, Any]:
        """Return a part of the configuration; Kedro changes what it gets, so it is a copy.

        Raises:
            WorkflowError: If it refers to what is nowhere, in one line.
        """
        if key in self.data:  # set by hand
            return super().__getitem__(key)
        if key not in self._made:
            self._made[key] = self._make(key)
        return deepcopy(self._made[key])

    def _make(self, key: str) -> dict[str, Any]:
        try:
            content = super().__getitem__(key)
        except OmegaConfBaseException as error:
            reason = "; ".join(line.strip() for line in str(error).splitlines())
            raise WorkflowError(
                f"The {key} of conf/{self.env or BASE} cannot be made: {reason}. Of the "
                "environment nothing is read: write a path in full, or with ~ for your home."
            ) from error
        entries = content.values() if key == "catalog" else ()
        for entry in entries:
            if isinstance(entry, dict) and str(entry.get("filepath", "")).startswith("~"):
                entry["filepath"] = str(Path(entry["filepath"]).expanduser())
        return content

    @staticmethod
    def _soft_merge(
        config: dict[str, Any], env_config: dict[str, Any], env_path: str | None = None
    ) -> Any:
        return merged(config, env_config)


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


class Definition(NamedTuple):
    """Where a top-level key is defined, and as what."""

    file: str
    value: Any


class Address(NamedTuple):
    """A key of a file; without a key the whole file."""

    file: str
    key: str | None


class Part(NamedTuple):
    """A value in a file, and the keys that lead to it from the top-level one."""

    file: str
    path: list[str]
    value: Any


Definitions = dict[str, list[dict[str, Definition]]]  # of each kind: base, then another study


def definitions(project: Path, config: OmegaConfigLoader) -> Definitions:
    """Return the parameters, the catalog and the globals of a study, each key with its file."""
    defined: Definitions = {kind: [] for kind in KINDS}
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
    """Return which key of a study names a file, as an end of a message; nothing if none does."""
    wanted, defined = _place(project, path), definitions(project, config)
    keys = [
        (kind, key, value) for kind in ("globals", "catalog") for key, value in config[kind].items()
    ]
    for kind, key, named in keys:
        where = key
        if isinstance(named, Mapping):
            named, where = named.get("filepath"), f"{key}.filepath"
        if isinstance(named, str) and _place(project, named) == wanted:
            file = next((of[key].file for of in reversed(defined[kind]) if key in of), None)
            return f" (`{where}` of {file})" if file else ""
    return ""


def _place(project: Path, path: str) -> Path:
    """Return where a path of a study leads; one with the home of nobody known stays as it is."""
    try:
        return project / Path(path).expanduser()
    except RuntimeError:
        return project / path


def addresses(
    defined: Definitions, kind: str, key: str, without: Collection[str] = ()
) -> set[Address]:
    """Return all that defines a parameter, a catalog entry or a global.

    The name of a dataset factory may hold a dot, as in `{model}.metrics`, and DVC takes a dot for
    the path into a mapping: there the whole file is taken, or where the factory is but a reference,
    as in `${_of_model.metrics}`, what it refers to.

    Args:
        defined: The study's configuration.
        kind: One of `KINDS`.
        key: The name; into a parameter with dots.
        without: Keys of a catalog entry that do not count.

    Raises:
        WorkflowError: If nothing defines the key.
    """
    whole = any(key in layer for layer in defined[kind])
    top, *path = [key] if whole else key.split(".")
    layers = [layer[top] for layer in defined[kind] if top in layer]
    parts = list(_merged_parts(layers, path) if kind == "parameters" else _last(layers, path))
    if not parts:
        raise WorkflowError(f"{key!r} is in no {kind} file of the study.")
    found: set[Address] = set()
    for file, path, value in parts:
        counted = [(path, value)]
        if kind == "catalog" and isinstance(value, Mapping) and "type" in value:
            counted = [([*path, one], value[one]) for one in value if one not in without]
        for inner_path, inner in counted:
            if "." not in top:
                found.add(Address(file, ".".join([top, *inner_path])))
            elif not (isinstance(inner, str) and inner.startswith("${")):
                found.add(Address(file, None))
            found |= _referred_to(defined, kind, inner, without)
    return found


def as_params(found: Iterable[Address]) -> list[dict[str, list[str] | None]]:
    """Return the addresses as DVC writes them: each file with its keys, or with None for all."""
    keys: dict[str, list[str] | None] = {}
    for file, key in sorted(found, key=lambda address: (address.file, address.key or "")):
        listed = keys.setdefault(file, [] if key else None)
        if listed is not None and key:
            listed.append(key)
    return [{file: listed} for file, listed in keys.items()]


def _referred_to(
    defined: Definitions, kind: str, value: Any, without: Collection[str]
) -> set[Address]:
    """Return the addresses of all that a value refers to, as it stands or nested."""
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
    """Yield what defines a value where the last layer that has the top-level key has all of it."""
    for file, value in layers[-1:]:
        if (inner := _at(value, path)) is not ABSENT:
            yield Part(file, path, inner)


def _merged_parts(layers: list[Definition], path: list[str]) -> Iterator[Part]:
    """Yield the parts that together define a value where layers are merged key by key.

    Args:
        layers: What each layer says of the top-level key, the lowest first.
        path: The keys that lead on from there.
    """
    for number, (file, value) in enumerate(layers):
        if (inner := _at(value, path)) is not ABSENT:
            above = [_overlay(layer.value, path) for layer in layers[number + 1 :]]
            yield from _not_overridden(file, path, inner, [one for one in above if one])


class _Overlay(NamedTuple):
    value: Any
    replaces: bool  # all below it


def _overlay(value: Any, path: list[str]) -> _Overlay | None:
    """Return what a higher layer puts over a value; None if it leaves it alone."""
    for key in path:
        if not isinstance(value, Mapping) or value.get(REPLACE):
            return _Overlay(None, replaces=True)
        if key not in value:
            return None
        value = value[key]
    return _Overlay(value, replaces=not isinstance(value, Mapping) or bool(value.get(REPLACE)))


def _not_overridden(
    file: str, path: list[str], value: Any, above: list[_Overlay]
) -> Iterator[Part]:
    """Yield what of a value no higher layer overrides: whole, or key by key."""
    if any(overlay.replaces for overlay in above):
        return
    if not above or not isinstance(value, Mapping):
        yield Part(file, path, value)
        return
    for key, inner in value.items():
        over = (_overlay(overlay.value, [key]) for overlay in above)
        yield from _not_overridden(file, [*path, key], inner, [one for one in over if one])


def _at(value: Any, path: list[str]) -> Any:
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return ABSENT
        value = value[key]
    return value


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
        for line in _differences(path.read_text(encoding="utf-8"), str(path.relative_to(project)))
    ]
    if wrong:
        raise WorkflowError("; ".join(wrong))


@lru_cache(maxsize=256)
def _differences(text: str, name: str) -> tuple[str, ...]:
    """Return what a file's text means to DVC and not to Kedro; each study asks it of base anew."""
    from dvc.utils.serialize import YAMLFileCorruptedError, parse_yaml  # takes half a second

    try:
        kedro = OmegaConf.to_container(OmegaConf.load(StringIO(text)), resolve=False)
        dvc = parse_yaml(text, name)
    except yaml.YAMLError as error:
        raise WorkflowError(f"{name} is no YAML: {' '.join(str(error).split())}") from error
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()
        raise WorkflowError(
            f"{name} cannot be read: {'; '.join(map(str.strip, reason))}"
        ) from error
    except YAMLFileCorruptedError as error:
        cause = " ".join(str(error.__cause__).split())
        raise WorkflowError(f"{name} is no YAML to DVC: {cause}") from error
    return tuple(
        f"{name}: {path_in_file} is {of_dvc!r} to DVC and {of_kedro!r} to Kedro: write true or "
        "false, quote texts and dates, begin no number with 0"
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
