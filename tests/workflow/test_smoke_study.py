"""The smoke study from its first stage to its report, with the commands of a user."""

from __future__ import annotations

from subprocess import CompletedProcess

import pytest
import yaml

from tests.workflow.conftest import KEPT, LOCK, METRICS, STUDY

ALL = [
    "in_sync",
    "prepare_data",
    "make_base_model",
    "capture_routing",
    "select_experts",
    *(f"unlearn@{method}" for method in KEPT),
    *(f"evaluate@{method}" for method in KEPT),
    "compare_methods",
    "draw_figures",
    "write_report",
    "write_headline",
]

pytestmark = pytest.mark.timeout(900)  # the first test waits for the whole study


def test_every_output_is_there(project):
    lock = yaml.safe_load((project.root / LOCK).read_text())["stages"]

    assert sorted(lock) == sorted(ALL)
    for stage in lock.values():
        for out in stage["outs"]:
            assert (project.root / out["path"]).exists()


def test_every_stage_is_told_with_seconds_and_memory(world):
    *lines, last = world.printed.splitlines()

    assert last.startswith(f"{len(ALL)} ran, in ")
    assert sorted(line.split()[0] for line in lines if " ran " in line) == sorted(ALL)
    assert all(line.endswith(" GB") for line in lines if " ran " in line)


def test_dvc_finds_nothing_to_do_after_it(project):
    assert project.stale() == []
    assert project.repro() == []


def test_the_numbers_are_metrics(project):
    assert "original" in project.dvc("metrics", "show", METRICS)


def test_a_check_tells_which_file_is_behind(project):
    project.replace("conf/smoke/parameters.yml", "unlearning: {", "unlearning: {max_length: 64, ")

    ended = project.invoke("dvc", "sync", "--check", "--env", "smoke")

    assert ended.exit_code == 1
    assert f"{STUDY} is behind: run `kedro dvc sync`" in ended.output


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        (
            "methods.seuf_gdiff.objective=best,unlearning.stepz=3,unlearning.steps=many",
            [
                "there is no objective 'best'; objectives are ga, gdiff, npo, rmu",
                "unlearning.stepz: Extra inputs are not permitted",
                "unlearning.steps: Input should be a valid integer",
            ],
        ),
        pytest.param(
            "methods.seuf_gdiff.selection=best",
            ["selection 'best' is unknown"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_bad_settings_get_one_line_before_anything_runs(project, given, messages):
    ended = project.run("kedro", "run", "--env", "smoke", "--params", given)

    assert all(message in _only_line(ended) for message in messages)
    assert "Loading data" not in ended.stderr


@pytest.mark.parametrize(
    ("file", "node"),
    [
        pytest.param(
            "03_primary/questions.jsonl", "methods.original.unlearn", marks=pytest.mark.slow
        ),
        ("05_model_input/selected_experts.json", "write_report"),
    ],
)
def test_a_missing_file_gets_one_line(project, file, node):
    path = project.root / "studies/smoke/data" / file
    kept = path.rename(path.with_suffix(".kept"))

    ended = project.run("kedro", "run", "--env", "smoke", "--nodes", node)

    kept.rename(path)
    assert file in _only_line(ended)


def test_an_unknown_study_gets_one_line(project):
    ended = project.run("kedro", "run", "--env", "smok")

    assert _only_line(ended).startswith("error: There is no study 'smok'")


def _only_line(ended: CompletedProcess[str]) -> str:
    """Return the last line of a command that failed without a traceback."""
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    return last
