"""A mean, and how far it may be from that of all there is."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev


def with_error(values: Sequence[float]) -> dict[str, float]:
    """Return the mean of some values as `value`, and its `standard_error`; 0 for a single one."""
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {"value": mean(values), "standard_error": error}
