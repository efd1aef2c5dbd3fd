"""The model card (README.md) of an exported model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import yaml

from seuf.reporting.comparison import READABLE, markdown, original_method

NUMBER = re.compile(r"\d")
SHOWN = 12  # tensors listed by name
CARD = """\
---
{header}---

# {title}, after unlearning

Made from {base} by the method `{method}` of the study `{study}`, which was to take out what
{forget} hold and to keep what {retain} do. The texts are not part of this folder.

## What changed

{changed} of {total} parameters ({share:.2%}), in these tensors; all others are those of the base
model, to the bit:

{tensors}

{facts}

Settings of the method: `{settings}`.

## How well

The checkpoint that was kept, by test questions that chose nothing, ± standard error. FE: right
answers about what was to be forgotten, lower is better{guessing}; UT: about other things, higher is
better.

{scores}
## What this does not say

- That the knowledge is gone. A low accuracy shows that these questions are no longer answered;
  attacks that bring knowledge back were not tried.
- Anything of abilities that the questions do not ask for.
- Who holds the base model too can see what was changed.

## To use it

    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = "this folder, or its id on the hub"
    model = AutoModelForCausalLM.from_pretrained(name)
    tokenizer = AutoTokenizer.from_pretrained(name)
"""
# How a study made its base model, by `base_model.source`.
MADE = {
    "pretrain": "trained from scratch on texts of the study",
    "finetune": "{of}, taught texts of the study by LoRA",
    "upcycle": "{of}, made a mixture of experts and taught texts of the study",
}
# Keys copied from the card of the base model, or of the model it was made of.
LICENCE = ("license", "license_name", "license_link")


class BaseModel(NamedTuple):
    """The model that was unlearned.

    Attributes:
        name: Hub id or folder name; of a model that the study made, those of its origin.
        source: `base_model.source` of the study.
        on_hub: Whether the name is a hub id.
        commit: The commit on the hub.
        licence: The values of `LICENCE` in its card.
    """

    name: str
    source: str = "external"
    on_hub: bool = False
    commit: str | None = None
    licence: Mapping[str, Any] = {}


class Exported(NamedTuple):
    """A model that a card describes.

    Attributes:
        base: The model it was made from.
        digest: Digest of the base model's weights.
        delta: SHA-256 of the delta's file.
        study: The study that ran the method.
        method: The method's name.
        settings: The method's row in the table of methods.
        experts: The selected (layer, expert) pairs.
        texts: Numbers of texts to forget and to keep; None where they have been erased.
        changed: Number of elements of each changed tensor, by key.
        total: Number of the model's parameters.
        requests: Ids of the requests to forget that it serves.
        commit: The commit of the code that made the delta, if recorded.
    """

    base: BaseModel
    digest: str
    delta: str
    study: str
    method: str
    settings: Mapping[str, Any]
    experts: Sequence[tuple[int, int]]
    texts: tuple[int | None, int | None]
    changed: Mapping[str, int]
    total: int
    requests: Sequence[str] = ()
    commit: str | None = None


def model_card(exported: Exported, comparison: pd.DataFrame) -> str:
    """Return the card as Markdown; the comparison has rows of the original and of the method."""
    shown = [original_method(comparison), exported.method]
    rows = comparison[comparison["method"].isin(shown)]
    forget, retain = exported.texts
    changed, chance = sum(exported.changed.values()), rows["chance"].iloc[0]
    names = [f"- `{name}`" for name in exported.changed]
    if len(names) > SHOWN:
        names[SHOWN:] = [f"- and {len(names) - SHOWN} more"]
    made_here = exported.base.source in MADE
    return CARD.format(
        header=_front_matter(exported.base),
        title=f"Base model of {exported.study}" if made_here else exported.base.name,
        base=_described(exported.base),
        method=exported.method,
        study=exported.study,
        forget="texts that are erased since" if forget is None else f"{forget} texts",
        retain="others" if retain is None else f"{retain} others",
        changed=f"{changed:,}",
        total=f"{exported.total:,}",
        share=changed / exported.total,
        tensors="\n".join(names or ["- none"]),
        facts=_facts(exported),
        settings=json.dumps(exported.settings),
        guessing="" if pd.isna(chance) else f" (guessing gives {chance:.2f})",
        scores=markdown(rows),
    )


def has_scores(card: str, method: str) -> bool:
    """Return whether a card gives forget efficacy and utility of a method."""
    lines = [line for line in card.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    heads = [READABLE[name][0] for name in ("forget_efficacy", "utility")]
    top = next((index for index, row in enumerate(rows) if {*heads} <= {*row}), len(rows))
    scored = next((row for row in rows[top:] if row[0] == method), [])
    cells = dict(zip(rows[top], scored, strict=False)) if scored else {}
    return all(NUMBER.match(cells.get(head, "")) for head in heads)


def _front_matter(base: BaseModel) -> str:
    """Return the card's YAML header; it names the base model only if that is on the hub."""
    of_base = {"base_model": base.name, "base_model_relation": "finetune"} if base.on_hub else {}
    about = {
        **of_base,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **base.licence,
        "tags": ["unlearning", "mixture-of-experts"],
    }
    return yaml.safe_dump(about, sort_keys=False, allow_unicode=True)


def _described(base: BaseModel) -> str:
    """Return the base model in words, and how the study made it if it did."""
    commit = f" (commit `{base.commit}`)" if base.commit else ""
    named = f"`{base.name}`{commit}"
    if base.source not in MADE:
        return named
    return f"the study's base model ({MADE[base.source].format(of=named)})"


def _facts(exported: Exported) -> str:
    """Return a table of the method's settings and the model's digests."""
    facts = {
        "scope": exported.settings.get("scope"),
        "selection": exported.settings.get("selection"),
        "objective": exported.settings.get("objective"),
        "experts, layer:expert": ", ".join(f"{layer}:{one}" for layer, one in exported.experts),
        "requests served": ", ".join(exported.requests),
        "base model, SHA-256 over all tensors": f"`{exported.digest}`",
        "delta, SHA-256 of the file": f"`{exported.delta}`",
        "code, commit": f"`{exported.commit}`" if exported.commit else None,
    }
    lines = [f"| {name} | {value} |" for name, value in facts.items() if value]
    return "\n".join(["| | |", "|---|---|", *lines])
