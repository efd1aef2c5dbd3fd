"""The record that a run of one node leaves."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline
from kedro_datasets.text import TextDataset

from kedro_dvc.records import RunRecords, environment_path, read_record, record_path

ONE = "2c8b08da5ce60398e1f19af0e5dccc744df274b826abe585eaba68c525434806"  # `one`, sha256sum


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project in git whose node has written its output."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/x.yml").write_text("a: 1\n")
    (tmp_path / "out").write_text("one\n")
    git = ["git", "-c", "user.name=n", "-c", "user.email=n@n"]
    for command in (["init", "-q"], ["add", "conf"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    return tmp_path


def ran(project: Path, nodes: int = 1, **inputs: object) -> None:
    """Tell the hook of a run of one node, or of several."""
    hook = RunRecords(lambda inputs: {"adder": inputs})
    names = ["out", *(f"in_memory_{n}" for n in range(1, nodes))]
    pipeline = Pipeline([Node(lambda: 1, None, name, name=f"make_{name}") for name in names])
    hook.after_context_created(SimpleNamespace(project_path=project, env="mine"))
    hook.before_pipeline_run()
    hook.after_node_run(inputs)
    catalog = DataCatalog({"out": TextDataset(filepath=str(project / "out"))})
    hook.after_pipeline_run(pipeline, catalog)


def test_a_run_is_recorded_with_its_outputs_by_sha256_and_its_commit(project):
    ran(project)

    record = read_record(project, "mine", "make_out")

    assert record is not None
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=project, text=True)
    assert record["outputs"] == {"out": ONE}
    assert (record["commit"], record["clean"]) == (head.strip(), True)
    assert record["environment"]["packages"]["kedro"]


def test_what_the_project_adds_is_told_with_the_environment(project):
    ran(project, threads=3)

    record = read_record(project, "mine", "make_out")
    assert record is not None
    assert record["adder"] == record["environment"]["adder"] == {"threads": 3}


def test_a_run_with_an_uncommitted_change_says_so(project):
    (project / "conf/x.yml").write_text("a: 2\n")

    ran(project)

    record = read_record(project, "mine", "make_out")
    assert record is not None
    assert not record["clean"]


def test_a_run_of_several_nodes_leaves_no_record(project):
    ran(project, nodes=2)

    assert not (project / "evidence").exists()


def test_two_runs_in_one_environment_share_its_file(project):
    ran(project)
    ran(project)

    assert len(list((project / "evidence/environments").iterdir())) == 1


def test_an_environment_that_was_edited_is_refused(project):
    ran(project)
    name = json.loads(record_path(project, "mine", "make_out").read_text())["environment"]
    path = environment_path(project, name)
    path.write_text(path.read_text().replace('"kedro"', '"kedr0"'))

    with pytest.raises(ValueError, match=r"is not what make_out\.json names"):
        read_record(project, "mine", "make_out")


def test_a_node_of_an_edited_lock_cannot_name_a_record_elsewhere(project):
    assert record_path(project, "mine", "../../x") == project / "evidence/mine/runs/x.json"


def test_a_record_cannot_name_an_environment_elsewhere(project):
    assert environment_path(project, "../../etc/passwd").parent == project / "evidence/environments"
