"""Models and data sets of the hub, and one line for each way in which they may not come."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import OfflineModeIsEnabled

from seuf.inputs import InputError
from seuf.moe.hub import HubReference, explained, fetch_files, is_folder
from seuf.moe.loading import empty_model, load_model
from seuf.moe.settings import ExternalModelSettings
from tests.local_hub import COMMIT, Hub, cached, running_hub
from tests.tiny import bits, changed_names

NAME = "org/tiny-moe"
MODEL = HubReference(NAME, "v1")


@pytest.fixture
def checkpoint(tmp_path, language_model) -> Path:
    """A checkpoint as the hub has them: in several files, and with more than is needed."""
    folder = tmp_path / "checkpoint"
    language_model.model.save_pretrained(folder, max_shard_size="60KB")
    language_model.tokenizer.save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    (folder / "original").mkdir()
    (folder / "original/consolidated.safetensors").write_bytes(b"never read")
    (folder / "README.md").write_text("A card.")
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch, checkpoint) -> Iterator[Hub]:
    """A hub that has the checkpoint."""
    with running_hub(tmp_path / "cache", monkeypatch) as running:
        running.folders["models", NAME] = checkpoint
        yield running


@pytest.fixture
def offline_cache(tmp_path, monkeypatch) -> Path:
    """The hub's cache, empty, where there is no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def source(path: str = NAME, **changes: str | None) -> ExternalModelSettings:
    """Return settings of a model on the CPU."""
    return ExternalModelSettings(path=path, device="cpu", **changes)


def refusal(path: str = NAME, **changes: str | None) -> str:
    """Return the one line with which a model is refused."""
    with pytest.raises(InputError) as refused:
        load_model(source(path, **changes))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_model_of_the_hub_comes_bit_by_bit_and_only_what_is_needed_of_it(hub, language_model):
    loaded = load_model(source(revision="v1"))

    assert changed_names(loaded.model, bits(language_model.model)) == set()
    assert loaded.commit == COMMIT
    shards = {name for name in hub.served if name.endswith(".safetensors")}
    assert len(shards) > 2
    assert set(hub.served) - shards == {
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_a_plan_fetches_the_configuration_alone(hub):
    empty_model(source(revision="v1"))

    assert hub.served == ["config.json"]


def test_what_was_fetched_once_needs_no_network(hub, monkeypatch):
    load_model(source(revision="v1"))
    hub.served.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert load_model(source(revision="v1")).commit == COMMIT
    assert hub.served == []


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_model_in_the_cache_is_found_by_id(offline_cache, checkpoint, language_model, revision):
    cached(checkpoint, offline_cache, NAME)

    loaded = load_model(source(revision=revision))

    assert changed_names(loaded.model, bits(language_model.model)) == set()
    assert loaded.commit == COMMIT


def test_a_folder_in_several_files_is_loaded_bit_by_bit(checkpoint, language_model):
    loaded = load_model(source(str(checkpoint)))

    assert changed_names(loaded.model, bits(language_model.model)) == set()
    assert loaded.commit is None


@pytest.mark.parametrize(("revision", "said"), [(None, "not set"), ("main", "main")])
def test_a_revision_that_moves_is_warned_of_once_with_the_commit(hub, caplog, revision, said):
    caplog.set_level(logging.WARNING, "seuf")

    load_model(source(revision=revision))

    assert [record.message for record in caplog.records if record.name.startswith("seuf")] == [
        f"The model 'org/tiny-moe' may change, as its revision is {said}. "
        f"This is commit {COMMIT}: set base_model.revision to it."
    ]


@pytest.mark.parametrize("pinned", ["v1", COMMIT])
def test_a_pinned_model_is_not_warned_of(hub, caplog, pinned):
    load_model(source(revision=pinned))

    assert not [record for record in caplog.records if record.name.startswith("seuf")]


def test_of_a_gated_model_the_page_is_named(hub):
    hub.gated.add(NAME)

    assert refusal(revision="v1") == (
        f"The model 'org/tiny-moe' is gated: ask for access at {hub.url}/org/tiny-moe, then log in "
        "with `hf auth login`, or set HF_TOKEN."
    )


def test_of_a_missing_model_all_is_said_that_may_be_so(hub):
    assert refusal("org/tony-moe") == (
        "There is no model 'org/tony-moe' on the hub, or your token may not see it (the hub says "
        f"the same of both), nor is there such a folder: look at {hub.url}/org/tony-moe; if it is "
        "private, log in with `hf auth login`, or set HF_TOKEN."
    )


def test_a_wrong_revision_is_named(hub):
    assert refusal(revision="v9") == (
        f"The model 'org/tiny-moe' has no revision 'v9': {hub.url}/org/tiny-moe/commits/main "
        "lists its commits."
    )


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (403, "The hub refuses your token for the model 'org/tiny-moe' (403): log in with"),
        (429, "The hub was asked too often for the model 'org/tiny-moe' (429): wait, or log in"),
        (500, "The model 'org/tiny-moe' at v1 is not in the cache, or not all of it ("),
    ],
)
def test_other_answers_of_the_hub_are_told_apart(hub, status, line):
    hub.answer = status

    assert refusal(revision="v1").startswith(line)


def test_without_a_network_the_command_is_told_that_fetches(offline_cache):
    assert refusal(revision="v1") == (
        f"The model 'org/tiny-moe' at v1 is not in the cache, or not all of it ({offline_cache}), "
        "and HF_HUB_OFFLINE is set: run `hf download org/tiny-moe --revision v1` where there is a "
        "network, or give a folder."
    )


def test_a_hub_that_does_not_answer_is_no_network(tmp_path, monkeypatch):
    with running_hub(tmp_path / "cache", monkeypatch):
        pass  # it has stopped

    assert "and the hub cannot be reached: run `hf download org/tiny-moe`" in refusal()


def test_a_model_that_is_only_half_in_the_cache_is_refused(hub, monkeypatch):
    """Its configuration was fetched for a plan, its weights never."""
    empty_model(source(revision="v1"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert "is not in the cache, or not all of it" in refusal(revision="v1")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "No room left on disk for the model 'org/tiny-moe': make room in {cache}, or set "
            "HF_HOME to a folder on a larger disk.",
        ),
        (
            RuntimeError("Data processing error: No space left on device (os error 28)"),
            "No room left on disk for the model 'org/tiny-moe': make room in {cache}, or set "
            "HF_HOME to a folder on a larger disk.",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/shared/hub"),
            "/shared/hub may not be written to: set HF_HOME to a folder that may.",
        ),
        (
            OfflineModeIsEnabled("no"),
            "The model 'org/tiny-moe' at v1 is not in the cache, or not all of it ({cache}), and "
            "HF_HUB_OFFLINE is set: run `hf download org/tiny-moe --revision v1` where there is a "
            "network, or give a folder.",
        ),
        (KeyError("a"), "Cannot load the model 'org/tiny-moe': KeyError: 'a'"),
        (ValueError("one\ntwo"), "Cannot load the model 'org/tiny-moe': one"),
    ],
)
def test_what_goes_wrong_here_is_told_with_what_to_do(offline_cache, error, line):
    assert explained(error, MODEL) == line.format(cache=offline_cache)


def cpu_allocation_error() -> RuntimeError:
    """Return the error that torch raises where the CPU has no memory left."""
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    return raised.value


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), MemoryError(), cpu_allocation_error()],
    ids=["gpu", "python", "cpu"],
)
def test_memory_that_runs_out_is_told_alike_on_every_device(offline_cache, error):
    assert explained(error, MODEL) == (
        "The memory ran out while the model 'org/tiny-moe' was loaded: set "
        "base_model.device_map to auto, which puts what does not fit elsewhere, or "
        "base_model.dtype to a smaller type; `kedro plan` tells what a study needs."
    )


def test_the_cause_of_an_error_is_found_below_others(offline_cache):
    """Libraries wrap what happened; the innermost tells."""
    wrapped = ValueError("it went wrong")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")

    assert explained(wrapped, MODEL).startswith("No room left on disk")


@pytest.mark.parametrize("path", ["/a/b", "./b", "../b", "~/no-such-folder", "a/b/c", "."])
def test_what_can_only_be_a_folder_is_never_asked_of_the_hub(path, monkeypatch):
    def asked(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("huggingface_hub.snapshot_download", asked)
    if path == ".":
        assert fetch_files(HubReference(path), None) == Path()
        return

    with pytest.raises(InputError) as refused:
        fetch_files(HubReference(path), None)
    assert str(refused.value) == f"There is no model at {path!r}: the folder does not exist."


def test_an_id_whose_first_part_is_a_folder_is_taken_for_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()

    with pytest.raises(InputError) as refused:
        is_folder(HubReference("data/model"))
    assert str(refused.value) == (
        "There is no model at 'data/model': data is a folder here, and model not in it."
    )
    assert not is_folder(HubReference("org/model"))


def test_a_file_is_no_folder(checkpoint):
    assert "it is a file; name the folder it lies in" in refusal(str(checkpoint / "config.json"))


def test_what_is_no_id_is_told(offline_cache):
    assert refusal("no such:model") == (
        "There is no model 'no such:model': neither a folder, nor a hub id such as owner/name."
    )


def test_a_model_without_safetensors_is_refused_with_the_way_out(hub, checkpoint):
    for path in (*checkpoint.glob("model-*"), checkpoint / "model.safetensors.index.json"):
        path.unlink()

    line = (
        "Cannot load the model {!r}: it has no model.safetensors, nor model.safetensors.index.json,"
        " and other formats can run code when they are read. Convert it where you trust it: "
        "AutoModelForCausalLM.from_pretrained(it).save_pretrained(a folder)."
    )
    assert refusal(revision="v1") == line.format(NAME)
    assert refusal(str(checkpoint)) == line.format(str(checkpoint))
