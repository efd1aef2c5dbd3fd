"""Multiple choice, fast: how a training run is evaluated every few steps.

The preferred choices are those of lm-evaluation-harness (see `harness`), without its overhead; a
test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from seuf.benchmarks.records import Question
from seuf.inputs import InputError
from seuf.moe.architectures import check_positions, decoder, input_device, reads_masks
from seuf.moe.backoff import Backoff
from seuf.moe.batches import Batch, by_length, open_ids, pack, pad
from seuf.moe.loss import output_head, token_nll
from seuf.moe.routing import skip_packed_sequence_check

if TYPE_CHECKING:
    from seuf.benchmarks.settings import ScoringSettings

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
    """Move the spaces at the end of a question to the beginning of its choice.

    As in lm-evaluation-harness (0.4.12, `_encode_pair`).
    """
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]
) -> list[Choice]:
    """Return pairs of a context and its continuation as tokens, see `open_ids`.

    Raises:
        InputError: If either part of a pair has no token of its own, so that nothing can be scored.
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


def cut_question(choice: Choice, max_length: int) -> Choice:
    """Return a choice whose question is cut at its beginning to fit into `max_length` tokens.

    As in lm-evaluation-harness (0.4.12, `_loglikelihood_tokens`).

    Args:
        choice: A choice.
        max_length: Maximum number of tokens that are read; 0 for no limit.

    Raises:
        InputError: If the choice alone is longer.
    """
    too_many = len(choice.input_ids) - max_length
    if not max_length or too_many <= 0:
        return choice
    if len(choice.continuation) > max_length:
        raise InputError(
            f"A choice or reference has {len(choice.continuation)} tokens, evaluation.max_length "
            f"is {max_length}: raise it, or shorten what is to be said."
        )
    return choice._replace(context=choice.context[too_many:])


def check_questions(
    tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], settings: ScoringSettings
) -> None:
    """Raise if a question cannot be scored, or too many would lose their beginning.

    Raises:
        InputError: See `encode_pairs` and `cut_question`; with the numbers, if more questions than
            `evaluation.may_cut` allows are longer than `evaluation.max_length`.
    """
    cut, length = 0, settings.max_length
    for question in questions:
        prompt = question.question + question.opening
        said = question.choices or [question.reference] * question.is_produced()
        pairs = [with_spaces_moved(prompt, f" {one}") for one in said]
        read = encode_pairs(tokenizer, pairs) or [
            Choice(tuple(ids), (0,)) for ids in open_ids(tokenizer, [prompt])
        ]
        longest = max(read, key=lambda one: len(one.continuation))
        try:
            cut += cut_question(longest, length) != longest
        except InputError as error:
            raise InputError(f"{question.question[-60:]!r}: {error}") from error
    if cut > settings.may_cut * len(questions):
        raise InputError(
            f"{cut} of {len(questions)} questions have more than {length} tokens and would lose "
            "their beginning: raise evaluation.max_length, or evaluation.may_cut, the share that "
            "may."
        )


def group_by_input(choices: Iterable[Choice]) -> ChoicesByInput:
    """Return the choices by their input tokens.

    Single-token choices of a question have the same input: one pass scores them all.
    """
    groups: ChoicesByInput = {}
    for choice in choices:
        groups.setdefault(choice.input_ids, set()).add(choice)
    return groups


class ChoiceScorer:
    """Answer a fixed list of multiple-choice questions with any model.

    Args:
        tokenizer: The model's tokenizer.
        questions: What to ask.
        metric: `acc` or `acc_norm`, see `ScoringSettings`.
        batch_size: Sequences that pass the model at once.
        max_length: Maximum number of tokens in a sequence, see `cut_question`. On a GPU more short
            ones pass at once, up to the tokens of `batch_size` sequences of that length.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        questions: Sequence[Question],
        metric: str,
        batch_size: int,
        max_length: int = 0,
    ) -> None:
        self.questions, self.metric = questions, metric
        self.choices = [
            [cut_question(choice, max_length) for choice in encode_choices(tokenizer, question)]
            for question in questions
        ]
        self.by_input = group_by_input(choice for choices in self.choices for choice in choices)
        self.passes = ChoicePasses(self.by_input, batch_size, batch_size * max_length)

    def answers(self, model: nn.Module) -> list[int]:
        """Return the position of the choice the model prefers, for each question."""
        likelihoods = self.passes.log_likelihoods(model)
        return [
            preferred_choice([likelihoods[choice] for choice in choices], question, self.metric)
            for question, choices in zip(self.questions, self.choices, strict=True)
        ]

    def right(self, model: nn.Module) -> list[float]:
        """Return 1 for each question whose right choice the model prefers, else 0."""
        answers = zip(self.questions, self.answers(model), strict=True)
        return [float(answer == question.answer) for question, answer in answers]


PACKED = 512  # tokens of a row at least in which questions stand one after the other
_Scored = tuple[Choice, int, int]


class _Rows(NamedTuple):
    """The rows of token ids that pass the model: one choice a row, or several whole questions.

    Attributes:
        tokens: The ids of each row.
        places: For each token the number of its question in the row, from 1, and of its choice,
            from 1, or 0 in the question itself. None if a row is one choice.
        scored: The choices of each row, each with the column of the token that predicts the
            choice's first token, and the column of that first token.
    """

    tokens: list[tuple[int, ...]]
    places: list[list[tuple[int, int]]] | None
    scored: list[list[_Scored]]


def a_choice_a_row(by_input: ChoicesByInput) -> _Rows:
    """Return a row for each input, with the tokens of one choice."""
    inputs = sorted(by_input)
    scored = [
        [(choice, len(choice.context) - 1, len(choice.context)) for choice in sorted(by_input[ids])]
        for ids in inputs
    ]
    return _Rows(inputs, None, scored)


def packed_questions(by_input: ChoicesByInput) -> _Rows:
    """Return rows of several questions, each followed by its choices.

    A question is then read once, not once for each choice, and there is little padding. The mask
    of `seen_alone` keeps them apart; choices that differ in their last token only are read once.
    """
    inputs_of: dict[tuple[int, ...], dict[tuple[int, ...], set[Choice]]] = {}
    for ids, choices in by_input.items():
        for choice in choices:
            inputs_of.setdefault(choice.context, {}).setdefault(ids, set()).add(choice)

    def length(context: tuple[int, ...]) -> int:
        return len(context) + sum(len(ids) - len(context) for ids in inputs_of[context])

    questions = sorted(inputs_of, key=lambda context: (-length(context), context))
    width = max([PACKED, *map(length, questions[:1])])
    # packs the questions into rows: each stands for as many tokens as it has
    together = pack(([number] * length(of) for number, of in enumerate(questions)), width)
    rows = _Rows([], [], [])
    assert rows.places is not None
    for row in together:
        tokens, places, scored = list[int](), list[tuple[int, int]](), list[_Scored]()
        for question, context in enumerate((questions[n] for n in dict.fromkeys(row)), start=1):
            tokens += context
            places += [(question, 0)] * len(context)
            last = len(tokens) - 1
            for part, (ids, choices) in enumerate(sorted(inputs_of[context].items()), start=1):
                scored += [(choice, last, len(tokens)) for choice in sorted(choices)]
                tokens += ids[len(context) :]
                places += [(question, part)] * (len(ids) - len(context))
        rows.tokens.append(tuple(tokens))
        rows.places.append(places)
        rows.scored.append(scored)
    return rows


class _Asked(NamedTuple):
    """The tensors, on the model's device, that score the choices in some rows of a batch.

    Attributes:
        inputs: The decoder's arguments.
        rows: For each token of each choice its row in the batch, (n,).
        columns: The column of the hidden state that predicts it, (n,).
        tokens: The token, (n,).
        choices: The choices, in the order of their tokens.
    """

    inputs: dict[str, Tensor | None]
    rows: Tensor
    columns: Tensor
    tokens: Tensor
    choices: list[Choice]

    @classmethod
    def of(cls, rows: _Rows, batch: Batch, device: torch.device) -> _Asked:
        """Return the tensors for the rows of a batch."""
        positions = batch.positions or []
        predicted = [
            (row, column, token)
            for row, position in enumerate(positions)
            for choice, last, first in rows.scored[position]
            for column, token in zip(
                [last, *range(first, first + len(choice.continuation) - 1)],
                choice.continuation,
                strict=True,
            )
        ]
        at, columns, tokens = torch.tensor(predicted).T.contiguous().to(device)
        inputs = batch.inputs(device)
        if rows.places is not None:
            width = batch.input_ids.shape[1]  # of a part too, whose own rows may be shorter
            questions, parts = (
                pad([[at[which] for at in rows.places[p]] for p in positions], 0, None, width)
                for which in range(2)
            )
            inputs |= seen_alone(questions.input_ids.to(device), parts.input_ids.to(device))
        chosen = [choice for position in positions for choice, *_ in rows.scored[position]]
        return cls(inputs, at, columns, tokens, chosen)


def seen_alone(questions: Tensor, parts: Tensor) -> dict[str, Tensor | None]:
    """Return the mask and positions that keep packed questions and choices apart.

    A token attends to the tokens before it of its own question and its own choice.

    Args:
        questions: For each token its question; 0 on padding, (B, T).
        parts: For each token its choice; 0 in the question itself, (B, T).

    Returns:
        `attention_mask`: Whether a token (row) attends to another (column), (B, 1, T, T);
        `position_ids`: The number of earlier tokens that it attends to, (B, T).
    """
    seen = (parts[:, None, :] == 0) | (parts[:, None, :] == parts[:, :, None])
    seen &= questions[:, None, :] == questions[:, :, None]
    seen = seen.tril()
    return {"attention_mask": seen[:, None], "position_ids": seen.sum(-1) - 1}


class ChoicePasses:
    """The passes that score fixed choices with a model that changes between calls.

    Tensors are copied to a device once, and a call waits for the device once, at its end. On a GPU,
    whose time grows with the tokens, a question is read once for all of its choices where the model
    allows it (`reads_masks`); results then differ in rounding. A CPU reads it with each choice.

    Args:
        by_input: The choices, see `group_by_input`.
        batch_size: Sequences that pass the model at once.
        tokens: On a GPU more sequences pass at once, up to this number of tokens.
        shared: Whether a question is read once; None decides by the device as above.
    """

    def __init__(
        self,
        by_input: ChoicesByInput,
        batch_size: int,
        tokens: int = 0,
        shared: bool | None = None,
    ) -> None:
        self.by_input, self.shared = by_input, shared
        self.batch_size, self.tokens = batch_size, tokens
        self.backoff = Backoff(OUT_OF_MEMORY_ADVICE)  # remembers how many fit in memory
        self._batches: dict[tuple[torch.device, bool], tuple[_Rows, list[Batch]]] = {}
        self._asked: dict[tuple[torch.device, bool, int, int], _Asked] = {}

    @torch.no_grad()
    def log_likelihoods(self, model: nn.Module) -> dict[Choice, float]:
        """Return the log-likelihood in nats of every choice, summed over its tokens.

        Raises:
            InputError: If a question with a choice has more tokens than the model has positions,
                or than fit in memory.
        """
        check_positions(model, self.by_input, "a question with a choice must have {} or less")
        device, head = input_device(model), output_head(model)
        shared = device.type == "cuda" if self.shared is None else self.shared
        shared = shared and reads_masks(model)
        choices, losses = list[Choice](), list[Tensor]()

        def score(batch: Batch) -> tuple[list[Choice], Tensor]:
            asked = self._asked_of(batch, device, shared)
            hidden = decoder(model)(**asked.inputs, use_cache=False).last_hidden_state
            rows, columns = asked.rows.to(hidden.device), asked.columns.to(hidden.device)
            return asked.choices, token_nll(hidden[rows, columns], head, asked.tokens)

        with skip_packed_sequence_check():
            batches = self._batches_for(device, shared)[1]
            for _, (of_batch, nll) in self.backoff.map_batches(batches, score):
                choices += of_batch
                losses.append(nll)
        if not choices:
            return {}
        parts = torch.cat(losses).cpu().split([len(choice.continuation) for choice in choices])
        sums = (-part.sum().item() for part in parts)
        return dict(zip(choices, sums, strict=True))

    def _batches_for(self, device: torch.device, shared: bool) -> tuple[_Rows, list[Batch]]:
        key = device, shared
        if key not in self._batches:
            by_input = self.by_input
            rows = packed_questions(by_input) if shared else a_choice_a_row(by_input)
            size, tokens = self.batch_size, self.tokens if device.type == "cuda" else 0
            if shared:  # as many tokens as batches of single choices have
                longest, width = (
                    max(map(len, of), default=1) for of in (self.by_input, rows.tokens)
                )
                size, tokens = max(max(size * longest, tokens) // width, 1), 0
            self._batches[key] = rows, list(by_length(rows.tokens, size, 0, tokens))
        return self._batches[key]

    def _asked_of(self, batch: Batch, device: torch.device, shared: bool) -> _Asked:
        positions = batch.positions or []
        key = device, shared, positions[0], len(positions)
        if key not in self._asked:
            rows, _ = self._batches[device, shared]
            self._asked[key] = _Asked.of(rows, batch, device)
        return self._asked[key]


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
