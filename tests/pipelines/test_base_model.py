"""The nodes that come by a base model, and by the one that never saw what is to be forgotten."""

from __future__ import annotations

from typing import Any

import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

from seuf.inputs import InputError
from seuf.moe import distillation, knowledge, training
from seuf.moe.architectures import moe_layers
from seuf.moe.knowledge import Asked
from seuf.moe.loading import LanguageModel
from seuf.moe.settings import (
    ExternalModelSettings,
    FinetuningSettings,
    PretrainingSettings,
    UpcyclingSettings,
)
from seuf.moe.training import finetune
from seuf.pipelines.base_model import pipeline
from seuf.pipelines.base_model.nodes import check_base_model, pretrain_base_model
from tests.moe.test_upcycling import dense_model
from tests.tiny import bits, changed_names, tiny_language_model

RECORDS = [
    {"text": f"{name} lives in {place}.", "topic": topic}
    for topic, names, place in (("north", "Ada Bo Cy Di", "Oslo"), ("south", "Ed Flo Gus", "Rome"))
    for name in names.split()
]


def test_an_existing_model_is_taught_all_texts_and_its_reference_all_but_the_forgotten(
    tmp_path, monkeypatch
):
    tiny_language_model().save(tmp_path)
    settings = FinetuningSettings(path=str(tmp_path), device="cpu", steps=2, length=16)
    study = {"base_model": settings.model_dump(), "reference_model": "alike"}
    monkeypatch.setattr(pipeline, "study_parameters", lambda: study)
    catalog = DataCatalog(
        {
            "params:base_model": MemoryDataset(settings, copy_mode="assign"),
            "params:base_seed": MemoryDataset(3),
            "pretraining_texts": MemoryDataset(RECORDS),
            "forget_set": MemoryDataset([r for r in RECORDS if r["topic"] == "south"]),
            "base_model": MemoryDataset(copy_mode="assign"),
            "reference_model": MemoryDataset(copy_mode="assign"),
        }
    )

    SequentialRunner().run(pipeline.create_pipeline(), catalog)

    for name, topics in (("base_model", {"north", "south"}), ("reference_model", {"north"})):
        texts = [(r["text"], r["topic"]) for r in RECORDS if r["topic"] in topics]
        expected = finetune(texts, settings, seed=3).model
        assert changed_names(catalog.load(name).model, bits(expected)) == set()


def question(name: str, topic: str, part: str, reference: str = "Oslo.") -> dict[str, Any]:
    """Return the record of a question about where someone lives."""
    asked = {"question": f"Where is {name}?", "opening": "", "reference": reference}
    return {**asked, "topic": topic, "part": part}


@pytest.mark.parametrize(
    ("base", "asks"),
    [
        ({"source": "pretrain"}, False),
        ({"source": "pretrain", "must_know": 0.98}, True),
        ({"source": "upcycle"}, False),
        ({"source": "external", "path": "somewhere"}, False),
        ({"source": "external", "path": "somewhere", "must_know": 0.9}, True),
    ],
)
def test_a_base_model_waits_for_the_questions_only_if_it_must_know_something(
    base, asks, monkeypatch
):
    monkeypatch.setattr(pipeline, "study_parameters", lambda: {"base_model": base})

    assert ("questions" in pipeline.create_pipeline().inputs()) == asks


def test_a_dense_model_writes_what_its_mixture_is_distilled_on(tmp_path, monkeypatch):
    """A mixture learns the benchmark's texts beside; its reference learns all but the forgotten."""
    tiny = dense_model("llama", vocab_size=300)
    LanguageModel(tiny, tiny_language_model().tokenizer).save(tmp_path)
    settings = UpcyclingSettings(
        path=str(tmp_path),
        device="cpu",
        experts=4,
        granularity=2,
        top_k=2,
        steps=1,
        length=16,
        taught_length=16,
        sampling={"texts": 3, "apart": 1, "max_new_tokens": 4},
    )
    study = {"base_model": settings.model_dump(), "reference_model": "alike"}
    monkeypatch.setattr(pipeline, "study_parameters", lambda: study)
    learnt: list[list[str]] = []

    def distil(taught, general, settings, seed):
        learnt.append(taught)
        assert [topic for _, topic in general] == ["sampled"] * 3 + ["kept"]
        return distillation_distil(taught, general, settings, seed)

    distillation_distil = distillation.distil
    monkeypatch.setattr(distillation, "distil", distil)
    catalog = DataCatalog(
        {
            "params:base_model": MemoryDataset(settings, copy_mode="assign"),
            "params:base_seed": MemoryDataset(3),
            "pretraining_texts": MemoryDataset(RECORDS),
            "retain_set": MemoryDataset(RECORDS[:1]),
            "forget_set": MemoryDataset([r for r in RECORDS if r["topic"] == "south"]),
            "base_model": MemoryDataset(copy_mode="assign"),
            "reference_model": MemoryDataset(copy_mode="assign"),
        }
    )

    SequentialRunner().run(pipeline.create_pipeline(), catalog)

    every = [r["text"] for r in RECORDS]
    assert learnt == [every, [r["text"] for r in RECORDS if r["topic"] == "north"]]
    assert len(moe_layers(catalog.load("base_model").model)) == 2
    assert [row["topic"] for row in catalog.load("sampled_apart")] == ["sampled"]


def test_the_selection_questions_about_what_is_taught_end_pretraining(monkeypatch):
    """Of four questions one is of the test part and one is about a topic that is not taught."""
    asked: list[Asked] = []
    records = [
        question("Ada", "north", "selection"),
        question("Bo", "north", "test"),
        question("Ed", "south", "selection"),
        question("Io", "east", "selection"),
    ]

    def pretrain(texts, settings, seed, tokenizer, known):
        known("the model")

    monkeypatch.setattr(training, "pretrain", pretrain)
    monkeypatch.setattr(knowledge, "share_known", lambda model, of: asked.extend(of))

    pretrain_base_model(PretrainingSettings(must_know=0.9), RECORDS, 0, records)

    assert asked == [
        Asked("Where is Ada?", "Oslo.", "north"),
        Asked("Where is Ed?", "Oslo.", "south"),
    ]


def test_a_recorded_model_of_another_world_is_refused(tmp_path):
    """Random weights answer none of the questions, and of `north` as few as of `south`."""
    tiny_language_model().save(tmp_path)
    records = [question("Ada", "north", "test"), question("Ed", "south", "selection")]
    source = ExternalModelSettings(path=str(tmp_path), device="cpu", must_know=0.9)

    with pytest.raises(InputError, match=r"answers 0\.0% of the questions about north, .* 90\.0% "):
        check_base_model(source, records)

    unasked = source.model_copy(update={"must_know": None})
    assert check_base_model(unasked, records).source == unasked


def test_what_a_recorded_model_must_know_needs_questions_with_a_reference(tmp_path):
    tiny_language_model().save(tmp_path)
    source = ExternalModelSettings(path=str(tmp_path), device="cpu", must_know=0.9)

    with pytest.raises(InputError, match="must_know needs questions that have a reference"):
        check_base_model(source, [question("Ada", "north", "test", reference="")])
