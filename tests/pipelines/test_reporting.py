"""How every method's results reach the tables and figures."""

import pandas as pd
import plotly.graph_objects as go
import pytest
from plotly.io import from_json

from seuf.moe.settings import ExternalModelSettings, PretrainingSettings
from seuf.pipelines.reporting import nodes, pipeline
from seuf.reporting.report import About, report
from tests.reporting.examples import LOOKS, SELECTED, log, routing, scores

EXAMPLE = {"subject": "forget", "question": "?", "reference": "a", "before": "a", "after": "b"}
RESULTS = {
    "original.scores": scores(1.0, 1.0, 0.0) | {"examples": [EXAMPLE]},
    "original.training_log": log(),
    "original.timing": {"seconds": 0.5},
    "seuf_ga.scores": scores(0.5, 0.75, 0.1) | {"examples": [EXAMPLE]},
    "seuf_ga.training_log": log(*LOOKS),
    "seuf_ga.timing": {"seconds": 2.0},
}
SEEDS = {"base_seed": 0, "seed": 3}
TABLE = {
    "original": {"scope": "nothing"},
    "seuf_ga": {"scope": "experts", "selection": "affinity", "objective": "ga"},
}


def compared():
    """Return what the first node makes, by the names of its outputs."""
    names = ("metrics", "comparison", "markdown", "paths", "examples")
    return dict(zip(names, nodes.compare_methods(**SEEDS, **RESULTS), strict=True))


def drawn(**trials: pd.DataFrame):
    """Return the figures."""
    made, shares = compared(), routing([0.25] * 4)
    seen = made["comparison"], made["paths"]
    return nodes.draw_figures(*seen, shares, shares, SELECTED, **trials)


@pytest.fixture
def study(monkeypatch):
    """The methods of the table, and one that a pilot chooses the layer of."""
    table = TABLE | {"pilot_ga": {**TABLE["seuf_ga"], "selection": "pilot"}}
    monkeypatch.setattr(pipeline, "study_parameters", lambda: {"methods": table})
    monkeypatch.setattr(pipeline, "methods", lambda: list(table))
    return {node.name: node for node in pipeline.create_pipeline().nodes}


def test_metrics_table_and_markdown_tell_of_the_same_methods():
    made = compared()

    assert list(made["metrics"]) == list(made["comparison"]["method"]) == ["original", "seuf_ga"]
    lines = [line for line in made["markdown"].splitlines() if line.startswith("| ")]
    assert [line.split()[1] for line in lines[2:]] == ["original", "seuf_ga"]


def test_paths_are_those_of_the_base_and_seed_of_the_study():
    paths = compared()["paths"]

    assert set(zip(paths["base"], paths["seed"], paths["method"], strict=True)) == {
        ("0", 3, "seuf_ga")
    }
    assert len(paths) == len(LOOKS)


def test_examples_are_those_of_methods_that_trained_something():
    assert compared()["examples"] == [{"method": "seuf_ga", **EXAMPLE}]


def test_the_report_is_written_from_what_the_other_nodes_made(monkeypatch):
    monkeypatch.setattr(nodes, "study_name", lambda: "mine")
    made, figures = compared(), drawn()

    page = nodes.write_report(
        made["comparison"],
        made["paths"],
        SELECTED,
        made["examples"],
        PretrainingSettings(),
        **SEEDS,
        **figures,
    )

    assert all(isinstance(figure, go.Figure) for figure in figures.values())
    assert page.startswith("<!doctype html>")
    assert "study mine · a model trained here, seed 0 · seed 3 · commit " in page


@pytest.mark.parametrize(
    "model",
    [ExternalModelSettings(path="models/moe"), {"source": "external", "path": "models/moe"}],
)
def test_the_report_names_the_model_of_a_study_that_trains_none(model, monkeypatch):
    """Kedro hands over settings in a run of all nodes, the table that was read in one of this."""
    monkeypatch.setattr(nodes, "study_name", lambda: "mine")
    made = compared()

    page = nodes.write_report(
        made["comparison"], made["paths"], SELECTED, made["examples"], model, **SEEDS, **drawn()
    )

    assert "study mine · models/moe · seed 3 · commit " in page


def test_figures_survive_being_saved():
    figures = drawn()

    read = {name: from_json(figure.to_json()) for name, figure in figures.items()}

    assert read == figures


def test_a_pilot_has_a_figure_of_its_trials():
    trials = log(*LOOKS).assign(layer=1, expert=2)

    assert "trials_by_layer" not in drawn()
    assert drawn(**{"pilot_ga.trials": trials})["trials_by_layer"].data


def test_only_pilots_that_sweep_are_compared_by_layer(monkeypatch):
    npo = {**TABLE["seuf_ga"], "selection": "pilot", "objective": "npo"}
    monkeypatch.setitem(TABLE, "pilot_npo", npo)

    made = swept(monkeypatch, {"sweep": ["ga"]})

    read = made["methods.compare_layers"].inputs
    assert [name for name in read if "trials" in name] == ["pilot_ga.trials"]
    assert "methods.compare_layers" not in swept(monkeypatch, {"sweep": ["rmu"]})


def swept(monkeypatch, parameters):
    """Return the nodes of a study whose pilots sweep."""
    row = {**TABLE["seuf_ga"], "selection": "pilot"}
    methods = {"methods": TABLE | {"pilot_ga": row}, "pilot": parameters}
    monkeypatch.setattr(pipeline, "study_parameters", lambda: methods)
    monkeypatch.setattr(pipeline, "methods", lambda: list(methods["methods"]))
    return {node.name: node for node in pipeline.create_pipeline().nodes}


def test_a_sweep_is_compared_by_layer(monkeypatch):
    made = swept(monkeypatch, {"sweep": True})
    trials = log(*LOOKS).assign(base=0, seed=3, objective="ga", rule="contrast", layer=1, expert=2)

    node = made["methods.compare_layers"]
    out = node.run({"paths": compared()["paths"], "pilot_ga.trials": trials.assign(chosen=True)})

    assert made["write_report"].inputs[-1] == "figure_layers"
    assert out["layers"]["chosen_by"].dropna().tolist() == ["pilot"]
    assert out["layers_picture"].startswith("<svg ")
    assert "<h2>Which layer: what one expert of each keeps</h2>" in report(
        About("mine", "", "3", None, ""),
        compared()["paths"],
        compared()["comparison"],
        {"layers": out["figure_layers"]},
        SELECTED,
    )


def test_without_a_sweep_there_is_no_stage_for_it(monkeypatch):
    made = swept(monkeypatch, {"sweep": False})

    assert "methods.compare_layers" not in made
    assert "figure_layers" not in made["write_report"].inputs


def test_every_method_reaches_its_nodes_in_the_order_of_the_table(study):
    inputs = study["methods.compare_methods"].inputs

    assert [name for name in inputs if name.endswith(".scores")] == [
        *("original.scores", "seuf_ga.scores", "pilot_ga.scores")
    ]
    assert study["draw_figures"].inputs[-1:] == ["pilot_ga.trials"]
    assert study["write_report"].outputs == ["report"]


def test_the_nodes_run_as_kedro_calls_them(monkeypatch):
    monkeypatch.setattr(pipeline, "study_parameters", lambda: {"methods": TABLE})
    monkeypatch.setattr(pipeline, "methods", lambda: list(TABLE))
    made = {node.name: node for node in pipeline.create_pipeline().nodes}
    seeds = {f"params:{name}": value for name, value in SEEDS.items()}
    shares = routing([0.25] * 4)

    tables = made["methods.compare_methods"].run(RESULTS | seeds)
    routed = {"routing_forget": shares, "routing_retain": shares, "selected_experts": SELECTED}
    figures = made["draw_figures"].run(
        {"comparison": tables["comparison"], "paths": tables["paths"], **routed}
    )

    assert set(tables) == {"metrics", "comparison", "comparison_markdown", "paths", "examples"}
    assert set(figures) == {f"figure_{name}" for name in pipeline.FIGURES}
