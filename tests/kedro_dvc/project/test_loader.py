"""How a study's parameters lie over those of base."""

from __future__ import annotations

from pathlib import Path

import pytest

from kedro_dvc.configuration import StudyConfigLoader, merged


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


def test_kedro_reads_a_study_so(tmp_path: Path):
    for name, text in {"base": "a: {b: 1, c: 2}", "mine": "a: {c: 3}"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "parameters.yml").write_text(text)
    soft = {"parameters": "soft"}
    loader = StudyConfigLoader(str(tmp_path), "mine", base_env="base", merge_strategy=soft)

    assert loader["parameters"] == {"a": {"b": 1, "c": 3}}
