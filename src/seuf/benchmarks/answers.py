"""Free answers: generate them greedily, many at a time, and compare them with their references.

`ANSWER_KINDS` says how each kind of question is asked, where its answer ends and which of
`MEASURES` it is scored by. Three are variants of ROUGE-L (Lin 2004) that give different numbers for
the same pair, so each published benchmark keeps its own; two are right or wrong, see `produced`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from itertools import takewhile
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import torch
from rouge import Rouge

from seuf.benchmarks.records import ANSWER_KINDS, AnswerKind, Question, Subject
from seuf.benchmarks.settings import warn_of_cut
from seuf.inputs import InputError
from seuf.moe.architectures import check_positions, input_device
from seuf.moe.backoff import Backoff
from seuf.moe.batches import open_ids, pad, text_lengths
from seuf.moe.sharding import in_turn

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from transformers import PreTrainedTokenizerBase

    from seuf.benchmarks.settings import ScoringSettings
    from seuf.moe.loading import LanguageModel

EXAMPLES: dict[Subject, int] = {"forget": 4, "retain": 2, "unseen": 2}
EXAMPLE_TOKENS = 12  # of an example's answer, at least


def score_answers(
    subject_model: LanguageModel, questions: Sequence[Question], settings: ScoringSettings
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return how close the greedy answers are to their references, by subject and kind.

    Returns:
        For each subject (`forget`, `retain`) and kind `measure`, `value` (its mean),
        `standard_error` (of the mean), `questions` (their number) and `answers`: the text of each,
        in the order of the questions. Of kinds that end at a token also `first_line`, `value` and
        `standard_error` of the answers' first lines, if their value is another.
    """
    groups: dict[tuple[str, str], list[Question]] = {}
    for question in questions:
        groups.setdefault((question.subject, question.kind), []).append(question)
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for (subject, name), asked in sorted(groups.items()):
        kind = ANSWER_KINDS[name]
        said = _said(subject_model, asked, kind, settings)
        answers = [_up_to_first(answer, kind.stop) for answer in said]
        values = measure_answers(subject_model, asked, answers, kind, settings)
        scored = scores.setdefault(subject, {})[name] = {
            "measure": kind.measure,
            **mean_with_error(values),
            "questions": len(values),
            "answers": answers,
        }
        if kind.stop_tokens:
            lines = [_up_to_first(answer, ["\n"]) for answer in said]
            of_lines = measure_answers(subject_model, asked, lines, kind, settings)
            if mean(of_lines) != scored["value"]:
                scored["first_line"] = mean_with_error(of_lines)
    return scores


def free_answers(
    subject_model: LanguageModel,
    questions: Sequence[Question],
    kind: AnswerKind,
    settings: ScoringSettings,
) -> list[str]:
    """Return the greedy answers to questions of one kind, each up to the first of its stops."""
    said = _said(subject_model, questions, kind, settings)
    return [_up_to_first(answer, kind.stop) for answer in said]


def _said(
    subject_model: LanguageModel,
    questions: Sequence[Question],
    kind: AnswerKind,
    settings: ScoringSettings,
) -> list[str]:
    """Return the greedy answers up to their kind's number of tokens or stop tokens."""
    tokenizer: Any = subject_model.tokenizer
    in_chat = kind.chat and tokenizer.chat_template
    prompts = [
        (chat_prompt(tokenizer, q.question) if in_chat else q.question) + q.opening
        for q in questions
    ]
    length = kind.max_new_tokens or settings.max_new_tokens
    return greedy_answers(subject_model, prompts, settings, length, kind.stop_tokens)


def _up_to_first(answer: str, stops: Sequence[str]) -> str:
    ends = [end for stop in stops if (end := answer.find(stop)) >= 0]
    return answer[: min(ends, default=len(answer))].strip()


def measure_answers(
    subject_model: LanguageModel,
    questions: Sequence[Question],
    answers: Sequence[str],
    kind: AnswerKind,
    settings: ScoringSettings,
) -> list[float]:
    """Return the score of each answer to questions of one kind."""
    references = [question.reference for question in questions]
    if not kind.whole_reference:
        tokenizer: Any = subject_model.tokenizer
        length = kind.max_new_tokens or settings.max_new_tokens
        rows = tokenizer(references, add_special_tokens=False)["input_ids"]
        references = tokenizer.batch_decode(
            [ids[:length] for ids in rows], skip_special_tokens=True
        )
    measure = MEASURES[kind.measure]
    return [measure(*pair) for pair in zip(references, answers, strict=True)]


def example_questions(questions: Sequence[Question]) -> list[Question]:
    """Return the questions whose answers are shown: `EXAMPLES` of each subject, evenly spaced.

    Without unseen questions there are more of the retain questions instead.
    """
    asked = [question for question in questions if question.is_free_answer(with_choices=True)]
    by_subject = {s: [q for q in asked if q.subject == s] for s in EXAMPLES}
    numbers = dict(EXAMPLES)
    if not by_subject["unseen"]:
        numbers["retain"] += numbers["unseen"]
    return [
        of_subject[at * len(of_subject) // number]
        for subject, of_subject in by_subject.items()
        for number in [min(numbers[subject], len(of_subject))]
        for at in range(number)
    ]


def example_answers(
    subject_model: LanguageModel, questions: Sequence[Question], settings: ScoringSettings
) -> list[str]:
    """Return the greedy answer to each question, long enough to show whether it ends in time."""
    tokens = example_tokens(subject_model.tokenizer, questions, settings)
    settings = settings.model_copy(update={"max_new_tokens": tokens})
    answer_of: dict[int, str] = {}
    for name in {question.kind for question in questions}:
        asked = [question for question in questions if question.kind == name]
        answers = free_answers(subject_model, asked, ANSWER_KINDS[name], settings)
        answer_of |= {id(q): answer for q, answer in zip(asked, answers, strict=True)}
    return [answer_of[id(question)].strip() for question in questions]


def example_tokens(
    tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], settings: ScoringSettings
) -> int:
    """Return how many tokens an example's answer may have: twice those of the longest reference."""
    longest = max(
        text_lengths(tokenizer, [question.reference for question in questions]), default=0
    )
    return min(settings.max_new_tokens, max(EXAMPLE_TOKENS, 2 * longest))


def mean_with_error(values: Sequence[float]) -> dict[str, float]:
    """Return the mean as `value`, and its `standard_error`; 0 for a single value."""
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {"value": mean(values), "standard_error": error}


def chat_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return a user's turn and the beginning of the answer by the model's chat template.

    Where the tokenizer puts a beginning-of-text token before every text, the template's own is
    left out.

    Raises:
        InputError: If the tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise InputError(
            "The model's tokenizer has no chat template: it is not a chat model, or its "
            "chat_template.jinja is missing."
        )
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}],
        add_generation_prompt=True,
        tokenize=False,
        enable_thinking=False,  # only the answer is scored
    )
    assert isinstance(prompt, str)
    beginning = tokenizer.bos_token_id
    if beginning is not None and tokenizer(prompt)["input_ids"][:2] == [beginning, beginning]:
        return prompt.removeprefix(str(tokenizer.bos_token))
    return prompt


@torch.no_grad()
def greedy_answers(
    subject_model: LanguageModel,
    prompts: Sequence[str],
    settings: ScoringSettings,
    max_new_tokens: int | None = None,
    stop_tokens: Sequence[str] = (),
) -> list[str]:
    """Return the model's greedy continuation of each prompt, up to its end token.

    A prompt longer than `max_length` loses its beginning, with a warning.

    Args:
        subject_model: The model.
        prompts: The prompts, with the spaces at their ends.
        settings: Sequences at once, and the longest prompt.
        max_new_tokens: Maximum number of tokens in an answer; by default the settings' number.
        stop_tokens: Names of tokens before which an answer ends, see `AnswerKind`.
    """
    model: Any = subject_model.model
    tokenizer, device = subject_model.tokenizer, input_device(model)
    encoded = open_ids(tokenizer, prompts)
    warn_of_cut(encoded, settings.max_length)
    stops = token_ids(tokenizer, stop_tokens)
    rows = [ids[-settings.max_length :] for ids in encoded]
    new = max_new_tokens or settings.max_new_tokens
    whole = [range(len(row) + new) for row in rows]
    check_positions(model, whole, "a prompt and its answer must have {} or less")

    def generate(positions: Sequence[int]) -> list[str]:
        mirrored = pad([rows[position][::-1] for position in positions], subject_model.padding)
        generated = model.generate(
            input_ids=mirrored.input_ids.flip(1).to(device),  # padding on the left
            attention_mask=mirrored.attention_mask.flip(1).to(device),
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,  # the defaults of some chat models set one
            max_new_tokens=new,
            pad_token_id=subject_model.padding,
        )
        answers = generated[:, mirrored.input_ids.shape[1] :].tolist()
        ended = [list(takewhile(lambda token: token not in stops, answer)) for answer in answers]
        return tokenizer.batch_decode(ended, skip_special_tokens=True)

    order = sorted(range(len(rows)), key=lambda position: len(rows[position]))
    answers = [""] * len(rows)
    backoff = Backoff("lower evaluation.max_length or evaluation.max_new_tokens")
    size = settings.batch_size
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    for of_batch in in_turn(batches, lambda batch: list(backoff.map_items(batch, generate))):
        for positions, part in of_batch:
            for position, answer in zip(positions, part, strict=True):
                answers[position] = answer
    return answers


def token_ids(tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> set[int]:
    """Return the ids of the tokens with these names; names that the tokenizer lacks are ignored."""
    ids: Any = tokenizer.convert_tokens_to_ids(list(names))  # None or unknown where there is none
    return {one for one in ids if one is not None and one != tokenizer.unk_token_id}


def rouge_l_recall(reference: str, answer: str) -> float:
    """Return the share of the reference's words that the answer also has, in the same order.

    Words are compared by their stems, as TOFU and open-unlearning (d3d7cf9) do.
    """
    return _rouge_scorer(stems=True).score(reference, answer)["rougeL"].recall


def rouge_l_f1(reference: str, answer: str) -> float:
    """Return the harmonic mean of recall and precision, without stems, as MUSE has it."""
    return _rouge_scorer(stems=False).score(reference, answer)["rougeL"].fmeasure


def rouge_l_recall_any_script(reference: str, answer: str) -> float:
    """Return the share of the reference's words that the answer has too, in the same order.

    Without stems, and with words of any script: the tokenizer of the package `rouge-score` reads
    only a to z and digits, so a perfect answer in Russian would score 0. In Chinese and Japanese,
    which are written without spaces, each character is a word.
    """
    # imports nltk, which a stage without free answers does not need
    from rouge_score.rouge_scorer import _score_lcs

    words = [_WORD.findall(unicodedata.normalize("NFC", t).casefold()) for t in (reference, answer)]
    return _score_lcs(*words).recall


@cache
def _rouge_scorer(*, stems: bool) -> RougeScorer:
    # imports nltk, which a stage without free answers does not need
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=stems)


def rouge_l_recall_pltrdy(reference: str, answer: str) -> float:
    """Return the recall of the package `rouge`, which RWKU (b8a03b3) uses.

    It splits sentences at full stops, words at spaces, and counts each position of a word once:
    `Paris` and `Paris,` are different words. An answer without a word scores 0.
    """
    if not answer.replace(".", " ").split() or not reference.replace(".", " ").split():
        return 0.0
    return _PLTRDY.get_scores(answer, reference)[0]["rouge-l"]["r"]


def exact(reference: str, answer: str) -> float:
    """Return 1 if the answer begins with the reference, word for word, else 0.

    The reference's full stop may be missing, and anything may follow except more letters of the
    last word: `tar` matches `tar and tar`, but neither `tart` nor `The tar`.
    """
    value, text = reference.strip().removesuffix("."), answer.lstrip()
    return float(text.startswith(value) and not re.match(r"\w", text[len(value) :]))


def whole(reference: str, answer: str) -> float:
    """Return 1 if the answer is the whole sentence of the reference, else 0.

    A sentence ends with its full stop (or `?`, `!`), and text after it does not count. A reference
    without one must be the whole line.
    """
    expected = reference.strip()
    if expected.endswith((".", "!", "?")):
        return float(answer.lstrip().startswith(expected))
    lines = answer.lstrip().split("\n")[: expected.count("\n") + 1]
    return float("\n".join(lines) == expected)


_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # kana, Han
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_PLTRDY = Rouge(metrics=["rouge-l"], stats=["r"])

MEASURES: dict[str, Callable[[str, str], float]] = {
    "rouge_l_recall": rouge_l_recall,
    "rouge_l_recall_any_script": rouge_l_recall_any_script,
    "rouge_l_f1": rouge_l_f1,
    "rouge_l_recall_pltrdy": rouge_l_recall_pltrdy,
    "exact": exact,
    "whole": whole,
}
