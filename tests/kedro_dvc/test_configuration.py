"""How a study lies over base, where a value is defined, and which YAML is refused.

The two properties that make stages exact are checked on made-up configurations: the addresses found
hold the whole value, and nothing that could change without changing the value.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedro_dvc.configuration import (
    Address,
    Definition,
    StudyConfigLoader,
    addresses,
    as_params,
    check_yaml,
    merged,
    naming,
)
from kedro_dvc.files import WorkflowError
from kedro_dvc.project import check_study

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


@pytest.mark.parametrize(
    ("base", "study", "expected"),
    [
        ({"a": 1, "b": 2}, {"b": 3}, {"a": 1, "b": 3}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": 1, "c": 3}}),
        ({"a": {"b": 1}}, {"a": {"_replace_": True, "c": 3}}, {"a": {"c": 3}}),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"_replace_": True}}}, {"a": {"b": {}}}),
        ({"a": {"b": 1}}, {"a": 2}, {"a": 2}),
        ({"a": 2}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": [1, 2, 3]}, {"a": [4]}, {"a": [4]}),  # a list is a value
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({}, {"a": {"_replace_": True, "b": 1}}, {"a": {"b": 1}}),
    ],
)
def test_mappings_are_merged_key_by_key(base, study, expected):
    assert merged(base, study) == expected


def test_a_loader_is_the_configuration_of_one_moment_and_gives_copies(tmp_path: Path):
    """Kedro changes what it gets, and the file is edited after the first look."""
    (tmp_path / "base").mkdir()
    file = tmp_path / "base/parameters.yml"
    file.write_text("a: {b: 1}")
    loader = StudyConfigLoader(str(tmp_path), "base", base_env="base", default_run_env="base")

    loader["parameters"]["a"]["b"] = 2
    file.write_text("a: {b: 3}")

    assert loader["parameters"] == {"a": {"b": 1}}
    loader["parameters"] = {"set": "by hand"}
    assert loader["parameters"] == {"set": "by hand"}


def test_kedro_reads_a_study_so(tmp_path: Path):
    for name, text in {"base": "a: {b: 1, c: 2}", "mine": "a: {c: 3}"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "parameters.yml").write_text(text)
    soft = {"parameters": "soft"}
    loader = StudyConfigLoader(str(tmp_path), "mine", base_env="base", merge_strategy=soft)

    assert loader["parameters"] == {"a": {"b": 1, "c": 3}}


def _check(root: Path, text: str, file: str = "base/parameters.yml") -> None:
    (root / "conf/base").mkdir(parents=True)
    (root / "conf/mine").mkdir()
    (root / "conf" / file).write_text(text)
    check_yaml(root, StudyConfigLoader(str(root / "conf"), "mine", base_env="base"))


@pytest.mark.parametrize(
    ("written", "dvc", "kedro"),
    [
        ("yes", "'yes'", "True"),
        ("no", "'no'", "False"),
        ("on", "'on'", "True"),
        ("010", "10", "8"),
        ("0o17", "15", "'0o17'"),
        ("1:30", "'1:30'", "90"),
        ("2024-01-01", "datetime", "'2024-01-01'"),
    ],
)
def test_values_that_differ_are_named_with_the_way_out(tmp_path, written, dvc, kedro):
    with pytest.raises(WorkflowError) as error:
        _check(tmp_path, f"deep:\n  list:\n  - 1\n  - key: {written}\n")

    message = str(error.value)
    assert message.startswith("conf/base/parameters.yml: deep.list[1].key is ")
    assert f"{dvc}" in message
    assert f"{kedro} to Kedro" in message


@pytest.mark.parametrize(
    "written", ["true", "1e-4", "1.0e-3", "'no'", "'010'", "'2024-01-01'", "null", "~", "", "10"]
)
def test_values_that_are_the_same_to_both_are_fine(tmp_path, written):
    _check(tmp_path, f"key: {written}\nother: [{written or 1}]\n")


def test_keys_count_too(tmp_path):
    with pytest.raises(WorkflowError, match=r"conf/mine/globals.yml: "):
        _check(tmp_path, "a: {no: 1}\n", "mine/globals.yml")


def test_a_file_that_only_one_of_them_can_read_is_named(tmp_path):
    with pytest.raises(WorkflowError, match=r"is not valid YAML for DVC: .* column 10"):
        _check(tmp_path, "a: {key: 1:30}\n")


def test_a_file_that_neither_can_read_is_named(tmp_path):
    with pytest.raises(WorkflowError, match=r"is not valid YAML: .* line 2, column 1"):
        _check(tmp_path, "a: {key: 1\n")


def test_anchors_and_merges_are_read_alike(tmp_path):
    _check(tmp_path, "_a: &a {x: 1}\nb: {<<: *a, y: 2}\n", "mine/catalog.yml")


def test_references_are_left_as_they_are(tmp_path):
    _check(tmp_path, "key: ${globals:root}/a\n")


def _catalog(root: Path, filepath: str) -> StudyConfigLoader:
    (root / "conf/base").mkdir(parents=True)
    (root / "conf/base/globals.yml").write_text(f"texts: {filepath}\n")
    (root / "conf/base/catalog.yml").write_text(
        "texts: {type: text.TextDataset, filepath: '${globals:texts}'}\n"
    )
    return StudyConfigLoader(str(root / "conf"), "base", base_env="base")


def test_a_path_may_begin_at_ones_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")

    assert _catalog(tmp_path, "~/a.jsonl")["catalog"]["texts"]["filepath"] == "/home/me/a.jsonl"


@pytest.mark.parametrize("path", ["${HOME}/a.jsonl", "${oc.env:HOME}/a.jsonl"])
def test_what_refers_to_the_environment_is_refused_in_one_line(tmp_path, path):
    with pytest.raises(WorkflowError, match="Environment variables are not read") as error:
        _catalog(tmp_path, path)

    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "refused"), [("modle", True), ("mine", False), ("modell", True), ("models", False)]
)
def test_a_misspelt_key_of_a_studys_globals_is_refused(tmp_path, key, refused):
    """`models` is read by a catalog, and nothing of base is called much like `mine`."""
    for study, lines in {
        "base": ["study: base", "data_root: data", "model: here"],
        "own": ["study: own", "data_root: studies/own/data", f"{key}: there"],
    }.items():
        folder = tmp_path / "conf" / study
        folder.mkdir(parents=True)
        (folder / "globals.yml").write_text("\n".join(lines), encoding="utf-8")
    catalog = "a: {type: text.TextDataset, filepath: '${globals:models}'}"
    (tmp_path / "conf/own/catalog.yml").write_text(catalog, encoding="utf-8")

    if refused:
        said = rf"conf/own/globals\.yml: nothing reads '{key}'; nearest: model"
        with pytest.raises(WorkflowError, match=said):
            check_study(tmp_path, "own")
    else:
        assert check_study(tmp_path, "own") == "own"


def test_the_key_that_names_a_file_is_found_in_globals_then_in_the_catalog(tmp_path):
    """A file that the catalog names by a global is the global's: that is where it is changed."""
    (tmp_path / "conf/base").mkdir(parents=True)
    (tmp_path / "conf/base/globals.yml").write_text("forget: /nope\nkept: data/kept.csv\n")
    (tmp_path / "conf/base/catalog.yml").write_text(
        "first: {type: x.Y, filepath: '${globals:forget}'}\nraw: {type: x.Y, filepath: raw.csv}\n"
    )
    config = StudyConfigLoader(str(tmp_path / "conf"), "base", base_env="base")

    paths = ("/nope", str(tmp_path / "data/kept.csv"), "raw.csv", "other.csv")
    assert [naming(tmp_path, config, path) for path in paths] == [
        " (`forget` of conf/base/globals.yml)",
        " (`kept` of conf/base/globals.yml)",
        " (`raw.filepath` of conf/base/catalog.yml)",
        "",
    ]


def test_a_path_in_the_home_of_nobody_known_names_no_file(tmp_path):
    (tmp_path / "conf/base").mkdir(parents=True)
    (tmp_path / "conf/base/globals.yml").write_text("share: ~ten\nforget: /nope\n")
    config = StudyConfigLoader(str(tmp_path / "conf"), "base", base_env="base")

    assert naming(tmp_path, config, "/nope") == " (`forget` of conf/base/globals.yml)"
    assert naming(tmp_path, config, "~nobody-known/x") == ""
