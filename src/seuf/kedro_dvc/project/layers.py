"""Which parts of which files make up a value, where a study's configuration lies over base's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from seuf.kedro_dvc.project.loader import REPLACE


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


def merged(layers: list[Definition], way: list[str]) -> Iterator[Part]:
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
