"""The Python interface, as docs/api.md shows it."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import seuf
from seuf.moe.digests import model_digest
from tests.tiny import tiny_language_model

PAGE = Path(__file__).parents[1] / "docs" / "api.md"


def script() -> str:
    """Return the script of the page."""
    return PAGE.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]


def test_the_script_of_the_page_runs_and_leaves_a_model_that_forgot(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny_language_model().save(Path("MODEL"))
    namespace: dict = {}

    exec(compile(script(), str(PAGE), "exec"), namespace)

    base, done = namespace["base"], namespace["done"]
    assert len([line for line in script().splitlines() if line.strip()]) <= 25
    assert model_digest(base.model) == done.delta.base
    assert done.delta.tensors
    assert seuf.Delta.load(Path("delta.safetensors")).tensors.keys() == done.delta.tensors.keys()
    exported = AutoModelForCausalLM.from_pretrained("UNLEARNED")
    with done.delta.applied_to(base.model) as model:
        assert model_digest(exported) == model_digest(model)
    assert len(capsys.readouterr().out.split()) == 2


@pytest.mark.parametrize("name", seuf.__all__)
def test_every_name_is_there_and_documented(name):
    assert getattr(seuf, name).__doc__
    assert name in PAGE.read_text(encoding="utf-8") or name in ("Selection",)


def test_no_module_hides_a_name():
    """A module of that name would take its place once it is imported."""
    assert [name for name in seuf.__all__ if find_spec(f"seuf.{name}") is not None] == []


def test_a_name_that_is_not_there_is_said_so():
    with pytest.raises(AttributeError, match="module 'seuf' has no attribute 'unlern'"):
        _ = seuf.unlern


def test_importing_the_package_does_not_import_torch():
    code = "import seuf, sys; sys.exit('torch' in sys.modules or 'pydantic' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_revert_gives_the_base_back_to_the_bit():
    base = tiny_language_model()
    digest = model_digest(base.model)
    router = "model.layers.1.mlp.gate.weight"
    delta = seuf.Delta({router: torch.zeros(4, 32)}, digest)

    delta.apply(base.model)
    assert model_digest(base.model) != digest
    delta.revert(base.model)

    assert model_digest(base.model) == digest
