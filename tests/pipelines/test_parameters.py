"""The parameters of the studies, and what is refused before anything runs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from kedro.framework.startup import bootstrap_project

from seuf.errors import InputError
from seuf.lineage.study import load_config, study_names
from seuf.pipelines.parameters import check_parameters

ROOT = Path(__file__).parents[2]


@pytest.fixture
def parameters() -> dict[str, Any]:
    """The parameters of the smoke study."""
    bootstrap_project(ROOT)
    return copy.deepcopy(load_config(ROOT, "smoke")["parameters"])


@pytest.mark.parametrize("study", study_names(ROOT))
def test_the_parameters_of_each_study_are_right(study):
    bootstrap_project(ROOT)

    check_parameters(load_config(ROOT, study)["parameters"])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("unlearning.steps", "many", r"unlearning.steps: .*integer.*\(came: 'many'\)"),
        ("unlearning.stepz", 3, r"unlearning.stepz: Extra inputs are not permitted \(came: 3\)"),
        ("learning", 3, r"learning: Extra inputs"),
        ("methods.full_ga.objective", "best", r"methods.full_ga.objective: .*'ga', 'gdiff'"),
        ("methods.full_ga.scope", "half", r"methods.full_ga.scope: "),
        ("methods.seuf_gdiff.selection", "best", r"'best' is unknown; expert_selection knows"),
        ("methods", {}, r"methods: .*at least 1"),
        ("benchmark.name", "trivia", r"benchmark: .*'trivia'"),
        ("base_model.source", "air", r"base_model: .*'air'"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_came(parameters, key, value, message):
    *way, last = key.split(".")
    place = parameters
    for part in way:
        place = place[part]
    place[last] = value

    with pytest.raises(InputError, match=message):
        check_parameters(parameters)


def test_every_wrong_parameter_is_told_at_once(parameters):
    parameters["unlearning"]["steps"] = "many"
    parameters["evaluation"]["metric"] = "taste"

    with pytest.raises(InputError, match=r"unlearning\.steps.*; evaluation\.metric"):
        check_parameters(parameters)


def test_your_own_texts_are_nothing_to_pretrain_on(parameters):
    parameters["benchmark"] = {"name": "own"}

    with pytest.raises(InputError, match=r"base_model\.source must be external"):
        check_parameters(parameters)
