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

Test questions that chose nothing, ± standard error. Lower is better on the forget
questions{guessing}, higher on the retain questions.

{scores}
## What this does not say

- That the knowledge is gone. A low accuracy shows that these questions are no longer answered;
  attacks that bring knowledge back were not tried.
- Anything of abilities that the retain questions do not ask for.
- Who holds the base model too can see what was changed.

## To use it

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained("this folder")
    tokenizer = AutoTokenizer.from_pretrained("this folder")
"""


class Exported(NamedTuple):
    """What a card tells of.

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


def model_card(made: Exported, comparison: pd.DataFrame) -> str:
    """Return the card as Markdown; the comparison has rows of the original and of the method."""
    rows = comparison[comparison["method"].isin([original_method(comparison), made.method])]
    chance = rows["chance"].iloc[0]
    changed = sum(made.changed.values())
    facts = {"changed": f"{changed:,}", "total": f"{made.total:,}"}
    return CARD.format(
        **made._asdict() | facts | {"settings": json.dumps(made.settings)},
        header=f"base_model: {json.dumps(made.base)}",
        share=changed / made.total,
        forget=made.texts[0],
        retain=made.texts[1],
        tensors=_listed(list(made.changed)),
        guessing="" if pd.isna(chance) else f" (guessing gives {chance:.2f})",
        scores=markdown(rows),
    )


def _listed(names: list[str]) -> str:
    lines = [f"- `{name}`" for name in names[:SHOWN]]
    more = len(names) - SHOWN
    return "\n".join([*lines, f"- and {more} more"] if more > 0 else lines or ["- none"])
