"""Run one model in several processes: each holds a shard of every layer, or a whole replica.

Shards, by torch's FSDP2, are for training a model that fits on no single GPU: weights, gradients
and optimizer state are divided by the number of processes, `ranks`. A decoder layer is gathered
while it runs. What lies outside the layers (embeddings, last norm, head) and what is added to them
(LoRA) is whole in every process, because losses call the head by itself and it may share its weight
with the embeddings; of these only the optimizer state is divided.

All processes run the same program on the same data, see `seuf.pipelines.processes`. Sharded ones
differ in three places: each passes its own rows of a step (`own_rows`), gradients are summed over
processes (`Shard.gradient`), and each updates its own shard (`Shard.view`). Replicas differ in one:
each scores its share of the batches (`in_turn`). In a single process all of this does nothing.
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

Item = TypeVar("Item")
Result = TypeVar("Result")
_sharded: WeakSet[nn.Module] = WeakSet()
_replica = Event()  # set for good once this process is one


def processes() -> int:
    """Return how many processes run this program; 1 outside of `torchrun`."""
    return dist.get_world_size() if dist.is_initialized() else 1


def ranks() -> int:
    """Return over how many processes the model is sharded; 1 if it is not."""
    return 1 if _replica.is_set() else processes()


def replicas() -> int:
    """Return how many processes hold the whole model and share the scoring; 1 if they do not."""
    return processes() if _replica.is_set() else 1


def be_replica() -> None:
    """Declare, for good, that each process holds the whole model."""
    _replica.set()


def rank() -> int:
    """Return the number of this process; process 0 writes the outputs."""
    return dist.get_rank() if dist.is_initialized() else 0


def own_rows(size: int) -> range:
    """Return which rows of a step this process passes; `size` is a multiple of `ranks`."""
    share = size // ranks()
    return range(rank() * share, (rank() + 1) * share)


def total(tensor: Tensor) -> Tensor:
    """Return the sum of the tensors of all processes, written in place."""
    if ranks() > 1:
        dist.all_reduce(tensor)
    return tensor


def agreed(value: Item) -> Item:
    """Return the value of process 0: choices must be the same in all processes, to the bit."""
    if processes() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def gathered(value: Item) -> list[Item]:
    """Return the values of all processes, with tensors in CPU memory."""
    if processes() == 1:
        return [value]
    own = io.BytesIO()
    torch.save(value, own)
    sent: list[Any] = [None] * processes()
    dist.all_gather_object(sent, own.getvalue())
    return [torch.load(io.BytesIO(one), "cpu", weights_only=False) for one in sent]


def in_turn(items: Iterable[Item], work: Callable[[Item], Result]) -> Iterator[Result]:
    """Yield the result of work on each item, in order; replicas take the items in turn.

    Each item is worked on whole, so its result is that of one process, to the bit. Nothing happens
    before the first result is asked for; there the replicas wait for each other.
    """
    if replicas() == 1:
        yield from map(work, items)
        return
    every, results = list(items), dict[int, Result]()
    for share in gathered({i: work(every[i]) for i in range(rank(), len(every), replicas())}):
        results |= share
    yield from (results[i] for i in range(len(every)))


def is_sharded(tensor: Any) -> bool:
    """Return whether this process holds only a shard of a tensor."""
    return ranks() > 1 and hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor, gathered if it is sharded; all processes must call this."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def own(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor, or all of one that is not sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def check_not_parallel(model: Any) -> None:
    """Raise if transformers has already divided a model over devices.

    Raises:
        InputError: With the reason for the refusal.
    """
    config = getattr(model.config, "distributed_config", None)
    sizes = [getattr(config, name, None) for name in ("ep_size", "tp_size")]
    is_divided = any(hasattr(parameter, "full_tensor") for parameter in model.parameters())
    if is_divided or any(size and size > 1 for size in sizes):
        raise InputError(
            "The model is expert- or tensor-parallel already, and training it so is refused: "
            "transformers' expert parallelism has lost or scaled gradients without an error. Load "
            "it without a distributed_config; unlearning.sharded divides it."
        )


def shard(model: Any, device: torch.device) -> Any:
    """Return a model sharded over all processes, made from that of process 0.

    Args:
        model: In process 0 the model, in CPU memory, which is used up; in the others None.
        device: Of this process.

    Raises:
        InputError: If the model is divided already.
    """
    from torch.distributed.device_mesh import init_device_mesh

    if model is not None:
        check_not_parallel(model)
    values = dict(_tensors(model)) if model is not None else {}
    sharded: Any = agreed(None if model is None else _emptied(model))
    mesh = init_device_mesh(device.type, (ranks(),))
    _wrap_layers(sharded, mesh)
    _allocate(sharded, device)
    _scatter(values, sharded, mesh, device)
    with torch.no_grad():  # FSDP fixes in its first pass where the shards lie
        ids = torch.zeros(1, 1, dtype=torch.long, device=device)
        decoder(sharded)(input_ids=ids, use_cache=False)
    _sharded.add(sharded)
    return sharded


def _wrap_layers(model: Any, mesh: Any) -> None:
    """Let FSDP shard the weights of the decoder's layers, and sum gradients in float32."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    body, in_float32 = decoder(model), MixedPrecisionPolicy(reduce_dtype=torch.float32)
    outside = set(body.parameters()) - set(body.layers.parameters())
    for layer in body.layers:
        fully_shard(layer, mesh=mesh, mp_policy=in_float32)
    fully_shard(body, mesh=mesh, mp_policy=in_float32, ignored_params=outside)
    for part in [*body.layers, body]:
        part.set_gradient_divide_factor(1.0)  # the processes' losses are parts of one mean
        part.set_force_sum_reduction_for_comms(True)


def _allocate(model: Any, device: torch.device) -> None:
    """Give every tensor of a model without values memory on a device; tied weights stay tied."""
    for layer in decoder(model).layers:
        layer.to_empty(device=device)
    allocated: dict[int, Any] = {}  # by the id of the empty tensor
    for name, tensor in _tensors(model):
        if not tensor.is_meta:
            continue
        if id(tensor) not in allocated:
            memory = torch.empty_like(tensor, device=device)
            is_weight = isinstance(tensor, nn.Parameter)
            allocated[id(tensor)] = (
                nn.Parameter(memory, tensor.requires_grad) if is_weight else memory
            )
        path, _, own_name = name.rpartition(".")
        module = model.get_submodule(path)
        table = module._parameters if own_name in module._parameters else module._buffers
        table[own_name] = allocated[id(tensor)]


@torch.no_grad()
def _scatter(values: dict[str, Tensor], model: Any, mesh: Any, device: torch.device) -> None:
    """Copy the values that process 0 has, by name, to all processes; each keeps its shard."""
    from torch.distributed.tensor import distribute_tensor

    for name, tensor in _tensors(model):
        value = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        if values:
            value.copy_(values.pop(name))
        if hasattr(tensor, "full_tensor"):
            part = distribute_tensor(value, mesh, tensor.placements)  # type: ignore[attr-defined]
            tensor.to_local().copy_(part.to_local())  # type: ignore[attr-defined]
        else:
            dist.broadcast(value, src=0)
            tensor.copy_(value)


def settle() -> None:
    """Shard all layers again after a pass that was cut short, and reset FSDP's state."""
    if ranks() == 1:
        return
    from torch.distributed.fsdp import FSDPModule

    for model in _sharded:
        for part in model.modules():
            if isinstance(part, FSDPModule):
                part.reshard()
                # in a pass that is still open FSDP would not wait for writes to weights
                state = part._get_fsdp_state()
                state._training_state = type(state._training_state).IDLE
                state._state_ctx.iter_forward_root = None


class Shard:
    """This process's part of a parameter in training.

    Args:
        parameter: A sharded one, or one that is whole in every process: of that each process
            updates a slice and sends it to the others.

    Attributes:
        view: The part, a view of the model's memory.
    """

    def __init__(self, parameter: nn.Parameter) -> None:
        self.parameter, self.is_sharded = parameter, is_sharded(parameter)
        if self.is_sharded:
            self.view = own(parameter.detach())
        else:
            self.slices = _slices(parameter.detach())
            self.view = self.slices[rank()]

    def gradient(self) -> Tensor | None:
        """Return the part's gradient, summed over all processes."""
        gradient = self.parameter.grad
        if gradient is None:
            return None
        if self.is_sharded:
            return own(gradient)
        return _slices(total(gradient.float()))[rank()]

    @torch.no_grad()
    def send(self) -> None:
        """Send the part to the other processes, if they hold the parameter whole."""
        if not self.is_sharded:
            _broadcast(self.slices)

    def whole(self, values: Tensor) -> Tensor:
        """Return the whole parameter, of which each process gives the values of its own part."""
        if self.is_sharded:
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
        gathered = torch.empty_like(self.parameter).detach()
        slices = _slices(gathered)
        slices[rank()].copy_(values)
        _broadcast(slices)
        return gathered


def clip_gradients(masters: Sequence[Tensor], largest: float) -> Tensor:
    """Scale the gradients of all shards to a norm of at most `largest`; return the norm before."""
    if ranks() == 1:
        return nn.utils.clip_grad_norm_(masters, largest)
    gradients = [master.grad for master in masters if master.grad is not None]
    norm = total(nn.utils.get_total_norm(gradients).square()).sqrt()
    nn.utils.clip_grads_with_norm_(masters, largest, norm)
    return norm


def _broadcast(slices: list[Tensor]) -> None:
    """Send each process's slice to all others."""
    for source, part in enumerate(slices):
        if part.numel():
            dist.broadcast(part, src=source)


def _slices(tensor: Tensor) -> list[Tensor]:
    """Return views of a tensor's numbers, one for each process."""
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
