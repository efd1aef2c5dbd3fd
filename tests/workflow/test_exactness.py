"""One thing is changed at a time: exactly the stages that it concerns become stale.

The guard, `in_sync`, runs after any change of code or configuration and changes nothing itself: it
is left out of what is compared here.
"""

from __future__ import annotations

import shutil

import pytest

from tests.workflow.conftest import KEPT, STUDY, Project, planned, stale

UNLEARN = [f"unlearn@{method}" for method in KEPT]
EVALUATE = [f"evaluate@{method}" for method in KEPT]
REPORTING = ["compare_methods", "draw_figures", "write_report"]
FIRST = ["prepare_data", "make_base_model", "capture_routing", "select_experts"]
BEFORE_EVALUATION = [*FIRST, "unlearn@seuf_gdiff", "evaluate@seuf_gdiff"]

CONF = "conf/base/parameters"
MINE = "conf/smoke/parameters.yml"
CATALOG = "conf/base/catalog"
CODE = "src/seuf"
METRICS = "studies/smoke/data/08_reporting/metrics.json"
SELECTION = f"{CODE}/pipelines/expert_selection/pipeline.py"
SWAP = '"routing_forget",\n                    "routing_retain",'
SWAPPED = '"routing_retain",\n                    "routing_forget",'
A_NODE = """
    return Pipeline(
        [
            Node(select_experts, ["routing_retain", "routing_forget", "params:expert_selection",
                 "params:seed"], "again", name="select_again"),"""
ITS_OUTPUT = """
again: {type: seuf.datasets.documents.JSONDataset, filepath: again.json}
selected_experts:"""
AN_IMPORT = "annotations\n\nimport seuf.unlearning.settings"
RANDOM_GA = "{scope: experts, selection: random, objective: ga, learning_rates: [1.0e-3]}"

VALUES = [
    (f"{CONF}_routing_capture.yml", "batch_size: 64", "batch_size: 32", ["capture_routing"]),
    (f"{CONF}_expert_selection.yml", "top: 1", "top: 2", ["select_experts"]),
    (f"{CONF}_evaluation.yml", "max_length: 128", "max_length: 64", UNLEARN + EVALUATE),
    (f"{CONF}.yml", "base_seed: 0", "base_seed: 1", ["prepare_data", "make_base_model"]),
    (MINE, "entities: 24", "entities: 25", ["prepare_data"]),
    (MINE, "evaluate_every: 2", "evaluate_every: 1", UNLEARN),
    (MINE, "scope: nothing", "scope: everything", ["unlearn@original"]),
    (
        "conf/base/globals.yml",
        "seed: 0",
        "seed: 1",
        ["capture_routing", "select_experts", *UNLEARN],
    ),
]
VALUES_OF_OTHERS = [
    (f"{CONF}_unlearning.yml", "steps: 48", "steps: 50", []),  # the study says its own
    (f"{CONF}_unlearning.yml", "scope: nothing", "scope: everything", []),  # it replaces the table
    ("conf/tofu/parameters.yml", "steps: 1300", "steps: 1301", []),
    ("conf/base/globals.yml", "study: sandbox", "study: sandbar", []),  # no node reads it
    (f"{CATALOG}_routing_capture.yml", "nrows: 10", "nrows: 9", []),  # how kedro-viz shows it
]
LINES = [  # in each room
    (f"{CODE}/benchmarks/sandbox.py", ["prepare_data"]),
    (f"{CODE}/moe/pretraining.py", ["make_base_model"]),
    (f"{CODE}/moe/routing.py", ["capture_routing", *UNLEARN, *EVALUATE]),
    (f"{CODE}/moe/architectures.py", [*FIRST[1:3], *UNLEARN, *EVALUATE]),
    (f"{CODE}/unlearning/selection.py", ["select_experts"]),
    (f"{CODE}/unlearning/objectives.py", UNLEARN),
    (f"{CODE}/benchmarks/generation.py", [*UNLEARN, *EVALUATE]),
    (f"{CODE}/benchmarks/harness.py", EVALUATE),
    (f"{CODE}/pipelines/evaluation/nodes.py", EVALUATE),
    (f"{CODE}/pipelines/study.py", [*FIRST[:2], *UNLEARN, *EVALUATE, *REPORTING]),
    (f"{CODE}/datasets/figures.py", REPORTING[1:]),
    (f"{CODE}/reporting/report.py", REPORTING),
    (f"{CODE}/kedro_dvc/generation/sync.py", []),
    (f"{CODE}/hooks.py", []),
    ("tests/conftest.py", []),
    ("docs/workflow.md", []),
]
WIRING = [
    (SELECTION, SWAP, SWAPPED, ["select_experts"]),
    (f"{CATALOG}_expert_selection.yml", "indent: 2", "indent: 1", ["select_experts"]),
    (f"{CATALOG}_unlearning.yml", "index: false", "index: true", UNLEARN),
]


@pytest.mark.parametrize(("path", "old", "new", "stale"), VALUES + VALUES_OF_OTHERS + WIRING)
def test_a_change_reaches_exactly_the_stages_that_it_concerns(project, path, old, new, stale):
    project.replace(path, old, new)

    _exactly(project, stale)


@pytest.mark.parametrize(("path", "stale"), LINES)
def test_a_line_reaches_exactly_the_stages_that_can_run_it(project, path, stale):
    """A comment counts: DVC compares bytes. `dvc commit -f` says that it changes nothing."""
    file = project.root / path
    file.write_text(file.read_text() + "\n# A comment.\n")

    _exactly(project, stale)


def test_another_row_of_the_table_leaves_the_methods_alone(project):
    project.replace(MINE, "methods:\n", f"methods:\n  random_ga: {RANDOM_GA}\n")
    project.done("kedro", "dvc", "sync", "--env", "smoke")

    assert project.stale() == [
        "compare_methods", "draw_figures", "evaluate@random_ga", "unlearn@random_ga"
    ]  # fmt: skip


def test_a_key_that_a_study_newly_takes_over_is_watched_after_a_sync(project):
    project.replace(MINE, "unlearning: {", "unlearning: {npo_beta: 0.2, ")
    project.replace(MINE, "npo_beta: 0.2", "objectives: {npo_beta: 0.2}")
    project.done("kedro", "dvc", "sync", "--env", "smoke")

    assert project.stale() == UNLEARN


@pytest.mark.parametrize(
    ("edits", "target"),
    [
        (
            [
                (SELECTION, "\n    return Pipeline(\n        [", A_NODE),
                (f"{CATALOG}_expert_selection.yml", "\nselected_experts:", ITS_OUTPUT),
            ],
            "",
        ),
        ([(SELECTION, '"params:seed"', '"params:base_seed"')], ""),
        ([(SELECTION, '"params:seed"', '"params:base_seed"')], ":select_experts"),
        ([(MINE, "methods:\n", f"methods:\n  random_ga: {RANDOM_GA}\n")], ""),
        ([(MINE, "unlearning: {", "unlearning: {max_length: 64, ")], ""),
        ([(f"{CODE}/pipelines/evaluation/nodes.py", "annotations\n", AN_IMPORT)], ""),
    ],
    ids=["node", "input", "input, for one stage", "method", "key taken over", "import"],
)
def test_nothing_runs_while_a_sync_is_due(project, edits, target):
    """Neither for all stages nor for one, as each waits for the guard; the lock stays as it was."""
    for edit in edits:
        project.replace(*edit)
    lock = (project.root / STUDY).with_suffix(".lock")
    before = lock.read_bytes()

    ended = project.run("dvc", "repro", f"{STUDY}{target}")

    assert ended.returncode != 0
    assert f"{STUDY} is behind: run `kedro dvc sync`" in ended.stdout
    assert ended.stdout.count("Running stage") == 1
    assert lock.read_bytes() == before


def test_in_another_place_nothing_is_stale(project, tmp_path):
    moved = Project(tmp_path / "elsewhere")
    shutil.copytree(project.root, moved.root, symlinks=True)

    assert moved.stale() == []
    assert moved.repro() == []


def test_in_another_process_the_files_are_the_same(project):
    """Whatever the order in which Python keeps its sets."""
    for seed in ("1", "2"):
        project.done(
            "env", f"PYTHONHASHSEED={seed}", "kedro", "dvc", "sync", "--check", "--env", "smoke"
        )


def test_in_a_fresh_clone_nothing_runs_after_a_pull(project, tmp_path):
    project.done("dvc", "remote", "add", "--local", "--default", "there", str(tmp_path / "remote"))
    project.done("dvc", "push", "--quiet", STUDY)
    project.done("git", "add", "--force", METRICS)
    project.done("git", "commit", "--quiet", "--message", "Record the study")
    clone = Project(tmp_path / "clone")
    project.done("git", "clone", "--quiet", ".", str(clone.root))
    clone.done("dvc", "remote", "add", "--local", "--default", "there", str(tmp_path / "remote"))

    assert "didn't change" in clone.done("dvc", "repro", "--dry", "--allow-missing", STUDY)
    clone.done("dvc", "pull", "--quiet", STUDY)

    assert clone.repro() == []
    assert (clone.root / "studies/smoke/data/08_reporting/report.html").is_file()


def test_an_experiment_runs_what_its_setting_concerns(project, tmp_path):
    """In a copy: what it makes is left in place of what the study has made."""
    other = Project(tmp_path / "elsewhere")
    shutil.copytree(project.root, other.root, symlinks=True)
    other.done("git", "commit", "--quiet", "--allow-empty", "--message", "Record the study")
    weight = "conf/smoke/parameters.yml:methods.seuf_gdiff.anchor_weight=0.5"

    target = f"{STUDY}:compare_methods"
    ran = other.stages_of("dvc", "exp", "run", "--set-param", weight, target)

    assert ran == ["in_sync", "unlearn@seuf_gdiff", "evaluate@seuf_gdiff", "compare_methods"]


def _exactly(project: Project, expected: list[str]) -> None:
    """Assert what is stale, for all stages and for two that are asked for alone."""
    with project.opened() as repo:
        assert stale(repo) == sorted(expected)
        for target, before in ((FIRST[-1], FIRST), ("evaluate@seuf_gdiff", BEFORE_EVALUATION)):
            assert planned(repo, target) == sorted({*expected} & {*before})
