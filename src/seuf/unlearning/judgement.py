"""When is a checkpoint good: forgetting against utility."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Judgement:
    """How a model answers the selection questions.

    Attributes:
        forget_efficacy: Accuracy on questions about what is to be forgotten, or where these have
            no choices how well free answers hold their references; lower is better.
        utility: The same of the others; higher is better.
        chance: Accuracy of guessing on the forget questions, 0 without choices: the ideal of
            forget efficacy.
    """

    forget_efficacy: float
    utility: float
    chance: float

    @property
    def balance(self) -> float:
        """Utility minus the knowledge left; below chance there is nothing more to forget."""
        return self.utility - max(self.forget_efficacy - self.chance, 0.0)
