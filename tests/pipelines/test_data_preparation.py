"""Which data sets a benchmark's node reads, and that they are read as the catalog says."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_type_hints

import pytest
from kedro.framework.startup import bootstrap_project
from kedro.validation.type_extractor import TypeExtractor

from kedro_dvc.configuration import StudyConfigLoader
from kedro_dvc.project import load_config, load_study
from kedro_dvc.stages import stages
from seuf.benchmarks.records import BenchmarkData, Question, Text
from seuf.benchmarks.registry import BENCHMARKS, Benchmark, BenchmarkSettings, load_benchmark
from seuf.datasets.records import RecordsDataset
from seuf.inputs import InputError
from seuf.parameters import check_parameters
from seuf.pipelines.data_preparation import pipeline
from seuf.pipelines.data_preparation.nodes import Records, preparation
from seuf.settings import CONFIG_LOADER_ARGS
from tests.hub import mmlu, muse, rwku, tofu, wikitext, wmdp, wmdp_taught

ROOT = Path(__file__).parents[2]
OWN = "src/seuf/benchmarks/own.py"
WRITERS: dict[str, Callable[[Path], Path]] = {
    "wmdp": wmdp.write_questions,
    "wmdp_corpora": wmdp.write_corpora,
    "wmdp_bio_forget_corpus": wmdp.write_bio_forget_corpus,
    "rwku": rwku.write,
    "mmlu": mmlu.write,
    "wikitext": wikitext.write,
    "muse": muse.write,
}


def inputs(settings: dict[str, Any]) -> dict[str, str]:
    """Return the data set of each argument that a benchmark's node has beside its settings."""
    benchmark = load_benchmark(settings["name"])
    return benchmark.inputs(benchmark.settings(**settings))


def prepared(settings: dict[str, Any], entries: dict[str, dict[str, Any]]) -> tuple[Records, ...]:
    """Return what the node makes of the data sets of a catalog."""
    benchmark = load_benchmark(settings["name"])
    sets = {
        name: RecordsDataset(**{k: v for k, v in entry.items() if k != "type"}).load()
        for name, entry in entries.items()
    }
    return preparation(benchmark)(settings=benchmark.settings(**settings), **sets)


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
    arguments = ["forget", "retain", "questions", "mmlu_validation", "mmlu_test"]
    expected = dict(zip(arguments, [*names, "mmlu_validation", "mmlu_test"], strict=True))

    assert inputs({"name": "wmdp", **settings}) == expected | {"general": "wikitext_test"}
    assert inputs({"name": "wmdp", "general": None, **settings}) == expected


@pytest.mark.parametrize("domain", ["bio", "cyber"])
@pytest.mark.parametrize("retain", ["wikitext", "corpus"])
def test_wmdp_is_prepared_from_folders(domain, retain, catalog, monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    settings = {"name": "wmdp", "domain": domain, "retain": retain, "selection_questions": 8}
    entries = {argument: catalog[name] for argument, name in inputs(settings).items()}

    forget, kept, questions, pretraining, general = prepared(settings, entries)

    corpus = "wikitext" if retain == "wikitext" else f"{domain}-retain-corpus"
    assert {row["topic"] for row in forget} == {f"{domain}-forget-corpus"}
    assert {row["topic"] for row in kept} == {corpus}
    assert len(questions) == wmdp.NUMBERS[domain] + 8 + 36
    assert pretraining == []
    assert len(general) == 4  # of the test split all passages that are no headings
    folders = {deps for entry in entries.values() for deps in entry["metadata"]["dvc"]["deps"]}
    assert folders <= {str(tmp_path / name) for name in WRITERS}
    assert len(folders) >= 3


def test_muse_is_prepared_from_a_folder_with_its_passages(catalog, monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    settings = {"name": "muse", "selection_questions": 4}
    entries = {argument: catalog[name] for argument, name in inputs(settings).items()}

    *sets, passages = prepared(settings, entries)

    assert load_benchmark("muse").has_passages
    assert [len(rows) for rows in sets] == [12, 12, 36, 36, 4]
    assert [row["group"] for row in passages] == ["forget"] * 8 + ["retain"] * 8 + ["holdout"] * 8
    for argument, entry in entries.items():
        folder = "wikitext" if argument == "general" else "muse"
        assert entry["metadata"]["dvc"]["deps"] == [str(tmp_path / folder)]


@pytest.mark.parametrize("metrics", ["choices", "full"])
def test_tofu_is_prepared_from_a_folder(metrics, monkeypatch, tmp_path):
    """Five authors: 100 questions; with full metrics 50 truths more, and 5 + 6 rows asked twice."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    bootstrap_project(ROOT)
    folder = str(tofu.write(tmp_path / "tofu"))
    loader = StudyConfigLoader(str(ROOT / "conf"), env="tofu", **CONFIG_LOADER_ARGS)
    loader["globals"] = {**loader["globals"], "tofu": folder}
    settings = {"name": "tofu", "metrics": metrics, "forget_authors": 2, "retain_authors": 3}
    entries = {argument: loader["catalog"][name] for argument, name in inputs(settings).items()}

    _, _, questions, pretraining, _ = prepared(settings, entries)

    assert len(questions) == 100 + (50 + 2 * 11 if metrics == "full" else 0)
    assert len(pretraining) == 100


def test_taught_facts_are_prepared_from_folders(monkeypatch, tmp_path):
    """Of 12 facts 4 select, of 60 questions about TOFU 4; 15 more stand beside, see the writers."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    bootstrap_project(ROOT)
    kept = tmp_path / "kept.jsonl"
    kept.write_text('{"text": "It rains."}\n', encoding="utf-8")
    places = {
        "wmdp_cyber": str(wmdp_taught.write(tmp_path / "facts")),
        "tofu": str(tofu.write(tmp_path / "tofu")),
        "retain_texts": str(kept),
    }
    loader = StudyConfigLoader(
        str(ROOT / "conf"), env="base", runtime_params=places, **CONFIG_LOADER_ARGS
    )
    loader["globals"] = {**loader["globals"], **places}
    settings = {"name": "wmdp_taught", "general": None, "selection_questions": 4}
    settings["utility_questions"] = 8
    entries = {argument: loader["catalog"][name] for argument, name in inputs(settings).items()}

    forget, retain, questions, pretraining, general = prepared(settings, entries)

    assert [row["text"] for row in retain] == ["It rains."]
    assert (len(forget), len(questions), len(pretraining)) == (36, 12 + 12 + 15, 36 + 12 + 100)
    assert general == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"retain": "retain_texts", "general": "sampled_apart"}),
        ({"retain": "wikitext"}, {"retain": "wikitext", "general": "sampled_apart"}),
        ({"general": "wikitext"}, {"retain": "retain_texts", "general": "wikitext_test"}),
        ({"general": None}, {"retain": "retain_texts"}),
    ],
)
def test_taught_facts_stand_beside_what_the_settings_say(settings, expected):
    read = inputs({"name": "wmdp_taught", **settings})

    assert {name: read[name] for name in ("retain", "general") if name in read} == expected


@pytest.mark.parametrize("retain", ["wikitext", "people"])
def test_rwku_is_prepared_from_folders(retain, catalog, monkeypatch, tmp_path):
    """Two of four people have 3 passages each, 48 probes and 14 passages for attacks."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    settings = {"name": "rwku", "people": 2, "retain": retain, "selection_questions": 8}
    entries = {argument: catalog[name] for argument, name in inputs(settings).items()}

    forget, kept, questions, _, general, passages = prepared(settings, entries)

    assert {row["topic"] for row in forget} == set(rwku.PEOPLE[:2])
    assert {row["topic"] for row in kept} == (
        {"wikitext"} if retain == "wikitext" else set(rwku.PEOPLE[2:])
    )
    assert (len(questions), len(general), len(passages)) == (48 + 8 + 36, 4, 14)
    folders = {deps for entry in entries.values() for deps in entry["metadata"]["dvc"]["deps"]}
    assert folders == {str(tmp_path / n) for n in ("rwku", "mmlu", "wikitext")}


class CapitalsSettings(BenchmarkSettings):
    """A benchmark that is no part of the package.

    Attributes:
        country: Whose capital is forgotten.
    """

    country: Literal["Ruritania", "Graustark"] = "Ruritania"


CAPITALS = {"Ruritania": "Strelsau", "Graustark": "Edelweiss"}


def prepare(settings: CapitalsSettings, sentences: Records, seed: int) -> BenchmarkData:
    """Return a sentence of two countries each, and a question about one of them."""
    texts = [Text(f"{row['text']} ({seed})", row["topic"]) for row in sentences]
    right = CAPITALS[settings.country]
    question = Question(
        f"The capital of {settings.country} is",
        choices=list(CAPITALS.values()),
        answer=list(CAPITALS.values()).index(right),
        topic=settings.country,
        subject="forget",
        part="test",
    )
    return BenchmarkData(
        forget=[text for text in texts if text.topic == settings.country],
        retain=[text for text in texts if text.topic != settings.country],
        questions=[question],
    )


BENCHMARK = Benchmark(
    CapitalsSettings,
    prepare,
    inputs=lambda settings: {"sentences": "sentences", "seed": "params:seed"},
    has_pretraining_texts=False,
    has_passages=False,
)


@pytest.fixture
def capitals(monkeypatch) -> dict[str, Any]:
    """The parameters of a study of the benchmark above, which one row makes known."""
    monkeypatch.setitem(BENCHMARKS, "capitals", __name__)
    bootstrap_project(ROOT)
    parameters = copy.deepcopy(load_config(ROOT, "own")["parameters"])
    parameters["benchmark"] = {"name": "capitals", "country": "Graustark"}
    monkeypatch.setattr(pipeline, "study_parameters", lambda: parameters)
    return parameters


def test_a_benchmark_outside_of_the_package_is_a_file_and_a_row(capitals):
    """Kedro checks and types its settings as it does those of the package's benchmarks."""
    check_parameters(capitals)
    [node] = pipeline.create_pipeline().nodes
    types = TypeExtractor({"": pipeline.create_pipeline()}).extract_types_from_pipelines()
    sentences = [{"text": f"It is {city}.", "topic": land} for land, city in CAPITALS.items()]

    made = node.run(
        {
            "params:benchmark": CapitalsSettings(**capitals["benchmark"]),
            "params:seed": 3,
            "sentences": sentences,
        }
    )

    assert types == {"benchmark": CapitalsSettings}
    assert made["forget_set"] == [
        {"text": "It is Edelweiss. (3)", "topic": "Graustark", "prompt": ""}
    ]
    assert made["retain_set"] == [
        {"text": "It is Strelsau. (3)", "topic": "Ruritania", "prompt": ""}
    ]
    assert [row["answer"] for row in made["questions"]] == [1]
    assert made["pretraining_texts"] == []
    assert "passages" not in made


def test_the_settings_of_a_benchmark_outside_of_the_package_are_checked(capitals):
    capitals["benchmark"]["country"] = "Freedonia"

    message = r"^benchmark\.country: .*'Graustark' \(came: 'Freedonia'\)$"
    with pytest.raises(InputError, match=message):
        check_parameters(capitals)


def test_a_benchmark_outside_of_the_package_says_if_a_model_can_be_taught_it(capitals):
    capitals["base_model"] = {"source": "pretrain"}

    with pytest.raises(InputError, match="benchmark 'capitals' brings no texts to train on"):
        check_parameters(capitals)


def test_a_row_that_leads_to_no_benchmark_is_refused(monkeypatch):
    monkeypatch.setitem(BENCHMARKS, "json", "json")

    with pytest.raises(
        InputError, match="'json' is in json, which needs a `BENCHMARK` at its foot"
    ):
        load_benchmark("json")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_row_leads_to_a_benchmark_that_takes_what_is_named(name):
    benchmark = load_benchmark(name)
    arguments = inspect.signature(benchmark.prepare).bind

    arguments(settings=None, **benchmark.inputs(benchmark.settings(name=name)))

    assert benchmark.prepare.__module__ == BENCHMARKS[name]
    assert get_type_hints(benchmark.prepare)["settings"] is benchmark.settings


def test_a_stage_depends_on_the_code_of_its_own_benchmark_alone():
    bootstrap_project(ROOT)
    others = {f"src/seuf/benchmarks/{name}.py" for name in BENCHMARKS} - {OWN}

    code = set(stages(load_study(ROOT, "own"))["prepare_data"]["deps"])

    assert OWN in code
    assert code & others == set()
