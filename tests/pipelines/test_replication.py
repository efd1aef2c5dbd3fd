"""What the stages of a study of spread take from outside, and what they show."""

import pandas as pd
import pytest

from seuf.inputs import InputError
from seuf.pipelines.base_model import pipeline as base_model
from seuf.pipelines.data_preparation import pipeline as data_preparation
from seuf.pipelines.replication import nodes, summary
from seuf.pipelines.replication import pipeline as replication
from seuf.pipelines.study import study_parameters
from seuf.unlearning.settings import ReplicationSettings
from tests.reporting import test_layers, test_spread
from tests.reporting.examples import LOOKS, paths


def test_one_process_runs_all_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv(nodes.WORKERS, raising=False)
    assert nodes.workers_asked_for() == 1

    monkeypatch.setenv(nodes.WORKERS, "16")
    assert nodes.workers_asked_for() == 16


@pytest.mark.parametrize("asked", ["0", "-1", "two", ""])
def test_a_number_of_processes_is_one_or_more(asked, monkeypatch):
    monkeypatch.setenv(nodes.WORKERS, asked)

    with pytest.raises(InputError, match=f"SEUF_WORKERS is '{asked}'"):
        nodes.workers_asked_for()


def test_a_learning_rate_at_the_edge_of_its_grid_is_warned_of(caplog):
    """`a` chooses the second of three rates, `b` the first."""
    utility = {"a": (0.1, 0.9, 0.2), "b": (0.9, 0.1, 0.2)}
    grid = pd.DataFrame(
        {
            "method": method,
            "learning_rate": rate,
            "selection_utility": value,
            "selection_forgotten": 1.0,
            "reached": True,
        }
        for method, values in utility.items()
        for rate, value in zip((1e-4, 1e-3, 1e-2), values, strict=True)
    )

    assert summary.choose_learning_rates(grid, grid) == {"a": 1e-3, "b": 1e-4}
    assert "the best is at the edge for b." in caplog.text


def test_a_study_of_spread_has_figures_and_a_report(monkeypatch):
    monkeypatch.setattr(summary, "study_name", lambda: "mine_seeds")
    runs = pd.concat([paths("a", full_ga=LOOKS), paths("b", full_ga=LOOKS)])
    found = test_spread.summarised(*test_spread.study())
    replication = ReplicationSettings(bases={"a": 0, "b": 1}, seeds=[0, 1])

    figures = dict(zip(("forgetting_paths", "general_loss"), summary.draw_paths(runs), strict=True))
    page = summary.write_spread_report(runs, *found, replication, **figures)

    assert "study mine_seeds · 2 base models trained here · seed 0, 1 · commit " in page
    assert "<h2>The comparisons stated beforehand</h2>" in page
    assert 'id="forgetting_paths"' in page


def test_bases_that_are_upcycled_share_what_their_dense_model_says(monkeypatch):
    """The dense model is one; each base learns from what it says, and none waits for another."""
    study = {
        "replication": {"bases": {"a": 0, "b": 1}, "seeds": [0, 1]},
        "base_model": {"source": "upcycle"},
        "benchmark": {"name": "sandbox"},
    }
    for module in (replication, base_model, data_preparation):
        monkeypatch.setattr(module, "study_parameters", lambda: study)

    nodes_of = {node.name: node for node in replication.create_pipeline().nodes}

    assert nodes_of["sample_dense_model"].outputs == ["sampled_texts", "sampled_apart"]
    for base in ("a", "b"):
        makes = nodes_of[f"{base}.make_base_model"]
        assert {"sampled_texts", f"{base}.pretraining_texts"} < {*makes.inputs}
        assert makes.outputs == [f"{base}.base_model"]


def test_the_published_files_of_a_benchmark_are_read_by_all_bases(monkeypatch):
    """They are no base's own, and neither is what the dense model says."""
    study = {
        "replication": {"bases": {"a": 0, "b": 1}, "seeds": [0, 1]},
        "base_model": {"source": "upcycle"},
        "benchmark": {"name": "wmdp_taught"},
    }
    for module in (replication, base_model, data_preparation):
        monkeypatch.setattr(module, "study_parameters", lambda: study)

    nodes_of = {node.name: node for node in replication.create_pipeline().nodes}

    read = [
        "sampled_apart",
        "tofu_full",
        "tofu_real_authors_wrong",
        "tofu_retain_wrong",
        "tofu_world_facts_wrong",
        "wmdp_taught_forget",
        "wmdp_taught_related",
    ]
    for base in ("a", "b"):
        inputs = sorted({*nodes_of[f"{base}.prepare_data"].inputs})
        assert inputs == ["params:benchmark", "retain_texts", *read]


@pytest.mark.parametrize("sweep", [False, True])
def test_only_a_study_that_sweeps_has_paths_of_layers(sweep, monkeypatch):
    """In the grid of each base; the other seeds have none."""
    monkeypatch.setenv("KEDRO_ENV", "sandbox_seeds")
    given = {"replication": {"bases": {"a": 0, "b": 1}, "seeds": [0, 1]}, "pilot": {"sweep": sweep}}
    monkeypatch.setattr(replication, "study_parameters", lambda: study_parameters() | given)

    made = {node.name: node for node in replication.create_pipeline().nodes}

    paths = ["a.layer_paths", "b.layer_paths"] * sweep
    assert [name for name in made["a.try_grid"].outputs if "layer" in name] == paths[:1]
    assert made["a.run_other_seeds"].outputs == ["a.seed_runs", "a.seed_paths"]
    assert ("compare_layers" in made) == sweep
    assert not sweep or made["compare_layers"].inputs == ["paths", *paths]
    assert ("figure_layers" in made["write_report"].inputs) == sweep


def test_layers_are_compared_over_the_bases():
    """At .75 the paths of both bases have .3984 left, see `test_layers`."""
    study = pd.concat([paths(base, full_ga=LOOKS) for base in ("a", "b")])
    of_base = test_layers.trials(LOOKS).drop(columns="base")

    table, figure, picture = summary.compare_layers(study, a=of_base, b=of_base)

    (mean,) = table[table["base"].eq("all") & table["layer"].eq(0)].to_dict("records")
    assert (mean["utility_at_75"], mean["bases"]) == (pytest.approx(0.3984, abs=1e-4), 2)
    assert len(figure.layout.annotations) > 4
    assert picture.endswith("</svg>\n")


def test_a_study_of_one_seed_has_no_runs_of_others(monkeypatch):
    """Its tables are those of the grid: runs of both bases, then their paths."""
    study = {
        "replication": {"bases": {"a": 0, "b": 1}, "seeds": [0]},
        "base_model": {"source": "pretrain"},
        "benchmark": {"name": "sandbox"},
    }
    for module in (replication, base_model, data_preparation):
        monkeypatch.setattr(module, "study_parameters", lambda: study)

    nodes_of = {node.name: node for node in replication.create_pipeline().nodes}

    assert "a.run_other_seeds" not in nodes_of
    assert nodes_of["summarise_spread"].inputs[2:] == [
        "a.grid_runs",
        "b.grid_runs",
        "a.grid_paths",
        "b.grid_paths",
    ]


def test_bases_beyond_the_grids_run_with_what_was_chosen_on_the_first(monkeypatch):
    """`b` waits for the choice, which waits for the grid of `a` alone; it runs the first seed."""
    monkeypatch.setenv("KEDRO_ENV", "sandbox_seeds")
    spread = {"bases": {"a": 0, "b": 1}, "seeds": [0], "grid_bases": 1}
    given = {"replication": spread, "pilot": {"sweep": True}}
    monkeypatch.setattr(replication, "study_parameters", lambda: study_parameters() | given)

    made = {node.name: node for node in replication.create_pipeline().nodes}

    assert made["choose_learning_rates"].inputs == ["a.grid_runs"]
    assert "a.run_other_seeds" not in made
    assert "b.try_grid" not in made
    assert made["b.run_every_seed"].func is nodes.run_every_seed
    assert made["b.run_every_seed"].outputs == ["b.seed_runs", "b.seed_paths", "b.layer_paths"]
    tables = ["a.grid_runs", "b.seed_runs", "a.grid_paths", "b.seed_paths"]
    assert made["summarise_spread"].inputs[2:] == tables
