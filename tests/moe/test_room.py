"""A model that will not fit is refused before its weights are read."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest
import torch

from seuf.inputs import InputError
from seuf.moe.loading import free_bytes, load_model
from seuf.moe.settings import ExternalModelSettings

WEIGHTS = 165248  # bytes of the tiny model's parameters


def with_free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Let the CPU's memory have so many bytes free."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=size))


def test_weights_that_are_larger_than_memory_are_refused_with_both_sizes(
    language_model, tmp_path, monkeypatch
):
    """In float32 they are 165,248 bytes."""
    language_model.save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    with_free(monkeypatch, WEIGHTS - 1)

    with pytest.raises(InputError) as refused:
        load_model(ExternalModelSettings(path=str(tmp_path), device="cpu"))
    assert str(refused.value) == (
        f"The weights of the model {str(tmp_path)!r} are 0.000165 GB in float32, and 0.000165 GB "
        "of the CPU's memory are free: set base_model.device_map to auto, which puts what does not "
        "fit elsewhere, or base_model.dtype to a smaller type; `kedro plan` tells what a study "
        "needs."
    )


@pytest.mark.parametrize(
    ("free", "changes"),
    [
        (WEIGHTS, {}),
        (WEIGHTS // 2, {"dtype": "bfloat16"}),
        (0, {"device_map": {"": "cpu"}}),
    ],
)
def test_what_fits_or_is_spread_is_loaded(language_model, tmp_path, monkeypatch, free, changes):
    language_model.save(tmp_path)
    with_free(monkeypatch, free)

    source = ExternalModelSettings(path=str(tmp_path), device="cpu", **changes)
    assert load_model(source).source == source


def test_on_its_way_to_a_gpu_a_model_passes_the_cpus_memory(monkeypatch):
    """What torch holds back, 30 - 10, is free as well: 5 + 20 on the GPU."""
    with_free(monkeypatch, 7)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (5, 80))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 10)

    free = free_bytes(torch.device("cuda", 0))

    assert free == {"cuda:0's memory": 25, "the CPU's memory": 7}
