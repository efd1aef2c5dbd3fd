"""Make a mixture of experts of a dense model, so that a study has a real model small enough to try.

1. Fine-grained sparse upcycling: the neurons of each feed-forward layer are dealt, by a random
   permutation, into `granularity` parts, and every part is copied until there are `experts` of them
   (Komatsuzaki et al. 2023, arXiv 2212.05055; parts as in He et al. 2024, arXiv 2410.07524). The
   router's rows of one copy are alike, so a token takes all parts of a copy; their outputs, weighed
   by 1 / top_k, add up to the dense layer's with the output weights times `granularity`.
2. Drop-upcycling (Nakamura et al. 2025, arXiv 2502.19261): a share of each expert's neurons is
   drawn anew with the dense layer's standard deviation, and the router's rows get a little noise of
   their own. Copies would stay alike otherwise. Up to here the function is the dense model's.
3. `seuf.moe.distillation` then teaches the model what its dense self says.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GraniteMoeConfig,
    MixtralConfig,
    PreTrainedModel,
    Qwen3MoeConfig,
)

from seuf.inputs import InputError
from seuf.moe.hub import (
    IN_FOLDERS,
    SMALL_FILES,
    HubReference,
    clear_errors,
    fetch_files,
    fetch_weights,
)
from seuf.moe.loading import LanguageModel, keep_bars_out_of_logs, tokenizer_of
from seuf.moe.settings import UpcyclingSettings

COMMON = """
    vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads hidden_act
    rms_norm_eps initializer_range max_position_embeddings rope_parameters tie_word_embeddings
    bos_token_id eos_token_id pad_token_id attention_dropout
"""
GATE, UP, DOWN = "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"


class Target(NamedTuple):
    """Which class of transformers computes what a dense class does, but with experts.

    Attributes:
        config: Makes its configuration of the dense one, with further values.
        block: Path of a layer's MoE block within the layer.
        router: Path of the router's matrix (E, d) within the block.
    """

    config: Callable[[Any, dict[str, Any]], Any]
    block: str
    router: str


def _mixtral(dense: Any, shape: dict[str, Any]) -> MixtralConfig:
    if getattr(dense, "attention_bias", False):
        raise InputError("A llama model whose attention has biases cannot be upcycled.")
    window = getattr(dense, "sliding_window", None)
    width = {"intermediate_size": shape.pop("width"), "num_local_experts": shape.pop("experts")}
    return MixtralConfig(**shape, **width, head_dim=_head(dense), sliding_window=window)


def _qwen3(dense: Any, shape: dict[str, Any]) -> Qwen3MoeConfig:
    if getattr(dense, "use_sliding_window", False):
        raise InputError("A qwen3 model with sliding windows cannot be upcycled.")
    shape |= {"moe_intermediate_size": shape.pop("width"), "num_experts": shape.pop("experts")}
    shape |= {"intermediate_size": dense.intermediate_size, "head_dim": _head(dense)}
    return Qwen3MoeConfig(**shape, attention_bias=dense.attention_bias, norm_topk_prob=True)


def _granite(dense: Any, shape: dict[str, Any]) -> GraniteMoeConfig:
    """Return a configuration of the class whose attention has biases, as qwen2's has."""
    if getattr(dense, "use_sliding_window", False):
        raise InputError("A qwen2 model with sliding windows cannot be upcycled.")
    width = {"intermediate_size": shape.pop("width"), "num_local_experts": shape.pop("experts")}
    scale = _head(dense) ** -0.5
    return GraniteMoeConfig(**shape, **width, attention_bias=True, attention_multiplier=scale)


TARGETS: dict[str, Target] = {
    "llama": Target(_mixtral, "mlp", "gate.weight"),
    "mistral": Target(_mixtral, "mlp", "gate.weight"),
    "qwen3": Target(_qwen3, "mlp", "gate.weight"),
    "qwen2": Target(_granite, "block_sparse_moe", "router.weight"),
}
# Why others are refused, where there is more to say than that nobody has tried them.
REFUSED = {
    "smollm3": "some of its layers have no rotary positions, and no MoE class has such layers",
}


def load_dense(settings: UpcyclingSettings) -> LanguageModel:
    """Return the dense model that is upcycled, in float32 on the CPU, and its tokenizer.

    Raises:
        InputError: If there is none, it is of no kind of `TARGETS`, its feed-forward layers cannot
            be cut as the settings say, or it is a GGUF file and the package `gguf` is missing.
    """
    reference = HubReference(settings.path, settings.revision)
    folder, file, config = _configuration(settings)
    if not file:
        fetch_weights(reference, folder)
    tokenizer = tokenizer_of(reference, folder, **file)
    if file:  # versions of transformers differ in what they take the file's own numbers for
        for name in ("bos_token", "eos_token", "pad_token"):
            token = getattr(config, f"{name}_id", None)
            if token is not None:
                setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(token))
    if tokenizer.eos_token_id is None:
        raise InputError(f"The tokenizer of {settings.path} has no token that ends a text.")
    keep_bars_out_of_logs()
    with clear_errors(reference):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **file)
    return LanguageModel(model.eval(), tokenizer)


def empty_mixture(settings: UpcyclingSettings) -> PreTrainedModel:
    """Return the mixture of experts without its weights, from the dense configuration alone."""
    config = _mixture_config(_configuration(settings)[2], settings)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, settings.dtype)
        )
    return model


def _configuration(settings: UpcyclingSettings) -> tuple[Path, dict[str, str], Any]:
    """Return the dense model's folder, the GGUF file in it as an option, and its configuration."""
    reference, file = HubReference(settings.path, settings.revision), dict[str, str]()
    if settings.gguf_file is None:
        folder = fetch_files(reference, SMALL_FILES, IN_FOLDERS)
    else:
        if find_spec("gguf") is None:
            raise InputError("To read a GGUF file the package gguf is needed: pip install gguf")
        file = {"gguf_file": settings.gguf_file}
        folder = fetch_files(reference, (settings.gguf_file,))
        if not (folder / settings.gguf_file).is_file():
            raise InputError(f"There is no file {settings.gguf_file} in {settings.path}.")
    with clear_errors(reference):
        config = AutoConfig.from_pretrained(folder, **file)
    check_dense(config, settings)
    return folder, file, config


def check_dense(config: Any, settings: UpcyclingSettings) -> None:
    """Raise if a model of this configuration cannot be upcycled as the settings say.

    Raises:
        InputError: With the reason.
    """
    kind = config.model_type
    if kind not in TARGETS:
        why = REFUSED.get(kind, f"known are {', '.join(TARGETS)}")
        raise InputError(f"A model of type {kind!r} cannot be upcycled: {why}.")
    if getattr(config, "mlp_bias", False):
        raise InputError("A model whose feed-forward layers have biases cannot be upcycled.")
    if config.intermediate_size % settings.granularity:
        raise InputError(
            f"Feed-forward layers of {config.intermediate_size} neurons have no "
            f"{settings.granularity} equal parts (base_model.granularity)."
        )


@torch.no_grad()
def upcycle(dense: PreTrainedModel, settings: UpcyclingSettings, seed: int) -> PreTrainedModel:
    """Return the mixture of experts, in float32 on the CPU; the dense model is left as it was.

    Args:
        dense: See `load_dense`.
        settings: Number and shape of the experts, and what is drawn anew.
        seed: Decides permutations, router rows and what is drawn anew.
    """
    config, target = dense.config, TARGETS[dense.config.model_type]
    rng = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_mixture_config(config, settings), dtype=torch.float32)
    old, new = dense.state_dict(), model.state_dict()
    for name, tensor in new.items():
        if name in old:
            tensor.copy_(old[name])
        elif name.endswith("o_proj.bias"):  # of a class whose attention has all biases or none
            tensor.zero_()
    for layer in range(config.num_hidden_layers):
        within = f"model.layers.{layer}."
        gate, up, down = (old[within + part] for part in (GATE, UP, DOWN))
        block = f"{within}{target.block}."
        gate_up, out, router = cut_into_experts(gate, up, down, settings, rng)
        new[f"{block}experts.gate_up_proj"].copy_(gate_up)
        new[f"{block}experts.down_proj"].copy_(out)
        new[block + target.router].copy_(router)
    return model.eval()


def cut_into_experts(
    gate: Tensor, up: Tensor, down: Tensor, settings: UpcyclingSettings, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the experts of one feed-forward layer and the rows of their router.

    Args:
        gate: (n, d), n neurons.
        up: (n, d).
        down: (d, n).
        settings: Number and shape of the experts, and what is drawn anew.
        rng: Draws.

    Returns:
        Gate and up projection (E, 2m, d) with m = n / granularity, down projection (E, d, m), and
        the router's matrix (E, d).
    """
    neurons, hidden = gate.shape
    parts, experts = settings.granularity, settings.experts
    width, copies = neurons // parts, experts // parts
    dealt = torch.randperm(neurons, generator=rng).view(parts, width)
    rows = torch.randn(copies, hidden, generator=rng) * settings.router_range
    gate_up, downs, router = [], [], []
    for expert in range(experts):
        copy, part = divmod(expert, parts)
        chosen = dealt[part]
        g, u, d = gate[chosen].clone(), up[chosen].clone(), down[:, chosen] * parts
        drawn = torch.randperm(width, generator=rng)[: round(settings.redrawn * width)]
        shape = len(drawn), hidden
        g[drawn] = torch.randn(shape, generator=rng) * gate.std()
        u[drawn] = torch.randn(shape, generator=rng) * up.std()
        d[:, drawn] = torch.randn(shape[::-1], generator=rng) * down.std() * parts
        noise = torch.randn(hidden, generator=rng) * settings.router_range * settings.router_noise
        gate_up.append(torch.cat([g, u]))
        downs.append(d)
        router.append(rows[copy] + noise)
    return torch.stack(gate_up), torch.stack(downs), torch.stack(router)


def _mixture_config(dense: Any, settings: UpcyclingSettings) -> Any:
    shape = {name: getattr(dense, name) for name in COMMON.split() if hasattr(dense, name)}
    shape |= {
        "experts": settings.experts,
        "width": dense.intermediate_size // settings.granularity,
        "num_experts_per_tok": settings.top_k,
        "router_aux_loss_coef": settings.balance_weight,
    }
    return TARGETS[dense.model_type].config(dense, shape)


def _head(dense: Any) -> int:
    width = getattr(dense, "head_dim", None)
    return int(width or dense.hidden_size // dense.num_attention_heads)
