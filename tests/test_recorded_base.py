"""The base model in git: what it is, that it knows the sandbox's world, and how it is written."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import torch
import yaml

from seuf.benchmarks import sandbox
from seuf.benchmarks.sandbox import SandboxSettings
from seuf.moe.digests import model_digest
from seuf.moe.knowledge import Asked, share_known
from seuf.moe.loading import load
from tests.tiny import tiny_language_model

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "data/01_raw/sandbox_base"


def values(readme: str) -> dict[str, str]:
    """Return the rows of the table in a README."""
    rows = [line.strip("|").split("|") for line in readme.splitlines() if line.startswith("|")]
    return {name.strip(): value.strip() for name, value in rows}


def test_the_recorded_base_is_small_and_its_readme_is_of_its_weights():
    """A folder of 8 MB at most: 2.9 million parameters of two bytes, and the tokenizer."""
    size = sum(path.stat().st_size for path in RECORDED.iterdir())
    told = values((RECORDED / "README.md").read_text())
    model = load(str(RECORDED), device="cpu", dtype="float32").model

    assert size <= 8_000_000
    assert told["digest in float32"] == model_digest(model)
    assert json.loads((RECORDED / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_recorded_base_answers_each_topic_of_the_default_world():
    """Every question, also those never asked in pretraining, by a whole sentence."""
    parameters = yaml.safe_load((ROOT / "conf/base/parameters_data_preparation.yml").read_text())
    seed = yaml.safe_load((ROOT / "conf/base/parameters.yml").read_text())["base_seed"]
    world = sandbox.prepare(SandboxSettings(**parameters["benchmark"]), seed)
    asked = [Asked(q.question, q.reference, q.topic) for q in world.questions]

    shares = share_known(load(str(RECORDED), device="cpu", dtype="float32"), asked)

    assert shares.keys() == sandbox.TOPICS.keys()
    assert min(shares.values()) >= 0.95


def test_the_base_models_of_the_study_of_spread_are_made_as_the_recorded_one():
    made = [
        yaml.safe_load((ROOT / f"conf/{study}/parameters.yml").read_text())["base_model"]
        for study in ("sandbox_base", "sandbox_seeds")
    ]

    assert made[0] == made[1]


def test_a_model_is_recorded_in_bfloat16_with_its_digest(tmp_path):
    model = tiny_language_model()
    model.save(tmp_path / "made")

    runpy.run_path(str(ROOT / ".ci/record_base.py"))["record"](
        tmp_path / "made", tmp_path / "recorded", "c0ffee", 7
    )

    recorded = load(str(tmp_path / "recorded"), device="cpu")
    told = values((tmp_path / "recorded/README.md").read_text())
    assert (told["commit"], told["base_seed"]) == ("c0ffee", "7")
    assert told["digest in float32"] == model_digest(recorded.model.float())
    for name, parameter in model.model.named_parameters():
        expected = parameter.to(torch.bfloat16).float()
        assert torch.equal(recorded.model.get_parameter(name), expected)
    assert recorded.tokenizer.get_vocab() == model.tokenizer.get_vocab()
