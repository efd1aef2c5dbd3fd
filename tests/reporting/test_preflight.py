"""What a study will use, in words."""

from __future__ import annotations

from typing import Any

from seuf.reporting.preflight import lines
from tests.reporting.examples import SELECTED

FACTS: dict[str, Any] = {"sets": {}, "asked": [], "positions": None, "longest_question": 72}


def rule_line(**choice: Any) -> str:
    """Return the line of a rule that chose one expert."""
    return lines(FACTS, {"affinity": SELECTED["affinity"] | choice})[-1]


def test_stability_of_halves_does_not_deny_that_they_choose_differently():
    """Both halves have the same six best experts, and each ranks another of these first."""
    differ = "the two halves of the samples choose differently: 0:1; 0:2"

    line = rule_line(stability_halves=1.0, warnings=[differ])

    assert "stability 100% (best experts shared by the halves); in doubt: " in line
    assert line.endswith(differ)


def test_stability_of_subsets_goes_before_that_of_halves():
    line = rule_line(stability_subset=0.94, stability_two_subsets=0.87, warnings=[])

    assert line.endswith("stability 94%, 87% between subsets")
