"""Which questions and texts are taken where not all are: a hash of their wording decides.

So neither their order in a file nor a random number does, and next time the same are taken.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence


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


def _digest(wording: str) -> str:
    return hashlib.sha256(wording.encode()).hexdigest()
