"""Kinds of probes: how long an answer may be, where it ends, and what it is measured by.

These are the published benchmarks' own numbers, each with the code it was taken from.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Measure = Literal["rouge_l_recall", "rouge_l_f1", "rouge_l_recall_pltrdy"]


class Kind(NamedTuple):
    """How free answers to one kind of probe are made and measured.

    Attributes:
        measure: What an answer is measured by, see `seuf.benchmarks.rouge`.
        max_new_tokens: Tokens in an answer; None for the study's own number.
        stop: An answer ends before the first of these.
        chat: Asked in the model's chat template, if it has one.
        headline: Whether the study's forget efficacy and utility are means over it.
        likelihoods: Not asked at all: the choices' likelihoods are what is measured.
        whole: Whether the reference is held against as a whole, or what an answer's tokens could
            hold of it.
    """

    measure: Measure = "rouge_l_recall"
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    chat: bool = False
    headline: bool = True
    likelihoods: bool = False
    whole: bool = True


# jinzhuoran/RWKU b8a03b3, llmtuner/eval/eval_forget.py: 30 tokens, up to the end of the line.
_RWKU = Kind("rouge_l_recall_pltrdy", 30, ("\n",), chat=True)

KINDS: dict[str, Kind] = {
    "answer": Kind(),
    # RWKU
    "fill_blank": _RWKU,
    "question": _RWKU,
    "adversarial": _RWKU._replace(headline=False),
    # MUSE, swj0419/muse_bench fcd6651, eval.py
    "knowledge": Kind("rouge_l_f1", 32, ("\n\n", "\nQuestion", "Question:")),
    "verbatim": Kind("rouge_l_f1", 128, headline=False, whole=False),
    # TOFU: what a model knew before it, whose ROUGE is part of its model utility
    "real_authors": Kind(headline=False),
    "world_facts": Kind(headline=False),
    # TOFU: the answer, its paraphrase and wrong answers, of which only likelihoods are compared
    "truth": Kind(headline=False, likelihoods=True),
}
