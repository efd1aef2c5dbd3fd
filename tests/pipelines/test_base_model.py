"""The nodes that come by a base model, and by the one that never saw what is to be forgotten."""

from __future__ import annotations

from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

from seuf.moe.settings import FinetuningSettings
from seuf.moe.training import finetune
from seuf.pipelines.base_model import pipeline
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
