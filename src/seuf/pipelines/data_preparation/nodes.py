"""One node a benchmark; each gives the same four sets of records, and some of them passages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seuf.benchmarks.settings import (
    MuseSettings,
    OwnSettings,
    RwkuSettings,
    SandboxSettings,
    TofuSettings,
    WmdpSettings,
)

if TYPE_CHECKING:
    from seuf.benchmarks.records import Benchmark

Records = list[dict[str, Any]]
Sets = tuple[Records, Records, Records, Records]
SetsWithPassages = tuple[Records, Records, Records, Records, Records]


def prepare_sandbox(benchmark: SandboxSettings, base_seed: int) -> Sets:
    """Make up the sandbox world: texts to forget and to keep, questions, pretraining texts."""
    from seuf.benchmarks import sandbox

    return _records(sandbox.prepare(benchmark, base_seed))


def prepare_tofu(
    benchmark: TofuSettings,
    forget: Records,
    forget_wrong: Records,
    retain: Records,
    retain_wrong: Records,
    *general: Records,
) -> Sets:
    """Take some authors of TOFU: texts to forget and to keep, questions, pretraining texts."""
    from seuf.benchmarks import tofu

    known = dict(zip(tofu.PLAIN_SETS, general, strict=False))
    return _records(tofu.prepare(benchmark, forget, forget_wrong, retain, retain_wrong, known))


def prepare_muse(benchmark: MuseSettings, *sets: Records) -> SetsWithPassages:
    """Take a corpus of MUSE: texts to forget and to keep, questions, passages."""
    from seuf.benchmarks import muse

    named = dict(zip(muse.SETS, sets, strict=True))
    return _with_passages(muse.prepare(benchmark, **named))


def prepare_wmdp(
    benchmark: WmdpSettings,
    forget: Records,
    retain: Records,
    questions: Records,
    mmlu_validation: Records,
    mmlu_test: Records,
) -> Sets:
    """Take a domain of WMDP: texts to forget and to keep, its questions and those of MMLU."""
    from seuf.benchmarks import wmdp

    return _records(wmdp.prepare(benchmark, forget, retain, questions, mmlu_validation, mmlu_test))


def prepare_rwku(
    benchmark: RwkuSettings,
    mmlu_validation: Records,
    mmlu_test: Records,
    *sets: Records,
) -> SetsWithPassages:
    """Take people of RWKU: their passages, texts to keep, probes and MMLU, passages for attacks."""
    from seuf.benchmarks import rwku

    named = dict(zip([*rwku.SETS, "wikitext"], sets, strict=False))
    return _with_passages(
        rwku.prepare(benchmark, mmlu_validation=mmlu_validation, mmlu_test=mmlu_test, **named)
    )


def prepare_own(
    benchmark: OwnSettings, forget: Records, retain: Records, questions: Records
) -> Sets:
    """Check your own texts and questions and split the questions."""
    from seuf.benchmarks import own

    return _records(own.prepare(benchmark, forget, retain, questions))


def _records(benchmark: Benchmark) -> Sets:
    sets = (benchmark.forget, benchmark.retain, benchmark.questions, benchmark.pretraining)
    forget, retain, questions, pretraining = ([row._asdict() for row in rows] for rows in sets)
    return forget, retain, questions, pretraining


def _with_passages(benchmark: Benchmark) -> SetsWithPassages:
    return *_records(benchmark), [row._asdict() for row in benchmark.passages]
