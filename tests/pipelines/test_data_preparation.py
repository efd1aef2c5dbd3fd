"""Which data sets a benchmark's node reads, and that they are read as the catalog says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kedro.framework.startup import bootstrap_project

from kedro_dvc.configuration import StudyConfigLoader
from seuf.benchmarks.settings import MuseSettings, RwkuSettings, TofuSettings, WmdpSettings
from seuf.datasets.records import RecordsDataset
from seuf.pipelines.data_preparation.nodes import (
    prepare_muse,
    prepare_rwku,
    prepare_tofu,
    prepare_wmdp,
)
from seuf.pipelines.data_preparation.pipeline import BENCHMARKS
from seuf.settings import CONFIG_LOADER_ARGS
from tests.hub import mmlu, muse, rwku, tofu, wikitext, wmdp

ROOT = Path(__file__).parents[2]
WRITERS: dict[str, Callable[[Path], Path]] = {
    "wmdp": wmdp.write_questions,
    "wmdp_corpora": wmdp.write_corpora,
    "wmdp_bio_forget_corpus": wmdp.write_bio_forget_corpus,
    "rwku": rwku.write,
    "mmlu": mmlu.write,
    "wikitext": wikitext.write,
    "muse": muse.write,
}


def inputs(settings: dict[str, Any]) -> list[str]:
    """Return what a benchmark's node reads beside its settings."""
    names = BENCHMARKS[settings["name"]].inputs
    return names(settings) if callable(names) else names


@pytest.fixture
def catalog(tmp_path: Path) -> dict[str, Any]:
    """The catalog of conf/base, with folders in the place of hub ids."""
    bootstrap_project(ROOT)
    folders = {name: str(write(tmp_path / name)) for name, write in WRITERS.items()}
    loader = StudyConfigLoader(
        str(ROOT / "conf"), env="base", runtime_params=folders, **CONFIG_LOADER_ARGS
    )
    loader["globals"] = {**loader["globals"], **folders}
    return loader["catalog"]


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, ["wmdp_cyber_forget", "wikitext", "wmdp_cyber_questions"]),
        ({"domain": "bio"}, ["wmdp_bio_forget", "wikitext", "wmdp_bio_questions"]),
        ({"retain": "corpus"}, ["wmdp_cyber_forget", "wmdp_cyber_retain", "wmdp_cyber_questions"]),
    ],
)
def test_wmdp_reads_what_its_settings_say(settings, names):
    assert inputs({"name": "wmdp", **settings}) == [*names, "mmlu_validation", "mmlu_test"]


@pytest.mark.parametrize("domain", ["bio", "cyber"])
@pytest.mark.parametrize("retain", ["wikitext", "corpus"])
def test_wmdp_is_prepared_from_folders(domain, retain, catalog, monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    settings = {"name": "wmdp", "domain": domain, "retain": retain, "selection_questions": 8}
    entries = [catalog[name] for name in inputs(settings)]
    sets = [RecordsDataset(hub=entry["hub"], fields=entry["fields"]).load() for entry in entries]

    forget, kept, questions, pretraining = prepare_wmdp(WmdpSettings(**settings), *sets)

    corpus = "wikitext" if retain == "wikitext" else f"{domain}-retain-corpus"
    assert {row["topic"] for row in forget} == {f"{domain}-forget-corpus"}
    assert {row["topic"] for row in kept} == {corpus}
    assert len(questions) == wmdp.NUMBERS[domain] + 8 + 36
    assert pretraining == []
    folders = {deps for entry in entries for deps in entry["metadata"]["dvc"]["deps"]}
    assert folders <= {str(tmp_path / name) for name in WRITERS}
    assert len(folders) >= 3


def test_muse_is_prepared_from_a_folder_with_its_passages(catalog, monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    entries = [catalog[name] for name in inputs({"name": "muse"})]
    sets = [RecordsDataset(hub=entry["hub"], fields=entry["fields"]).load() for entry in entries]

    *prepared, passages = prepare_muse(MuseSettings(selection_questions=4), *sets)

    assert BENCHMARKS["muse"].passages
    assert [len(rows) for rows in prepared] == [12, 12, 36, 36]
    assert [row["group"] for row in passages] == ["forget"] * 8 + ["retain"] * 8 + ["holdout"] * 8
    for entry in entries:
        assert entry["metadata"]["dvc"]["deps"] == [str(tmp_path / "muse")]


@pytest.mark.parametrize("metrics", ["choices", "full"])
def test_tofu_is_prepared_from_a_folder(metrics, monkeypatch, tmp_path):
    """Five authors: 100 questions; with full metrics 50 truths more, and 5 + 6 rows asked twice."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    bootstrap_project(ROOT)
    folder = str(tofu.write(tmp_path / "tofu"))
    loader = StudyConfigLoader(str(ROOT / "conf"), env="tofu", **CONFIG_LOADER_ARGS)
    loader["globals"] = {**loader["globals"], "tofu": folder}
    settings = {"name": "tofu", "metrics": metrics, "forget_authors": 2, "retain_authors": 3}
    entries = [loader["catalog"][name] for name in inputs(settings)]
    sets = [RecordsDataset(**{k: v for k, v in e.items() if k != "type"}).load() for e in entries]

    _, _, questions, pretraining = prepare_tofu(TofuSettings(**settings), *sets)

    assert len(questions) == 100 + (50 + 2 * 11 if metrics == "full" else 0)
    assert len(pretraining) == 100


@pytest.mark.parametrize("retain", ["wikitext", "people"])
def test_rwku_is_prepared_from_folders(retain, catalog, monkeypatch, tmp_path):
    """Two of four people have 3 passages each, 48 probes and 14 passages for attacks."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    settings = {"name": "rwku", "people": 2, "retain": retain, "selection_questions": 8}
    entries = [catalog[name] for name in inputs(settings)]
    sets = [RecordsDataset(hub=entry["hub"], fields=entry["fields"]).load() for entry in entries]

    forget, kept, questions, _, passages = prepare_rwku(RwkuSettings(**settings), *sets)

    assert {row["topic"] for row in forget} == set(rwku.PEOPLE[:2])
    assert {row["topic"] for row in kept} == (
        {"wikitext"} if retain == "wikitext" else set(rwku.PEOPLE[2:])
    )
    assert (len(questions), len(passages)) == (48 + 8 + 36, 14)
    folders = {deps for entry in entries for deps in entry["metadata"]["dvc"]["deps"]}
    assert folders == {str(tmp_path / n) for n in ("rwku", "mmlu")} | (
        {str(tmp_path / "wikitext")} if retain == "wikitext" else set()
    )
