"""A stage that needs no torch does not wait for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "datasets", "lm_eval", "dvc"}
LIGHT = [
    "prepare_data",
    "methods.compare_methods",
    "draw_figures",
    "write_report",
]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("node", LIGHT)
def test_a_light_stage_imports_nothing_heavy(project, node):
    assert _imported(project, node) & HEAVY == set()


def test_the_import_of_torch_would_be_seen(project):
    assert "torch" in _imported(project, "select_experts")


def test_a_command_does_not_begin_with_how_it_logs():
    """Kedro names the file of its configuration of logging when it is imported."""
    root = Path(__file__).parents[2]
    command = (sys.executable, "-c", "import kedro.framework.project")

    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)

    assert ended.stdout + ended.stderr == ""


def _imported(project, node: str) -> set[str]:
    """Return the packages that a stage's process imports."""
    command = (sys.executable, "-X", "importtime", "-m", "kedro", "run", "--env", "smoke")
    ended = project.run(*command, "--nodes", node)
    assert ended.returncode == 0, ended.stderr
    lines = (line for line in ended.stderr.splitlines() if line.startswith("import time:"))
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
