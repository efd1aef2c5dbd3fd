"""Remove chosen knowledge from a Mixture-of-Experts language model by changing one expert.

The names below are the Python interface, documented in docs/api.md: load a model, capture how texts
are routed, select an expert, unlearn with a judge of your own, and keep the delta. The workflow on
Kedro and DVC calls the same functions. To read the algorithm start at `seuf.unlearning.algorithm`;
docs/design.md draws the packages.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seuf.inputs import InputError
    from seuf.moe.deltas import Delta, export
    from seuf.moe.loading import LanguageModel, load
    from seuf.text_judge import unlearn
    from seuf.unlearning.algorithm import Unlearned, samples_of
    from seuf.unlearning.attribution import RoutingSettings, capture
    from seuf.unlearning.evaluations import Evaluation
    from seuf.unlearning.pilot import LayerChoice, choose_layer
    from seuf.unlearning.selection import Selection, best_of_layers, select
    from seuf.unlearning.settings import (
        Method,
        ObjectiveSettings,
        PilotSettings,
        UnlearningSettings,
    )

__version__ = "0.1.0"

__all__ = [
    "Delta",
    "Evaluation",
    "InputError",
    "LanguageModel",
    "LayerChoice",
    "Method",
    "ObjectiveSettings",
    "PilotSettings",
    "RoutingSettings",
    "Selection",
    "Unlearned",
    "UnlearningSettings",
    "best_of_layers",
    "capture",
    "choose_layer",
    "export",
    "load",
    "samples_of",
    "select",
    "unlearn",
]

# Where each name lives; a module is imported when one of its names is first used, so that commands
# which need no torch do not wait for it.
_MODULES = {
    "seuf.inputs": ["InputError"],
    "seuf.moe.deltas": ["Delta", "export"],
    "seuf.moe.loading": ["LanguageModel", "load"],
    "seuf.text_judge": ["unlearn"],
    "seuf.unlearning.algorithm": ["Unlearned", "samples_of"],
    "seuf.unlearning.attribution": ["RoutingSettings", "capture"],
    "seuf.unlearning.evaluations": ["Evaluation"],
    "seuf.unlearning.pilot": ["LayerChoice", "choose_layer"],
    "seuf.unlearning.selection": ["Selection", "best_of_layers", "select"],
    "seuf.unlearning.settings": [
        "Method",
        "ObjectiveSettings",
        "PilotSettings",
        "UnlearningSettings",
    ],
}

# OpenMP threads that spin while they wait make torch ten times slower on shared cores; this is
# read once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A workspace of fixed size, without which cuBLAS may sum in another order each time; this is read
# when CUDA is first used.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'seuf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
