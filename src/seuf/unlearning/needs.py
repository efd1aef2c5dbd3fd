"""What a piece of work needs, and what is changed by it: the terms that `plan` is written in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from seuf.moe.footprint import ADAPTED_SECONDS, LAYER_SECONDS, Footprint, LayerSize
from seuf.unlearning.settings import Method

Experts = Mapping[int, int]  # how many are under treatment, by decoder layer
Asked = tuple[int, float]  # tokens that pass, and in how many passes


class Need(NamedTuple):
    """What a stage needs.

    Attributes:
        tokens: That pass the whole model, or as many as cost the same.
        device: Bytes where the model runs, its weights included.
        memory: Bytes of CPU memory beside the model.
        disk: Bytes written.
        waiting: Seconds beside what the tokens take.
    """

    tokens: float
    device: int
    memory: int = 0
    disk: int = 0
    waiting: float = 0

    def seconds(self, rate: float) -> float:
        """Return the time it takes where `rate` tokens a second pass the whole model."""
        return self.tokens / rate + self.waiting


def waiting(model: Footprint, passes: float, adapted: bool = False) -> float:
    """Return the seconds that whole passes take however few their tokens are."""
    a_pass = LAYER_SECONDS * len(model.layers)
    return passes * (a_pass + (ADAPTED_SECONDS * model.merged_bytes() if adapted else 0))


def trained_parameters(model: Footprint, method: Method, experts: Experts) -> int:
    """Return how many parameters a method trains."""
    if method.scope == "everything":
        return _of_everything(model, method)
    if method.scope == "lora":
        return model.adapters(method.rank)
    router = method.router != "none"
    return sum(model.slice_parameters(layer, count, router) for layer, count in experts.items())


def changed_bytes(model: Footprint, method: Method, experts: Experts) -> int:
    """Return the bytes of the tensors that a method changes."""
    if method.objective is None:
        return 0
    if method.scope == "lora":
        return model.merged_bytes()
    return trained_parameters(model, method, experts) * model.itemsize


def first_layer(model: Footprint, method: Method, experts: Experts) -> int:
    """Return the first decoder layer that a method trains."""
    if method.scope == "experts":
        return min(experts)
    if method.only:
        return min(index for index, _ in _with_experts(model, method))
    return min(method.layers) if method.layers else 0


def _with_experts(model: Footprint, method: Method) -> list[tuple[int, LayerSize]]:
    """Return the MoE layers that are trained as a whole, or in part."""
    chosen = range(len(model.layers)) if method.layers is None else method.layers
    return [(index, model.layers[index]) for index in chosen if model.layers[index].expert]


def _of_everything(model: Footprint, method: Method) -> int:
    if method.only is None and method.layers is None:
        return model.parameters
    if method.only is None:
        return sum(model.layers[index].parameters for index in method.layers or ())
    sizes = [size for _, size in _with_experts(model, method)]
    routers = sum(size.router for size in sizes) if "routers" in method.only else 0
    all_experts = sum(size.experts * size.expert for size in sizes)
    return routers + (all_experts if "experts" in method.only else 0)
