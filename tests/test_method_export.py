"""What a study keeps of its base model, and the checkpoint and card that are exported from it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants

from seuf.datasets.checkpoint import CheckpointDataset
from seuf.inputs import InputError
from seuf.method_export import _base, export_method
from seuf.moe.deltas import Delta, export
from seuf.moe.digests import model_digest
from seuf.moe.loading import load_model
from seuf.moe.settings import ExternalModelSettings
from seuf.reporting.comparison import comparison_table
from tests.local_hub import COMMIT, cached
from tests.reporting.examples import numbers
from tests.tiny import bits, changed_names, some_change

NAME = "org/tiny-moe"


@pytest.fixture
def checkpoint(tmp_path, monkeypatch, language_model) -> Path:
    """A checkpoint in several files, which is in the hub's cache; there is no network."""
    folder = tmp_path / "checkpoint"
    language_model.model.save_pretrained(folder, max_shard_size="60KB")
    language_model.tokenizer.save_pretrained(folder)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cached(folder, tmp_path / "cache", NAME)
    return folder


def referred(folder: Path, path: str, **changes: str) -> CheckpointDataset:
    """Return a study's base model, of which it has kept the reference."""
    data_set = CheckpointDataset(str(folder))
    data_set.save(load_model(ExternalModelSettings(path=path, device="cpu", **changes)))
    return data_set


def test_a_reference_to_the_hub_names_the_commit_and_is_read_at_it(checkpoint, tmp_path):
    data_set = referred(tmp_path / "base", NAME)
    (tmp_path / "cache/models--org--tiny-moe/refs/main").write_text("0" * 40)  # it moves on

    told = json.loads((tmp_path / "base/reference.json").read_text())
    loaded = data_set.load()

    assert (told["commit"], told["source"]["revision"]) == (COMMIT, None)
    assert (loaded.commit, loaded.source.revision) == (COMMIT, COMMIT)
    assert told["digest"] == model_digest(loaded.model)


def test_a_reference_to_a_folder_says_what_it_always_said(checkpoint, tmp_path):
    referred(tmp_path / "base", str(checkpoint))

    told = json.loads((tmp_path / "base/reference.json").read_text())
    assert sorted(told) == ["digest", "source"]
    assert sorted(told["source"]) == [
        "compile",
        "device",
        "device_map",
        "dtype",
        "max_memory",
        "offload_folder",
        "path",
        "revision",
        "source",
    ]


@pytest.mark.parametrize("of_hub", [True, False])
def test_the_base_model_is_exported_from_where_it_lies(
    checkpoint, tmp_path, language_model, of_hub
):
    path = NAME if of_hub else str(checkpoint)
    base = referred(tmp_path / "base", path).load()
    delta = Delta.of(base.model, some_change(base.model), model_digest(base.model))

    name, folder = _base(tmp_path / "base")
    export(folder, delta, tmp_path / "exported")

    exported = load_model(ExternalModelSettings(path=str(tmp_path / "exported"), device="cpu"))
    assert name == path
    assert changed_names(exported.model, bits(language_model.model)) != set()
    with delta.applied_to(base.model):
        assert changed_names(exported.model, bits(base.model)) == set()


def test_a_base_model_that_was_trained_here_lies_where_it_was_saved(tmp_path, language_model):
    CheckpointDataset(str(tmp_path / "base_model")).save(language_model)

    assert _base(tmp_path / "base_model") == ("base_model", tmp_path / "base_model")


@pytest.fixture
def study(tmp_path, language_model) -> Any:
    """What of a study the export reads, after a run in which its one method changed something."""
    made = tmp_path / "made"
    made.mkdir()
    CheckpointDataset(str(made / "base_model")).save(language_model)
    model = language_model.model
    Delta.of(model, some_change(model), model_digest(model)).save(made / "seuf_ga.delta")
    rows = {"untouched": numbers(1.0, 1.0, 0.0), "seuf_ga": numbers(0.5, 1.0, 0.1)}
    comparison_table(rows).to_csv(made / "comparison", index=False)
    for name, lines in (("forget_set", 2), ("retain_set", 3)):
        (made / name).write_text("{}\n" * lines)
    methods = {"seuf_ga": {"scope": "experts"}}
    return SimpleNamespace(
        name="mine",
        config={"parameters": {"methods": methods}, "globals": {"study": "mine"}},
        dataset=lambda name: {"filepath": str(made / name)},
    )


def test_a_method_is_exported_with_its_card(study, tmp_path):
    export_method(study, "seuf_ga", tmp_path / "exported")

    card = (tmp_path / "exported/README.md").read_text()
    load_model(ExternalModelSettings(path=str(tmp_path / "exported"), device="cpu"))
    assert "what\n2 texts hold and to keep what 3 others do" in card
    assert "| untouched |" in card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exported", "made"]


def test_a_folder_of_yours_beside_it_is_left_alone(study, tmp_path):
    mine = tmp_path / "exported.part"
    mine.mkdir()
    (mine / "thesis.txt").write_text("the only copy")

    export_method(study, "seuf_ga", tmp_path / "exported")

    assert (mine / "thesis.txt").read_text() == "the only copy"


def test_an_export_that_fails_leaves_nothing_behind(study, tmp_path):
    (tmp_path / "made/base_model/model.safetensors").unlink()

    with pytest.raises((InputError, FileNotFoundError)):
        export_method(study, "seuf_ga", tmp_path / "exported")

    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_an_exported_folder_has_the_rights_of_any_other(study, tmp_path):
    (tmp_path / "any").mkdir()

    export_method(study, "seuf_ga", tmp_path / "exported")

    assert (tmp_path / "exported").stat().st_mode == (tmp_path / "any").stat().st_mode
