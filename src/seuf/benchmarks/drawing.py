"""Which questions and texts are taken where not all are: a hash of their wording decides.

So neither their order in a file nor a random number does, and next time the same are taken.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from seuf.benchmarks.records import Question

FEWEST = 2  # in a part: a standard error needs two


def drawn(wordings: Sequence[str], number: int, groups: Sequence[str] | None = None) -> list[int]:
    """Return the positions, in order, of at most so many items.

    Args:
        wordings: What is hashed, one an item.
        number: How many items to take.
        groups: The group of each item; every group gives its share, by its size and as near as
            whole items allow.
    """
    groups = groups or [""] * len(wordings)
    order = sorted(range(len(wordings)), key=lambda position: _digest(wordings[position]))
    sizes, seen, depths = Counter(groups), Counter[str](), dict[int, float]()
    for position in order:
        group = groups[position]
        depths[position] = (seen[group] + 0.5) / sizes[group]
        seen[group] += 1
    return sorted(sorted(order, key=depths.__getitem__)[:number])


def at_most(number: int | None, asked: Sequence[Question]) -> list[Question]:
    """Return so many questions, each topic giving its share, in their order; all for None."""
    if number is None:
        return list(asked)
    places = drawn([q.question for q in asked], number, [q.topic for q in asked])
    return [asked[place] for place in places]


def in_parts(
    asked: Sequence[Question], number: int, groups: Sequence[str] | None = None
) -> list[Question]:
    """Return questions in their order, so many in the selection part and the others in test.

    What is worded as one that selects is left out of test, so it may be fewer than came.

    Args:
        asked: The questions.
        number: How many select.
        groups: See `drawn`.
    """
    chosen = set(drawn([question.question for question in asked], number, groups))
    known = {asked[place].question for place in chosen}
    return [
        question._replace(part="selection" if place in chosen else "test")
        for place, question in enumerate(asked)
        if place in chosen or question.question not in known
    ]


def _digest(wording: str) -> str:
    return hashlib.sha256(wording.encode()).hexdigest()
