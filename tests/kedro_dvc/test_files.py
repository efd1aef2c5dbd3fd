"""Where data lie, and how our own files are written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
from kedro.framework import project as kedro_project
from kedro.io import MemoryDataset
from kedro.utils import find_kedro_project

from kedro_dvc.files import (
    UserPath,
    WorkflowError,
    enter_project,
    files_of,
    files_of_output,
    load_yaml,
    path_of,
    problem_of_disk,
    stamp,
    strict_json,
    write_text,
)
from seuf.datasets.texts import TextDataset


def test_a_data_set_in_memory_is_nowhere():
    """Least of all in the working directory."""
    assert path_of(MemoryDataset()) is None
    assert path_of(None) is None
    assert path_of(TextDataset(filepath="a/b")) == Path("a/b")


def test_the_files_of_a_path_are_itself_or_what_lies_below(tmp_path):
    (tmp_path / "folder/deep").mkdir(parents=True)
    for name in ("folder/b", "folder/deep/a"):
        (tmp_path / name).write_text("")

    assert files_of(tmp_path / "folder") == [tmp_path / "folder/b", tmp_path / "folder/deep/a"]
    assert files_of(tmp_path / "folder/b") == [tmp_path / "folder/b"]
    assert files_of(tmp_path / "missing") == []


def test_what_python_caches_in_an_output_is_none_of_its_files_whatever_folder_it_is_in(tmp_path):
    output = tmp_path / "__pycache__" / "output"
    (output / "__pycache__").mkdir(parents=True)
    for name in ("a", "__pycache__/b"):
        (output / name).write_text("")

    assert files_of_output(output) == [output / "a"]
    assert [name for name, *_ in stamp(output)] == [str(output / "a")]
    assert files_of_output(output / "a") == [output / "a"]


def test_a_file_stays_whole_until_the_new_one_is(tmp_path, monkeypatch):
    path = tmp_path / "folder/file"
    write_text(path, "old")

    def fails(self: Path, target: Path) -> None:
        raise OSError("full")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match="full"):
        write_text(path, "new")
    assert path.read_text() == "old"


@pytest.mark.parametrize("name", ["file/x", "file/x/y", "folder", "long" * 100])
def test_a_path_that_cannot_be_written_to_is_one_line(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()

    with pytest.raises(OSError) as raised:  # noqa: PT011 - its number is what counts
        write_text(tmp_path / name, "x")

    assert str(problem_of_disk(raised.value)).startswith(str(tmp_path))


def test_the_root_is_found_as_kedro_finds_it(tmp_path, monkeypatch):
    """Without Kedro, which whoever verifies a statement need not have."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/pyproject.toml").write_text("[tool.ruff]\n")  # no project of Kedro
    (tmp_path / "pyproject.toml").write_text("[tool.kedro]\n")
    monkeypatch.chdir(tmp_path / "a/b")

    with click.Context(click.Command("c")):
        given = UserPath().convert("file", None, None)
        root = enter_project()

    assert root == find_kedro_project(tmp_path / "a/b") == tmp_path
    assert given == tmp_path / "a/b/file"


def test_a_project_logs_as_it_says_also_below_its_root(tmp_path, monkeypatch):
    """Kedro looks for conf/logging.yml where one stands: below the root it finds none."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "pyproject.toml").write_text("[tool.kedro]\n")
    (tmp_path / "conf/logging.yml").write_text("version: 1\n")
    configured: list[dict[str, Any]] = []
    monkeypatch.setattr(kedro_project.LOGGING, "configure", configured.append)
    monkeypatch.delenv("KEDRO_LOGGING_CONFIG", raising=False)

    for folder in (tmp_path, tmp_path / "docs"):
        monkeypatch.chdir(folder)
        with click.Context(click.Command("c")):
            enter_project()

    assert configured == [{"version": 1}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 2}', "it has the key 'a' twice"),
        ('[{"b": {"a": 1, "c": 2, "a": 1}}]', "it has the key 'a' twice"),
        ("[1e400]", "1e400 is not a JSON number"),
        ("NaN", "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not a JSON number"),
        ("[" * 100_000, "it is nested too deeply"),
    ],
)
def test_json_that_two_readers_could_read_otherwise_is_none(text, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        strict_json(text)


def test_all_other_json_is_read():
    assert strict_json(b'{"a": [1, 1.5, null, {"a": "x"}]}') == {"a": [1, 1.5, None, {"a": "x"}]}


CONFLICT = "stages:\n<<<<<<< HEAD\n  a: {cmd: x}\n=======\n  a: {cmd: y}\n>>>>>>> other\n"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("dvc.yaml", CONFLICT, r"a merge conflict in line 2. `kedro dvc sync` rewrites it"),
        ("dvc.lock", CONFLICT, r"in line 2. Take one side, `git checkout --ours .*dvc.lock`"),
        ("dvc.yaml", "a: [1", r"dvc.yaml cannot be read: .* line 2, column 1. `kedro dvc sync`"),
    ],
)
def test_what_a_merge_has_left_is_told_in_one_line(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)

    with pytest.raises(WorkflowError, match=said) as error:
        load_yaml(tmp_path / name)

    assert "\n" not in str(error.value)
