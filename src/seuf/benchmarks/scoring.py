"""Multiple choice, fast: what a training run looks at every few steps.

Gives what lm-evaluation-harness gives (see `harness`) for the same questions, without its
overhead; a test holds them to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from seuf.benchmarks.records import Question
from seuf.moe.architectures import decoder, input_device
from seuf.moe.batches import by_length
from seuf.moe.loss import output_head, token_nll


class Choice(NamedTuple):
    """A choice as the model sees it: the question's tokens and the choice's own."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]

    @property
    def row(self) -> tuple[int, ...]:
        """What the model has to read to score the choice: all tokens but the last."""
        return (*self.context, *self.continuation)[:-1]


class ChoiceScorer:
    """Answers a fixed list of multiple-choice questions with any model.

    Args:
        tokenizer: The model's tokenizer.
        questions: What to ask.
        metric: `acc` or `acc_norm`, see `ScoringSettings`.
        batch_size: Sequences that pass the model at once.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        questions: Sequence[Question],
        metric: str,
        batch_size: int,
    ) -> None:
        self.questions, self.metric, self.batch_size = questions, metric, batch_size
        self.choices = [_choices(tokenizer, question) for question in questions]
        # Choices of one token differ only in it: one row answers all of them.
        self.wanted: dict[tuple[int, ...], set[Choice]] = {}
        for choice in (choice for choices in self.choices for choice in choices):
            self.wanted.setdefault(choice.row, set()).add(choice)

    def answers(self, model: nn.Module) -> list[int]:
        """Return the position of the choice the model prefers, for each question."""
        likelihoods = self._log_likelihoods(model)
        return [
            preferred([likelihoods[choice] for choice in choices], question, self.metric)
            for question, choices in zip(self.questions, self.choices, strict=True)
        ]

    def accuracy(self, model: nn.Module) -> dict[str, float]:
        """Return the share of right answers by subject."""
        right: dict[str, list[bool]] = {}
        for question, answer in zip(self.questions, self.answers(model), strict=True):
            right.setdefault(question.subject, []).append(answer == question.answer)
        return {subject: sum(hits) / len(hits) for subject, hits in right.items()}

    @torch.no_grad()
    def _log_likelihoods(self, model: nn.Module) -> dict[Choice, float]:
        rows, likelihoods = sorted(self.wanted), dict[Choice, float]()
        for batch in by_length(rows, self.batch_size, padding=0):
            inputs = batch.inputs(input_device(model))
            hidden = decoder(model)(**inputs, use_cache=False).last_hidden_state
            wanted = [
                (line, choice)
                for line, place in enumerate(batch.positions or ())
                for choice in sorted(self.wanted[rows[place]])
            ]
            values = _log_likelihoods(hidden, output_head(model), wanted)
            likelihoods |= zip((choice for _, choice in wanted), values, strict=True)
        return likelihoods


def chance(questions: Sequence[Question], subject: str = "forget") -> float:
    """Return the expected accuracy of guessing on a subject's questions."""
    shares = [1 / len(q.choices) for q in questions if q.subject == subject]
    return sum(shares) / len(shares)


def preferred(likelihoods: Sequence[float], question: Question, metric: str) -> int:
    """Return the position of the best choice; the first of equals, as the harness has it."""
    lengths = [len(choice) if metric == "acc_norm" else 1 for choice in question.choices]
    values = [value / length for value, length in zip(likelihoods, lengths, strict=True)]
    return values.index(max(values))


def _choices(tokenizer: PreTrainedTokenizerBase, question: Question) -> list[Choice]:
    context = tuple(tokenizer(question.question)["input_ids"])
    texts = [f"{question.question} {choice}" for choice in question.choices]
    wholes = [tuple(ids) for ids in tokenizer(texts)["input_ids"]]
    return [Choice(context, whole[len(context) :]) for whole in wholes]


def _log_likelihoods(
    hidden: Tensor, head: nn.Module, wanted: Sequence[tuple[int, Choice]]
) -> list[float]:
    """Return the log-likelihood in nats of choices, from the hidden states (B, T, d) of their rows.

    Only the hidden states that predict a choice's tokens are given to the head.
    """
    spots = [
        (line, len(choice.context) - 1 + place, token)
        for line, choice in wanted
        for place, token in enumerate(choice.continuation)
    ]
    lines, places, tokens = torch.tensor(spots, device=hidden.device).T
    lengths = [len(choice.continuation) for _, choice in wanted]
    nll = token_nll(hidden[lines, places], head, tokens)
    return [-part.sum().item() for part in nll.cpu().split(lengths)]
