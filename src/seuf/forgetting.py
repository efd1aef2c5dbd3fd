"""Compare methods at equal forgetting: what is left where the same share is forgotten.

While a method trains, its model is evaluated at intervals; the evaluations, from the original on,
are its *path*. A single point of it does not compare methods, which stop at different places. So
numbers are read off the path where the same share is forgotten: `share_forgotten` is 0 for the
original and 1 where forget questions are answered as by guessing. Nothing is extrapolated: what a
path does not reach is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

TARGETS = (0.5, 0.75, 0.9)  # shares forgotten at which methods are compared
LAYERS_AT = TARGETS[1]  # share forgotten at which layers are compared
ROUNDING = 1e-9  # a share that misses a target by its last bits has reached it


def share_forgotten(forget_efficacy: float, original: float, chance: float) -> float | None:
    """Return how far forget efficacy is on the way from the original's (0) to chance (1).

    It is negative if more is known than before, and above 1 below chance. It is None if the
    original answers no better than chance, and so has nothing to forget.
    """
    if original <= chance:
        return None
    return (original - forget_efficacy) / (original - chance)


def is_known(value: float, chance: float, asked: int | None) -> bool:
    """Tell if a share of right answers is above chance by more than two standard errors.

    Args:
        value: The share, or the mean of a measure of free answers.
        chance: The share that guessing gives; 0 without choices.
        asked: Number of questions; None if it is not known.
    """
    error = (chance * (1 - chance) / asked) ** 0.5 if asked else 0.0
    return value > chance + 2 * error


def value_at(forgotten: Sequence[float], values: Sequence[float], target: float) -> float | None:
    """Return a path's value where it first forgets a share, interpolated between two evaluations.

    Args:
        forgotten: Share forgotten at each evaluation, in their order, the original first.
        values: The values at the same evaluations, such as utility or a loss.
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

    That is the area under `value_at` as a function of the share, divided by the target.

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
    """Return a path's utility and general loss at each of `TARGETS`, and its mean utility.

    Args:
        forgotten: Share forgotten at each evaluation, in their order, the original first.
        utility: Utility at each evaluation; None if some of it was not measured.
        general_loss: Loss on general texts at each evaluation, likewise.

    Returns:
        `utility_at_50` and so on, `general_loss_at_50` and so on, and `area`, see `mean_until`;
        None for what the path does not reach.
    """
    numbers: dict[str, float | None] = {}
    for name, values in (("utility", utility), ("general_loss", general_loss)):
        for target in TARGETS:
            value = None if values is None else value_at(forgotten, values, target)
            numbers[f"{name}_at_{100 * target:g}"] = value
    return numbers | {"area": None if utility is None else mean_until(forgotten, utility)}


def outcome(path: Iterable[Mapping[str, Any]], target: float) -> dict[str, float | None]:
    """Return what a path reaches: utility at a target, and the most that it forgets.

    Args:
        path: `forgotten` and `utility` of each evaluation, the original first; `forgotten` is None
            in rows without an evaluation.
        target: Share forgotten.

    Returns:
        `utility` where the target is first forgotten, None if nowhere; `forgotten`, the largest
        share; `utility_there`, the utility with it.
    """
    evaluated = [row for row in path if row["forgotten"] is not None]
    shares, utilities = ([row[name] for row in evaluated] for name in ("forgotten", "utility"))
    most = max(range(len(evaluated)), key=lambda index: shares[index], default=None)
    return {
        "utility": value_at(shares, utilities, target),
        "forgotten": None if most is None else shares[most],
        "utility_there": None if most is None else utilities[most],
    }


def rank_of_outcome(reached: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the sort key of an `outcome`; the largest is best.

    Best is the one of most utility at the target; if none reaches that, the one that forgets most.
    """
    if reached["utility"] is not None:
        return 1.0, reached["utility"]
    if reached["forgotten"] is None:
        return (0.0,)
    return 0.0, reached["forgotten"], reached["utility_there"]


def preference(forgotten: float | None, utility: float, target: float) -> tuple[float, ...]:
    """Return the sort key of an evaluation; the largest is best.

    Best is the one of most utility among those that reach the target; if none does, the one that
    forgets most.
    """
    if forgotten is not None and forgotten >= target - ROUNDING:
        return 1.0, utility, forgotten
    return 0.0, float("-inf") if forgotten is None else forgotten, utility


def pack_right(right: Sequence[float]) -> str:
    """Return which questions were answered rightly as a short text: their number and bits in hex.

    `5:16` means five questions; the first, third and fourth were right (10110 in bits).

    Args:
        right: 1 or 0 for each question.
    """
    bits = "".join("1" if value else "0" for value in right)
    return f"{len(bits)}:{int(bits or '0', 2):x}"


def unpack_right(packed: str) -> list[int]:
    """Return what `pack_right` packed: 1 or 0 for each question."""
    number, _, bits = packed.partition(":")
    return [int(bit) for bit in f"{int(bits, 16):0{number}b}"][: int(number)]
