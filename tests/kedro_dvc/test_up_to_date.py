"""Nothing to do is told without DVC, and never when there may be something."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from dvc_data.hashfile.hash_info import HashInfo

from kedro_dvc.run import reproduce
from kedro_dvc.up_to_date import files_before_run, note_run, unchanged_stages
from tests.kedro_dvc.test_run import Notes


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in (
        "dvc.yaml",
        "dvc.lock",
        "in.csv",
        "out.csv",
        "code/a.py",
        "cache/1",
        "code/__pycache__/a.pyc",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def _stages(project: Path, always: bool = False, protocol: str = "local") -> list[Any]:
    def file(name: str) -> Any:
        return SimpleNamespace(fs_path=str(project / name), protocol=protocol)

    output = file("out.csv")
    output.use_cache, output.hash_info = True, HashInfo("md5", "1")
    output.cache = SimpleNamespace(oid_to_path=lambda oid: str(project / "cache" / oid))
    stage = SimpleNamespace(
        path=str(project / "dvc.yaml"),
        deps=[file("in.csv"), file("code")],
        outs=[output],
        always_changed=always,
    )
    return [stage, stage]


@pytest.fixture
def noted(project: Path) -> Path:
    note_run(project, "dvc.yaml", files_before_run(project, _stages(project)))
    return project


def test_what_is_as_it_was_is_told_with_the_number_of_stages(noted):
    assert unchanged_stages(noted, "dvc.yaml") == 2


def test_what_was_never_noted_is_not_sure(project):
    assert unchanged_stages(project, "dvc.yaml") == 0


def test_another_study_is_another_matter(noted):
    assert unchanged_stages(noted, "studies/tofu/dvc.yaml") == 0


@pytest.mark.parametrize(
    "name", ["in.csv", "out.csv", "dvc.yaml", "dvc.lock", "code/a.py", "code/b.py", ".dvcignore"]
)
def test_a_file_that_is_written_or_new_is_noticed(noted, name):
    (noted / name).write_text("new")

    assert unchanged_stages(noted, "dvc.yaml") == 0


@pytest.mark.parametrize("name", ["in.csv", "out.csv", "code/a.py", "cache/1"])
def test_a_file_that_is_gone_is_noticed(noted, name):
    (noted / name).unlink()

    assert unchanged_stages(noted, "dvc.yaml") == 0


def test_python_may_write_its_caches(noted):
    (noted / "code/__pycache__/b.pyc").write_text("new")

    assert unchanged_stages(noted, "dvc.yaml") == 2


def test_an_input_that_changed_during_the_run_is_noticed(project):
    """DVC had looked at it before: what it is now no stage has seen."""
    run = files_before_run(project, _stages(project))
    (project / "in.csv").write_text("new")
    note_run(project, "dvc.yaml", run)

    assert unchanged_stages(project, "dvc.yaml") == 0


def test_outputs_are_as_the_run_has_left_them(project):
    run = files_before_run(project, _stages(project))
    (project / "out.csv").write_text("new")
    note_run(project, "dvc.yaml", run)

    assert unchanged_stages(project, "dvc.yaml") == 2


@pytest.mark.parametrize("kind", [{"always": True}, {"protocol": "s3"}])
def test_what_may_change_unseen_is_not_noted(project, kind):
    assert files_before_run(project, _stages(project, **kind)) is None


def test_a_broken_note_is_none(noted):
    next((noted / ".dvc/tmp/kedro_dvc").iterdir()).write_text("{")

    assert unchanged_stages(noted, "dvc.yaml") == 0


def test_files_of_an_output_that_is_a_folder_must_be_in_the_cache_each(empty_project):
    """DVC would run the stage for one that is missing."""
    stages = {"a": {"cmd": "mkdir d && echo 1 > d/one && echo 2 > d/two", "outs": ["d"]}}
    (empty_project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    reproduce(empty_project, ["dvc.yaml"], Notes())
    assert unchanged_stages(empty_project, "dvc.yaml") == 1

    digest = hashlib.md5(b"2\n", usedforsecurity=False).hexdigest()
    (empty_project / ".dvc/cache/files/md5" / digest[:2] / digest[2:]).unlink()

    assert unchanged_stages(empty_project, "dvc.yaml") == 0
