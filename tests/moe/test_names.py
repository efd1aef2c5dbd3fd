"""Tensors are named as the checkpoint names them, as transformers itself says."""

import pytest
import torch

from seuf.moe.architectures import moe_layers
from seuf.moe.names import (
    layer_of,
    paths_of_keys,
    row_path,
    rows_of_experts,
    same_bits,
    split_row,
    tensor_at,
    to_checkpoint,
    weight_names,
    write,
)
from tests.tiny import bits, changed_names, tiny_model


def all_paths(model):
    """Yield every path of a model, each expert apart."""
    rows = rows_of_experts(model)
    for name in weight_names(model):
        yield from (row_path(name, e) for e in range(rows[name])) if name in rows else [name]


def by_key(model):
    """Return what all paths together hold of the checkpoint."""
    tensors, found = model.state_dict(), {}
    for path in all_paths(model):
        name, row = split_row(path)
        found |= to_checkpoint(model, path, tensors[name] if row is None else tensors[name][row])
    return found


@pytest.mark.parametrize(
    ("model_type", "key"),
    [
        ("qwen2_moe", "model.layers.1.mlp.experts.2.gate_proj.weight"),
        ("mixtral", "model.layers.1.block_sparse_moe.experts.2.w1.weight"),
        ("mixtral", "model.layers.1.block_sparse_moe.gate.weight"),
        ("jamba", "model.layers.3.feed_forward.experts.2.up_proj.weight"),
        ("gpt_oss", "model.layers.1.mlp.experts.gate_up_proj_bias[2]"),
        ("granitemoe", "model.layers.1.block_sparse_moe.output_linear.weight[2]"),
    ],
)
def test_keys_are_those_of_the_published_checkpoints(model_type, key):
    assert key in by_key(tiny_model(model_type))


def test_a_key_is_found_where_it_was_taken_from(model):
    """Gate and up projection of an expert lie in one path of the model."""
    layer = moe_layers(model)[-1]
    name = next(n for n, m in model.named_modules() if m is layer.experts)
    path = f"{name}.gate_up_proj[2]"
    keys = to_checkpoint(model, path, tensor_at(model, path))

    assert paths_of_keys(model, keys) == {path: list(keys)}


def test_a_key_that_the_model_does_not_hold_is_an_error(model):
    with pytest.raises(KeyError, match=r"no lm_tail\.weight"):
        paths_of_keys(model, ["lm_tail.weight"])


def test_of_a_path_only_the_given_keys_are_written():
    """The up projection is the second half of a fused row; the first stays."""
    model = tiny_model("qwen2_moe")
    before, path = bits(model), "model.layers.1.mlp.experts.gate_up_proj[2]"

    write(model, path, {"model.layers.1.mlp.experts.2.up_proj.weight": torch.ones(16, 32)})

    now, was = tensor_at(model, path), before["model.layers.1.mlp.experts.gate_up_proj"][2]
    assert torch.equal(now, torch.cat([was[:16], torch.ones(16, 32)]))
    assert changed_names(model, before) == {"model.layers.1.mlp.experts.gate_up_proj"}


def test_tied_weights_are_named_once():
    model = tiny_model("qwen2_moe", tie_word_embeddings=True)

    assert "model.embed_tokens.weight" in weight_names(model)
    assert "lm_head.weight" not in weight_names(model)


def test_storage_is_the_models_own(model):
    path = next(iter(rows_of_experts(model)))

    tensor_at(model, f"{path}[2]").fill_(5)

    assert (model.get_parameter(path)[2] == 5).all()


def test_a_change_reaches_the_layers_from_its_own_on(model):
    layers = next(n for n, m in model.named_modules() if m is model.get_decoder().layers)

    assert layer_of(model, f"{layers}.1.mlp.anything[3]") == 1
    assert layer_of(model, "model.embed_tokens.weight") == 0


def test_bits_tell_zeros_of_two_signs_apart_and_find_equals_in_what_is_no_number():
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert same_bits(torch.tensor([float("nan")]), torch.tensor([float("nan")]))
