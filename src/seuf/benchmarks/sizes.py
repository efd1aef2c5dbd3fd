"""How large the sets of a benchmark are, before anything is prepared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from seuf.benchmarks import sandbox
from seuf.benchmarks.muse import MuseSettings
from seuf.benchmarks.own import OwnSettings
from seuf.benchmarks.published import (
    MUSE_WORDING,
    PUBLISHED,
    TOFU_CHOICES,
    TOFU_GENERAL,
    TOFU_TEXT,
    WORDING,
)
from seuf.benchmarks.records import Question, Text
from seuf.benchmarks.registry import BenchmarkSettings
from seuf.benchmarks.rwku import RwkuSettings
from seuf.benchmarks.sandbox import SandboxSettings
from seuf.benchmarks.tofu import QUESTIONS_AN_AUTHOR, TofuSettings
from seuf.benchmarks.wmdp import WmdpSettings
from seuf.inputs import InputError

# Of byte-pair encodings with a vocabulary of tens of thousands, in English.
CHARACTERS_A_TOKEN = 4
# An answer of 30 tokens to a probe of RWKU; its prompt is as long as the names of JSON's fields.
RWKU_ANSWER = 30 * CHARACTERS_A_TOKEN
RWKU_SETS = ("forget", "adversarial", "neighbor", "mia_forget", "mia_retain")


class Sizes(NamedTuple):
    """Expected sizes of a study's sets.

    Attributes:
        forget_tokens: Of the texts to forget, in all.
        retain_tokens: Of those to keep.
        selection_tokens: That pass to answer all selection questions once.
        test_tokens: The same for the test questions.
    """

    forget_tokens: int
    retain_tokens: int
    selection_tokens: int
    test_tokens: int


def sizes(settings: BenchmarkSettings, files: Mapping[str, Path]) -> Sizes:
    """Return the expected sizes of a benchmark's sets.

    Args:
        settings: The benchmark's.
        files: Your own files by what they hold: `forget`, `retain`, `questions`.

    Raises:
        InputError: If a file of your own is missing.
    """
    if isinstance(settings, SandboxSettings):
        return _sandbox(settings)
    if isinstance(settings, TofuSettings):
        return _tofu(settings)
    if isinstance(settings, MuseSettings):
        return _muse(settings)
    if isinstance(settings, WmdpSettings):
        return _wmdp(settings)
    if isinstance(settings, RwkuSettings):
        return _rwku(settings)
    assert isinstance(settings, OwnSettings)
    return _own(settings, files)


def _sandbox(settings: SandboxSettings) -> Sizes:
    world = sandbox.prepare(settings, seed=0)
    selection, test = (
        sum(_rows(question) for question in world.questions if question.part == part)
        for part in ("selection", "test")
    )
    return Sizes(_tokens(world.forget), _tokens(world.retain), selection, test)


def _tofu(settings: TofuSettings) -> Sizes:
    forget, retain = (
        QUESTIONS_AN_AUTHOR * authors * TOFU_TEXT // CHARACTERS_A_TOKEN
        for authors in (settings.forget_authors, settings.retain_authors)
    )
    asked = (forget + retain) * TOFU_CHOICES // 2  # half of them select, half of them test
    compared = 0
    if settings.metrics == "full":  # the test part once more, now with the answer's paraphrase
        compared = asked * (TOFU_CHOICES + 1) // TOFU_CHOICES + TOFU_GENERAL // CHARACTERS_A_TOKEN
    return Sizes(forget, retain, asked, asked + compared)


def _muse(settings: MuseSettings) -> Sizes:
    corpus, chosen = settings.corpus, settings.selection_questions
    left = PUBLISHED[f"{corpus}-forget_qa"][0] - chosen
    return Sizes(
        _published(f"{corpus}-forget", None),
        _published(f"{corpus}-retain1", None),
        _knowledge(corpus, chosen),
        _knowledge(corpus, left) + _published(f"{corpus}-verbmem", left),
    )


def _knowledge(corpus: str, taken: int) -> int:
    """Return the tokens of so many questions about each set, each after ten answered ones."""
    total = 0
    for name in (f"{corpus}-forget_qa", f"{corpus}-retain_qa"):
        shots, size = PUBLISHED[f"{name}_icl"]
        total += _published(name, taken, size + (shots + 1) * MUSE_WORDING)
    return total


def _wmdp(settings: WmdpSettings) -> Sizes:
    about, chosen = f"wmdp-{settings.domain}", settings.selection_questions
    left = PUBLISHED[about][0] - chosen
    return Sizes(
        _published(settings.forget_corpus, settings.max_texts),
        _published(settings.retain_corpus, settings.max_texts),
        _published(about, chosen, WORDING) + _published("mmlu-validation", chosen, WORDING),
        _published(about, left, WORDING)
        + _published("mmlu-test", settings.mmlu_questions, WORDING),
    )


def _rwku(settings: RwkuSettings) -> Sizes:
    everyone, chosen = PUBLISHED["rwku-passage"][0], settings.selection_questions
    people = settings.people if isinstance(settings.people, int) else len(settings.people)
    about = {name: PUBLISHED[f"rwku-{name}"][0] * people // everyone for name in RWKU_SETS}
    others = everyone - people
    kept = ("wikitext", None) if settings.retain == "wikitext" else ("rwku-passage", others)
    probes, passages = settings.other_probes, settings.mia_passages
    test = (
        _published("rwku-forget", max(0, about["forget"] - chosen), RWKU_ANSWER)
        + _published("rwku-adversarial", _least(about["adversarial"], probes), RWKU_ANSWER)
        + 2 * _published("rwku-neighbor", _least(about["neighbor"] // 2, probes), RWKU_ANSWER)
        + _published("rwku-mia_forget", _least(about["mia_forget"], passages))
        + _published("rwku-mia_retain", _least(about["mia_retain"], passages))
        + _published("mmlu-test", settings.mmlu_questions, WORDING)
    )
    return Sizes(
        _published("rwku-passage", people),
        _published(*kept),
        _published("rwku-forget", chosen, RWKU_ANSWER)
        + _published("mmlu-validation", chosen, WORDING),
        test,
    )


def _least(number: int, limit: int | None) -> int:
    return number if limit is None else min(number, limit)


def _published(name: str, taken: int | None, around: int = 0) -> int:
    """Return the tokens of some of a data set's rows, or of all; each read once.

    All choices of one letter are scored in one reading.
    """
    rows, size = PUBLISHED[name]
    taken = rows if taken is None else min(taken, rows)
    return taken * (size + around * rows) // rows // CHARACTERS_A_TOKEN


def _own(settings: OwnSettings, files: Mapping[str, Path]) -> Sizes:
    found = {name: _file_tokens(files[name]) for name in ("forget", "retain", "questions")}
    asked = 2 * found["questions"]  # the question is read with each of its choices
    chosen = int(asked * settings.selection_share)
    return Sizes(found["forget"], found["retain"], chosen, asked - chosen)


def _file_tokens(path: Path) -> int:
    if not path.is_file():
        raise InputError(f"{path} does not exist.")
    return path.stat().st_size // CHARACTERS_A_TOKEN


def _tokens(texts: list[Text]) -> int:
    return sum(len(text.text) for text in texts) // CHARACTERS_A_TOKEN


def _rows(question: Question) -> int:
    lengths = (len(question.question) + len(choice) for choice in question.choices)
    return sum(lengths) // CHARACTERS_A_TOKEN
