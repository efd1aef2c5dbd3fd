"""YAML that DVC and Kedro would read differently is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from kedro_dvc.configuration import StudyConfigLoader, check_yaml
from kedro_dvc.files import WorkflowError


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
    with pytest.raises(WorkflowError, match=r"parameters.yml is no YAML to DVC: .* column 10"):
        _check(tmp_path, "a: {key: 1:30}\n")


def test_a_file_that_neither_can_read_is_named(tmp_path):
    with pytest.raises(WorkflowError, match=r"parameters.yml is no YAML: .* line 2, column 1"):
        _check(tmp_path, "a: {key: 1\n")


def test_anchors_and_merges_are_read_alike(tmp_path):
    _check(tmp_path, "_a: &a {x: 1}\nb: {<<: *a, y: 2}\n", "mine/catalog.yml")


def test_references_are_left_as_they_are(tmp_path):
    _check(tmp_path, "key: ${globals:root}/a\n")
