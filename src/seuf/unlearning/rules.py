"""What the rules that choose experts are called: `affinity`, `contrast_2`, `random_3`, `esft`."""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator

RankingName = Literal["affinity", "contrast", "random"]

ESFT = "esft"
_RANKED = re.compile(f"({'|'.join(get_args(RankingName))})(?:_([1-9][0-9]*))?")


def ranking_and_rank(rule: str) -> tuple[str, int] | None:
    """Return `affinity`, 2 of `affinity_2` and `affinity`, 1 of `affinity`; None of other names."""
    found = _RANKED.fullmatch(rule)
    return None if found is None else (found[1], int(found[2] or 1))


def is_rule(name: str) -> bool:
    """Tell a rule from what an expert named by hand may be called."""
    return name == ESFT or ranking_and_rank(name) is not None


def _known(name: str) -> str:
    if not is_rule(name):
        raise ValueError(
            f"{name!r} is no rule; rules are {', '.join(get_args(RankingName))}, each with or "
            f"without a rank as in affinity_2, and {ESFT}"
        )
    return name


RuleName = Annotated[str, AfterValidator(_known)]
