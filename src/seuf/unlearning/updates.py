"""One update after the other: loss, gradients, a step of AdamW.

A step on one expert is hundreds of small kernels, and a GPU waits for Python to start each. After
some steps the work is recorded, and from then on played back as one (a CUDA graph): the same
kernels on the same memory, into which each step's feed is copied.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seuf.unlearning.scopes import Scope

Loss = Callable[[Any], tuple[Tensor, Tensor]]
NUMBERS = ("loss", "anchor", "gradient_norm")
MASTER, ADAMW = "master", ("step", "exp_avg", "exp_avg_sq")
WARM = 3  # steps before the recording: libraries set themselves up in the first ones
log = logging.getLogger(__name__)


class Updates:
    """Updates of a scope, each by what a loss makes of a feed.

    Args:
        scope: What is trained; its context is open.
        loss: Returns a feed's objective and its weighted anchor loss. Reads nothing else that
            differs between steps.
        learning_rate: Of AdamW, whose weight decay is 0.
        clip: Largest norm of the gradient.
        recorded: Record the work where it can be.
    """

    def __init__(
        self, scope: Scope, loss: Loss, learning_rate: float, clip: float, recorded: bool = True
    ) -> None:
        self.scope, self.loss, self.clip = scope, loss, clip
        masters = list(scope.masters.values())
        on_gpu = all(master.is_cuda for master in masters)
        self.optimizer = torch.optim.AdamW(
            masters, lr=learning_rate, weight_decay=0.0, fused=True, capturable=on_gpu
        )
        self.recorded, self.count = recorded and on_gpu, 0
        self.recording: _Recording | None = None
        self.stream: Any = torch.cuda.Stream(masters[0].device) if self.recorded else None

    def __enter__(self) -> Updates:
        return self

    def __exit__(self, *error: object) -> None:
        """Give back what a recording holds, as much memory as a step: it outlives its last use."""
        self.wait()
        self.recording = None

    def __call__(self, feed: Any) -> Tensor:
        """Update the scope; return `NUMBERS`, the norm before clipping, without asking for them.

        Where steps are recorded they run beside what follows, such as fetching the next feed:
        call `wait` before reading anything that they make.
        """
        if self.stream is None:
            return self._update(feed)
        # One stream throughout: a gradient's node remembers the one that it was made on.
        self.stream.wait_stream(torch.cuda.current_stream())
        for tensor in _tensors(feed):
            tensor.record_stream(self.stream)
        with torch.cuda.stream(self.stream):
            return self._recorded_update(feed)

    def wait(self) -> None:
        """Let what follows on the device come after all updates so far."""
        if self.stream is not None:
            torch.cuda.current_stream().wait_stream(self.stream)

    def state(self) -> dict[str, Tensor]:
        """Return what the next step starts from: the masters and AdamW's own, by kind and place."""
        state: dict[str, Tensor] = {}
        for place, master in self.scope.masters.items():
            state[f"{MASTER}.{place}"] = master
            own = self.optimizer.state.get(master, {})  # nothing if it never had a gradient
            state |= {f"{kind}.{place}": value for kind, value in own.items()}
        return state

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put a state back, before the first step."""
        for place, master in self.scope.masters.items():
            master.copy_(state[f"{MASTER}.{place}"])
            own = {kind: state[f"{kind}.{place}"] for kind in ADAMW if f"{kind}.{place}" in state}
            if own:
                copies = {kind: one.to(master.device, copy=True) for kind, one in own.items()}
                self.optimizer.state[master] = copies
        self.scope.write_back()

    def _recorded_update(self, feed: Any) -> Tensor:
        self.count += 1
        if self.recorded and self.recording is None and self.count > WARM:
            self.recording = self._record(feed)
        if self.recording is None or not self.recording.fits(feed):
            return self._update(feed)
        numbers = self.recording.play(feed)
        self._tell_of_change()
        return numbers

    def _update(self, feed: Any) -> Tensor:
        objective, anchor = self.loss(feed)
        (objective + anchor).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.scope.gradients_to_masters(), self.clip)
        self.optimizer.step()
        self._tell_of_change()
        self.scope.write_back()
        self.scope.clear_gradients()
        return torch.stack([n.detach().to(norm.device) for n in (objective, anchor, norm)])

    def _tell_of_change(self) -> None:
        """Let autograd know of writes that neither a fused optimizer nor a graph tells it of."""
        changed = [*self.scope.trained.values(), *self.scope.masters.values()]
        torch.autograd.graph.increment_version(changed)

    def _record(self, feed: Any) -> _Recording | None:
        """Return the recording of an update, which does not itself happen."""
        feed, graph = _copied(feed), torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                numbers = self._update(feed)
        except RuntimeError as error:  # something in the model asks the GPU, or moves weights
            log.warning("Steps are not recorded: %s", _first_cause(error))
            self.recorded = False
            self.scope.clear_gradients()
            return None
        return _Recording(graph, feed, numbers)


@dataclass(frozen=True)
class _Recording:
    graph: Any
    feed: Any
    numbers: Tensor

    def fits(self, feed: Any) -> bool:
        shapes = [[t.shape for t in _tensors(one)] for one in (feed, self.feed)]
        return shapes[0] == shapes[1]

    def play(self, feed: Any) -> Tensor:
        for kept, new in zip(_tensors(self.feed), _tensors(feed), strict=True):
            kept.copy_(new, non_blocking=True)
        self.graph.replay()
        return self.numbers.clone()


def _first_cause(error: BaseException) -> str:
    while error.__context__ is not None:
        error = error.__context__
    return str(error).splitlines()[0]


def _tensors(feed: Any) -> Iterator[Tensor]:
    """Yield the tensors of named tuples in named tuples."""
    if isinstance(feed, Tensor):
        yield feed
    elif isinstance(feed, tuple):
        for part in feed:
            yield from _tensors(part)


def _copied(feed: Any) -> Any:
    """Return the same named tuples with copies of the tensors."""
    if isinstance(feed, Tensor):
        return feed.clone()
    if isinstance(feed, tuple):
        return type(feed)(*(_copied(part) for part in feed))
    return feed
