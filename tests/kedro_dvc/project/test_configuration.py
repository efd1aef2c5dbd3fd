"""Where a value is defined, when a study lies over base.

The two properties that make stages exact are checked on made-up configurations: the places found
hold the whole value, and nothing that could change without changing the value.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedro_dvc.configuration import Address, Definition, addresses, as_params, merged
from kedro_dvc.files import WorkflowError

KEYS = st.sampled_from("abc")
VALUES = st.recursive(
    st.integers(0, 3), lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
OVERLAYS = st.recursive(
    st.integers(0, 3),
    lambda inner: st.dictionaries(st.sampled_from(["a", "b", "c", "_replace_"]), inner, max_size=3),
    max_leaves=8,
)


def _defined(base: dict[str, Any], study: dict[str, Any]) -> dict[str, Any]:
    layers = [
        {key: Definition(file, value) for key, value in values.items()}
        for file, values in (("base", base), ("study", study))
    ]
    return {"parameters": layers, "catalog": [{}, {}], "globals": [{}, {}]}


def _clean(value: Any) -> Any:
    """Return the value with `_replace_` meaning something wherever it stands."""
    if not isinstance(value, dict):
        return value
    return {key: True if key == "_replace_" else _clean(item) for key, item in value.items()}


def _at(value: Any, way: list[str]) -> Any:
    for part in way:
        value = value[part]
    return value


def _only(value: Any, keys: list[str]) -> dict[str, Any]:
    """Return the parts of a file that are watched."""
    found: dict[str, Any] = {}
    for key in keys:
        *way, last = key.split(".")
        place = found
        for part in way:
            place = place.setdefault(part, {})
        place[last] = _at(value, [*way, last])
    return found


def _watched(base: Any, study: Any, key: str) -> tuple[dict[str, Any], dict[str, Any]]:
    found = as_params(addresses(_defined(base, study), "parameters", key))
    keys = {file: listed or [] for entry in found for file, listed in entry.items()}
    return _only(base, keys.get("base", [])), _only(study, keys.get("study", []))


@given(VALUES, OVERLAYS)
def test_what_is_watched_makes_the_whole_value(in_base, in_study):
    base, study = {"top": in_base}, {"top": _clean(in_study)}

    seen = merged(*_watched(base, study, "top"))

    assert seen == merged(base, study)


@given(VALUES, OVERLAYS, VALUES)
def test_what_a_study_overrides_is_not_watched_in_base(in_base, in_study, other):
    """If base changes and the value does not, then nothing watched has changed either."""
    base, study, changed = {"top": in_base}, {"top": _clean(in_study)}, {"top": other}
    before, after = _watched(base, study, "top"), _watched(changed, study, "top")

    if merged(base, study) == merged(changed, study) and _leaves(before[0]) == _leaves(after[0]):
        assert before == after


def _leaves(value: Any, way: str = "") -> list[str]:
    if not isinstance(value, dict) or not value:
        return [way]
    return sorted(leaf for key in value for leaf in _leaves(value[key], f"{way}.{key}"))


@pytest.mark.parametrize(
    ("key", "base", "study"),
    [
        ("a", [], ["a"]),  # a value
        ("m", ["m.left"], ["m"]),  # a mapping of which the study sets a part
        ("m.left", ["m.left"], []),
        ("m.set", [], ["m.set"]),
        ("r", [], ["r"]),  # a mapping that replaces base's
        ("r.new", [], ["r.new"]),
        ("only", ["only"], []),
    ],
)
def test_a_parameter_is_watched_where_it_is_set(key, base, study):
    in_base = {"a": 1, "m": {"left": 1, "set": 2}, "r": {"old": 1}, "only": {"b": 1}}
    in_study = {"a": 2, "m": {"set": 3}, "r": {"_replace_": True, "new": 1}}

    found = addresses(_defined(in_base, in_study), "parameters", key)

    expected = {*(Address("base", k) for k in base), *(Address("study", k) for k in study)}
    assert found == expected


def test_a_key_that_was_replaced_is_nowhere():
    defined = _defined({"r": {"old": 1}}, {"r": {"_replace_": True}})

    with pytest.raises(WorkflowError, match=r"'r.old' is in no parameters file"):
        addresses(defined, "parameters", "r.old")


def test_the_catalog_is_not_merged():
    """Kedro takes an entry of the study whole."""
    layers = [{"d": Definition(file, {file: 1})} for file in ("base", "study")]

    found = addresses({"parameters": [], "catalog": layers, "globals": []}, "catalog", "d")

    assert found == {Address("study", "d")}
