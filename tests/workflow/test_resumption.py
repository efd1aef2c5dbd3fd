"""A stage that was killed goes on where it was, and nothing but its own time tells of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workflow.conftest import STUDY, Project

DATA = Path("studies/smoke/data")
UNFINISHED = DATA / "06_models/seuf_gdiff/unfinished.safetensors"
MADE = (
    DATA / "06_models/seuf_gdiff/delta.safetensors",
    DATA / "07_model_output/seuf_gdiff/training_log.csv",
)
STAGE = ["run", "--env=smoke", "--pipelines=unlearning", "--nodes=methods.seuf_gdiff.unlearn"]
DYING = f"""
import os, pathlib, sys
sys.path.insert(0, "src")
from seuf.unlearning import loop
look, kept = loop._look, pathlib.Path("{UNFINISHED}")
loop._look = lambda *given: os._exit(9) if kept.exists() else look(*given)
sys.argv = ["kedro", *{STAGE}]
from kedro.framework.cli import main
main()
"""

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def killed(project: Project) -> Iterator[Project]:
    """The project after the study has run and then a stage was killed before its second look."""
    assert project.run("python", "-c", DYING).returncode == 9
    yield project
    (project.root / UNFINISHED).unlink(missing_ok=True)
    project.done("dvc", "checkout", "--quiet", "--force", STUDY)


def test_a_killed_stage_goes_on_and_ends_with_the_same_bytes(killed):
    """Meanwhile neither git nor DVC sees what it has left."""
    unbroken = [(killed.root / path).read_bytes() for path in MADE]
    assert (killed.root / UNFINISHED).exists()
    assert killed.stale() == []
    assert "unfinished" not in killed.done("git", "status", "--porcelain", "-uall")

    ended = killed.run("kedro", *STAGE)

    assert "Going on after step 2 of learning rate 1" in ended.stdout + ended.stderr
    assert [(killed.root / path).read_bytes() for path in MADE] == unbroken
    assert not (killed.root / UNFINISHED).exists()
