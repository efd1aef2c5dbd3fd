"""Files on their way to nodes and back: what goes how, and that both ends have the same bytes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo

from kedro_dvc.executors.copies import (
    SMALL,
    check_remotes,
    receive,
    records_there,
    remotes,
    send,
    snapshot,
    written,
)
from kedro_dvc.files import WorkflowError, git


@pytest.fixture
def project(folder: Path, tmp_path: Path) -> Path:
    """A project with a default remote and one for what is to be kept apart."""
    root = folder
    git(root, "init", "--quiet")
    Repo.init().close()
    with Repo() as repo, repo.config.edit("repo") as config:
        config["remote"] = {name: {"url": str(tmp_path / name)} for name in ("all", "apart")}
        config["core"]["remote"] = "all"
    (root / "src").mkdir()
    (root / "src/code.py").write_text("1\n")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "-m", "x")
    return root


def _written(project: Path, **files: bytes) -> dict[str, str]:
    for name, data in files.items():
        (project / name).write_bytes(data)
    return {name: hashlib.md5(data).hexdigest() for name, data in files.items()}


def _objects(remote: Path) -> set[str]:
    return {path.parent.name + path.name for path in remote.glob("files/md5/*/*")}


def test_small_files_go_along_large_ones_through_the_remote_and_both_arrive(project, tmp_path):
    files = _written(project, small=b"s", large=b"l" * (SMALL + 1))
    stores = remotes(project)

    sent = send(project, files, {}, stores)
    receive(tmp_path / "node", sent, stores)

    assert [one.data for one in sent] == [b"s", None]
    assert _objects(tmp_path / "all") == {files["large"]}
    for name in files:
        assert (tmp_path / "node" / name).read_bytes() == (project / name).read_bytes()


def test_what_has_a_remote_of_its_own_goes_through_it_alone(project, tmp_path):
    files = _written(project, forget=b"s")

    sent = send(project, files, {"forget": "apart"}, remotes(project))

    assert sent[0].data is None
    assert _objects(tmp_path / "apart") == {files["forget"]}
    assert _objects(tmp_path / "all") == set()


def test_other_bytes_than_were_sent_are_refused(project, tmp_path):
    files = _written(project, large=b"l" * (SMALL + 1))
    stores = remotes(project)
    sent = send(project, files, {}, stores)
    path = Path(stores[None].oid_to_path(files["large"]))
    path.chmod(0o644)
    path.write_bytes(b"x")

    with pytest.raises(WorkflowError, match=f"large: sent was {files['large']}, "):
        receive(tmp_path / "node", sent, stores)
    assert list((tmp_path / "node").glob("large*")) == []


def test_what_a_node_has_already_is_not_fetched_again(project, tmp_path):
    files = _written(project, large=b"l" * (SMALL + 1))
    stores = remotes(project)
    sent = send(project, files, {}, stores)
    receive(tmp_path / "node", sent, stores)
    before = (tmp_path / "node/large").stat().st_ino

    receive(tmp_path / "node", sent, stores)
    assert (tmp_path / "node/large").stat().st_ino == before

    (tmp_path / "node/large").write_bytes(b"edited")
    receive(tmp_path / "node", sent, stores)
    assert (tmp_path / "node/large").stat().st_size == SMALL + 1


def test_of_a_stage_its_outputs_and_its_record_are_sent_back(project):
    """Whatever the time of the records: the clock may have been set back meanwhile."""
    (project / "evidence/base/runs").mkdir(parents=True)
    (project / "out").mkdir()
    (project / "evidence/base/runs/earlier.json").write_text("of another stage")
    before = records_there(project)
    for name in ("evidence/base/runs/a.json", "out/one", "out/two", "other"):
        (project / name).write_text(name)
        os.utime(project / name, (0, 0))

    files: list[Any] = written(project, {"out": None}, before, remotes(project))

    assert {one.path for one in files} == {"evidence/base/runs/a.json", "out/one", "out/two"}


def test_a_snapshot_is_what_is_committed_and_is_refused_otherwise(project, tmp_path):
    _, files = snapshot(project, tmp_path, dirty=False)
    assert "src/code.py" in files

    (project / "src/code.py").write_text("2\n")
    with pytest.raises(WorkflowError, match="is not committed, and nodes would run it"):
        snapshot(project, tmp_path, dirty=False)
    assert snapshot(project, tmp_path, dirty=True)[1]["src/code.py"] != files["src/code.py"]


def test_without_a_remote_nothing_can_be_copied(project):
    with Repo() as repo, repo.config.edit("repo") as config:
        del config["core"]["remote"]

    with pytest.raises(WorkflowError, match="need a DVC remote: dvc remote add --default"):
        remotes(project)


def test_a_remote_that_takes_no_files_is_told_before_the_first_stage(project, tmp_path):
    check_remotes([None, "apart"], remotes(project))
    check_remotes([None, "apart"], remotes(project))  # what was left there is no hindrance
    (tmp_path / "file").write_text("")
    with Repo() as repo, repo.config.edit("repo") as config:
        config["remote"]["apart"]["url"] = str(tmp_path / "file" / "inside")

    with pytest.raises(WorkflowError, match=r"the DVC remote apart takes no files: .*Not a dir"):
        check_remotes([None, "apart"], remotes(project))
    with pytest.raises(WorkflowError, match=r"the DVC remote gone is missing in \.dvc/config"):
        check_remotes(["gone"], remotes(project))


def test_a_remote_whose_package_is_not_installed_is_one_line(project):
    with Repo() as repo, repo.config.edit("repo") as config:
        config["remote"]["far"] = {"url": "webhdfs://host/x"}

    with pytest.raises(WorkflowError, match=r"a DVC remote of \.dvc/config: webhdfs is supported"):
        remotes(project)
