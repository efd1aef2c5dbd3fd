"""One thing is changed at a time: exactly the stages that it concerns become stale.

The guard, `in_sync`, runs after any change that may change the stages, and changes nothing itself:
it is left out of what is compared here, but where nothing at all may be stale.
"""

from __future__ import annotations

import pytest
from dvc.repo import Repo
from dvc.stage.exceptions import StageFileDoesNotExistError

from kedro_dvc.project import take_part
from tests.workflow.conftest import GUARD, KEPT, LOCK, STUDY, Project

UNLEARN = [f"unlearn@{method}" for method in KEPT]
EVALUATE = [f"evaluate@{method}" for method in KEPT]
RUN_METHODS = [*UNLEARN, *EVALUATE]
REPORTING = ["compare_methods", "draw_figures", "write_report"]
FIRST = ["prepare_data", "make_base_model", "capture_routing", "select_experts"]
NAMING_SEEDS = [REPORTING[0], REPORTING[2]]  # the report says them
OF_BASE_SEED = [*FIRST[:2], FIRST[3], *NAMING_SEEDS]
BEFORE_EVALUATION = [*FIRST, "unlearn@seuf_gdiff", "evaluate@seuf_gdiff"]

CONF = "conf/base/parameters"
MINE = "conf/smoke/parameters.yml"
CATALOG = "conf/base/catalog"
GLOBALS = "conf/base/globals.yml"
CODE = "src/seuf"
REGISTRY = f"{CODE}/pipeline_registry.py"
SELECTION = f"{CODE}/pipelines/expert_selection/pipeline.py"
SWAP = '"routing_forget",\n                    "routing_retain",'
SWAPPED = '"routing_retain",\n                    "routing_forget",'
A_NODE = """
    return Pipeline(
        [
            Node(select_experts, ["routing_retain", "routing_forget", "params:expert_selection",
                 "params:base_seed", "params:seed"], "again", name="select_again"),"""
ITS_OUTPUT = """
again: {type: seuf.datasets.documents.JSONDataset, filepath: again.json}
selected_experts:"""
AN_IMPORT = "annotations\n\nimport seuf.unlearning.settings"
RANDOM_GA = "{scope: experts, selection: random, objective: ga, learning_rates: [1.0e-3]}"

# Each a file, what is replaced in it, the key that DVC tells as changed, and the stages.
VALUES = [
    (
        f"{CONF}_routing_capture.yml",
        "batch_size: 64",
        "batch_size: 32",
        "routing_capture",
        FIRST[2:3],
    ),
    (f"{CONF}_expert_selection.yml", "top: 1", "top: 2", "expert_selection", ["select_experts"]),
    (
        f"{CONF}_evaluation.yml",
        "max_length: 128",
        "max_length: 64",
        "evaluation.max_length",
        RUN_METHODS,
    ),
    (f"{CONF}.yml", "base_seed: 0", "base_seed: 1", "base_seed", OF_BASE_SEED),
    (MINE, "entities: 48", "entities: 49", "benchmark", ["prepare_data"]),
    (MINE, "evaluate_every: 2", "evaluate_every: 1", "unlearning", UNLEARN),
    (MINE, "scope: nothing", "scope: everything", "methods.original", ["unlearn@original"]),
    (GLOBALS, "seed: 0", "seed: 1", "seed", [*FIRST[2:], *UNLEARN, *NAMING_SEEDS]),
    (
        f"{CATALOG}_expert_selection.yml",
        "indent: 2",
        "indent: 1",
        "selected_experts.save_args",
        ["select_experts"],
    ),
    (
        f"{CATALOG}_unlearning.yml",
        "index: false",
        "index: true",
        "_unlearned.training_log.save_args",
        UNLEARN,
    ),
]
VALUES_OF_OTHERS = [
    (f"{CONF}_unlearning.yml", "steps: 48", "steps: 50"),  # the study says its own
    (f"{CONF}_unlearning.yml", "scope: nothing", "scope: everything"),  # it replaces the table
    ("conf/tofu/parameters.yml", "steps: 1300", "steps: 1301"),
    (GLOBALS, "study: sandbox", "study: sandbar"),  # no node reads it
    (f"{CATALOG}_routing_capture.yml", "nrows: 10", "nrows: 9"),  # how kedro-viz shows it
    (f"{CATALOG}_unlearning.yml", "deterministic: true", "deterministic: false"),  # how it is made
    (f"{CATALOG}_reporting.yml", "reproducible: false", "reproducible: true"),  # what is recorded
]
LINES = {  # in each room
    f"{CODE}/benchmarks/sandbox.py": ["prepare_data"],
    f"{CODE}/moe/training.py": ["make_base_model"],
    f"{CODE}/moe/routing.py": [*FIRST[1:3], *RUN_METHODS],  # the loss imports it
    f"{CODE}/moe/architectures.py": [*FIRST[1:3], *RUN_METHODS],
    f"{CODE}/unlearning/selection.py": ["select_experts"],
    f"{CODE}/unlearning/objectives.py": UNLEARN,
    f"{CODE}/benchmarks/answers.py": RUN_METHODS,
    f"{CODE}/benchmarks/harness.py": EVALUATE,
    f"{CODE}/pipelines/evaluation/nodes.py": EVALUATE,
    f"{CODE}/pipelines/study.py": [*FIRST[:2], *RUN_METHODS, *REPORTING, "write_headline"],
    f"{CODE}/datasets/figures.py": REPORTING[1:],
    f"{CODE}/reporting/report.py": REPORTING,
}
UNWATCHED = [  # no stage can run them
    f"{CODE}/audit/lineage.py",
    f"{CODE}/cli.py",
    f"{CODE}/hooks.py",
    "src/kedro_dvc/sync.py",
    "tests/conftest.py",
    "docs/workflow.md",
]


def test_each_change_reaches_exactly_the_stages_that_it_concerns(project):
    """All are made at once, of values, of the catalog, and of a comment in the code of each room.

    DVC tells of each stage which of them made it stale. A comment counts, as DVC compares bytes.
    """
    for path, old, new, *_ in VALUES + VALUES_OF_OTHERS:
        project.replace(path, old, new)
    for path in LINES:
        (project.root / path).write_text((project.root / path).read_text() + "\n# A comment.\n")
    expected = {f"{path}: {key}": sorted(stages) for path, _, _, key, stages in VALUES}
    expected |= {path: sorted(stages) for path, stages in LINES.items() if stages}

    with project.opened() as repo:
        assert _reasons(repo) == expected


@pytest.mark.parametrize(
    ("path", "old", "new", "stages"),
    [
        (f"{CONF}.yml", "base_seed: 0", "base_seed: 1", OF_BASE_SEED),
        (MINE, "scope: nothing", "scope: everything", ["unlearn@original"]),
        pytest.param(SELECTION, SWAP, SWAPPED, ["select_experts"], marks=pytest.mark.slow),
    ],
)
def test_a_stage_that_is_asked_for_alone_waits_for_those_that_are_stale(
    project, path, old, new, stages
):
    project.replace(path, old, new)

    assert project.stale() == sorted(stages)
    with project.opened() as repo:
        for target, before in ((FIRST[-1], FIRST), ("evaluate@seuf_gdiff", BEFORE_EVALUATION)):
            assert _planned(repo, target) == sorted({*stages} & {*before})


def test_code_that_no_stage_can_run_leaves_the_guard_alone_too(project):
    """So there is nothing to record in dvc.lock."""
    for path in UNWATCHED:
        (project.root / path).write_text((project.root / path).read_text() + "\n# A comment.\n")

    with project.opened() as repo:
        assert repo.status([STUDY]) == {}


def test_another_row_of_the_table_leaves_the_methods_alone(project):
    project.replace(MINE, "methods:\n", f"methods:\n  random_ga: {RANDOM_GA}\n")
    assert project.invoke("dvc", "sync", "--env", "smoke").exit_code == 0

    assert project.stale() == ["compare_methods", "evaluate@random_ga", "unlearn@random_ga"]


def test_a_key_that_a_study_newly_takes_over_is_watched_after_a_sync(project):
    project.replace(MINE, "unlearning: {", "unlearning: {npo_beta: 0.2, ")
    project.replace(MINE, "npo_beta: 0.2", "objectives: {npo_beta: 0.2}")
    assert project.invoke("dvc", "sync", "--env", "smoke").exit_code == 0

    assert project.stale() == UNLEARN


def test_two_inputs_that_change_places_are_prepared_again(project, tmp_path):
    """DVC compares the same files, of which the stage's key tells which is to be forgotten."""
    mine = project.copy(tmp_path / "mine")
    mine.done("kedro", "dvc", "sync", "--env", "own")
    mine.commit()
    mine.done("kedro", "dvc", "run", "--env", "own", "prepare_data")
    made = "studies/own/dvc.yaml:prepare_data"
    with mine.opened() as repo:
        assert repo.status([made]) == {}

    for old, new in (("forget", "x"), ("retain", "forget"), ("x", "retain")):
        mine.replace("conf/own/globals.yml", f"own_data/{old}.jsonl", f"own_data/{new}.jsonl")

    mine.done("kedro", "dvc", "sync", "--check", "--env", "own")
    with mine.opened() as repo:
        (changed,) = (one for one in repo.status([made])[made] if "changed deps" in one)
    swapped = {"forget": "modified", "retain": "modified"}
    assert changed["changed deps"] == {"conf/own/globals.yml": swapped}


BEHIND = {
    "node": [
        (SELECTION, "\n    return Pipeline(\n        [", A_NODE),
        (f"{CATALOG}_expert_selection.yml", "\nselected_experts:", ITS_OUTPUT),
    ],
    "input": [(SELECTION, '"params:seed"', '"params:base_seed"')],
    "method": [(MINE, "methods:\n", f"methods:\n  random_ga: {RANDOM_GA}\n")],
    "key taken over": [(MINE, "unlearning: {", "unlearning: {max_length: 64, ")],
    "import": [(f"{CODE}/pipelines/evaluation/nodes.py", "annotations\n", AN_IMPORT)],
    "import in the library": [(f"{CODE}/reporting/comparison.py", "annotations\n", AN_IMPORT)],
    "registry": [(REGISTRY, "_errors=True)", "_errors=True)\n    del found['reporting']")],
}


@pytest.mark.parametrize(
    ("change", "target"),
    [
        ("import", ""),
        pytest.param("input", "", marks=pytest.mark.slow),
        pytest.param("input", ":select_experts", marks=pytest.mark.slow),
        *(
            pytest.param(c, "", marks=pytest.mark.slow)
            for c in ("node", "method", "key taken over", "import in the library", "registry")
        ),
    ],
)
def test_nothing_runs_while_a_sync_is_due(project, change, target):
    """Neither for all stages nor for one, as each waits for the guard; the lock stays as it was."""
    for edit in BEHIND[change]:
        project.replace(*edit)
    lock = project.root / LOCK
    before = lock.read_bytes()

    ended = project.run("dvc", "repro", f"{STUDY}{target}")

    assert ended.returncode != 0
    assert f"{STUDY} is behind: run `kedro dvc sync`" in ended.stdout
    assert ended.stdout.count("Running stage") == 1
    assert lock.read_bytes() == before


def test_in_another_place_nothing_is_stale(project, tmp_path):
    moved = project.copy(tmp_path / "elsewhere")

    assert moved.stale() == []
    assert moved.repro() == []


def test_in_another_process_the_files_are_the_same(project):
    """Whatever the order in which Python keeps its sets: it was drawn when the file was written."""
    project.done("env", "PYTHONHASHSEED=1", "kedro", "dvc", "sync", "--check", "--env", "smoke")


def test_in_a_fresh_clone_nothing_runs_after_a_pull(project, tmp_path):
    project.dvc("remote", "add", "--local", "--default", "there", str(tmp_path / "remote"))
    project.dvc("push", "--quiet", STUDY)
    clone = Project(tmp_path / "clone")
    project.done("git", "clone", "--quiet", ".", str(clone.root))
    with clone.opened() as repo, pytest.raises(StageFileDoesNotExistError, match="dvc-ignored"):
        repo.status([STUDY])  # hidden: not run in this clone
    take_part(clone.root, "smoke")
    clone.dvc("remote", "add", "--local", "--default", "there", str(tmp_path / "remote"))

    assert "up to date" in clone.dvc("repro", "--dry", "--allow-missing", STUDY)
    clone.dvc("pull", "--quiet", STUDY)

    assert clone.repro() == []
    assert (clone.root / "studies/smoke/data/08_reporting/report.html").is_file()


def _reasons(repo: Repo) -> dict[str, list[str]]:
    """Return each file, or key of one, that makes stages stale, with these stages."""
    reasons: dict[str, list[str]] = {}
    for name, changes in sorted(repo.status([STUDY]).items()):
        stage = name.rpartition(":")[2]
        for change in changes if stage != GUARD else []:
            ((kind, paths),) = change.items()
            assert kind == "changed deps"
            for path, what in paths.items():
                for reason in (
                    [f"{path}: {key}" for key in what] if isinstance(what, dict) else [path]
                ):
                    reasons.setdefault(reason, []).append(stage)
    return reasons


def _planned(repo: Repo, stage: str) -> list[str]:
    """Return what a `dvc repro` of this stage would run, beside the guard."""
    done = repo.reproduce([f"{STUDY}:{stage}"], dry=True)
    return sorted({stage.addressing.rpartition(":")[2] for stage in done} - {GUARD})
