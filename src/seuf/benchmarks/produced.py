"""Whether a model's greedy answer is the reference, word for word.

Multiple choice does not notice a collapsed model, which may still prefer the right choice. What
counts as right is in `records.PRODUCED`; the two measures are in `answers`.

1. A method's training need not wait for generation. `ProducedScorer` lets the model read question
   and reference once. Its greedy answer is the reference as far as each of the reference's tokens
   is the likeliest one there; where one is not, the likeliest is the answer's next token. So a look
   is one forward pass without a key-value cache, and `SharedPrefix` saves the frozen layers.
2. What is reported is generated (`score_produced`). The two differ only where a model spells the
   reference in other tokens than its tokenizer does: that is right only if generated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from seuf.benchmarks.answers import MEASURES, greedy_answers, mean_with_error
from seuf.benchmarks.choices import Choice, ChoicePasses, encode_pairs, group_by_input
from seuf.benchmarks.records import Question
from seuf.moe.architectures import check_positions, decoder, input_device
from seuf.moe.backoff import Backoff
from seuf.moe.batches import Batch, by_length
from seuf.moe.loss import output_head, row_parts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from seuf.benchmarks.settings import ScoringSettings
    from seuf.moe.loading import LanguageModel


class ProducedScorer:
    """Judge which of a fixed list of questions a model answers with their reference.

    Args:
        tokenizer: The model's tokenizer.
        questions: The questions; each has a reference.
        batch_size: Sequences that pass the model at once.
        max_length: Maximum number of tokens of a question, of a longer one the last; 0 for all.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        questions: Sequence[Question],
        batch_size: int,
        max_length: int = 0,
    ) -> None:
        self.tokenizer, self.questions, self.batch_size = tokenizer, questions, batch_size
        self.backoff = Backoff("ask shorter questions, or free memory")
        self.references = [
            one._replace(context=one.context[-max_length:])  # as `greedy_answers` does
            for one in encode_references(tokenizer, questions)
        ]

    def right(self, model: nn.Module) -> list[float]:
        """Return 1 for each question that is answered correctly, else 0."""
        if not self.questions:
            return []
        openings = greedy_openings(model, self.references, self.batch_size, self.backoff)
        texts = self.tokenizer.batch_decode(openings, skip_special_tokens=True)
        return right_or_wrong(self.questions, texts)


def score_produced(
    subject_model: LanguageModel,
    questions: Sequence[Question],
    settings: ScoringSettings,
    generation: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Return which greedy answers are right, and how likely the references are, by subject.

    Args:
        subject_model: The model.
        questions: The questions; each has a reference.
        settings: How answers are scored.
        generation: The result of `score_answers` for the same questions, if any. Its answers are
            used where they may be longer than the longest reference and its end.

    Returns:
        For each subject `measure`, `value` (the share of right answers), `standard_error`,
        `questions` (their number), `answers` (the text of each, in the order of the questions) and
        `nll`: `value` and `standard_error` of the references' NLL in nats a token, the mean over
        questions of each one's mean over tokens.
    """
    scores: dict[str, dict[str, Any]] = {}
    encoded = encode_references(subject_model.tokenizer, questions)
    tokens = max(len(reference.continuation) for reference in encoded) + 1  # one ends the answer
    for subject in sorted({question.subject for question in questions}):
        asked = [question for question in questions if question.subject == subject]
        given = generation.get(subject, {}).get("answer", {}).get("answers", [])
        if len(given) != len(asked) or settings.max_new_tokens <= tokens:
            prompts = [question.question + question.opening for question in asked]
            given = greedy_answers(subject_model, prompts, settings, tokens)
        references = [r for r, q in zip(encoded, questions, strict=True) if q.subject == subject]
        passes = ChoicePasses(group_by_input(references), settings.batch_size)
        likelihoods = passes.log_likelihoods(subject_model.model)
        nll = [-likelihoods[one] / len(one.continuation) for one in references]
        scores[subject] = {
            "measure": asked[0].produced_by(),
            **mean_with_error(right_or_wrong(asked, given)),
            "questions": len(asked),
            "answers": [answer.lstrip() for answer in given],
            "nll": mean_with_error(nll),
        }
    return scores


def right_or_wrong(questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
    """Return 1 for each answer that its question's subject counts as right, else 0."""
    return [
        MEASURES[question.produced_by()](question.reference, answer)
        for question, answer in zip(questions, answers, strict=True)
    ]


def encode_references(
    tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]
) -> list[Choice]:
    """Return each question, and its reference after a space, as tokens.

    Raises:
        InputError: See `encode_pairs`.
    """
    return encode_pairs(tokenizer, [(q.question + q.opening, f" {q.reference}") for q in questions])


@torch.no_grad()
def greedy_openings(
    model: nn.Module, references: Sequence[Choice], batch_size: int, backoff: Backoff
) -> list[list[int]]:
    """Return the tokens of each greedy answer up to the first that is not the reference's.

    That token is included; after a whole reference it is the next token, the end token or another.

    Args:
        model: A causal language model.
        references: The questions, with the expected tokens.
        batch_size: Sequences that pass the model at once.
        backoff: Keeps from call to call how many fit in memory.

    Raises:
        InputError: If a question with its reference has more tokens than the model has positions,
            or than fit in memory.
    """
    inputs = [(*reference.context, *reference.continuation) for reference in references]
    check_positions(model, inputs, "a question with its reference must have {} or less")
    openings: list[list[int]] = [[] for _ in references]

    def likeliest(batch: Batch) -> list[list[int]]:
        hidden = decoder(model)(**batch.inputs(input_device(model)), use_cache=False)
        asked = [references[position] for position in batch.positions or ()]
        predicting = [
            (row, len(reference.context) - 1 + offset)
            for row, reference in enumerate(asked)
            for offset in range(len(reference.continuation) + 1)
        ]
        rows, columns = torch.tensor(predicting, device=hidden.last_hidden_state.device).T
        tokens = _likeliest_tokens(hidden.last_hidden_state[rows, columns], output_head(model))
        return [part.tolist() for part in tokens.split([len(r.continuation) + 1 for r in asked])]

    batches = by_length(inputs, batch_size, padding=0)
    for part, likeliest_tokens in backoff.map_batches(batches, likeliest):
        for position, tokens in zip(part.positions or (), likeliest_tokens, strict=True):
            expected = references[position].continuation
            pairs = zip(tokens, expected, strict=False)
            shared = next((at for at, (a, b) in enumerate(pairs) if a != b), len(expected))
            openings[position] = tokens[: shared + 1]
    return openings


def _likeliest_tokens(hidden: Tensor, head: nn.Module) -> Tensor:
    """Return the likeliest token (n,) after each hidden state (n, d), on the CPU."""
    return torch.cat([head(hidden[part]).argmax(-1).cpu() for part in row_parts(hidden, head)])
