"""How long a sample may be: no text is cut, and none is too long, without a word."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from seuf.errors import InputError


class Sized(Protocol):
    """Whatever has a length: a sample's token ids."""

    def __len__(self) -> int: ...


def check_positions(model: Any, samples: Iterable[Sized], remedy: str) -> None:
    """Raise if a sample has more tokens than the model was made for.

    Args:
        model: Whose configuration says for how many.
        samples: Token ids of each.
        remedy: What to do, with `{}` where the number is told.

    Raises:
        InputError: With both numbers and the remedy.
    """
    longest, positions = max(map(len, samples), default=0), positions_of(model)
    if positions is not None and longest > positions:
        raise InputError(
            f"The model has {positions} positions, and a sample has {longest} tokens: "
            f"{remedy.format(positions)}."
        )


def positions_of(model: Any) -> int | None:
    """Return how many tokens the model takes at once; None if its configuration sets no limit."""
    config = model.config
    limit = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    stretched = rope.get("factor", 1) * rope.get("original_max_position_embeddings", 0)
    return None if limit is None else max(limit, int(stretched))
