"""dvc.lock: the bytes of DVC, in an order that no race decides."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dvc.dvcfile
import pytest
from dvc.stage import Stage
from dvc.utils.serialize import load_yaml, modify_yaml

from kedro_dvc.lock_file import LockFiles, replaced

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "studies/sandbox_seeds/dvc.lock"
NEW = {
    "cmd": "kedro run --nodes 'a b'",
    "deps": [{"path": "ä", "hash": "md5", "md5": "0" * 32, "size": 1}],
    "params": {"conf/a.yml": {"rate": 1e-05, "no": False, "text": "010", "none": None, "deep": {}}},
}


@pytest.fixture(scope="module")
def recorded() -> str:
    """The first stages of a lock of this project; DVC takes seconds for all."""
    return "".join(re.split(r"(?m)^(?=  \w)", RECORDED.read_text())[:4])


@pytest.mark.parametrize("name", ["new", "n" * 200])
def test_a_change_of_a_recorded_lock_gives_the_same_bytes(recorded, tmp_path, name):
    """YAML writes a key of more than 128 letters in another way."""
    written, locks, copy = [], LockFiles(), tmp_path / "dvc.lock"
    for way in (modify_yaml, locks.changed):
        copy.write_text(recorded)
        with way(str(copy)) as content:
            content["stages"].update({name: deepcopy(NEW)})
        with way(str(copy)) as content:  # what one has written the other reads
            content["stages"].update({name: {**deepcopy(NEW), "cmd": "again"}})
            content["stages"].update(last=deepcopy(NEW))
        written.append(copy.read_bytes())

    assert written[0] == written[1]
    assert b"again" in written[1]


def test_values_that_an_anchor_shares_are_numbered_through_the_file_as_by_dvc(tmp_path):
    """YAML in which two anchors have one name is not read, by DVC neither."""
    written, locks, path = [], LockFiles(), tmp_path / "dvc.lock"
    for way in (modify_yaml, locks.changed):
        path.unlink(missing_ok=True)
        for number, name in enumerate(("a", "plain", "c", "d", "a")):
            with way(str(path)) as content:
                shared, other = [number], {"of": name}
                values = {"one": shared, "two": shared, "x": other, "y": [other]}
                params = {"conf/a.yml": {} if name == "plain" else values}
                content["schema"] = "2.0"
                content.setdefault("stages", {})[name] = {"cmd": name, "params": params}
        written.append(path.read_text())

    assert written[0] == written[1]
    assert re.findall(r"&id(\d+)", written[1]) == [f"00{n}" for n in range(1, 7)]
    with LockFiles().changed(str(path)) as content:
        assert content["stages"]["a"]["params"]["conf/a.yml"]["two"] == [4]


def test_anchors_are_numbered_anew_when_a_stage_before_has_none_any_more(tmp_path):
    written, path = [], tmp_path / "dvc.lock"
    for way in (modify_yaml, LockFiles().changed):
        path.unlink(missing_ok=True)
        for name, shared in (("a", True), ("b", True), ("a", False)):
            with way(str(path)) as content:
                content.setdefault("schema", "2.0")
                value = [name]
                params = {"one": value, "two": value} if shared else {}
                stage = {"cmd": name, "params": {"conf/a.yml": params}}
                content.setdefault("stages", {})[name] = stage
        written.append(path.read_text())

    assert written[0] == written[1]
    assert re.findall(r"&id(\d+)", written[1]) == ["001"]


@pytest.mark.parametrize("name", ["n" * 129, "words " * 30 + ":", "one\ntwo"])
def test_a_name_that_takes_lines_of_its_own_and_a_text_like_an_anchor(tmp_path, name):
    """YAML puts `?` before such a key and `:` on a line below; `&id001` is what the stage says."""
    written, path = [], tmp_path / "dvc.lock"
    for new in (lambda: modify_yaml, lambda: LockFiles().changed):
        path.unlink(missing_ok=True)
        for number in range(3):
            with new()(str(path)) as content:
                content.setdefault("schema", "2.0")
                stages = content.setdefault("stages", {})
                stages.update({f"t@{name}": {"cmd": f"&id001 {number}"}, "a": {"cmd": "&id001"}})
        written.append(path.read_text())

    assert written[0] == written[1]


@pytest.mark.parametrize(
    "text",
    [
        "  a: &same {cmd: x}\n  b: *same\n",
        "  a: {cmd: x, params: {p: {k: &of [1], l: [*of, *of]}}}\n",
        "  b: {cmd: x}\n...\n",
        "  # mine\n  b: {cmd: x}\n",
        "  b: {cmd: x}\ndatasets: []\n",
        " b: {cmd: x}\n",
    ],
)
def test_a_lock_that_a_hand_or_a_merge_made_says_the_same_after_a_change(tmp_path, text):
    path = tmp_path / "dvc.lock"
    path.write_text(f"schema: '2.0'\nstages:\n{text}")
    before = load_yaml(str(path))

    with LockFiles().changed(str(path)) as content:
        content["stages"]["a"] = NEW

    assert load_yaml(str(path)) == {**before, "stages": {**before["stages"], "a": NEW}}


def test_what_a_stage_that_is_not_run_says_stays_to_the_digit(tmp_path):
    """DVC reads and writes it anew with each other stage, and spoils it, so that it is run."""
    said, path = [], tmp_path / "dvc.lock"
    for way in (modify_yaml, LockFiles().changed):
        path.unlink(missing_ok=True)
        for name, value in (("a", 2.532408340238357e16), ("b", 1.0)):
            with way(str(path)) as content:
                content["schema"] = "2.0"
                stage = {"cmd": name, "params": {"conf/a.yml": {"rate": value}}}
                content.setdefault("stages", {})[name] = stage
        stages = load_yaml(str(path))["stages"]
        said.append(stages["a"]["params"]["conf/a.yml"]["rate"])

    assert said == [2.532408340238356e16, 2.532408340238357e16]


def test_what_another_process_has_written_is_kept(tmp_path):
    path, locks = tmp_path / "dvc.lock", LockFiles()
    with locks.changed(str(path)) as content:
        content.update(schema="2.0", stages={"ours": NEW})
    with modify_yaml(str(path)) as content:
        content["stages"].update(theirs=NEW)
    with locks.changed(str(path)) as content:
        content["stages"].update(last=NEW)

    with modify_yaml(str(path)) as content:
        assert list(content["stages"]) == ["ours", "theirs", "last"]


def test_new_stages_come_in_the_order_of_the_plan_after_those_that_were_there(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path, locks = tmp_path / "dvc.lock", LockFiles()
    with modify_yaml(str(path)) as content:
        content.update(schema="2.0", stages={"c": NEW})
    plan: list[Any] = [SimpleNamespace(addressing=name) for name in "abcd"]
    locks.plan(cast(list[Stage], plan))
    for name in "dbca":
        with locks.changed(str(path)) as content:
            content["stages"].update({name: NEW})

    with modify_yaml(str(path)) as content:
        assert list(content["stages"]) == ["c", "a", "b", "d"]


def test_a_lock_that_is_not_there_yet_is_made(tmp_path):
    with LockFiles().changed(str(tmp_path / "dvc.lock")) as content:
        content["schema"] = "2.0"

    assert (tmp_path / "dvc.lock").read_text() == "schema: '2.0'\n"


def test_only_locks_and_only_inside_the_context(tmp_path):
    """A dvc.yaml keeps its comments."""
    original, path = dvc.dvcfile.modify_yaml, tmp_path / "dvc.yaml"
    path.write_text("stages: # mine\n  a: 1\n")

    with (
        replaced(dvc.dvcfile, "modify_yaml", LockFiles().modify),
        dvc.dvcfile.modify_yaml(str(path)) as content,
    ):
        assert dvc.dvcfile.modify_yaml is not original
        content["stages"]["b"] = 2

    assert path.read_text() == "stages: # mine\n  a: 1\n  b: 2\n"
    assert dvc.dvcfile.modify_yaml is original
