"""Own data and an own model, outside the project, through the study `own` to the report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples/own_data"
FASTER = {
    "unlearning": {"steps": 2, "evaluate_every": 2, "probe_tokens": 256},
    "methods": {
        "_replace_": True,
        "original": {"scope": "nothing"},
        "seuf_gdiff": {
            "scope": "experts",
            "selection": "affinity",
            "objective": "gdiff",
            "anchor_weight": 1.0,
            "learning_rates": [4e-3],
        },
    },
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project beside the folder of a user's files."""
    root = tmp_path / "project"
    shutil.copytree(ROOT / "conf", root / "conf")
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "src").mkdir()
    shutil.copytree(ROOT / "data/01_raw/sandbox_base", tmp_path / "mine/model")
    parameters = root / "conf/own/parameters.yml"
    parameters.write_text(yaml.safe_dump(yaml.safe_load(parameters.read_text()) | FASTER))
    monkeypatch.setenv("KEDRO_ENV", "own")
    monkeypatch.chdir(root)
    yield root
    bootstrap_project(ROOT)
    pipelines.configure("seuf.pipeline_registry")


def rows(name: str) -> list[dict[str, Any]]:
    """Return the records of an example file."""
    return [json.loads(line) for line in (EXAMPLES / f"{name}.jsonl").open(encoding="utf-8")]


def run(project: Path, questions: str | None, **parameters: Any) -> Path:
    """Run the study on `forget.json` and `retain.json`; return the folder of its data."""
    mine = project.parent / "mine"
    path = project / "conf/own/globals.yml"
    named = {name: str(mine / f"{name}.json") for name in ("forget", "retain")}
    given = {"model": str(mine / "model"), "general": None, **named}
    given["questions"] = questions and str(mine / questions)
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | given))
    bootstrap_project(project)
    pipelines.configure("seuf.pipeline_registry")
    with KedroSession.create(project, env="own", runtime_params=parameters) as session:
        session.run()
    return project / "studies/own/data"


def test_questions_with_their_answers_alone_reach_the_report(project):
    """The shape of KnowUnDo's files; the model knows nearly all, and the preflight says so."""
    mine, questions = project.parent / "mine", []
    for name in ("forget", "retain"):
        asked = [row for row in rows("questions") if row["subject"] == name]
        texts = [
            {"text": f"{row['question']} {row['reference']}", "prompt": row["question"]}
            for row in asked
        ]
        (mine / f"{name}.json").write_text(json.dumps(texts))
        questions += [
            {"question": row["question"], "reference": row["reference"], "subject": name}
            for row in asked
        ]
    (mine / "questions.json").write_text(json.dumps(questions))

    data = run(project, "questions.json")

    told = json.loads((data / "05_model_input/preflight.json").read_text())
    assert {row["measure"] for row in told["asked"]} == {"rouge_l_recall"}
    assert all(row["value"] > 0.9 and row["chance"] < 0.1 for row in told["asked"])
    table = pd.read_csv(data / "08_reporting/comparison.csv")
    assert table["method"].tolist() == ["original", "seuf_gdiff"]
    assert table["forget_efficacy"][0] > 0.9
    assert "<h2>What was used</h2>" in (data / "08_reporting/report.html").read_text()


def test_documents_without_questions_reach_the_report_and_none_of_them_is_cut(project):
    """230 sentences a document, 2,000 tokens; the model knows sentences and no document."""
    for name in ("forget", "retain"):
        texts = [row["text"] for row in rows(name)]
        documents = [" ".join(texts[at : at + 230]) for at in range(0, len(texts), 230)]
        lines = [json.dumps({"text": document}) for document in documents]
        (project.parent / "mine" / f"{name}.json").write_text("\n".join(lines))

    data = run(project, None, preflight={"strict": False})

    told = json.loads((data / "05_model_input/preflight.json").read_text())
    forget = told["sets"]["forget"]
    assert (forget["texts"], forget["cut"], forget["cut_in_routing"]) == (3, 0, 0)
    assert forget["tokens"] > 5000
    assert forget["samples"] >= forget["tokens"] / 64
    assert told["warnings"][0].startswith("The model does not know what is to be forgotten")
    page = (data / "08_reporting/report.html").read_text()
    assert "The model does not know what is to be forgotten" in page
