"""What the doctor says, and how the command ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from kedro_dvc import doctor as examine
from kedro_dvc.cli import dvc
from kedro_dvc.disk import Finding, counted, listed
from kedro_dvc.files import WorkflowError
from tests.kedro_dvc.doctor.conftest import tamper


def test_a_dvc_yaml_that_is_behind_or_cannot_be_made_is_an_error(project, monkeypatch):
    def sync(root: Path, study: str, write: bool) -> bool:
        assert not write
        if study == "broken":
            raise WorkflowError("no catalog")
        return study == "mine"

    monkeypatch.setattr(examine, "sync", sync)

    assert project.found(examine.stages, ("base", "mine", "broken")) == [
        ("ERROR", "studies/mine/dvc.yaml is behind the project: run `kedro dvc sync`"),
        ("ERROR", "studies/broken/dvc.yaml cannot be made from the project: no catalog"),
    ]
    assert project.found(examine.stages, ("base",)) == [
        ("ok", "dvc.yaml of base is what the project makes")
    ]


@pytest.mark.parametrize(("level", "code"), [("ok", 0), ("warning", 0), ("ERROR", 1)])
def test_the_command_fails_for_an_error_and_for_nothing_less(project, monkeypatch, level, code):
    findings = [Finding(level, "this"), Finding("ok", "that")]
    monkeypatch.setattr(examine, "examine", lambda *args, **how: iter(findings))

    ended = CliRunner().invoke(dvc, ["doctor"])

    assert ended.exit_code == code
    assert ended.output.splitlines() == [f"{level:7}  this", "ok       that"]


def test_the_command_makes_every_check_and_mends_nothing(project, monkeypatch):
    monkeypatch.setattr(examine, "sync", lambda *args, **how: False)
    tamper(project.root / "file")
    before = (project.root / "file").read_bytes()

    ended = CliRunner().invoke(dvc, ["doctor", "--env", "base"])

    assert ended.exit_code == 1
    levels = [line.split()[0] for line in ended.output.splitlines()]
    assert levels == ["ok"] * 3 + ["ERROR"] + ["ok"] * 7
    assert (project.root / "file").read_bytes() == before


def test_a_study_that_does_not_exist_is_refused(project):
    ended = CliRunner().invoke(dvc, ["doctor", "--env", "nowhere"])

    assert ended.exit_code == 1
    assert "There is no study 'nowhere'" in ended.output


def test_of_many_names_the_first_are_told():
    assert listed("gfedcba") == "a, b, c, d, e, and 2 more"
    assert listed("ba") == "a, b"
    assert (counted(1, "file"), counted(0, "file")) == ("1 file", "0 files")
