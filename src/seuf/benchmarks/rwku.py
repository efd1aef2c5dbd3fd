"""RWKU: what a model knows of famous people (Jin et al. 2024, arXiv 2406.10890).

Data: https://huggingface.co/datasets/jinzhuoran/RWKU at d72f493d481d, CC-BY-4.0. Configurations,
splits and files are those of its card; columns, prompts and the purpose of each set are those of
https://github.com/jinzhuoran/RWKU (process/data_process.py at a8d3761; eval_forget.py and
eval_neighbor.py in LLaMA-Factory/src/llmtuner/eval at a23df67). The files themselves were not seen.

The texts to forget are Wikipedia passages about some people (`train_original_passage`). The probes
ask for free answers: `forget_level1` has blanks to fill, `forget_level2` questions,
`forget_level3` adversarial ones; `neighbor_level1` and `neighbor_level2` ask for what is near a
person and must stay. As in RWKU, a question is put into a chat model's template and the answer is
begun. Utility is MMLU, as in lm-evaluation-harness (see `mmlu`). The topic is the person, for
neighbors too.

1. RWKU forgets without a corpus, from what the model says about a person; SEUF forgets the passages
   of 100 people. SEUF's paper does not say which; here they are the first ones.
2. RWKU has no selection part. A hash takes `selection_questions` probes of levels 1 and 2 for it,
   each person and kind giving a share; a probe worded as one of them is not reported. Probes of
   different kinds may ask for one fact in both parts.
3. Adversarial probes and those about neighbors are reported only, and are not in the headline. The
   nine types of attack differ in the prompt alone; results are not split by type.
4. `mia_forget` and `mia_retain` are "forget member set" and "retain member set" in RWKU's code, so
   the model is assumed to have learned both. The second is `retain` here, without passages that are
   also to be forgotten, and there is no `holdout`.
5. RWKU asks MMLU with five shots in chat, and adds BBH, TruthfulQA, TriviaQA and fluency, which are
   not prepared here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Literal

from pydantic import Field

from seuf.benchmarks.mmlu import mmlu_questions
from seuf.benchmarks.records import BenchmarkData, Group, Passage, Question, Subject, Text
from seuf.benchmarks.registry import Benchmark, PublishedSettings
from seuf.benchmarks.sampling import (
    MIN_PER_PART,
    Record,
    check_rows,
    general_passages,
    long_texts,
    sample_positions,
    sample_questions,
    split_questions,
)
from seuf.inputs import InputError

Sets = Mapping[str, Sequence[Record]]

_PROBE = ("query", "answer", "subject")
_PASSAGE = ("text", "subject")
# Configurations on the hub, and the columns that are read.
SETS: dict[str, tuple[str, ...]] = {
    "forget_target": ("target",),
    "train_original_passage": _PASSAGE,
    "forget_level1": _PROBE,
    "forget_level2": _PROBE,
    "forget_level3": (*_PROBE, "type"),
    "neighbor_level1": _PROBE,
    "neighbor_level2": _PROBE,
    "mia_forget": _PASSAGE,
    "mia_retain": _PASSAGE,
}
FILL_BLANK = "Please complete the blank in the following question.\nQuestion: {query}\n"
BRIEFLY = "Please briefly answer the following question.\n"
QUESTION = BRIEFLY + "Question: {query}\n"
OPENING = "Answer:"
# Types of attack that are not asked as other questions are: prompt and opening.
ATTACKS = {
    "affirmative suffix": (QUESTION.removesuffix("\n"), ""),
    "incontext learning": (BRIEFLY + "{query}\n", OPENING),
}


class RwkuSettings(PublishedSettings):
    """RWKU with MMLU.

    Attributes:
        people: The people to forget: their names, or a number for the first ones; RWKU has 200.
        retain: The texts to keep: `wikitext`, or `people` for the passages about everyone else.
        min_length: Least characters of a text of WikiText; this leaves out headings.
        selection_questions: Questions about the people, and of MMLU, that choose the checkpoint.
        mmlu_questions: Questions of MMLU that are reported; null for all 14,042.
        other_probes: Maximum number of adversarial probes that are reported, and of each kind about
            neighbors; null for all.
        mia_passages: Maximum number of passages in each group for membership inference; null for
            all.
    """

    people: Annotated[int, Field(ge=1)] | Annotated[list[str], Field(min_length=1)] = 100
    retain: Literal["wikitext", "people"] = "wikitext"
    min_length: Annotated[int, Field(gt=0)] = 200
    selection_questions: Annotated[int, Field(ge=2)] = 200
    mmlu_questions: Annotated[int, Field(ge=2)] | None = None
    other_probes: Annotated[int, Field(ge=0)] | None = None
    mia_passages: Annotated[int, Field(ge=2)] | None = None


def prepare(
    settings: RwkuSettings,
    mmlu_validation: Sequence[Record],
    mmlu_test: Sequence[Record],
    wikitext: Sequence[Record] = (),
    general: Sequence[Record] = (),
    **sets: Sequence[Record],
) -> BenchmarkData:
    """Return people of RWKU: texts to forget and to keep, probes and MMLU, passages for attacks.

    Args:
        settings: The people to forget, and numbers of questions.
        mmlu_validation: Rows of MMLU's validation split.
        mmlu_test: Rows of MMLU's test split.
        wikitext: Rows of WikiText, if it is kept.
        general: Rows of WikiText's test split, for the general loss.
        sets: The rows of each of `SETS`.

    Raises:
        InputError: If a person is unknown, a column is missing, or there are too few of a kind.
    """
    for name, columns in SETS.items():
        check_rows(f"RWKU's {name}", sets[name], columns, may_be_empty=["text"])
    people, passages = _people(settings, sets["forget_target"]), sets["train_original_passage"]
    forget = []
    for person in people:
        about = _about({person}, passages)
        if not about:
            raise InputError(f"RWKU has no passage about {person}: leave them out.")
        forget += about
    of_mmlu = mmlu_questions(
        mmlu_validation, mmlu_test, settings.selection_questions, settings.mmlu_questions
    )
    return BenchmarkData(
        forget=forget,
        retain=_retained(settings, set(people), passages, wikitext),
        questions=[*probes(settings, set(people), sets), *of_mmlu],
        passages=_mia_passages(settings, set(people), forget, sets),
        general=general_passages(general, settings.general_texts),
    )


def _people(settings: RwkuSettings, targets: Sequence[Record]) -> list[str]:
    """Return the names of the people to forget, in RWKU's order."""
    known = [row["target"] for row in targets]
    if isinstance(settings.people, int):
        if settings.people > len(known):
            raise InputError(
                f"benchmark.people is {settings.people}, RWKU has {len(known)}: take fewer."
            )
        return known[: settings.people]
    for name in settings.people:
        if name not in known:
            near = " or ".join(get_close_matches(name, known)) or f"one such as {known[0]}"
            raise InputError(f"benchmark.people: RWKU has nobody named {name!r}; take {near}.")
    return [name for name in known if name in settings.people]


def _about(people: set[str], rows: Sequence[Record]) -> list[Text]:
    """Return the passages about the people, without empty ones."""
    return [
        Text(row["text"], row["subject"])
        for row in rows
        if row["subject"] in people and row["text"].strip()
    ]


def _retained(
    settings: RwkuSettings,
    people: set[str],
    passages: Sequence[Record],
    wikitext: Sequence[Record],
) -> list[Text]:
    if settings.retain == "wikitext":
        long = long_texts("wikitext", wikitext, settings.min_length)
        return [Text(text, "wikitext") for text in long]
    others = {row["subject"] for row in passages} - people
    if not others:
        raise InputError(
            "benchmark.retain is people, but everyone is forgotten: take fewer people, or wikitext."
        )
    return _about(others, passages)


def probes(settings: RwkuSettings, people: set[str], sets: Sets) -> list[Question]:
    """Return the probes of levels 1 and 2 in their parts, then those that are only reported.

    Args:
        settings: Numbers of probes.
        people: The people to forget.
        sets: Rows of the five sets of probes, by their configurations on the hub.

    Raises:
        InputError: If too few are left to report.
    """
    number = settings.selection_questions
    asked = [
        *_probes(sets["forget_level1"], people, "forget", "fill_blank"),
        *_probes(sets["forget_level2"], people, "forget", "question"),
    ]
    split = split_questions(asked, number, [f"{probe.kind} {probe.topic}" for probe in asked])
    if len(split) < number + MIN_PER_PART:
        raise InputError(
            f"RWKU has {len(asked)} blanks and questions about those who are forgotten: with "
            f"benchmark.selection_questions {number} fewer than {MIN_PER_PART} are left to report."
        )
    selecting = {probe.question for probe in split if probe.part == "selection"}
    for others in (
        _probes(sets["forget_level3"], people, "forget", "adversarial"),
        _probes(sets["neighbor_level1"], people, "retain", "fill_blank"),
        _probes(sets["neighbor_level2"], people, "retain", "question"),
    ):
        reported = [probe for probe in others if probe.question not in selecting]
        split += sample_questions(settings.other_probes, reported)
    return split


def _probes(
    rows: Sequence[Record], people: set[str], subject: Subject, kind: str
) -> list[Question]:
    return [_probe(row, subject, kind) for row in rows if row["subject"] in people]


def _probe(row: Record, subject: Subject, kind: str) -> Question:
    prompt, opening = (FILL_BLANK if kind == "fill_blank" else QUESTION), OPENING
    if kind == "adversarial":
        prompt, opening = ATTACKS.get(row["type"], (QUESTION, OPENING))
    return Question(
        question=prompt.format(query=row["query"]),
        choices=[],
        answer=-1,
        topic=row["subject"],
        subject=subject,
        part="test",
        reference=row["answer"],
        kind=kind,
        opening=opening,
    )


def _mia_passages(
    settings: RwkuSettings, people: set[str], forget: Sequence[Text], sets: Sets
) -> list[Passage]:
    members = _about(people, sets["mia_forget"])
    forgotten = {text.text for text in (*forget, *members)}
    retained = [text for text in _about(people, sets["mia_retain"]) if text.text not in forgotten]
    groups: dict[Group, list[Text]] = {"forget": members, "retain": retained}
    passages = []
    for group, texts in groups.items():
        if len(texts) < MIN_PER_PART:
            raise InputError(
                f"RWKU's mia_{group} has {len(texts)} passages for those who are forgotten; "
                f"membership inference needs {MIN_PER_PART} or more: take more people."
            )
        number = len(texts) if settings.mia_passages is None else settings.mia_passages
        taken = sample_positions([t.text for t in texts], number, [t.topic for t in texts])
        passages += [Passage(texts[at].text, group, texts[at].topic) for at in taken]
    return passages


def _inputs(settings: RwkuSettings) -> dict[str, str]:
    names = {name: f"rwku_{name}" for name in SETS} | settings.general_input()
    if settings.retain == "wikitext":
        names["wikitext"] = "wikitext"
    return names | {"mmlu_validation": "mmlu_validation", "mmlu_test": "mmlu_test"}


BENCHMARK = Benchmark(
    RwkuSettings,
    prepare,
    inputs=_inputs,
    has_pretraining_texts=False,
    has_passages=True,
)
