"""Tests of what the project adds to every Kedro run."""

from __future__ import annotations

import errno
import logging
import sys

import pytest
from kedro.framework import project
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner

from seuf.hooks import (
    REPEATED_MESSAGES,
    _is_not_repeated,
    _one_line_for_input_errors,
    folders,
)
from seuf.inputs import InputError


def test_an_input_error_is_one_line(capsys):
    _one_line_for_input_errors(*_raised(InputError("conf/x.yml is empty")))

    assert capsys.readouterr().err == "error: conf/x.yml is empty\n"


def test_an_input_error_inside_another_is_one_line(capsys):
    """Kedro wraps what a data set raises."""
    outer = RuntimeError("Failed while loading data")
    outer.__cause__ = InputError("line 3: not JSON")

    _one_line_for_input_errors(*_raised(outer))

    assert capsys.readouterr().err == "error: line 3: not JSON\n"


def test_a_missing_file_is_told_with_the_key_that_names_it(capsys):
    error = InputError("/nope does not exist.")
    error.__cause__ = FileNotFoundError(errno.ENOENT, "", "/nope")

    _one_line_for_input_errors(*_raised(error), naming=lambda path: f" (`forget`: {path})")
    _one_line_for_input_errors(*_raised(error), naming=lambda path: "")

    assert capsys.readouterr().err == (
        "error: /nope does not exist (`forget`: /nope).\nerror: /nope does not exist.\n"
    )


def test_what_kedro_logs_of_an_error_beside_it_is_left_out(caplog, monkeypatch):
    """Held to the installed Kedro: only that the node runs is left of three lines."""

    def fail(seed: int) -> None:
        raise InputError("conf/x.yml is empty")

    pipeline = Pipeline([Node(fail, inputs="seed", outputs="out", name="first")])
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.INFO, "kedro")  # a run in this process makes it quiet
    for name in REPEATED_MESSAGES:
        monkeypatch.setattr(logging.getLogger(name), "filters", [_is_not_repeated])

    with pytest.raises(InputError):
        SequentialRunner().run(pipeline, DataCatalog({"seed": MemoryDataset(0)}))

    told = [
        line
        for line in caplog.messages
        if "first" in line or "conf/x" in line or line.startswith("No nodes")
    ]
    assert told == ["Running node: first: fail([seed]) -> [out]"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "a/b: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "x: Permission denied"),
        (RuntimeError("I/O error: No space left on device"), "I/O error: No space left on device"),
    ],
)
def test_a_disk_that_is_full_or_shut_is_one_line(capsys, error, line):
    _one_line_for_input_errors(*_raised(error))

    assert capsys.readouterr().err == f"error: {line}\n"


def test_a_bug_keeps_its_traceback(capsys):
    _one_line_for_input_errors(*_raised(ZeroDivisionError("oh")))

    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"node_names": ["x"]}, "Pipeline does not contain nodes named ['x']."),
        (
            {"from_nodes": ["first"]},
            "Pipeline does not contain nodes named ['first']. Did you mean: ['a.first']?",
        ),
        ({"to_outputs": ["x"]}, "Pipeline does not contain datasets named ['x']"),
    ],
)
def test_nodes_that_are_not_there_are_one_line(capsys, asked, line):
    """Held to the installed Kedro, which raises a plain ValueError."""
    pipeline = Pipeline([Node(folders, inputs="seed", outputs="out", name="first", namespace="a")])

    with pytest.raises(ValueError, match="does not contain") as caught:
        pipeline.filter(**asked)
    _one_line_for_input_errors(caught.type, caught.value, caught.tb)

    known = "(`kedro registry describe` lists the nodes)"
    assert capsys.readouterr().err == f"error: {line} {known}\n"


def test_a_pipeline_that_is_not_there_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(project, "PACKAGE_NAME", "seuf")
    monkeypatch.setattr(project.pipelines, "_requested_pipelines", frozenset({"nope"}))

    with pytest.raises(ImportError) as caught:
        project.find_pipelines(raise_errors=True)
    _one_line_for_input_errors(caught.type, caught.value, caught.tb)

    line = "error: There is no pipeline 'nope'; `kedro registry list` names them.\n"
    assert capsys.readouterr().err == line


def test_causes_that_go_round_in_a_circle_come_to_an_end(capsys):
    """As when what an error wraps is raised in its place."""
    cause, wrapper = ZeroDivisionError("oh"), RuntimeError("failed to run")
    wrapper.__cause__, cause.__context__ = cause, wrapper

    _one_line_for_input_errors(*_raised(cause))

    assert "ZeroDivisionError: oh" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("owner/name", []),
        ("name", []),
        ("", []),
        (None, []),
        ("here", ["here"]),
        ("here/name", ["here/name"]),  # may yet come
        ("/data/name", ["/data/name"]),
        ("/data", ["/data"]),
        ("~/name", ["/home/me/name"]),
        ("a/b/name", ["a/b/name"]),
    ],
)
def test_a_folder_is_told_from_an_id_of_the_hub(path, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "here").mkdir()

    assert folders(path) == found


def _raised(error):
    try:
        raise error
    except type(error):
        return sys.exc_info()
