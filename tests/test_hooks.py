"""Tests of what the project adds to every Kedro run."""

from __future__ import annotations

import sys

import pytest
from kedro.io import DataCatalog
from kedro.pipeline import Node

from seuf.datasets.progress import NAME, FileProgress
from seuf.hooks import StudyHooks, _one_line_for_input_errors, folders
from seuf.inputs import InputError
from seuf.unlearning.resumption import Kept


def test_an_input_error_is_one_line(capsys):
    _one_line_for_input_errors(*_raised(InputError("conf/x.yml is empty")))

    assert capsys.readouterr().err == "error: conf/x.yml is empty\n"


def test_an_input_error_inside_another_is_one_line(capsys):
    """Kedro wraps what a data set raises."""
    outer = RuntimeError("Failed while loading data")
    outer.__cause__ = InputError("line 3: not JSON")

    _one_line_for_input_errors(*_raised(outer))

    assert capsys.readouterr().err == "error: line 3: not JSON\n"


def test_a_bug_keeps_its_traceback(capsys):
    _one_line_for_input_errors(*_raised(ZeroDivisionError("oh")))

    assert "Traceback" in capsys.readouterr().err


def test_causes_that_go_round_in_a_circle_come_to_an_end(capsys):
    """As when what an error wraps is raised in its place."""
    cause, wrapper = ZeroDivisionError("oh"), RuntimeError("failed to run")
    wrapper.__cause__, cause.__context__ = cause, wrapper

    _one_line_for_input_errors(*_raised(cause))

    assert "ZeroDivisionError: oh" in capsys.readouterr().err


def test_each_node_keeps_progress_in_its_own_file_until_all_is_saved(tmp_path):
    hooks, node = _hooks(), Node(max, ["progress", "x"], "y", name="n", namespace="methods.ga")
    given = {"progress": FileProgress(tmp_path), "x": 1}

    changed = hooks.before_node_run(node, DataCatalog(), given)
    changed["progress"].save("key", Kept({}, {}))

    assert list(changed) == ["progress"]
    assert (tmp_path / "ga" / NAME).exists()
    hooks.after_pipeline_run()
    assert not (tmp_path / "ga" / NAME).exists()


def test_a_node_without_progress_is_left_alone():
    node = Node(len, "x", "y", name="n")

    assert _hooks().before_node_run(node, DataCatalog(), {"x": 1}) == {}


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


def _hooks():
    hooks = StudyHooks()
    hooks._unfinished = []
    return hooks


def _raised(error):
    try:
        raise error
    except type(error):
        return sys.exc_info()
