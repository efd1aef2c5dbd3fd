"""The page that goes with an exported model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from seuf.reporting.comparison import markdown, original_method

SHOWN = 12  # tensors that are named
CARD = """\
---
{header}
tags: [unlearning, mixture-of-experts]
---

# {base}, after unlearning

Made from `{base}` by the method `{method}` of the study `{study}`, which was to take out what
{forget} texts hold and to keep what {retain} others do. The texts are not part of this folder.

## What changed

{changed} of {total} parameters ({share:.2%}), in these tensors; all others are those of the base
model, to the bit:

{tensors}

Settings of the method: `{settings}`.

Digest of the base model (SHA-256 over all tensors): `{digest}`.

## How well

Test questions that chose nothing, ± standard error. FE: right answers about what was to be
forgotten, lower is better{guessing}; UT: about other things, higher is better.

{scores}
## What this does not say

- That the knowledge is gone. A low accuracy shows that these questions are no longer answered;
  attacks that bring knowledge back were not tried.
- Anything of abilities that the questions do not ask for.
- Who holds the base model too can see what was changed.

## To use it

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained("this folder")
    tokenizer = AutoTokenizer.from_pretrained("this folder")
"""


class Exported(NamedTuple):
    """A model that a card describes.

    Attributes:
        base: Name of the base model.
        digest: Of its weights.
        study: Where the method was run.
        method: Its name.
        settings: Its row in the table of methods.
        texts: How many texts were to go, and to stay.
        changed: Number of elements of each changed tensor, by key.
        total: Number of the model's parameters.
    """

    base: str
    digest: str
    study: str
    method: str
    settings: Mapping[str, Any]
    texts: tuple[int, int]
    changed: Mapping[str, int]
    total: int


def model_card(exported: Exported, comparison: pd.DataFrame) -> str:
    """Return the card as Markdown; the comparison has rows of the original and of the method."""
    shown = [original_method(comparison), exported.method]
    rows = comparison[comparison["method"].isin(shown)]
    changed, chance = sum(exported.changed.values()), rows["chance"].iloc[0]
    names = [f"- `{name}`" for name in exported.changed]
    if len(names) > SHOWN:
        names[SHOWN:] = [f"- and {len(names) - SHOWN} more"]
    return CARD.format(
        header=f"base_model: {json.dumps(exported.base)}",
        base=exported.base,
        method=exported.method,
        study=exported.study,
        forget=exported.texts[0],
        retain=exported.texts[1],
        changed=f"{changed:,}",
        total=f"{exported.total:,}",
        share=changed / exported.total,
        tensors="\n".join(names or ["- none"]),
        settings=json.dumps(exported.settings),
        digest=exported.digest,
        guessing="" if pd.isna(chance) else f" (guessing gives {chance:.2f})",
        scores=markdown(rows),
    )
