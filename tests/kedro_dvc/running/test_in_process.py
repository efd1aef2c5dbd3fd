"""The commands that `kedro dvc sync` writes are known, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kedro_dvc.project import dvc_file, taken_up
from kedro_dvc.run import InProcess

ROOT = Path(__file__).parents[3]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What would have been run."""
    made: list[tuple[str, ...]] = []
    monkeypatch.setattr(InProcess, "_run", lambda self, *what: made.append(what))
    monkeypatch.setattr(InProcess, "_guard", lambda self, *what: made.append(what))
    return made


@pytest.mark.parametrize("study", taken_up(ROOT))
def test_every_command_of_a_dvc_yaml_is_run_here(study, calls):
    stages = yaml.safe_load((ROOT / dvc_file(study)).read_text())["stages"]

    for stage in stages.values():
        assert InProcess(ROOT)(stage["cmd"])

    assert {what[0] for what in calls} == {study}
    assert len(calls) == len(stages)


@pytest.mark.parametrize(
    "command",
    [
        "echo kedro run",
        "kedro run",
        "kedro run --nodes x",
        "kedro run --pipelines a --nodes b -e x",
    ],
)
def test_another_command_is_left_to_dvc(command, calls):
    assert not InProcess(ROOT)(command)
    assert calls == []
