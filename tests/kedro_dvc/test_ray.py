"""Stages on a Ray cluster of two nodes, which are processes of this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.exceptions import ReproductionError

from kedro_dvc.executors.jobs import Job
from kedro_dvc.files import WorkflowError
from kedro_dvc.resources import Resources
from kedro_dvc.run import reproduce
from tests.kedro_dvc.test_parallel import RACE, _bytes, _stages
from tests.kedro_dvc.test_run import Notes
from tests.kedro_dvc.test_spaceflights import Spaceflights
from tests.waiting import LONG, is_running, until

pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EVIDENCE = "evidence/base/runs"
STORE = 80 * 2**20  # bytes, the least that Ray takes
DRIVER = """\
import sys
from pathlib import Path
from kedro_dvc.executors.ray import RayTasks
from kedro_dvc.run import reproduce
from tests.kedro_dvc.test_run import Notes
project = Path.cwd()
reproduce(project, ["dvc.yaml"], Notes(), executor=RayTasks(project, 0, sys.argv[1]))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes with a core each."""
    from ray.cluster_utils import Cluster

    node = {"object_store_memory": STORE, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **node})
    made.add_node(num_cpus=1, object_store_memory=STORE)
    yield made
    made.shutdown()


def _run(project: Path, cluster: Any, notes: Notes | None = None, **options: Any) -> Notes:
    from kedro_dvc.executors.ray import RayTasks

    notes, executor = notes or Notes(), RayTasks(project, 0, cluster.address)
    reproduce(project, ["dvc.yaml"], notes, executor=executor, **options)
    return notes


def _when(path: Path, do: Callable[[], None]) -> None:
    """Do something as soon as a file is there."""

    def wait() -> None:
        until(path.exists)
        do()

    threading.Thread(target=wait, daemon=True).start()


def test_the_lock_and_the_files_are_those_of_one_after_the_other(project, cluster):
    (project / "dvc.yaml").write_text(RACE)
    reproduce(project, ["dvc.yaml"], Notes())
    one_by_one = _bytes(project)
    for path in ("a0", "b1", "c2", "all", "dvc.lock"):
        (project / path).unlink()
    shutil.rmtree(project / ".dvc/cache")

    notes = _run(project, cluster)

    assert {one.what for one in notes.outcomes} == {"ran"}
    assert all(one.memory > 0 for one in notes.outcomes)
    assert _bytes(project) == one_by_one


def test_nodes_without_the_folder_get_copies_and_give_back_the_same(cluster, tmp_path, monkeypatch):
    """The nodes work in folders of Ray's, to which code and data are copied."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    one = Spaceflights(tmp_path / "one")
    shutil.copytree(Path(__file__).parent / "spaceflights", one.root)
    one.run("git", "init", "--quiet")
    one.run("dvc", "init", "--quiet")
    one.run("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    one.run("kedro", "dvc", "sync")
    one.commit()
    other = Spaceflights(tmp_path / "other")
    shutil.copytree(one.root, other.root)
    one.run("kedro", "dvc", "run")

    on_ray = ("dvc", "run", "--on", "ray", "--address", cluster.address, "--copy")
    printed = other.run(sys.executable, "-m", "kedro", *on_ray)

    assert printed.count("  ran  ") == 4
    assert "data/metrics.json" in (other.root / ".dvc/tmp/kedro_dvc/copied.json").read_text()
    for path in ("dvc.lock", "data/metrics.json"):
        assert (other.root / path).read_bytes() == (one.root / path).read_bytes()
    ours, theirs = (
        {path.name: json.loads(path.read_text()) for path in (root / EVIDENCE).iterdir()}
        for root in (one.root, other.root)
    )
    assert ours.keys() == theirs.keys()
    for name, record in ours.items():
        for key in ("node", "commit", "clean", "outputs"):
            assert theirs[name][key] == record[key]

    (other.root / "conf/base/globals.yml").open("a").write("# edited\n")
    refused = other.run(sys.executable, "-m", "kedro", *on_ray, fails=True)
    assert "is not committed, and nodes would run it" in refused.splitlines()[-1]


def test_what_a_node_was_at_when_it_died_is_done_on_another(project, cluster):
    """Both nodes are at work; the one that is not the driver's dies with its stage."""
    text = "echo x >> {0}.begun; until [ -e go ]; do sleep 0.1; done; echo > {0}"
    _stages(project, a=text.format("a"), b=text.format("b"))
    lost = max(cluster.list_all_nodes(), key=lambda node: node.node_id != cluster.head_node.node_id)

    def kill() -> None:
        until((project / "b.begun").exists)
        cluster.remove_node(lost)
        (project / "go").touch()

    _when(project / "a.begun", kill)
    notes = _run(project, cluster)
    cluster.add_node(num_cpus=1, object_store_memory=STORE)

    assert {one.stage: one.what for one in notes.outcomes} == {"a": "ran", "b": "ran"}
    begun = [(project / f"{name}.begun").read_text().count("x") for name in ("a", "b")]
    assert sorted(begun) == [1, 2]


def test_a_stage_that_dies_each_time_is_named_and_the_others_go_on(project, cluster):
    _stages(project, bad="echo x >> tried; kill -9 $PPID", good="echo > good")
    notes = Notes()

    with pytest.raises(ReproductionError, match="bad"):
        _run(project, cluster, notes, on_error="keep-going")

    assert {one.stage: one.what for one in notes.outcomes} == {"bad": "failed", "good": "ran"}
    assert (project / "tried").read_text().count("x") == 3


def test_a_stage_that_fails_is_not_tried_again(project, cluster):
    _stages(project, bad="echo x >> tried; echo the reason; exit 3")
    notes = Notes()

    with pytest.raises(ReproductionError) as raised:
        _run(project, cluster, notes)

    assert "exited with 3" in str(raised.value.__cause__)
    assert "the reason" in notes.outcomes[0].output
    assert (project / "tried").read_text().count("x") == 1


def test_a_second_start_takes_over_what_a_killed_driver_had_recorded(project, cluster):
    hold = "until grep -q ' a:' dvc.lock; do sleep 0.1; done; touch begun; sleep ${wait}; echo > b"
    _stages(project, a="echo x >> tried; echo > a", b=hold.replace("${wait}", "$(cat seconds)"))
    (project / "seconds").write_text(str(LONG))
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, cluster.address],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )

    def is_at_work() -> bool:
        assert driver.poll() is None
        return (project / "begun").exists()

    try:
        until(is_at_work)
    finally:
        driver.kill()
        driver.wait()
    (project / "seconds").write_text("0")

    notes = _run(project, cluster)

    assert {one.stage: one.what for one in notes.outcomes} == {"a": "unchanged", "b": "ran"}
    assert (project / "tried").read_text().count("x") == 1


def test_ctrl_c_ends_the_tasks(project, cluster):
    _stages(project, a=f"echo $$ > pid; touch begun; sleep {LONG}; echo > a")
    _when(project / "begun", lambda: os.kill(os.getpid(), signal.SIGINT))

    with pytest.raises(KeyboardInterrupt):
        _run(project, cluster)

    assert (project / ".dvc/tmp/rwlock").read_text() == "{}"
    pid = int((project / "pid").read_text())
    until(lambda: not is_running(pid))


def test_a_cluster_that_asks_for_a_token_is_told_in_one_line(project, cluster, tmp_path):
    """Ray asks for one of its own accord where it has made one, and its error has thirty lines."""
    code = "import sys; from pathlib import Path; from kedro_dvc.executors.ray import RayTasks; "
    code += "RayTasks(Path.cwd(), 0, sys.argv[1])"
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "HOME": str(tmp_path)}

    ended = subprocess.run(
        [sys.executable, "-c", code, cluster.address],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert " ".join(ended.stderr.split()).endswith(
        f"no Ray cluster at {cluster.address}: it asks for a token: "
        "export RAY_AUTH_MODE=token, with ~/.ray/auth_token as on its head"
    )


@pytest.mark.parametrize(
    ("needs", "message"), [({"gpu": 1}, "x asks for CPU 1, GPU 1, 0 GB; no node has it")]
)
def test_what_no_node_has_is_refused_at_the_start(project, cluster, needs, message):
    from kedro_dvc.executors.ray import RayTasks

    executor = RayTasks(project, 0, cluster.address)
    try:
        with pytest.raises(WorkflowError, match=message):
            executor.check([Job("x", ["true"], ".", Resources(**needs))])
    finally:
        executor.close()


def test_an_address_that_nobody_answers_is_refused_before_ray_tries_it(project, monkeypatch):
    """Ray would try for a minute."""
    import ray

    from kedro_dvc.executors.ray import RayTasks

    tried = []
    monkeypatch.setattr(ray, "init", lambda *_, **__: tried.append("an address"))
    with pytest.raises(WorkflowError, match=r"nobody answers at 127\.0\.0\.1:9"):
        RayTasks(project, 0, "127.0.0.1:9")

    assert tried == []


def test_the_order_of_new_stages_is_that_of_the_plan(project, cluster):
    (project / "dvc.yaml").write_text(RACE)

    _run(project, cluster)

    stages = yaml.safe_load((project / "dvc.lock").read_text())["stages"]
    assert list(stages) == ["train@c2", "train@b1", "train@a0", "compare"]
