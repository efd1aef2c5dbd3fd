"""A delta without this project: the loader in docs/own-data.md, run as it stands there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from seuf.moe.deltas import Delta
from seuf.moe.digests import model_digest
from tests.moe.test_deltas import some_change
from tests.tiny import tiny_inputs

PAGE = Path(__file__).parents[2] / "docs" / "own-data.md"


@torch.no_grad()
def test_ten_lines_load_the_unlearned_model(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path / "base_model")
    delta = Delta.of(model, some_change(model), model_digest(model))
    delta.save(tmp_path / "delta.safetensors")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}

    exec(_loader(), found)

    inputs = tiny_inputs()
    logits = found["model"].eval()(**inputs).logits
    assert not torch.equal(logits, model(**inputs).logits)
    with delta.applied_to(model):
        assert torch.equal(logits, model(**inputs).logits)


def _loader() -> str:
    blocks = PAGE.read_text(encoding="utf-8").split("```python")[1:]
    return next(b for block in blocks if "load_file" in (b := block.partition("```")[0]))
