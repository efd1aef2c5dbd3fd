"""What kedro-viz is told of runs, read by kedro-viz itself."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog, DatasetError, MemoryDataset
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner

from kedro_dvc import run_status
from kedro_dvc.run_status import SHOWN, RunStatus, show
from seuf.datasets.texts import TextDataset

run_events = pytest.importorskip("kedro_viz.api.rest.responses.run_events")
hooks_utils = pytest.importorskip("kedro_viz.integrations.kedro.hooks_utils")


def _four() -> str:
    return "four"


def _twice(text: str) -> str:
    return text * 2


def _fails(text: str) -> str:
    raise ValueError(f"no {text}")


READ = Node(_four, None, "text", name="read")
DOUBLE = Node(_twice, "text", "twice", name="double")
FILES = ("text", "twice", "twice_one", "twice_two")
FAIL = Node(_fails, "text", "twice", name="double")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Where nothing has run."""
    return tmp_path


def _run(project: Path, node: Node, study: str = "base") -> None:
    """Run a node as a stage does: in a session of its own."""
    files = {name: TextDataset(filepath=str(project / name)) for name in FILES}
    word = {"params:word": MemoryDataset("four")}
    hooks, catalog = _create_hook_manager(), DataCatalog(files | word)
    hooks.register(RunStatus())
    hooks.hook.after_context_created(context=SimpleNamespace(project_path=project, env=study))
    hooks.hook.after_catalog_created(
        catalog=catalog,
        conf_catalog={},
        conf_creds={},
        parameters={},
        save_version="",
        load_versions={},
    )
    facts = {"run_params": {}, "pipeline": Pipeline([node]), "catalog": catalog}
    hooks.hook.before_pipeline_run(**facts)
    try:
        SequentialRunner().run(Pipeline([node]), catalog, hooks)
    except Exception as error:
        hooks.hook.on_pipeline_error(error=error, **facts)
        raise
    hooks.hook.after_pipeline_run(run_result={}, **facts)


def _shown(project: Path) -> Any:
    """Return what kedro-viz makes of the file that it reads."""
    events = json.loads((project / ".viz" / SHOWN).read_text())
    return run_events.transform_events_to_structured_format(events)


def test_runs_of_single_nodes_are_shown_together(project):
    _run(project, READ)
    _run(project, DOUBLE)

    shown = _shown(project)
    assert {key: node.status for key, node in shown.nodes.items()} == {
        hooks_utils.hash_node(READ): "success",
        hooks_utils.hash_node(DOUBLE): "success",
    }
    assert {data.name: data.size for data in shown.datasets.values()} == {"text": 4, "twice": 8}
    assert set(shown.datasets) == {hooks_utils.hash_node(name) for name in ("text", "twice")}
    assert shown.pipeline.status == "success"
    assert shown.pipeline.duration > 0


def test_two_runs_that_end_at_once_are_both_shown(project, monkeypatch):
    """Without a lock the second would write what it had read before the first has written."""
    read = run_status._read

    def read_slowly(path: Path) -> list[dict[str, Any]]:
        events = read(path)
        time.sleep(0.3)
        return events

    _run(project, READ)
    monkeypatch.setattr(run_status, "_read", read_slowly)
    nodes = [Node(_twice, "text", f"twice_{name}", name=name) for name in ("one", "two")]
    threads = [threading.Thread(target=_run, args=(project, node)) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    events = json.loads((project / ".viz" / SHOWN).read_text())
    assert {"one", "two"} <= {event.get("node") for event in events}


def test_what_is_no_file_has_no_size(project, monkeypatch):
    """Least of all that of the working directory."""
    (project / "something").write_text("large")
    monkeypatch.chdir(project)

    _run(project, Node(_twice, "params:word", "twice", name="double"))

    sizes = {data.name: data.size for data in _shown(project).datasets.values()}
    assert sizes == {"params:word": 0, "twice": 8}


def test_an_error_is_shown_until_the_node_has_run(project):
    _run(project, READ)
    with pytest.raises(ValueError, match="no four"):
        _run(project, FAIL)

    failed = _shown(project).nodes[hooks_utils.hash_node(FAIL)]
    assert (failed.status, failed.error.message) == ("failed", "no four")
    assert "in _fails" in failed.error.traceback
    assert _shown(project).pipeline.status == "failed"

    _run(project, READ)
    assert _shown(project).pipeline.status == "failed"

    _run(project, DOUBLE)
    assert _shown(project).nodes[hooks_utils.hash_node(DOUBLE)].status == "success"
    assert _shown(project).pipeline.status == "success"


def test_a_node_that_cannot_read_its_input_has_failed(project):
    with pytest.raises(Exception, match="text"):
        _run(project, DOUBLE)

    assert _shown(project).nodes[hooks_utils.hash_node(DOUBLE)].status == "failed"


def test_a_node_that_cannot_write_its_output_has_failed(project):
    (project / "twice").mkdir()
    _run(project, READ)
    with pytest.raises(DatasetError):
        _run(project, DOUBLE)

    assert _shown(project).nodes[hooks_utils.hash_node(DOUBLE)].status == "failed"


def test_each_study_has_its_own(project):
    _run(project, READ)
    _run(project, READ, "other")
    _run(project, DOUBLE, "other")
    assert len(_shown(project).nodes) == 2

    show(project, "base")
    assert len(_shown(project).nodes) == 1

    show(project, "one_that_never_ran")
    assert not (project / ".viz" / SHOWN).exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[{",
        "7",
        "[7]",
        '[{"node_id": "a", "event": "after_node_run", "node": "read"}]',
        '[{"node_id": "a", "event": "after_dataset_saved", "start": "2026"}]',
        '[{"node_id": "a", "node": "read", "start": "2026"}]',
    ],
)
def test_a_damaged_file_is_begun_anew(project, text, caplog):
    _run(project, READ)
    (project / ".viz/runs_of_base.json").write_text(text)
    (project / ".viz" / SHOWN).write_text(text)

    _run(project, DOUBLE)

    assert [node.status for node in _shown(project).nodes.values()] == ["success"]
    assert "runs_of_base.json is begun anew" in caplog.text


def test_where_it_cannot_be_written_the_run_goes_well_all_the_same(project, caplog):
    (project / ".viz").write_text("no folder")

    _run(project, READ)

    assert (project / "text").read_text() == "four"
    assert "kedro-viz will not show this run" in caplog.text
