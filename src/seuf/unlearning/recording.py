"""Record a training step on a GPU as a CUDA graph, and replay it.

A step on one expert is hundreds of small kernels, and the GPU waits for Python to launch each.
After some steps the kernels are recorded, and from then on replayed all at once, on the same
memory, into which each step's batch is copied.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seuf.moe.sharding import ranks
from seuf.unlearning.scopes import Scope

WARM_UP = 3  # steps before the recording: libraries initialise in the first ones
log = logging.getLogger(__name__)


class Recording(NamedTuple):
    """A recorded step: its graph, and the tensors that it reads and writes."""

    graph: Any
    batch: Any
    numbers: Tensor


class RecordedStep:
    """A training step that is recorded if one GPU holds the whole model.

    Otherwise each call runs the step as it is. Leave the context after the last step: a recording
    takes as much memory as a step.

    Args:
        step: Updates the scope on a batch (nested tuples of tensors) and returns the step's numbers
            as one tensor. It reads nothing else that differs between steps.
        scope: The tensors in training; its context is open.
        enabled: False to record nothing.
    """

    def __init__(self, step: Callable[[Any], Tensor], scope: Scope, enabled: bool = True) -> None:
        self.step, self.scope, self.count = step, scope, 0
        self.recording: Recording | None = None
        devices = {parameter.device for parameter in scope.model.parameters()}
        # Kernels of a graph run in one stream, and a stream belongs to one device.
        self.device = devices.pop() if len(devices) == 1 else None
        on_one_gpu = self.device is not None and self.device.type == "cuda" and ranks() == 1
        self.enabled = enabled and on_one_gpu
        # The same stream for all steps: autograd's nodes remember the stream they were made on.
        self.stream: Any = _stream_of(self.device) if self.enabled else None

    def __enter__(self) -> RecordedStep:
        return self

    def __exit__(self, *error: object) -> None:
        self.wait()
        self.recording = None

    def __call__(self, batch: Any) -> Tensor:
        """Take a step; return its numbers without waiting for them.

        A recorded step runs at the same time as what follows, such as fetching the next batch: call
        `wait` before reading anything that it computes.
        """
        if self.stream is None:
            return self.step(batch)
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        for tensor in _tensors(batch):
            tensor.record_stream(self.stream)
        with torch.cuda.stream(self.stream):
            self.count += 1
            if self.enabled and self.recording is None and self.count > WARM_UP:
                self.recording = self._record(batch)
            if self.recording is None or _shapes(batch) != _shapes(self.recording.batch):
                return self.step(batch)
            for static, new in zip(_tensors(self.recording.batch), _tensors(batch), strict=True):
                static.copy_(new, non_blocking=True)
            self.recording.graph.replay()
            self.scope.note_changes()
            return self.recording.numbers.clone()

    def wait(self) -> None:
        """Make the device finish all steps so far before what follows."""
        if self.stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)

    def _record(self, batch: Any) -> Recording | None:
        """Return the recording of a step, which does not run yet; None if it cannot be recorded."""
        batch, graph = _copied(batch), torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                numbers = self.step(batch)
        except RuntimeError as error:  # something in the model waits for the GPU or moves weights
            cause: BaseException = error
            while cause.__context__ is not None:
                cause = cause.__context__
            log.warning("Steps are not recorded: %s", str(cause).splitlines()[0])
            self.enabled = False
            self.scope.clear_gradients()
            return None
        return Recording(graph, batch, numbers)


@cache
def _stream_of(device: torch.device) -> Any:
    """Return the stream of all steps on a device, so that one step's memory serves the next."""
    return torch.cuda.Stream(device)


def _tensors(batch: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested tuples."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, tuple):
        for part in batch:
            yield from _tensors(part)


def _shapes(batch: Any) -> list[torch.Size]:
    return [tensor.shape for tensor in _tensors(batch)]


def _copied(batch: Any) -> Any:
    """Return the same nested named tuples with copies of the tensors."""
    if isinstance(batch, Tensor):
        return batch.clone()
    if isinstance(batch, tuple):
        return type(batch)(*(_copied(part) for part in batch))
    return batch
