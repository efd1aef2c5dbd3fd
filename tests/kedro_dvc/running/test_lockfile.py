"""Lock files come out as DVC itself would write them."""

from __future__ import annotations

import shutil
from pathlib import Path

import dvc.dvcfile
from dvc.utils.serialize import modify_yaml

from kedro_dvc.run import changed, quick_locks

RECORDED = Path(__file__).parents[3] / "studies/sandbox_seeds/dvc.lock"
NEW = {
    "cmd": "kedro run --nodes 'a b'",
    "deps": [{"path": "ä", "hash": "md5", "md5": "0" * 32, "size": 1}],
    "params": {"conf/a.yml": {"rate": 1e-05, "no": False, "text": "010", "none": None, "deep": {}}},
}


def test_a_change_of_a_recorded_lock_gives_the_same_bytes(tmp_path):
    written = []
    for way in (modify_yaml, changed):
        copy = shutil.copy(RECORDED, tmp_path / "dvc.lock")
        with way(str(copy)) as content:
            content["stages"].update(new=NEW)
        with way(str(copy)) as content:  # what one has written the other reads
            content["stages"]["new"]["cmd"] += " --again"
        written.append(Path(copy).read_bytes())

    assert written[0] == written[1]
    assert b"--again" in written[1]


def test_a_lock_that_is_not_there_yet_is_made(tmp_path):
    with changed(str(tmp_path / "dvc.lock")) as content:
        content["schema"] = "2.0"

    assert (tmp_path / "dvc.lock").read_text() == "schema: '2.0'\n"


def test_only_locks_and_only_inside_the_context(tmp_path):
    """A dvc.yaml keeps its comments."""
    original, path = dvc.dvcfile.modify_yaml, tmp_path / "dvc.yaml"
    path.write_text("stages: # mine\n  a: 1\n")

    with quick_locks(), dvc.dvcfile.modify_yaml(str(path)) as content:
        assert dvc.dvcfile.modify_yaml is not original
        content["stages"]["b"] = 2

    assert path.read_text() == "stages: # mine\n  a: 1\n  b: 2\n"
    assert dvc.dvcfile.modify_yaml is original
