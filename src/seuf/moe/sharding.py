"""Several processes for one model: each with a part of every layer, or each with all of it.

Parts, torch's FSDP2, are for training what fits no card: weights, gradients and what the optimizer
keeps are divided by the number of processes, `ranks`. A decoder layer is put together while it
runs. What lies outside the layers (embeddings, last norm, head) and what is added to them (LoRA) is
whole in every process, because losses call the head by itself and it may be the embeddings; of
these only what the optimizer keeps is divided.

All processes run the same program on the same data, see `seuf.pipelines.processes`. Those with
parts differ in three places: each passes its own rows of a step (`own_rows`), gradients are added
up (`Shard.gradient`), and each updates its own part (`Shard.view`). Those that each hold the whole
model, `replicas`, differ in one: each takes its share of the batches that are scored (`in_turn`).
In a process of its own all functions here do nothing.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Event
from typing import Any, TypeVar
from weakref import WeakSet

import torch
import torch.distributed as dist
from torch import Tensor, nn

from seuf.inputs import InputError
from seuf.moe.architectures import decoder

Given = TypeVar("Given")
Made = TypeVar("Made")
_sharded: WeakSet[nn.Module] = WeakSet()
_replica = Event()  # set for good once this process is one


def processes() -> int:
    """Return how many processes run this program; 1 outside of `torchrun`."""
    return dist.get_world_size() if dist.is_initialized() else 1


def ranks() -> int:
    """Return among how many processes the model is divided."""
    return 1 if _replica.is_set() else processes()


def replicas() -> int:
    """Return how many processes hold a whole model each and share what is scored."""
    return processes() if _replica.is_set() else 1


def be_replica() -> None:
    """Say that each process holds the whole model."""
    _replica.set()


def rank() -> int:
    """Return which of the processes this is; 0 writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def own_rows(size: int) -> range:
    """Return which of a step's rows pass here; `size` is a multiple of `ranks`."""
    share = size // ranks()
    return range(rank() * share, (rank() + 1) * share)


def total(tensor: Tensor) -> Tensor:
    """Return the sum of what all processes have, in place."""
    if ranks() > 1:
        dist.all_reduce(tensor)
    return tensor


def agreed(value: Given) -> Given:
    """Return what the first process has: choices must be the same in all, to the last bit."""
    if processes() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def gathered(value: Given) -> list[Given]:
    """Return what each process has, with tensors in CPU memory."""
    if processes() == 1:
        return [value]
    own = io.BytesIO()
    torch.save(value, own)
    sent: list[Any] = [None] * processes()
    dist.all_gather_object(sent, own.getvalue())
    return [torch.load(io.BytesIO(one), "cpu", weights_only=False) for one in sent]


def in_turn(items: Iterable[Given], work: Callable[[Given], Made]) -> Iterator[Made]:
    """Yield what work makes of each item, in their order; replicas take the items in turn.

    The items are those of one process, so what is made of them is the same to the bit. Nothing
    happens before the first is asked for; replicas wait for each other there.
    """
    if replicas() == 1:
        yield from map(work, items)
        return
    every, made = list(items), dict[int, Made]()
    for own in gathered({i: work(every[i]) for i in range(rank(), len(every), replicas())}):
        made |= own
    yield from (made[i] for i in range(len(every)))


def is_sharded(tensor: Any) -> bool:
    """Tell if each process holds a part of a tensor only."""
    return ranks() > 1 and hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor that is divided as a whole; all processes call it."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def own(tensor: Tensor) -> Tensor:
    """Return this process's own part of a tensor, or all of one that is not divided."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def check_not_parallel(model: Any) -> None:
    """Raise if a model is divided already, as transformers does it.

    Raises:
        InputError: With why that is refused.
    """
    config = getattr(model.config, "distributed_config", None)
    asked = [getattr(config, name, None) for name in ("ep_size", "tp_size")]
    divided = any(hasattr(parameter, "full_tensor") for parameter in model.parameters())
    if divided or any(size and size > 1 for size in asked):
        raise InputError(
            "The model is expert- or tensor-parallel already, and training it so is refused: "
            "transformers' expert parallelism has lost or scaled gradients without an error. Load "
            "it without a distributed_config; unlearning.sharded divides it."
        )


def shard(model: Any, device: torch.device) -> Any:
    """Return a model that all processes share, made of the first one's.

    Args:
        model: Of the first process, in CPU memory; of the others None. It is used up.
        device: Of this process.

    Raises:
        InputError: If the model is divided already.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor import distribute_tensor

    if model is not None:
        check_not_parallel(model)
    values = dict(_tensors(model)) if model is not None else {}
    empty: Any = agreed(None if model is None else _emptied(model))
    mesh = init_device_mesh(device.type, (ranks(),))
    body, in_float32 = decoder(empty), MixedPrecisionPolicy(reduce_dtype=torch.float32)
    outside = set(body.parameters()) - set(body.layers.parameters())
    for layer in body.layers:
        fully_shard(layer, mesh=mesh, mp_policy=in_float32)
    fully_shard(body, mesh=mesh, mp_policy=in_float32, ignored_params=outside)
    for part in [*body.layers, body]:
        part.set_gradient_divide_factor(1.0)  # parts of a mean are added, not averaged
        part.set_force_sum_reduction_for_comms(True)
    for layer in body.layers:
        layer.to_empty(device=device)
    made: dict[int, Any] = {}  # weights that are tied stay so
    for name, tensor in _tensors(empty):
        if tensor.is_meta and id(tensor) not in made:
            kept = torch.empty_like(tensor, device=device)
            is_weight = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = nn.Parameter(kept, tensor.requires_grad) if is_weight else kept
        module, _, own_name = name.rpartition(".")
        if tensor.is_meta:
            holder = empty.get_submodule(module)
            table = holder._parameters if own_name in holder._parameters else holder._buffers
            table[own_name] = made[id(tensor)]
    with torch.no_grad():
        for name, tensor in _tensors(empty):
            given = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
            if values:
                given.copy_(values.pop(name))
            if hasattr(tensor, "full_tensor"):
                part = distribute_tensor(given, mesh, tensor.placements)  # type: ignore[attr-defined]
                tensor.to_local().copy_(part.to_local())  # type: ignore[attr-defined]
            else:
                dist.broadcast(given, src=0)
                tensor.copy_(given)
        # FSDP decides in the first pass where its parts lie for good
        body(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device), use_cache=False)
    _sharded.add(empty)
    return empty


def settle() -> None:
    """Divide all layers again where a pass was ended before its end, and let FSDP forget it."""
    if ranks() == 1:
        return
    from torch.distributed.fsdp import FSDPModule

    for model in _sharded:
        for part in model.modules():
            if isinstance(part, FSDPModule):
                part.reshard()
                # a pass that is still open would not wait for what is written to weights
                state = part._get_fsdp_state()
                state._training_state = type(state._training_state).IDLE
                state._state_ctx.iter_forward_root = None


class Shard:
    """This process's part of a parameter that is in training.

    Args:
        parameter: One that is divided, or one that is whole in every process: of that a part of its
            numbers is updated here, and the others send theirs.

    Attributes:
        view: The part, in the model's own memory.
    """

    def __init__(self, parameter: nn.Parameter) -> None:
        self.parameter, self.is_divided = parameter, is_sharded(parameter)
        if self.is_divided:
            self.view = own(parameter.detach())
        else:
            self.parts = _parts(parameter.detach())
            self.view = self.parts[rank()]

    def gradient(self) -> Tensor | None:
        """Return the part's gradient, added up over all processes."""
        gradient = self.parameter.grad
        if gradient is None:
            return None
        if self.is_divided:
            return own(gradient)
        return _parts(total(gradient.float()))[rank()]

    @torch.no_grad()
    def send(self) -> None:
        """Let the others have what was written to the part, where they hold it too."""
        for source, part in enumerate([] if self.is_divided else self.parts):
            if part.numel():
                dist.broadcast(part, src=source)

    def whole(self, values: Tensor) -> Tensor:
        """Return the whole parameter of which each process gives its own part's values."""
        if self.is_divided:
            like: Any = self.parameter
            return (
                type(like.data)
                .from_local(
                    values,
                    like.device_mesh,
                    like.placements,
                    shape=like.shape,
                    stride=like.stride(),
                )
                .full_tensor()
            )
        put_together = torch.empty_like(self.parameter)
        parts = _parts(put_together.detach())
        parts[rank()].copy_(values)
        for source, part in enumerate(parts):
            if part.numel():
                dist.broadcast(part, src=source)
        return put_together.detach()


def clip_gradients(masters: Sequence[Tensor], largest: float) -> Tensor:
    """Scale the gradients of all parts to a norm of at most `largest`; return what it was."""
    if ranks() == 1:
        return nn.utils.clip_grad_norm_(masters, largest)
    gradients = [master.grad for master in masters if master.grad is not None]
    norm = total(nn.utils.get_total_norm(gradients).square()).sqrt()
    nn.utils.clip_grads_with_norm_(masters, largest, norm)
    return norm


def _parts(tensor: Tensor) -> list[Tensor]:
    """Return as many parts of a tensor's numbers as there are processes, views of it."""
    flat = tensor.view(-1)
    size = -(-len(flat) // ranks())
    return [flat[start * size : (start + 1) * size] for start in range(ranks())]


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _emptied(model: nn.Module) -> nn.Module:
    """Return a copy of a model without the values of its weights and buffers."""
    memo: dict[int, Any] = {}
    for _, tensor in _tensors(model):
        empty = torch.empty_like(tensor, device="meta")
        is_weight = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_weight else empty
    return copy.deepcopy(model, memo)
