"""Kedro-viz shows what DVC has run, and all of a study on one screen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import chdir

import pytest
from kedro.pipeline import Node

from kedro_dvc.project import Study, load_study
from kedro_dvc.run_status import show
from tests.workflow.conftest import STUDY, Project

run_events = pytest.importorskip("kedro_viz.api.rest.responses.run_events")
hooks_utils = pytest.importorskip("kedro_viz.integrations.kedro.hooks_utils")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def smoke(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Study]:
    """The study that has run, as kedro-viz is started in its project."""
    monkeypatch.setenv("KEDRO_ENV", "smoke")
    with chdir(project.root):
        yield load_study(project.root, "smoke")


def test_stages_that_dvc_ran_one_by_one_are_shown_together(project, smoke):
    shutil.rmtree(project.root / ".viz")
    for stage in ("select_experts", "write_report"):
        project.done("dvc", "repro", "--force", "--single-item", f"{STUDY}:{stage}")

    show(project.root, "smoke")

    shown = run_events.get_run_status_response()
    ids = {node.name: hooks_utils.hash_node(node) for node in _nodes(smoke)}
    assert set(shown.nodes) == {ids["select_experts"], ids["write_report"]}
    assert {node.status for node in shown.nodes.values()} == {"success"}
    assert shown.datasets[hooks_utils.hash_node("report")].size > 1000


def test_what_is_made_of_every_method_is_one_box(smoke):
    """However many methods a study has: outside the box nothing takes what each of them made."""
    boxes = {str(node.namespace).partition(".")[0]: node for node in _nodes(smoke)}
    outside = [node for node in _nodes(smoke) if node.namespace is None]

    assert set(boxes) == {"None", "methods"}
    assert not [name for node in outside for name in node.inputs if "." in name]
    assert {"draw_figures", "write_report"} <= {node.name for node in outside}


def test_each_node_has_the_tag_of_its_role(smoke):
    roles = {node.name.rpartition(".")[2]: node.tags for node in _nodes(smoke)}

    assert roles["prepare_data"] == {"data"}
    assert roles["capture_routing"] == roles["select_experts"] == {"experts"}
    assert (roles["unlearn"], roles["evaluate"]) == ({"unlearning"}, {"evaluation"})
    assert roles["compare_methods"] == roles["write_headline"] == {"report"}


def _nodes(study: Study) -> list[Node]:
    return study.pipelines["__default__"].nodes
