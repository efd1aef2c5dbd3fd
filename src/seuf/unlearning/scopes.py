"""What a method may change: one expert and its router (Algorithm 1, step 4), or a baseline's part.

A scope names the tensors in training, has the float32 copies that the optimizer works on, and
returns what has changed. `open_scope` makes a method's scope:

- `experts`: the selected experts and their routers (Zhuang et al. 2025);
- `everything`: all parameters, or the experts, the routers or both of some layers (the paper's
  baselines, Table 1; its RMU trains layers 5 to 7);
- `lora`: adapters on all linear layers and fused experts of the decoder;
- `deletion`: the selected experts' outputs are set to zero, and nothing is trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from seuf.inputs import InputError
from seuf.moe.architectures import decoder, decoder_layer, moe_layers
from seuf.moe.digests import integers, sum_of_bits
from seuf.moe.experts import ExpertSlice
from seuf.moe.forward import is_offloaded
from seuf.moe.lora import Adapter, adapted, merged, parameters_of
from seuf.moe.names import row_path, rows_of_experts, same_bits, split_row, tensor_at
from seuf.moe.sharding import (
    Shard,
    agreed,
    clip_gradients,
    gathered,
    rank,
    ranks,
    replicas,
    settle,
)
from seuf.unlearning.settings import Experts, Method


class Scope:
    """The tensors in training, by parameter path, and the float32 copies the optimizer works on.

    Inside the context only these tensors get gradients. Small updates vanish in bfloat16, so a
    tensor of a coarser type than float32 has a float32 master, which `write_back` copies into the
    model. Processes that share a model each update their own part of every tensor.

    Args:
        model: The model.
        whole: Parameters that are trained as a whole, by name.
        slices: Experts that are trained, each with the name of its module.
        row_masks: For some of `whole`, 1 on the rows that may change.
        first_layer: First decoder layer that may change.
    """

    def __init__(
        self,
        model: nn.Module,
        whole: dict[str, nn.Parameter],
        slices: Sequence[tuple[str, ExpertSlice]] = (),
        row_masks: dict[str, Tensor] | None = None,
        first_layer: int = 0,
    ) -> None:
        self.model, self.whole, self.row_masks = model, whole, row_masks or {}
        self.projections: dict[str, tuple[Tensor, Tensor]] = {}  # its start; (d, d) or 0
        self.first_layer, self.slices = first_layer, [part for _, part in slices]
        self.shards = {name: Shard(p) for name, p in whole.items()} if ranks() > 1 else {}
        views = {name: shard.view for name, shard in self.shards.items()}
        self.trained: dict[str, Tensor] = {**whole, **views}
        self.masters: dict[str, Tensor] = {
            name: nn.Parameter(p.detach().float()) if p.dtype.itemsize < 4 or self.shards else p
            for name, p in self.trained.items()
        }
        for module, part in slices:
            for name, tensor in part.tensors.items():
                path = row_path(f"{module}.{name}", part.index)
                self.trained[path], self.masters[path] = part.views[name], tensor

    def __enter__(self) -> Scope:
        self._stack = ExitStack()
        for parameter in self.model.parameters():
            self._stack.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad_(False)
        for parameter in self.whole.values():
            parameter.requires_grad_(True)
        for part in self.slices:
            self._stack.enter_context(part)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self.clear_gradients()

    def constrain(self, name: str, projection: Tensor) -> None:
        """Keep the change of a parameter (E, d) within a subspace of its rows.

        Args:
            name: One of `whole`.
            projection: Projection to the subspace, (d, d), or 0 to let nothing change.
        """
        master = self.masters[name].detach()
        self.projections[name] = master.clone(), projection.to(master)

    def gradients_to_masters(self) -> list[Tensor]:
        """Add each tensor's gradient to its master's, and return the masters."""
        for name, parameter in self.whole.items():
            shard, master = self.shards.get(name), self.masters[name]
            gradient = parameter.grad if shard is None else shard.gradient()
            if gradient is not None and name in self.row_masks:
                gradient.mul_(self.row_masks[name])
            if gradient is not None and master is not parameter:
                before = master.grad
                master.grad = gradient.float() if before is None else before.add_(gradient)
                parameter.grad = None  # saves memory
            if name in self.projections and master.grad is not None:
                master.grad = _projected(master.grad, self.projections[name][1])
        return list(self.masters.values())

    def clip_gradients(self, largest: float) -> Tensor:
        """Scale the masters' gradients to a norm of at most `largest`; return the norm before."""
        return clip_gradients(list(self.masters.values()), largest)

    @torch.no_grad()
    def write_back(self) -> None:
        """Copy the masters to the model, after projecting changes that are constrained."""
        settle()
        for name, (start, projection) in self.projections.items():
            # AdamW scales each element, so its step leaves the gradient's subspace
            master = self.masters[name]
            master.copy_(start + _projected(master - start, projection))
        for name in self.whole:
            if self.masters[name] is not self.trained[name]:
                self.trained[name].copy_(self.masters[name])
        self._send()
        for part in self.slices:
            part.write_back()

    def note_changes(self) -> None:
        """Tell autograd of writes that neither a fused optimizer nor a CUDA graph reports."""
        torch.autograd.graph.increment_version([*self.trained.values(), *self.masters.values()])

    def clear_gradients(self) -> None:
        """Drop all gradients."""
        for tensor in (*self.whole.values(), *self.masters.values()):
            tensor.grad = None

    def sums_of_bits(self) -> dict[str, int]:
        """Return the sum of bits of each trained tensor, see `seuf.moe.digests.sum_of_bits`."""
        return dict(
            zip(self.trained, integers(map(sum_of_bits, self.trained.values())), strict=True)
        )

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of the trained tensors."""
        return {path: tensor.detach().clone() for path, tensor in self.trained.items()}

    @torch.no_grad()
    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Put a snapshot back into the model and the masters."""
        settle()
        for path, value in snapshot.items():
            self.trained[path].copy_(value)
            self.masters[path].copy_(value)
        self._send()

    def follow(self) -> None:
        """Copy the first process's trained tensors where a replica's differ."""
        if replicas() == 1:
            return
        sums = gathered(self.sums_of_bits())
        differ = [path for path in self.trained if len({of_rank[path] for of_rank in sums}) > 1]
        for path in differ:  # one tensor at a time, for memory
            value = agreed(self.trained[path].cpu() if rank() == 0 else None)
            if value is not None and rank():
                self.restore({path: value})

    def _send(self) -> None:
        """Send what was written to tensors that other processes hold too."""
        for shard in self.shards.values():
            shard.send()

    def changed(self, original: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return copies of the tensors that differ from a snapshot in any bit.

        Of fused experts each is compared by itself.
        """
        rows, changed = rows_of_experts(self.model), dict[str, Tensor]()
        for path, before in original.items():
            if shard := self.shards.get(path):  # one tensor at a time, kept by the first process
                now, before = shard.whole(shard.view).cpu(), shard.whole(before).cpu()
                if rank():
                    continue
            else:
                now = tensor_at(self.model, path)
            pairs = {path: (now, before)}
            if path in rows:
                pairs = {row_path(path, e): (now[e], before[e]) for e in range(rows[path])}
            changed |= {
                p: new.clone() for p, (new, old) in pairs.items() if not same_bits(new, old)
            }
        return changed

    def trained_share(self) -> float:
        """Return the share of the model's parameters that are in training."""
        total = sum(parameter.numel() for parameter in self.model.parameters())
        rows = {name: mask.float().mean().item() for name, mask in self.row_masks.items()}
        trained = {**self.trained, **self.whole}  # whole tensors for this process's parts
        return sum(t.numel() * rows.get(name, 1.0) for name, t in trained.items()) / total


class LoraScope(Scope):
    """LoRA adapters in training.

    While training and evaluating, the adapters stand beside the weights. What is stored is the
    weights with the adapters merged: a bfloat16 model rounds once more there, and loses small
    changes of a weight.

    Args:
        model: The model with its adapters.
        adapters: The adapters.
    """

    def __init__(self, model: nn.Module, adapters: list[Adapter]) -> None:
        super().__init__(model, parameters_of(adapters))
        self.adapters = adapters

    def changed(self, original: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights that the adapters change when merged, by path, in CPU memory."""
        return {
            weight.path: weight.tensor.cpu()
            for weight in merged(self.adapters)
            if rank() == 0 and not same_bits(weight.tensor, weight.base)
        }

    def trained_share(self) -> float:
        """Return the adapters' number of parameters as a share of the model's own."""
        own = sum(tensor.numel() for tensor in self.whole.values())
        return own / (sum(parameter.numel() for parameter in self.model.parameters()) - own)


class Deletion(Scope):
    """The output projections of some experts, to be set to zero: they then add nothing to a token.

    Routers still choose the deleted experts, so the other experts' weights stay as they were.

    Args:
        model: A causal language model of a known MoE architecture.
        experts: (layer, expert) pairs.
    """

    def __init__(self, model: nn.Module, experts: Experts) -> None:
        chosen = selected_experts(model, experts, router="none")
        super().__init__(model, {}, first_layer=chosen.first_layer)
        self.trained = {path: t for path, t in chosen.trained.items() if is_output(path)}
        self.masters = dict(self.trained)

    @torch.no_grad()
    def delete(self) -> None:
        """Set the output projections to zero."""
        for tensor in self.trained.values():
            tensor.zero_()


@contextmanager
def open_scope(model: nn.Module, method: Method, experts: Experts, seed: int) -> Iterator[Scope]:
    """Yield the scope of a method; after the context the model has no adapters any more.

    Raises:
        InputError: If the model has no such expert, layer or part, or is offloaded where the scope
            needs all of it.
    """
    if method.scope == "lora":
        with adapted(model, method.rank, seed) as adapters:
            yield LoraScope(model, adapters)
    elif method.scope == "deletion":
        yield Deletion(model, experts)
    elif method.scope == "everything":
        yield everything(model, method.only, method.layers)
    else:
        yield selected_experts(model, experts, method.router)


def selected_experts(model: nn.Module, experts: Experts, router: str = "layer") -> Scope:
    """Return the scope of some experts and their routers.

    Args:
        model: A causal language model of a known MoE architecture.
        experts: (layer, expert) pairs.
        router: `layer` trains the router of each expert's layer, `row` only the experts' rows of
            it, `none` leaves it alone.

    Raises:
        InputError: If no expert is given, one is given twice, or the model has no such expert.
    """
    layers = {layer.index: layer for layer in moe_layers(model)}
    names = {module: name for name, module in model.named_modules()}
    if not experts:
        raise InputError("Scope 'experts' needs at least one (layer, expert) pair; none was given.")
    if len(set(experts)) < len(experts):
        raise InputError(f"An expert is named twice: {experts}.")
    if missing := [index for index, _ in experts if index not in layers]:
        raise InputError(f"Layer {missing[0]} is not a MoE layer; MoE layers are {sorted(layers)}.")
    slices = [
        (names[layers[index].experts], ExpertSlice(layers[index].experts, expert))
        for index, expert in experts
    ]
    whole, masks = dict[str, nn.Parameter](), dict[str, Tensor]()
    for index in sorted({index for index, _ in experts}) if router != "none" else ():
        layer = layers[index]
        for own_name, parameter in layer.router.named_parameters():
            if len(parameter) != layer.num_experts:  # a bias that only decides which are chosen
                continue
            name = f"{names[layer.router]}.{own_name}"
            whole[name] = parameter
            if router == "row":
                mask = torch.zeros(len(parameter), *[1] * (parameter.dim() - 1)).to(parameter)
                mask[[expert for i, expert in experts if i == index]] = 1
                masks[name] = mask
    return Scope(model, whole, slices, masks, first_layer=min(index for index, _ in experts))


def everything(
    model: nn.Module, only: str | None = None, layers: Sequence[int] | None = None
) -> Scope:
    """Return the scope of all parameters, or of a part of them, see `part_of`.

    Raises:
        InputError: If the model is offloaded, or has no such part.
    """
    if is_offloaded(model):
        raise InputError(
            "Scope 'everything' trains the whole model, and a part of this one is offloaded: use "
            "scope 'experts', or a device_map without cpu and disk."
        )
    whole, first = part_of(model, only, layers)
    return Scope(model, whole, first_layer=first)


def _projected(rows: Tensor, projection: Tensor) -> Tensor:
    return rows @ projection if projection.dim() else rows * projection


def is_output(path: str) -> bool:
    """Tell if a tensor of an expert is its output projection, or the bias of that."""
    return split_row(path)[0].rpartition(".")[2].startswith("down_proj")


def part_of(
    model: nn.Module, only: str | None, layers: Sequence[int] | None
) -> tuple[dict[str, nn.Parameter], int]:
    """Return a part of a model's parameters, by name, and the first decoder layer among them.

    Args:
        model: A causal language model of a known MoE architecture.
        only: `experts`, `routers`, `experts_and_routers`, or None for all.
        layers: Indices of decoder layers, or None for all.

    Raises:
        InputError: If there is no such layer, or none of them has experts.
    """
    if only is None and layers is None:
        return dict(model.named_parameters()), 0
    chosen = list(range(len(decoder(model).layers))) if layers is None else list(layers)
    modules: Iterable[nn.Module] = [decoder_layer(model, index) for index in chosen]
    indices = chosen
    if only is not None:
        moe = [layer for layer in moe_layers(model) if layer.index in chosen]
        routers = [layer.router for layer in moe if only in ("routers", "experts_and_routers")]
        of_experts = [layer.experts for layer in moe if only in ("experts", "experts_and_routers")]
        modules, indices = [*routers, *of_experts], [layer.index for layer in moe]
    inside = {id(parameter) for module in modules for parameter in module.parameters()}
    if not inside:
        raise InputError(
            f"Layers {chosen} have no experts: MoE layers are "
            f"{[layer.index for layer in moe_layers(model)]}."
        )
    return {name: p for name, p in model.named_parameters() if id(p) in inside}, min(indices)
