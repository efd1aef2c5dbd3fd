"""What stages write, and that no two write the same."""

from __future__ import annotations

import pytest

from kedro_dvc.files import WorkflowError
from kedro_dvc.stages import check_paths, outputs_of


def _entry(path, **facts):
    return {"filepath": path, "metadata": {"dvc": facts}}


def test_an_output_is_an_out_unless_the_catalog_says_otherwise():
    written = [
        {"filepath": "a"},
        _entry("b", kind="metrics", cache=False),
        _entry("c", kind="plots", x="step", y="loss"),
    ]

    assert outputs_of(written) == {
        "outs": ["a"],
        "metrics": [{"b": {"cache": False}}],
        "plots": [{"c": {"x": "step", "y": "loss"}}],
    }


def test_an_output_can_have_a_remote_of_its_own():
    assert outputs_of([_entry("a", remote="vault", push=False)]) == {
        "outs": [{"a": {"push": False, "remote": "vault"}}]
    }


def test_a_flag_that_is_null_says_nothing():
    """So one catalog serves those who have such a remote and those who have none."""
    assert outputs_of([_entry("a", remote=None), _entry("b", remote=None, push=False)]) == {
        "outs": ["a", {"b": {"push": False}}]
    }


def test_what_is_no_matter_of_the_output_is_left_out():
    assert outputs_of([_entry("a", deps=["b"], artifact={"type": "model"})]) == {"outs": ["a"]}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"a": {"outs": ["x"]}, "b": {"metrics": ["x"]}}, "'b' and 'a' both write x"),
        ({"a": {"outs": ["x"]}, "b": {"outs": ["x/y"]}}, "'b' writes x/y, inside x of 'a'"),
        ({"a": {"outs": ["x/y"]}, "b": {"outs": ["x"]}}, "'a' writes x/y, inside x of 'b'"),
        (
            {"a": {"matrix": {"m": ["p", "q"]}, "outs": ["x/${item.m}"]}, "b": {"outs": ["x/q"]}},
            "'b' and 'a@q' both write x/q",
        ),
        ({"a": {"matrix": {"m": ["p", "q"]}, "outs": ["x"]}}, "'a@q' and 'a@p' both write x"),
    ],
)
def test_two_stages_that_write_one_place_are_refused(stages, message):
    with pytest.raises(WorkflowError, match=message):
        check_paths(stages)


def test_neighbours_are_allowed():
    check_paths({"a": {"outs": ["x/y", "x/yy"]}, "b": {"outs": ["x/z", {"xx": {"cache": False}}]}})
