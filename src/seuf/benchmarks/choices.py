"""Multiple choice, fast: what a training run looks at every few steps.

Gives what lm-evaluation-harness gives (see `harness`) for the same questions, without its
overhead; a test holds them to each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from seuf.benchmarks.records import Question
from seuf.moe.architectures import check_positions, decoder, input_device
from seuf.moe.backoff import Backoff
from seuf.moe.batches import Batch, by_length
from seuf.moe.loss import output_head, token_nll

SHORTER = "ask shorter questions, or free memory"


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
        self.backoff = Backoff(SHORTER)
        self.choices = [encode_choices(tokenizer, question) for question in questions]
        self.wanted = group_by_input(choice for choices in self.choices for choice in choices)

    def answers(self, model: nn.Module) -> list[int]:
        """Return the position of the choice the model prefers, for each question."""
        likelihoods = self._log_likelihoods(model)
        return [
            preferred_choice([likelihoods[choice] for choice in choices], question, self.metric)
            for question, choices in zip(self.questions, self.choices, strict=True)
        ]

    def accuracy(self, model: nn.Module) -> dict[str, float]:
        """Return the share of right answers by subject."""
        right: dict[str, list[bool]] = {}
        for question, answer in zip(self.questions, self.answers(model), strict=True):
            right.setdefault(question.subject, []).append(answer == question.answer)
        return {subject: sum(hits) / len(hits) for subject, hits in right.items()}

    def _log_likelihoods(self, model: nn.Module) -> dict[Choice, float]:
        return log_likelihoods(model, self.wanted, self.batch_size, self.backoff)


def group_by_input(choices: Iterable[Choice]) -> dict[tuple[int, ...], set[Choice]]:
    """Return the choices by what has to be read for them.

    Choices of one token differ only in it: one row answers all of them.
    """
    wanted: dict[tuple[int, ...], set[Choice]] = {}
    for choice in choices:
        wanted.setdefault(choice.row, set()).add(choice)
    return wanted


@torch.no_grad()
def log_likelihoods(
    model: nn.Module,
    wanted: Mapping[tuple[int, ...], set[Choice]],
    batch_size: int,
    backoff: Backoff | None = None,
) -> dict[Choice, float]:
    """Return the log-likelihood in nats of every choice, of all its tokens together.

    Args:
        model: A causal language model.
        wanted: Choices by their row, see `group_by_input`.
        batch_size: Sequences that pass the model at once.
        backoff: Remembers from call to call how many fit in memory.

    Raises:
        InputError: If a question with a choice has more tokens than the model has positions, or
            than fit in memory.
    """
    rows, likelihoods = sorted(wanted), dict[Choice, float]()
    check_positions(model, rows, "a question with a choice must have {} or less")
    backoff = backoff or Backoff(SHORTER)

    def answer(batch: Batch) -> dict[Choice, float]:
        inputs = batch.inputs(input_device(model))
        hidden = decoder(model)(**inputs, use_cache=False).last_hidden_state
        asked = [
            (line, choice)
            for line, place in enumerate(batch.positions or ())
            for choice in sorted(wanted[rows[place]])
        ]
        values = _log_likelihoods(hidden, output_head(model), asked)
        return dict(zip((choice for _, choice in asked), values, strict=True))

    for batch in by_length(rows, batch_size, padding=0):
        for _, found in backoff.rows(batch, answer):
            likelihoods |= found
    return likelihoods


def chance(questions: Sequence[Question], subject: str = "forget") -> float:
    """Return the expected accuracy of guessing on a subject's questions; 0 without choices."""
    shares = [
        1 / len(q.choices) for q in questions if q.subject == subject and q.is_multiple_choice()
    ]
    return sum(shares) / len(shares) if shares else 0.0


def macro_accuracy(questions: Sequence[Question], answers: Sequence[int]) -> float:
    """Return the mean over topics of the share of right answers to a topic's questions."""
    right: dict[str, list[bool]] = {}
    for question, answer in zip(questions, answers, strict=True):
        right.setdefault(question.topic, []).append(answer == question.answer)
    return mean(mean(hits) for hits in right.values())


def preferred_choice(likelihoods: Sequence[float], question: Question, metric: str) -> int:
    """Return the position of the best choice; the first of equals, as the harness has it."""
    lengths = [len(choice) if metric == "acc_norm" else 1 for choice in question.choices]
    values = [value / length for value, length in zip(likelihoods, lengths, strict=True)]
    return values.index(max(values))


def encode_choices(tokenizer: PreTrainedTokenizerBase, question: Question) -> list[Choice]:
    """Return the choices of a question, each after a space, as tokens."""
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
