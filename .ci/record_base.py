"""Write data/01_raw/sandbox_base: the base model that the study `sandbox_base` made, in bfloat16.

`make base` runs the study first. The README beside the weights says what they are of; a test holds
it to them.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

from seuf.moe.digests import model_digest
from seuf.moe.loading import load

ROOT = Path(__file__).parents[1]
MADE = ROOT / "studies/sandbox_base/data/06_models/base_model"
RECORDED = ROOT / "data/01_raw/sandbox_base"
README = """\
# The sandbox's base model

A `qwen2_moe` of {millions:.1f} million parameters that knows the sandbox's made-up world and
nothing else. Made by this project's study `sandbox_base` (`conf/sandbox_base`), kept in bfloat16;
`make base` makes it anew.

| | |
|---|---|
| commit | {commit} |
| base_seed | {seed} |
| digest in float32 | {digest} |
| licence | that of this project, Apache-2.0; no foreign data or weights are in it |
"""


def record(made: Path, recorded: Path, commit: str, seed: int) -> None:
    """Write a model in bfloat16, and what it is.

    Args:
        made: Folder of the model in float32.
        recorded: Folder to write; its files are replaced.
        commit: Of the code that made the model.
        seed: Of the world and the weights.
    """
    model = load(str(made), device="cpu", dtype="bfloat16")
    model.save(recorded)
    text = README.format(
        millions=sum(parameter.numel() for parameter in model.model.parameters()) / 1e6,
        commit=commit,
        seed=seed,
        digest=model_digest(load(str(recorded), device="cpu", dtype="float32").model),
    )
    (recorded / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parameters = yaml.safe_load((ROOT / "conf/base/parameters.yml").read_text(encoding="utf-8"))
    head = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = subprocess.run(head, check=True, capture_output=True, text=True).stdout.strip()
    record(MADE, RECORDED, commit, parameters["base_seed"])
