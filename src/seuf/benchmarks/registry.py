"""The benchmarks that a study can name: each is a file and a row of `BENCHMARKS`.

The file holds the benchmark's settings, its function `prepare` and, at its foot, a `Benchmark`
named `BENCHMARK`. It is imported only when a study names it, so that a stage waits for and depends
on its own benchmark alone. A benchmark outside this package is added in the same way:
`BENCHMARKS["capitals"] = "my_package.capitals"`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from seuf.inputs import InputError, Settings

if TYPE_CHECKING:
    from seuf.benchmarks.records import BenchmarkData


class BenchmarkSettings(Settings):
    """Settings that all benchmarks have.

    Attributes:
        name: The benchmark's name in `BENCHMARKS`.
    """

    name: str = ""


class PublishedSettings(BenchmarkSettings):
    """Settings of benchmarks for published models.

    Attributes:
        general: Text that no method trains on, for the general loss: `wikitext` takes passages of
            WikiText-2's test split; null takes none.
        general_texts: Maximum number of them, chosen by a hash; each evaluation reads them all.
    """

    general: Literal["wikitext"] | None = "wikitext"
    general_texts: Annotated[int, Field(gt=0)] = 100

    def general_input(self) -> dict[str, str]:
        """Return the catalog name of the argument `general`; empty if it is not needed."""
        source = {"wikitext": "wikitext_test", "sampled": "sampled_apart"}.get(self.general or "")
        return {"general": source} if source else {}


@dataclass(frozen=True)
class Benchmark:
    """What a study needs of a benchmark.

    Attributes:
        settings: The class of its settings.
        prepare: Takes `settings` and the data that `inputs` names; returns the benchmark's data.
        inputs: Maps the settings to the catalog name of each further argument of `prepare`; that of
            a parameter begins with `params:`.
        has_pretraining_texts: Whether it has texts that teach a model what is asked; if not, the
            study's model must know it already.
        has_passages: Whether it has passages for membership inference.
    """

    settings: type[BenchmarkSettings]
    prepare: Callable[..., BenchmarkData]
    inputs: Callable[[Any], dict[str, str]]
    has_pretraining_texts: bool
    has_passages: bool


BENCHMARKS: dict[str, str] = {
    "sandbox": "seuf.benchmarks.sandbox",
    "tofu": "seuf.benchmarks.tofu",
    "muse": "seuf.benchmarks.muse",
    "wmdp": "seuf.benchmarks.wmdp",
    "wmdp_taught": "seuf.benchmarks.wmdp_taught",
    "rwku": "seuf.benchmarks.rwku",
    "own": "seuf.benchmarks.own",
}


def load_benchmark(name: str) -> Benchmark:
    """Return a benchmark by its name.

    Raises:
        InputError: If no benchmark has that name, or its file has no `BENCHMARK`.
    """
    if name not in BENCHMARKS:
        raise InputError(
            f"There is no benchmark {name!r}; known: {', '.join(BENCHMARKS)}. Add a row to "
            "seuf/benchmarks/registry.py."
        )
    benchmark = getattr(import_module(BENCHMARKS[name]), "BENCHMARK", None)
    if not isinstance(benchmark, Benchmark):
        raise InputError(
            f"The benchmark {name!r} is in {BENCHMARKS[name]}, which needs a `BENCHMARK` at its "
            "foot: see docs/extending.md."
        )
    return benchmark
