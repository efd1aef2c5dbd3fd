"""`kedro export` of a study that has run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from seuf.moe.deltas import Delta
from seuf.moe.digests import model_digest
from tests.tiny import some_change
from tests.workflow.conftest import Project

DATA = "studies/smoke/data"

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def base(project: Project) -> PreTrainedModel:
    """The study's base model."""
    return AutoModelForCausalLM.from_pretrained(project.root / DATA / "06_models/base_model")


@pytest.fixture
def delta(project: Project, base: PreTrainedModel) -> Iterator[Delta]:
    """What the method has changed; in ten steps it might be nothing, so it is something else."""
    path = project.root / DATA / "06_models/seuf_gdiff/delta.safetensors"
    original, made = path.read_bytes(), Delta.of(base, some_change(base), model_digest(base))
    path.unlink()
    made.save(path)
    yield made
    path.unlink()
    path.write_bytes(original)


@torch.no_grad()
def test_plain_transformers_loads_the_base_with_the_delta_applied(project, tmp_path, base, delta):
    folder = tmp_path / "exported"
    assert project.invoke("export", "seuf_gdiff", str(folder), "--env", "smoke").exit_code == 0

    tokens = AutoTokenizer.from_pretrained(folder)("The solvent", return_tensors="pt")
    logits = AutoModelForCausalLM.from_pretrained(folder)(**tokens).logits
    assert not torch.equal(base(**tokens).logits, logits)
    with delta.applied_to(base):
        assert torch.equal(base(**tokens).logits, logits)
    assert "by the method `seuf_gdiff` of the study `smoke`" in (folder / "README.md").read_text()
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("method", "env", "message"),
    [
        ("seuf", "smoke", "has no method 'seuf'; it has original, seuf_gdiff."),
        ("seuf_ga", "base", "is missing: `kedro dvc run --env base` makes it."),
    ],
)
def test_what_cannot_be_exported_is_one_line(project, tmp_path, method, env, message):
    ended = project.invoke("export", method, str(tmp_path / "exported"), "--env", env)

    assert ended.exit_code == 1
    assert ended.output.splitlines()[-1].startswith("error: ")
    assert message in ended.output
    assert list(tmp_path.iterdir()) == []
