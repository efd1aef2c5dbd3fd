"""One order of sums on a GPU, so that a method that is trained twice gives the same bytes.

A CPU has one order for each number of threads. On a GPU the backward pass of attention adds in any
order unless torch's deterministic ways are on, and warnings in the place of errors leave it so. How
a machine makes its sums is no part of what a stage is, so it is no parameter; a run's record tells.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.pipeline import Node

log = logging.getLogger(__name__)
SWITCH = "SEUF_DETERMINISTIC"
NO_SUCH_WAY = "does not have a deterministic implementation"


class Determinism:
    """Lets nodes that train a method make sums in one order, and all others in any."""

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """Set torch's switch."""
        set_order_of_sums(node)

    @hook_impl
    def on_node_error(self, error: Exception) -> None:
        """Tell what to do if a model needs what torch can only do in any order."""
        if NO_SUCH_WAY in str(error):
            log.error("Set %s=0 to let sums be made in any order.", SWITCH)


def set_order_of_sums(node: Node) -> None:
    """Set torch's switch for a node: on if it makes a delta on a GPU, off if `SWITCH` is 0.

    `CUBLAS_WORKSPACE_CONFIG` must be set before CUDA is first used, as importing `seuf` does.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return
    trains = any(name.endswith(".delta") for name in node.outputs)
    torch.use_deterministic_algorithms(trains and os.environ.get(SWITCH, "1") != "0")
    torch.utils.deterministic.fill_uninitialized_memory = False  # a check that takes time
