"""How large the sets of a benchmark are, before anything is prepared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from seuf.benchmarks import sandbox
from seuf.benchmarks.records import Question, Text
from seuf.benchmarks.settings import OwnSettings, SandboxSettings, TofuSettings
from seuf.errors import InputError

# Of byte-pair encodings with a vocabulary of tens of thousands, in English.
CHARACTERS_A_TOKEN = 4
# Of forget10_perturbed of TOFU: characters of a question with its answer (mean), and choices.
TOFU_TEXT, TOFU_CHOICES, QUESTIONS_AN_AUTHOR = 276, 6, 20


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


def sizes(
    settings: SandboxSettings | TofuSettings | OwnSettings, files: Mapping[str, Path]
) -> Sizes:
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
    return Sizes(forget, retain, asked, asked)


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
