"""One node: the one that knows the study's benchmark."""

from collections.abc import Callable
from typing import Any, NamedTuple

from kedro.pipeline import Node, Pipeline

from seuf.benchmarks.muse import SETS as MUSE
from seuf.benchmarks.rwku import SETS as RWKU
from seuf.benchmarks.settings import RwkuSettings, WmdpSettings
from seuf.pipelines.data_preparation.nodes import (
    prepare_muse,
    prepare_own,
    prepare_rwku,
    prepare_sandbox,
    prepare_tofu,
    prepare_wmdp,
)
from seuf.pipelines.study import study_parameters


class Preparation(NamedTuple):
    """How a benchmark is prepared.

    Attributes:
        node: Returns the four sets, and passages where the benchmark has some.
        inputs: What it reads beside the benchmark's settings, in their order; or what gives that
            for the settings, as the parameters have them.
        passages: Whether membership inference has something to be tried on.
    """

    node: Callable[..., object]
    inputs: list[str] | Callable[[dict[str, Any]], list[str]]
    passages: bool = False


def _of_tofu(settings: dict[str, Any]) -> list[str]:
    general = ["real_authors_wrong", "world_facts_wrong"]
    names = ["forget", "forget_wrong", "retain", "retain_wrong"]
    full = settings.get("metrics") == "full"
    return [f"tofu_{name}" for name in names + (general if full else [])]


def _of_wmdp(settings: dict[str, Any]) -> list[str]:
    chosen = WmdpSettings.model_construct(**settings)  # checked elsewhere, in full
    domain = f"wmdp_{chosen.domain}"
    retain = "wikitext" if chosen.retain == "wikitext" else f"{domain}_retain"
    return [f"{domain}_forget", retain, f"{domain}_questions", "mmlu_validation", "mmlu_test"]


def _of_rwku(settings: dict[str, Any]) -> list[str]:
    chosen = RwkuSettings.model_construct(**settings)  # checked elsewhere, in full
    wikitext = ["wikitext"] if chosen.retain == "wikitext" else []
    return ["mmlu_validation", "mmlu_test", *(f"rwku_{name}" for name in RWKU), *wikitext]


BENCHMARKS: dict[str, Preparation] = {
    "sandbox": Preparation(prepare_sandbox, ["params:base_seed"]),
    "tofu": Preparation(prepare_tofu, _of_tofu),
    "muse": Preparation(prepare_muse, [f"muse_{name}" for name in MUSE], passages=True),
    "wmdp": Preparation(prepare_wmdp, _of_wmdp),
    "rwku": Preparation(prepare_rwku, _of_rwku, passages=True),
    "own": Preparation(prepare_own, ["own_forget", "own_retain", "own_questions"]),
}


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline of the study's benchmark."""
    settings = study_parameters()["benchmark"]
    prepare, inputs, passages = BENCHMARKS[settings["name"]]
    sets = ["forget_set", "retain_set", "questions", "pretraining_texts"]
    return Pipeline(
        [
            Node(
                prepare,
                inputs=["params:benchmark", *(inputs(settings) if callable(inputs) else inputs)],
                outputs=[*sets, "passages"] if passages else sets,
                name="prepare_data",
            )
        ]
    )


def has_passages() -> bool:
    """Tell if the study's benchmark has passages for membership inference."""
    return BENCHMARKS[study_parameters()["benchmark"]["name"]].passages
