"""Control the order of torch's sums on a GPU, and record it.

A CPU has one order per number of threads. On a GPU the backward pass of attention sums in any order
unless torch's deterministic implementations are on; with `warn_only` it still does. This is a
property of the machine, not of a stage, so it is not a parameter: a catalog entry with
`metadata: {torch: {deterministic: true}}` asks for it, and the run's record says whether it was on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from kedro.io import CatalogProtocol

SWITCH = "SEUF_DETERMINISTIC"
NO_SUCH_IMPLEMENTATION = "does not have a deterministic implementation"  # in torch's error


def asked_for(catalog: CatalogProtocol, outputs: Iterable[str]) -> bool:
    """Return whether the catalog asks for one of the outputs to be deterministic."""
    metadata = (getattr(catalog.get(name), "metadata", None) or {} for name in outputs)
    return any((entry.get("torch") or {}).get("deterministic") for entry in metadata)


def set_deterministic(on: bool) -> None:
    """Switch torch's determinism on a GPU on or off; `SEUF_DETERMINISTIC=0` keeps it off.

    `CUBLAS_WORKSPACE_CONFIG` must be set before CUDA is first used, as importing `seuf` does.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return
    torch.use_deterministic_algorithms(on and os.environ.get(SWITCH, "1") != "0")
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time


def torch_facts(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return torch's threads, device and switches under `torch`; None if it was not imported.

    Args:
        inputs: The inputs of the node that has run: threads set there take precedence over the
            process's present number.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return {"torch": None}
    configured = (getattr(one, "threads", None) for one in inputs.values())
    threads = next((number for number in configured if isinstance(number, int)), None)
    state = {
        "threads": threads or torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cuda": _cuda(torch) if torch.cuda.is_available() else None,
    }
    return {"torch": state}


def _cuda(torch: Any) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name(),
        "version": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
    }
