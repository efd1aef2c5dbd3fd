"""How every method's results reach the tables and figures."""

import pandas as pd
import plotly.graph_objects as go
from plotly.io import from_json

from seuf.pipelines.reporting import nodes, pipeline
from tests.reporting.examples import SELECTED, log, routing, scores

RESULTS = {
    "original.scores": scores(1.0, 1.0, 0.0),
    "original.training_log": log(),
    "original.timing": {"seconds": 0.5},
    "seuf_ga.scores": scores(0.5, 0.75, 0.1),
    "seuf_ga.training_log": log((0.1, 5, 0.5, 0.9, 0.9)),
    "seuf_ga.timing": {"seconds": 2.0},
}
LOGS = {name: value for name, value in RESULTS.items() if name.endswith(".training_log")}


def test_metrics_table_and_markdown_tell_of_the_same_methods():
    metrics, table, markdown = nodes.compare_methods(**RESULTS)

    assert list(metrics) == list(table["method"]) == ["original", "seuf_ga"]
    assert [line.split()[1] for line in markdown.splitlines()[2:]] == ["original", "seuf_ga"]


def test_the_report_is_written_from_what_the_other_nodes_made():
    shares = routing([0.25] * 4)
    _, table, _ = nodes.compare_methods(**RESULTS)

    figures = nodes.draw_figures(table, shares, shares, SELECTED, **LOGS)
    page = nodes.write_report(table, SELECTED, *figures)

    assert all(isinstance(figure, go.Figure) for figure in figures)
    assert page.startswith("<!doctype html>")


def test_figures_survive_being_saved():
    shares = routing([0.25] * 4)
    _, table, _ = nodes.compare_methods(**RESULTS)
    figures = nodes.draw_figures(table, shares, shares, SELECTED, **LOGS)

    read = [from_json(figure.to_json()) for figure in figures]

    assert read == list(figures)


def test_every_method_reaches_its_nodes_in_the_order_of_the_table(monkeypatch):
    monkeypatch.setattr(pipeline, "methods", lambda: ["original", "seuf_ga"])

    made = {node.name: node for node in pipeline.create_pipeline().nodes}

    assert made["methods.compare_methods"].inputs == list(RESULTS)
    assert made["methods.draw_figures"].inputs[-2:] == list(LOGS)
    assert made["write_report"].outputs == ["report"]


def test_the_nodes_run_as_kedro_calls_them(monkeypatch):
    monkeypatch.setattr(pipeline, "methods", lambda: ["original", "seuf_ga"])
    node = next(n for n in pipeline.create_pipeline().nodes if n.name == "methods.compare_methods")

    made = node.run(RESULTS)

    assert set(made) == {"metrics", "comparison", "comparison_markdown"}
    assert isinstance(made["comparison"], pd.DataFrame)
