"""Describe what a study will use, before it trains: as log lines, and as tables of the report.

The facts come from the node `preflight` of the pipeline of that name, which lists their keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seuf.reporting.comparison import MEASURES, MISSING

Facts = Mapping[str, Any]
Table = tuple[list[str], list[list[str]]]  # headers, rows


def margin(choice: Mapping[str, Any]) -> str:
    """Return `0.0038 ± 0.0012`, the lead over the runner-up; empty where there is none."""
    if choice["margin"] is None:
        return ""
    error = choice.get("margin_error")
    return f"{choice['margin']:.4f}" + (f" ± {error:.4f}" if error is not None else "")


def stability(choice: Mapping[str, Any]) -> str:
    """Return `94%, 87% between subsets`, or of a set too small for these `80% of halves`."""
    if choice["stability_subset"] is not None:
        between = choice["stability_two_subsets"]
        return f"{choice['stability_subset']:.0%}, {between:.0%} between subsets"
    halves = choice["stability_halves"]
    return "" if halves is None else f"{halves:.0%} of halves"


def lines(facts: Facts, selected: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line for each set, each kind of question and each selection rule.

    Args:
        facts: What the preflight found.
        selected: What each selection rule chose.
    """
    log_lines = [
        f"{name}: {_counted(of_set['texts'], 'text')}, {of_set['tokens']:,} tokens"
        + (f", in {of_set['samples']:,} samples" if "samples" in of_set else "")
        + f"; {_cut(of_set)}"
        for name, of_set in facts["sets"].items()
        if of_set["texts"]
    ]
    log_lines += [
        f"{_counted(row['questions'], 'question')} about {row['subject']} in part {row['part']}: "
        f"the model scores {row['value']:.3f} ({_measure(row)}), "
        f"{'guessing' if row['measure'] == 'accuracy' else 'another answer'} {row['chance']:.3f}"
        for row in facts["asked"]
    ]
    positions = facts["positions"]
    log_lines.append(
        f"longest question with its answer: at most {facts['longest_question']:,} tokens"
        + (f"; the model reads {positions:,}" if positions else "")
    )
    for rule, choice in selected.items():
        experts = ", ".join(f"{layer}:{expert}" for layer, expert in choice["experts"][:4])
        more = f" and {len(choice['experts']) - 4} more" if len(choice["experts"]) > 4 else ""
        parts = [f"expert {experts}{more}"]
        parts += [f"margin {shown}"] if (shown := margin(choice)) else []
        parts += [f"stability {shown}"] if (shown := _stability_in_words(choice)) else []
        doubt = f"; in doubt: {'; '.join(choice['warnings'])}" if choice.get("warnings") else ""
        log_lines.append(f"rule {rule}: {', '.join(parts)}{doubt}")
    return log_lines


def tables(facts: Facts) -> list[Table]:
    """Return the facts as tables of the sets and of the questions."""
    sets = [
        [
            name,
            f"{of_set['texts']:,}",
            f"{of_set['tokens']:,}",
            f"{of_set['samples']:,}" if "samples" in of_set else MISSING,
            _cut(of_set),
        ]
        for name, of_set in facts["sets"].items()
        if of_set["texts"]
    ]
    asked = [
        [
            row["subject"],
            row["part"],
            f"{row['questions']:,}",
            _measure(row),
            f"{row['value']:.3f}",
            f"{row['chance']:.3f}",
        ]
        for row in facts["asked"]
    ]
    return [
        (["set", "texts", "tokens", "samples", "cut"], sets),
        (["questions about", "part", "number", "measure", "original", "guessing"], asked),
    ]


def _stability_in_words(choice: Mapping[str, Any]) -> str:
    """Return `stability` for a reader who may see a warning that the halves choose differently.

    Halves that share a layer's six best experts can still rank another one first.
    """
    if choice["stability_subset"] is None and choice["stability_halves"] is not None:
        return f"{choice['stability_halves']:.0%} (best experts shared by the halves)"
    return stability(choice)


def _measure(row: Mapping[str, Any]) -> str:
    return MEASURES.get(row["measure"], row["measure"])


def _cut(of_set: Mapping[str, Any]) -> str:
    cut: Sequence[int] = [of_set["cut"], of_set.get("cut_in_routing", 0)]
    if not any(cut):
        return "nothing cut"
    share = max(cut) / of_set["tokens"]
    return f"{max(cut):,} tokens cut ({share:.1%})"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")
