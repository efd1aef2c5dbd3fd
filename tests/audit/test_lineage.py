"""The way back, read from dvc.lock without DVC: stages, edges, and what dvc.yaml declares."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from seuf.audit import FAIL, PASS
from seuf.audit.audited import recorded_stages, upstream
from seuf.audit.lineage import changed_values, declared_stages, difference, edges
from seuf.inputs import InputError

YAML = """\
stages:
  make:
    cmd: kedro run --nodes make
    deps: [raw]
    outs: [folder]
  train:
    matrix: {method: [a, b]}
    cmd: kedro run --pipelines p --nodes methods.${item.method}.train
    deps: [folder/part]
    params:
    - conf.yml: ["methods.${item.method}"]
    outs:
    - "out/${item.method}": {cache: false}
  other:
    cmd: echo
    outs: [unused]
"""
LOCK = """\
schema: '2.0'
stages:
  make:
    cmd: kedro run --nodes make
    deps: [{path: raw, md5: r, size: 1}]
    outs: [{path: folder, md5: f.dir, size: 2}]
  train@a:
    cmd: kedro run --pipelines p --nodes methods.a.train
    deps: [{path: folder/part, md5: p, size: 1}]
    params: {conf.yml: {methods.a: {lr: 1}}}
    outs: [{path: out/a, md5: o, size: 3}]
  other:
    cmd: echo
    outs: [{path: unused, md5: u, size: 3}]
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "dvc.yaml").write_text(YAML)
    (tmp_path / "dvc.lock").write_text(LOCK)
    (tmp_path / "conf.yml").write_text("methods: {a: {lr: 1}}\n")
    return tmp_path


def test_behind_a_path_are_the_stages_it_comes_from_in_order_and_no_others(files):
    stages = recorded_stages(files / "dvc.lock")

    assert [stage.name for stage in upstream(["out/a"], stages)] == ["make", "train@a"]


def test_a_path_that_no_stage_writes_is_refused_by_name(files):
    with pytest.raises(InputError, match="no stage that writes out/b"):
        upstream(["out/b"], recorded_stages(files / "dvc.lock"))


def test_the_stages_of_a_matrix_are_recorded_as_dvc_yaml_wants_them(files):
    stages, declared = recorded_stages(files / "dvc.lock"), declared_stages(files / "dvc.yaml")

    assert sorted(declared) == ["make", "other", "train@a", "train@b"]
    assert [difference(stage, declared) for stage in stages.values()] == [None, None, None]
    assert stages["train@a"].node == "methods.a.train"
    assert stages["other"].node == "other"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("methods.a.train", "methods.b.train", "command of train@a"),
        ("path: folder/part", "path: folder/piece", "inputs of train@a"),
        ("path: out/a", "path: out/c", "outputs of train@a"),
        ("methods.a:", "methods.c:", "parameters of train@a"),
        ("train@a", "train@c", "dvc.yaml has no stage train@c"),
    ],
)
def test_an_edited_lock_is_told_from_dvc_yaml(files, old, new, told):
    path = files / "dvc.lock"
    path.write_text(path.read_text().replace(old, new))
    declared = declared_stages(files / "dvc.yaml")

    found = [text for one in recorded_stages(path).values() if (text := difference(one, declared))]

    assert found == [told]


def test_a_parameter_that_has_changed_since_is_named(files):
    stage = recorded_stages(files / "dvc.lock")["train@a"]
    assert list(changed_values(stage, files)) == []

    (files / "conf.yml").write_text("methods: {a: {lr: 2}}\n")

    assert list(changed_values(stage, files)) == [
        "methods.a in conf.yml is not what train@a ran with"
    ]


def edges_of(lock):
    """Return the checks of the edges between all stages in a lock file."""
    recorded = recorded_stages(lock)
    stages = list(recorded.values())
    return edges(SimpleNamespace(recorded=recorded, stages=stages, lineage=stages))


def test_an_input_that_is_not_what_its_stage_has_left_is_a_broken_edge(files):
    path = files / "dvc.lock"
    text = path.read_text().replace(
        "{path: folder/part, md5: p, size: 1}", "{path: folder, md5: f.dir, size: 2}"
    )
    path.write_text(text)

    (joined,) = edges_of(path)

    assert (joined.result, joined.text) == (PASS, "3 stages behind the delta; all 1 edges join")

    path.write_text(
        text.replace("deps: [{path: folder, md5: f.dir", "deps: [{path: folder, md5: x.dir")
    )

    (broken,) = edges_of(path)

    assert (broken.result, broken.text) == (
        FAIL,
        "train@a read another folder than make has written",
    )


@pytest.mark.parametrize("text", ["stages: [", "no: stages\n", "stages: {make: {}}\n"])
def test_a_lock_that_cannot_be_read_is_one_line(tmp_path, text):
    (tmp_path / "dvc.lock").write_text(text)

    with pytest.raises(InputError, match=r"dvc\.lock cannot be read") as error:
        recorded_stages(tmp_path / "dvc.lock")

    assert "\n" not in str(error.value)
