"""One node a benchmark; each gives the same four sets of records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seuf.benchmarks.settings import OwnSettings, SandboxSettings, TofuSettings

if TYPE_CHECKING:
    from seuf.benchmarks.records import Benchmark

Records = list[dict[str, Any]]
Sets = tuple[Records, Records, Records, Records]


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
) -> Sets:
    """Take some authors of TOFU: texts to forget and to keep, questions, pretraining texts."""
    from seuf.benchmarks import tofu

    return _records(tofu.prepare(benchmark, forget, forget_wrong, retain, retain_wrong))


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
