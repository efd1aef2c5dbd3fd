"""Multiple choice, fast: how a training run is evaluated every few steps.

The preferred choices are those of lm-evaluation-harness (see `harness`), without its overhead; a
test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from seuf.benchmarks.records import Question
from seuf.inputs import InputError
from seuf.moe.architectures import check_positions, decoder, input_device
from seuf.moe.backoff import Backoff
from seuf.moe.batches import Batch, by_length, open_ids
from seuf.moe.loss import output_head, token_nll

OUT_OF_MEMORY_ADVICE = "ask shorter questions, or free memory"


class Choice(NamedTuple):
    """The tokens of a question, and those of one of its choices."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]

    @property
    def input_ids(self) -> tuple[int, ...]:
        """What the model has to read to score the choice: all tokens but the last."""
        return (*self.context, *self.continuation)[:-1]


ChoicesByInput = dict[tuple[int, ...], set[Choice]]


def encode_choices(tokenizer: PreTrainedTokenizerBase, question: Question) -> list[Choice]:
    """Return the choices of a question, each after a space, as tokens.

    Raises:
        InputError: See `encode_pairs`.
    """
    pairs = [with_spaces_moved(question.question, f" {choice}") for choice in question.choices]
    return encode_pairs(tokenizer, pairs)


def with_spaces_moved(context: str, continuation: str) -> tuple[str, str]:
    """Return a question and its choice with the spaces of the former's end in the latter.

    So lm-evaluation-harness (0.4.12, `_encode_pair`) scores them.
    """
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]
) -> list[Choice]:
    """Return texts, each with what follows it, as tokens: see `open_ids`.

    Raises:
        InputError: If one has no token of its own, or what follows it has none, or one token spans
            both: then there is nothing that could be scored.
    """
    contexts = open_ids(tokenizer, [context for context, _ in pairs])
    texts = open_ids(tokenizer, [context + following for context, following in pairs])
    choices = []
    for (context, following), ids, whole in zip(pairs, contexts, texts, strict=True):
        if not ids or len(whole) <= len(ids) or whole[: len(ids)] != ids:
            raise InputError(
                f"The tokenizer has no tokens of its own for {following[:60]!r} after "
                f"{context[-60:]!r}: one spans both, or there are none. Ask otherwise."
            )
        choices.append(Choice(tuple(ids), tuple(whole[len(ids) :])))
    return choices


def check_questions(tokenizer: PreTrainedTokenizerBase, questions: Iterable[Question]) -> None:
    """Raise if a choice or reference of a question cannot be scored.

    Raises:
        InputError: See `encode_pairs`.
    """
    pairs = [
        with_spaces_moved(question.question, f" {choice}")
        for question in questions
        for choice in question.choices
    ]
    encode_pairs(tokenizer, pairs)


def group_by_input(choices: Iterable[Choice]) -> ChoicesByInput:
    """Return the choices by what has to be read for them.

    Choices of one token differ only in the last one, which is not read: one pass scores them all.
    """
    groups: ChoicesByInput = {}
    for choice in choices:
        groups.setdefault(choice.input_ids, set()).add(choice)
    return groups


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
        self.backoff = Backoff(OUT_OF_MEMORY_ADVICE)
        self.choices = [encode_choices(tokenizer, question) for question in questions]
        self.by_input = group_by_input(choice for choices in self.choices for choice in choices)

    def answers(self, model: nn.Module) -> list[int]:
        """Return the position of the choice the model prefers, for each question."""
        likelihoods = log_likelihoods(model, self.by_input, self.batch_size, self.backoff)
        return [
            preferred_choice([likelihoods[choice] for choice in choices], question, self.metric)
            for question, choices in zip(self.questions, self.choices, strict=True)
        ]

    def right(self, model: nn.Module) -> list[float]:
        """Return 1 for each question whose right choice the model prefers, else 0."""
        answers = zip(self.questions, self.answers(model), strict=True)
        return [float(answer == question.answer) for question, answer in answers]


@torch.no_grad()
def log_likelihoods(
    model: nn.Module,
    by_input: Mapping[tuple[int, ...], set[Choice]],
    batch_size: int,
    backoff: Backoff | None = None,
) -> dict[Choice, float]:
    """Return the log-likelihood in nats of every choice, summed over its tokens.

    Args:
        model: A causal language model.
        by_input: The choices, see `group_by_input`.
        batch_size: Sequences that pass the model at once.
        backoff: Remembers from call to call how many fit in memory.

    Raises:
        InputError: If a question with a choice has more tokens than the model has positions, or
            than fit in memory.
    """
    inputs, likelihoods = sorted(by_input), dict[Choice, float]()
    check_positions(model, inputs, "a question with a choice must have {} or less")
    backoff = backoff or Backoff(OUT_OF_MEMORY_ADVICE)

    def score(batch: Batch) -> dict[Choice, float]:
        tensors = batch.inputs(input_device(model))
        hidden = decoder(model)(**tensors, use_cache=False).last_hidden_state
        asked = [
            (row, choice)
            for row, position in enumerate(batch.positions or ())
            for choice in sorted(by_input[inputs[position]])
        ]
        values = _log_likelihoods(hidden, output_head(model), asked)
        return dict(zip((choice for _, choice in asked), values, strict=True))

    for batch in by_length(inputs, batch_size, padding=0):
        for _, scored in backoff.rows(batch, score):
            likelihoods |= scored
    return likelihoods


def _log_likelihoods(
    hidden: Tensor, head: nn.Module, asked: Sequence[tuple[int, Choice]]
) -> list[float]:
    """Return the log-likelihood in nats of choices, from hidden states (B, T, d).

    Only the hidden states that predict a choice's tokens are given to the head.

    Args:
        hidden: Of the batch.
        head: Makes logits of hidden states.
        asked: The row in the batch of each choice, and the choice.
    """
    predicted = [
        (row, len(choice.context) - 1 + offset, token)
        for row, choice in asked
        for offset, token in enumerate(choice.continuation)
    ]
    rows, columns, tokens = torch.tensor(predicted, device=hidden.device).T
    lengths = [len(choice.continuation) for _, choice in asked]
    nll = token_nll(hidden[rows, columns], head, tokens)
    return [-part.sum().item() for part in nll.cpu().split(lengths)]


def preferred_choice(likelihoods: Sequence[float], question: Question, metric: str) -> int:
    """Return the position of the best choice; of equals the first, as in lm-eval."""
    lengths = [len(choice) if metric == "acc_norm" else 1 for choice in question.choices]
    values = [value / length for value, length in zip(likelihoods, lengths, strict=True)]
    return values.index(max(values))


def chance(questions: Sequence[Question], subject: str = "forget") -> float:
    """Return the expected accuracy of guessing on a subject's questions; 0 without choices."""
    asked = [q for q in questions if q.scored_as() == subject and q.is_multiple_choice()]
    return sum(1 / len(q.choices) for q in asked) / len(asked) if asked else 0.0


def macro_accuracy(questions: Sequence[Question], answers: Sequence[int]) -> float:
    """Return the mean over topics of the share of right answers to a topic's questions."""
    right: dict[str, list[bool]] = {}
    for question, answer in zip(questions, answers, strict=True):
        right.setdefault(question.topic, []).append(answer == question.answer)
    return mean(mean(hits) for hits in right.values())
