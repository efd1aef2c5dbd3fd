"""The record that a run of one node leaves."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline
from kedro_datasets.text import TextDataset

from kedro_dvc.dependencies import Watched, commit_of, keep_sources
from kedro_dvc.evidence import environment_path, read_record, record_path, stage_records
from kedro_dvc.files import WorkflowError, git
from kedro_dvc.records import RunRecords
from kedro_dvc.resources import MemoryPeak
from tests.waiting import until

ONE = "2c8b08da5ce60398e1f19af0e5dccc744df274b826abe585eaba68c525434806"  # `one`, sha256sum


CODE = "src/x/nodes.py"
SETTINGS = "conf/base/parameters.yml"
STAGE = f"""\
stages:
  make_out:
    cmd: kedro run --env mine --pipelines x --nodes make_out
    wdir: ../..
    deps: [data/in.csv, {CODE}]
    params:
    - {SETTINGS}: [rate, size.of]
    outs: [out]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project in git whose node has written its output."""
    for name, text in {
        CODE: "x = 1\n",
        "src/x/other.py": "y = 1\n",
        SETTINGS: "rate: 1\nsize: {of: 2, by: 3}\n",
        "studies/mine/dvc.yaml": STAGE,
        "data/in.csv": "not in git\n",
    }.items():
        write(tmp_path / name, text)
    commit(tmp_path, "begin")
    (tmp_path / "out").write_text("one\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    """Write a file whose folder may not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def commit(project: Path, message: str) -> str:
    """Commit all code and configuration; return the commit."""
    git(project, "init", "-q")
    git(project, "add", "-A", "conf", "src", "studies")
    git(project, "commit", "-qm", message)
    return head(project)


def head(project: Path) -> str:
    """Return the commit."""
    return subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=project, text=True).strip()


def ran(
    project: Path,
    nodes: int = 1,
    meanwhile: Callable[[], object] = lambda: None,
    saving: Callable[[], object] = lambda: None,
    reproducible: bool = True,
    **inputs: object,
) -> None:
    """Tell the hook of a run of one node, or of several, in a process of its own.

    Args:
        project: The project's root.
        nodes: How many.
        meanwhile: Is done while the node runs.
        saving: Is done while its output is saved.
        reproducible: As the catalog says of it.
        inputs: Of the node.
    """
    hook = RunRecords(lambda inputs: {"adder": inputs})
    keep_sources(project)  # as in a new process
    names = ["out", *(f"in_memory_{n}" for n in range(1, nodes))]
    pipeline = Pipeline([Node(lambda: 1, None, name, name=f"make_{name}") for name in names])
    hook.after_context_created(SimpleNamespace(project_path=project, env="mine"))
    hook.before_pipeline_run(pipeline)
    meanwhile()
    hook.after_node_run(inputs)
    saving()
    about = {"dvc": {"reproducible": reproducible}}
    out = TextDataset(filepath=str(project / "out"), metadata=about)
    hook.after_pipeline_run(DataCatalog({"out": out}))


def record_of(project: Path) -> dict[str, Any]:
    """Return the record of the one node."""
    record = read_record(project, "mine", "make_out")
    assert record is not None
    return record


def test_a_run_is_recorded_with_its_outputs_by_sha256_and_its_commit(project):
    ran(project)

    record = record_of(project)
    assert record["outputs"] == {"out": ONE}
    assert (record["commit"], record["clean"]) == (head(project), True)
    assert record["environment"]["packages"]["kedro"]


def test_the_most_memory_that_it_took_is_recorded(project, monkeypatch):
    """An array of 200 MB that is given back before the run ends; no GPU is here."""
    megabytes = 10**6
    peak = MemoryPeak()
    monkeypatch.setattr("kedro_dvc.records.MemoryPeak", lambda: peak)

    def hold() -> None:
        held = bytearray(200 * megabytes)
        until(lambda: peak.resident - before > 150 * megabytes)
        del held

    before = psutil.Process().memory_info().rss
    ran(project, meanwhile=hold)

    memory = record_of(project)["memory"]
    assert memory["resident"] - before > 150 * megabytes
    assert memory["on_device"] is None


def test_after_a_failure_nothing_is_measured_any_more(project):
    count = threading.active_count()
    hook = RunRecords()
    hook.after_context_created(SimpleNamespace(project_path=project, env="mine"))
    hook.before_pipeline_run(Pipeline([Node(lambda: 1, None, "out", name="make_out")]))

    hook.on_pipeline_error()

    assert threading.active_count() == count


def test_records_come_in_the_order_in_which_the_stages_ran(project):
    folder = record_path(project, "mine", "any").parent
    for file, node, began in (
        ("a", "late", "2026-11-30T12:32+00:00"),
        ("b", "early", "2026-11-29T00:00+00:00"),
    ):
        said = {"node": node, "started": began, "seconds": 1.5, "commit": None, "clean": True}
        write(folder / f"{file}.json", json.dumps(said | {"environment": "x", "outputs": {}}))
    for number, text in enumerate(("[]", "3", "null", "{}", "not JSON", "[" * 100_000)):
        write(folder / f"broken_{number}.json", text)

    assert [record["node"] for record in stage_records(project, "mine")] == ["early", "late"]
    assert stage_records(project, "other") == []


def test_what_the_project_adds_is_told_with_the_environment(project):
    ran(project, threads=3)

    record = record_of(project)
    assert record["adder"] == record["environment"]["adder"] == {"threads": 3}


def test_a_run_with_an_uncommitted_change_says_so(project):
    (project / SETTINGS).write_text("rate: 2\n")

    ran(project)

    record = record_of(project)
    assert not record["clean"]


def test_the_commit_is_that_of_the_start(project):
    """Another file is committed while the node runs."""
    before = head(project)

    def meanwhile() -> None:
        write(project / "src/x/other.py", "y = 2\n")
        commit(project, "meanwhile")

    ran(project, meanwhile=meanwhile)

    assert record_of(project)["commit"] == before != head(project)


@pytest.mark.parametrize("when", ["meanwhile", "saving"])
@pytest.mark.parametrize(
    ("file", "text"),
    [
        (CODE, "x = 2\n"),
        (CODE, None),
        (SETTINGS, "rate: 2\nsize: {of: 2, by: 3}\n"),
        (SETTINGS, "rate: 1\nsize: 2\n"),
    ],
)
def test_a_stage_fails_if_what_it_watches_is_edited_while_it_runs(project, when, file, text):
    """DVC would name the later bytes in its lock, also if they were committed meanwhile."""

    def edit() -> None:
        (project / file).unlink()
        if text:
            (project / file).write_text(text)
        commit(project, "meanwhile")

    with pytest.raises(WorkflowError, match=f"{file}: edited since make_out began"):
        ran(project, **{when: edit})

    assert not record_path(project, "mine", "make_out").exists()


@pytest.mark.parametrize("when", ["meanwhile", "saving"])
@pytest.mark.parametrize("text", ["other\n", None])
def test_a_stage_fails_if_an_input_is_written_while_it_runs(project, when, text):
    """DVC would hash the later bytes, and name them as those that the stage has read."""

    def edit() -> None:
        (project / "data/in.csv").unlink()
        if text:
            (project / "data/in.csv").write_text(text)

    with pytest.raises(WorkflowError, match=r"data/in\.csv: edited since make_out began"):
        ran(project, **{when: edit})

    assert not record_path(project, "mine", "make_out").exists()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("src/x/other.py", "y = 2\n"),
        (CODE, "x = 1\n"),  # written, but the same
        (SETTINGS, "# A comment.\nrate: 1\nsize: {of: 2, by: 4}\nnew: 1\n"),
    ],
)
def test_a_stage_does_not_mind_other_edits(project, file, text):
    ran(project, meanwhile=lambda: (project / file).write_text(text))

    assert record_of(project)["outputs"] == {"out": ONE}


def test_another_users_repository_fails_a_stage_before_it_runs(project, monkeypatch):
    """A container sees a mount so; the record would hold `commit: null`."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own way to test it

    with pytest.raises(WorkflowError, match="no commit can be recorded: detected dubious owner"):
        ran(project, meanwhile=lambda: pytest.fail("it ran"))


def test_a_repository_without_the_program_git_fails_a_stage_before_it_runs(project, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(WorkflowError, match="no commit can be recorded: git is not installed"):
        ran(project, meanwhile=lambda: pytest.fail("it ran"))


def test_a_project_outside_git_is_told_once_that_records_name_no_commit(project, caplog):
    shutil.rmtree(project / ".git")

    ran(project)
    ran(project)

    assert record_of(project)["commit"] is None
    assert caplog.text.count("Records name no commit, and no audit can pass: not a git repo") == 1


def test_a_run_that_is_no_stage_of_dvc_is_not_checked(project):
    (project / "studies/mine/dvc.yaml").unlink()

    ran(project, meanwhile=lambda: (project / CODE).write_text("x = 2\n"))

    assert record_of(project)["outputs"] == {"out": ONE}


def test_a_second_run_with_the_same_outputs_leaves_the_record_as_it_is(project):
    """Also at a later commit, on another machine, and beside uncommitted changes elsewhere."""
    ran(project, machine=1)
    before = record_path(project, "mine", "make_out").read_bytes()
    write(project / "src/x/other.py", "y = 2\n")
    commit(project, "another file")
    write(project / SETTINGS, "rate: 1\nsize: {of: 2}\nmore: 1\n")

    ran(project, machine=2)

    assert record_path(project, "mine", "make_out").read_bytes() == before


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("out", "two\n"),
        (CODE, "x = 1  # a comment\n"),
        (SETTINGS, "rate: 2\nsize: {of: 2, by: 3}\n"),
    ],
)
@pytest.mark.parametrize("committed", [True, False])
def test_a_run_with_something_new_is_recorded(project, file, text, committed):
    ran(project)
    (project / file).write_text(text)
    if committed and file != "out":
        commit(project, "new")

    ran(project, again=1)

    record = record_of(project)
    assert record["adder"] == {"again": 1}
    assert record["commit"] == head(project)
    assert record["clean"] == (committed or file == "out")


def test_a_record_of_uncommitted_changes_is_replaced(project):
    """The second run has the same outputs, and what was uncommitted is committed."""
    write(project / "src/x/other.py", "y = 2\n")
    ran(project)
    commit(project, "another file")

    ran(project)

    assert record_of(project)["clean"]


def test_a_record_of_a_commit_that_is_not_here_is_replaced(project):
    ran(project)
    path = record_path(project, "mine", "make_out")
    path.write_text(path.read_text().replace(head(project), "0" * 40))

    ran(project)

    assert record_of(project)["commit"] == head(project)


def test_an_output_that_no_second_run_makes_is_in_no_record(project):
    """The second run wrote other seconds to it, and its record stays."""
    ran(project, reproducible=False, first=1)
    write(project / "out", "2 seconds\n")

    ran(project, reproducible=False, second=1)

    record = record_of(project)
    assert record["outputs"] == {}
    assert record["adder"] == {"first": 1}


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


def test_a_record_names_neither_user_nor_machine_nor_home(project):
    ran(project)

    [environment] = (project / "evidence/environments").iterdir()
    text = environment.read_text() + record_path(project, "mine", "make_out").read_text()
    for private in (socket.gethostname(), str(Path.home()), str(project)):
        assert private not in text


@pytest.mark.parametrize("text", [b"a: [1", b"a: \xff"])
def test_configuration_that_is_no_yaml_amid_an_edit_is_edited(text):
    watched = Watched([], {"conf/x.yml": ["a"]}, [])

    assert watched.edited({"conf/x.yml": b"a: 1"}, {"conf/x.yml": text}) == ["conf/x.yml"]
    assert watched.edited({"conf/x.yml": b"a: 1"}, {"conf/x.yml": b"a: 1\nb: 2"}) == []


def test_code_that_is_in_no_commit_is_noticed_whatever_git_is_told(tmp_path):
    (tmp_path / "src").mkdir()
    git(tmp_path, "init", "-q")
    git(tmp_path, "config", "status.showUntrackedFiles", "no")
    git(tmp_path, "commit", "-q", "--allow-empty", "-mx")
    assert commit_of(tmp_path)[1]

    (tmp_path / "src/new.py").write_text("")

    assert not commit_of(tmp_path)[1]
