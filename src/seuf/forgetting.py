"""Judge methods at equal forgetting: what is left where the same share is forgotten.

While a method trains, its model is evaluated again and again: a *path* from the original to what
has forgotten most. One point of it compares little, for methods stop at different places. So
numbers are read off the path where the same share is forgotten: `share_forgotten` is 0 for the
original and 1 where forget questions are answered as by guessing. Nothing is extrapolated: what a
path does not reach is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

TARGETS = (0.5, 0.75, 0.9)  # shares forgotten at which methods are compared
LAYERS_AT = TARGETS[1]  # and one expert of each layer
ROUNDING = 1e-9  # a share that misses a target by its last bits has reached it


def share_forgotten(forget_efficacy: float, original: float, chance: float) -> float | None:
    """Return the share of the way from the original's forget efficacy to chance.

    It is negative where more is known than before, and above 1 below chance; None of an original
    that answers no better than chance, which has nothing to forget.
    """
    if original <= chance:
        return None
    return (original - forget_efficacy) / (original - chance)


def is_known(value: float, chance: float, asked: int | None) -> bool:
    """Tell if a share of right answers is more than guessing gives, by two standard errors.

    Args:
        value: The share, or the mean of a measure of free answers.
        chance: What guessing gives; 0 without choices.
        asked: Number of questions; None if it is not known.
    """
    error = (chance * (1 - chance) / asked) ** 0.5 if asked else 0.0
    return value > chance + 2 * error


def value_at(forgotten: Sequence[float], values: Sequence[float], target: float) -> float | None:
    """Return a path's value where it first forgets a share, interpolated between two evaluations.

    Args:
        forgotten: Share forgotten at each evaluation, in their order, the original first.
        values: What is read off, such as utility or a loss.
        target: Share forgotten.

    Returns:
        The value; None if the path never forgets that much.
    """
    for position, share in enumerate(forgotten):
        if share < target - ROUNDING:
            continue
        if position == 0:
            return values[0]
        before = forgotten[position - 1]
        weight = min((target - before) / (share - before), 1.0)
        return values[position - 1] + weight * (values[position] - values[position - 1])
    return None


def mean_until(
    forgotten: Sequence[float], values: Sequence[float], target: float = TARGETS[-1]
) -> float | None:
    """Return the mean of a path's value over all shares from 0 to a target.

    It is the area under the curve of `value_at`, divided by the target: each share counts once,
    where it is first forgotten.

    Returns:
        The mean; None if the path never forgets that much.
    """
    if value_at(forgotten, values, target) is None:
        return None
    most, area = 0.0, 0.0
    for position in range(1, len(forgotten)):
        end = min(forgotten[position], target)
        if end <= most:
            continue
        step = slice(position - 1, position + 1)
        ends = [value_at(forgotten[step], values[step], share) for share in (most, end)]
        area += (end - most) * sum(value for value in ends if value is not None) / 2
        most = end
    return area / target


def at_targets(
    forgotten: Sequence[float],
    utility: Sequence[float] | None,
    general_loss: Sequence[float] | None,
) -> dict[str, float | None]:
    """Return what is read off a path: numbers at each of `TARGETS`, and the area under utility.

    Args:
        forgotten: Share forgotten at each evaluation, in their order, the original first.
        utility: The same of utility; None where not all of it was measured.
        general_loss: The same of the loss on other text.

    Returns:
        `utility_at_50` and the like of both, and `area`; None where it is not reached.
    """
    numbers: dict[str, float | None] = {}
    for name, values in (("utility", utility), ("general_loss", general_loss)):
        for target in TARGETS:
            value = None if values is None else value_at(forgotten, values, target)
            numbers[f"{name}_at_{100 * target:g}"] = value
    return numbers | {"area": None if utility is None else mean_until(forgotten, utility)}


def outcome(path: Iterable[Mapping[str, Any]], target: float) -> dict[str, float | None]:
    """Return `utility` where a path first forgets the target, None if nowhere.

    Beside it the most that it forgot, `forgotten`, with the `utility_there`.

    Args:
        path: `forgotten` and `utility` of each evaluation, the original first; where the first is
            None, nothing was evaluated.
        target: Share forgotten.
    """
    looked = [row for row in path if row["forgotten"] is not None]
    shares, utilities = ([row[name] for row in looked] for name in ("forgotten", "utility"))
    most = max(range(len(looked)), key=lambda place: shares[place], default=None)
    return {
        "utility": value_at(shares, utilities, target),
        "forgotten": None if most is None else shares[most],
        "utility_there": None if most is None else utilities[most],
    }


def rank_of_outcome(of: Mapping[str, Any]) -> tuple[float, ...]:
    """Return by what an `outcome` is preferred to others: the larger tuple.

    Of those that forget at least the target the one of most utility there; if there is none, the
    one that forgets most.
    """
    if of["utility"] is not None:
        return 1.0, of["utility"]
    if of["forgotten"] is None:
        return (0.0,)
    return 0.0, of["forgotten"], of["utility_there"]


def preference(forgotten: float | None, utility: float, target: float) -> tuple[float, ...]:
    """Return by what an evaluation is preferred to others: the larger tuple.

    Of those that forget at least the target the one of most utility; if there is none, the one
    that comes nearest to it.
    """
    if forgotten is not None and forgotten >= target - ROUNDING:
        return 1.0, utility, forgotten
    return 0.0, float("-inf") if forgotten is None else forgotten, utility


def pack_right(right: Sequence[float]) -> str:
    """Return which questions were answered rightly as a short text: their number and bits in hex.

    `5:16` are five questions of which the first (10110 in bits), third and fourth were right.

    Args:
        right: 1 or 0 for each question.
    """
    bits = "".join("1" if value else "0" for value in right)
    return f"{len(bits)}:{int(bits or '0', 2):x}"


def unpack_right(packed: str) -> list[int]:
    """Return what `pack_right` packed: 1 or 0 for each question."""
    number, _, bits = packed.partition(":")
    return [int(bit) for bit in f"{int(bits, 16):0{number}b}"][: int(number)]
