"""Studies of published models, to their ends, on folders laid out like the hub's repositories.

Models are tiny and random, texts are made up: what is tested is that all parts of a study fit.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from transformers import PreTrainedTokenizerFast

from seuf.benchmarks.records import ANSWER_KINDS
from seuf.moe.training import train_tokenizer
from seuf.unlearning import attribution
from tests.hub import mmlu, muse, rwku, tofu, wikitext, wmdp
from tests.tiny import tiny_model

ROOT = Path(__file__).parents[2]
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
MODELS = {
    "qwen": "qwen2_moe",
    "deepseek": "deepseek_v2",
    "mixtral": "mixtral",
    "qwen3": "qwen3_moe",
    "olmoe": "olmoe",
}
QUICK = ["olmoe_tofu"]  # the one whose base model and reference are taught
SLOW = ["qwen_wmdp", "deepseek_wmdp", "mixtral_wmdp", "qwen3_wmdp", "deepseek_rwku"]
SLOW += ["qwen_rwku", "mixtral_rwku", "olmoe_muse"]
BENCHMARKS: dict[str, dict[str, Any]] = {
    "wmdp": {"selection_questions": 4, "mmlu_questions": 8},
    "rwku": {
        "people": 2,
        "selection_questions": 8,
        "mmlu_questions": 8,
        "other_probes": 4,
        "mia_passages": 4,
    },
    "tofu": {"forget_authors": 2, "retain_authors": 3},
    "muse": {"selection_questions": 4},
}
FASTER = {
    "routing_capture": {"max_length": 64, "max_tokens": None},
    "unlearning": {
        "steps": 2,
        "batch_size": 2,
        "max_length": 64,
        "evaluate_every": 2,
        "probe_tokens": 64,
        "threads": 1,
    },
    "evaluation": {"batch_size": 64, "max_length": 1024, "max_new_tokens": 4, "probe_tokens": 64},
}
FEW = ("_replace_", "original", "full_rmu", "seuf_npo")
KEPT = (*FEW, "contrast_gdiff", "lora", "esft", "random1", "random2")
FEW_IN = ("deepseek_rwku", "olmoe_tofu", "olmoe_muse")  # the slowest
TAUGHT = {"steps": 2, "batch_size": 2, "length": 32, "rank": 2, "warmup": 1}

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The folders of all data sets, by the name that the globals have for them."""
    folder = tmp_path_factory.mktemp("hub")
    writers = {
        "wmdp": wmdp.write_questions,
        "wmdp_corpora": wmdp.write_corpora,
        "mmlu": mmlu.write,
        "wikitext": wikitext.write,
        "rwku": rwku.write,
        "tofu": tofu.write,
        "muse": muse.write,
    }
    return {name: str(write(folder / name)) for name, write in writers.items()}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, hub: dict[str, str]) -> Path:
    """A project with the studies of this one, whose models and data are folders."""
    root = tmp_path_factory.mktemp("project")
    texts = [
        path.read_text() for name in ("tofu", "rwku") for path in Path(hub[name]).rglob("*.json")
    ]
    texts += [row["text"] for rows in (wikitext.rows(), wmdp.texts("jabberwock")) for row in rows]
    texts += [row["text"] for split in muse.NUMBERS for row in muse.texts(split)]
    tokenizer = train_tokenizer(texts, 1000)  # of few tokens a text, to save time
    tokenizer.chat_template = CHAT
    shutil.copytree(ROOT / "conf", root / "conf")
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "src").mkdir()
    for name, architecture in MODELS.items():
        _write_model(root / "models" / name, architecture, tokenizer)
    for study in QUICK + SLOW:
        path = root / "conf" / study / "globals.yml"
        model = {"model": f"models/{study.partition('_')[0]}", "revision": None}
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | model | hub))
        _leave(FEW if study in FEW_IN else KEPT, path.with_name("parameters.yml"))
    return root


@pytest.fixture(autouse=True)
def _in_project(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(project)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(attribution, "FEWEST_TOKENS", 50)  # made-up texts are few
    for name, kind in ANSWER_KINDS.items():  # to save time
        monkeypatch.setitem(
            ANSWER_KINDS, name, kind._replace(max_new_tokens=kind.max_new_tokens and 4)
        )
    monkeypatch.setenv("KEDRO_ENV", "base")
    yield
    bootstrap_project(ROOT)
    pipelines.configure("seuf.pipeline_registry")


@pytest.mark.parametrize(
    "study", [*QUICK, *(pytest.param(study, marks=pytest.mark.slow) for study in SLOW)]
)
def test_a_study_runs_to_its_end_on_folders_in_the_layout_of_the_hub(study, project):
    _run(project, study)

    table = pd.read_csv(project / f"studies/{study}/data/08_reporting/comparison.csv")
    methods = yaml.safe_load((project / f"conf/{study}/parameters.yml").read_text())["methods"]
    methods.pop("_replace_")
    expected = [*methods, "retrained"] if study.startswith("olmoe") else [*methods]
    assert list(table["method"]) == expected
    assert table[["forget_efficacy", "utility"]].notna().all().all()
    for method in methods:
        log = pd.read_csv(
            project / f"studies/{study}/data/07_model_output/{method}/training_log.csv"
        )
        assert log.empty == (method == "original")


def test_an_id_of_the_hub_reaches_the_data_set_as_it_is(monkeypatch):
    """Kedro makes what it takes for a path in a catalog absolute."""
    monkeypatch.chdir(ROOT)
    bootstrap_project(ROOT)
    with KedroSession.create(ROOT, env="qwen_wmdp") as session:
        catalog = session.load_context().catalog

    names = ["wmdp_cyber_forget", "mmlu_test", "wikitext", "rwku_forget_level1", "muse_raw_forget"]
    for name in names:
        assert catalog[name]._describe()["hub"]["repo"].count("/") == 1


def _leave(rows: tuple[str, ...], path: Path) -> None:
    """Leave some methods: `KEPT` are one of each scope and selection, to save time."""
    lines = path.read_text().splitlines(keepends=True)
    table = lines.index("methods:\n") + 1
    kept = [line for line in lines[table:] if line.strip().startswith(rows)]
    path.write_text("".join(lines[:table] + kept))


def _run(project: Path, study: str) -> None:
    """Run a study in this process, as `kedro run --env <study> --params ...` would."""
    model = {"dtype": "float32", "device": "cpu"}
    model |= TAUGHT if study.startswith("olmoe") else {}
    benchmark = BENCHMARKS[study.partition("_")[2]]
    parameters = FASTER | {"base_model": model, "benchmark": benchmark}
    bootstrap_project(project)
    os.environ["KEDRO_ENV"] = study
    pipelines.configure("seuf.pipeline_registry")
    with KedroSession.create(project, env=study, runtime_params=parameters) as session:
        session.run()


def _write_model(folder: Path, architecture: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write a checkpoint as the hub has it, in several files."""
    model = tiny_model(
        architecture,
        vocab_size=len(tokenizer),
        num_hidden_layers=8,
        max_position_embeddings=2048,
        dtype=torch.float32,
    )
    model.save_pretrained(folder, max_shard_size="100KB")
    tokenizer.save_pretrained(folder)
