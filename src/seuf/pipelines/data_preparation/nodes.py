"""The node's function: a benchmark's own `prepare`, with records instead of its tuples."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seuf.benchmarks.registry import Benchmark

Records = list[dict[str, Any]]


def preparation(benchmark: Benchmark) -> Callable[..., tuple[Records, ...]]:
    """Return the function that prepares a benchmark for the catalog.

    It wraps the benchmark's `prepare`, from which Kedro reads the type of the settings and `kedro
    dvc sync` the code that the stage depends on.

    Returns:
        A function of the arguments of `prepare`, by their names. It returns the texts to forget,
        those to keep, the questions, the pretraining texts, the general texts and, where the
        benchmark has some, the passages.
    """

    @wraps(benchmark.prepare, assigned=("__doc__", "__annotations__"))
    def prepare_data(**inputs: Any) -> tuple[Records, ...]:
        data = benchmark.prepare(**inputs)
        sets: list[list[Any]] = [
            data.forget,
            data.retain,
            data.questions,
            data.pretraining,
            data.general,
        ]
        if benchmark.has_passages:
            sets.append(data.passages)
        return tuple([row._asdict() for row in rows] for rows in sets)

    return prepare_data
