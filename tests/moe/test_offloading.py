"""A model that lies partly in CPU memory or on disk gives what it gives in one place."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from seuf.inputs import InputError
from seuf.moe.architectures import input_device, moe_layers
from seuf.moe.batches import by_length
from seuf.moe.deltas import Delta
from seuf.moe.digests import model_digest
from seuf.moe.experts import ExpertSlice
from seuf.moe.forward import is_offloaded, keep_on_device
from seuf.moe.loading import load_model
from seuf.moe.routing import capture_routing
from seuf.moe.settings import ExternalModelSettings
from seuf.unlearning.scopes import everything
from tests.tiny import last_layer, some_change, tiny_inputs, tiny_language_model, tiny_samples

EVERY = ["first_layer", "last_layer", "everything"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small qwen2_moe on disk."""
    path = tmp_path_factory.mktemp("model")
    tiny_language_model().save(path)
    return path


def offloaded(folder: Path, where: str) -> Any:
    """Return the model with some modules on disk, as accelerate puts them there."""
    on_disk = {
        "first_layer": ["model.layers.0"],
        "last_layer": ["model.layers.1"],
        "everything": ["model.embed_tokens", "model.layers.0", "model.layers.1", "lm_head"],
    }[where]
    names = ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "lm_head"]
    places = {name: "disk" if name in on_disk else "cpu" for name in names}
    device_map: dict[str, str | int] = {**places, "model.rotary_emb": "cpu"}
    settings = ExternalModelSettings(
        path=str(folder), device_map=device_map, offload_folder=str(folder / "offload")
    )
    return load_model(settings).model


def whole(folder: Path) -> Any:
    """Return the same model in one place."""
    return load_model(ExternalModelSettings(path=str(folder), device="cpu")).model


@pytest.fixture(params=EVERY)
def model(request: pytest.FixtureRequest, folder: Path) -> Any:
    """The model, offloaded."""
    return offloaded(folder, request.param)


def test_routing_is_captured_as_in_one_place(model, folder):
    samples = tiny_samples()

    one, other = (capture_routing(m, by_length(samples, 4, 0)) for m in (model, whole(folder)))

    assert is_offloaded(model)
    assert torch.equal(one.affinity, other.affinity)


def test_the_digest_is_that_of_the_model_in_one_place(model, folder):
    assert model_digest(model) == model_digest(whole(folder))


def test_an_expert_of_an_offloaded_layer_needs_it_to_be_resident(folder):
    model = offloaded(folder, "last_layer")
    experts = moe_layers(model)[-1].experts

    with pytest.raises(InputError, match="offloaded"):
        ExpertSlice(experts, 0)
    with keep_on_device(model, [last_layer(model)]):
        assert ExpertSlice(experts, 0).parameters()


def train(model: nn.Module) -> list[torch.Tensor]:
    """Return an expert and its router after some steps."""
    layer = moe_layers(model)[-1]
    with keep_on_device(model, [layer.index]):
        model.requires_grad_(False)
        layer.router.requires_grad_(True)
        with ExpertSlice(layer.experts, 1) as part:
            trained = [*part.parameters(), *layer.router.parameters()]
            optimizer = torch.optim.AdamW(trained, lr=1e-2)
            for seed in range(3):
                logits = model(**tiny_inputs(seed=seed), use_cache=False).logits
                logits.log_softmax(-1).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
            return [tensor.detach().clone() for tensor in trained]


def test_training_gives_the_same_bits_as_in_one_place(model, folder):
    one, other = train(model), train(whole(folder))

    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@torch.no_grad()
def test_a_delta_is_applied_to_a_layer_on_disk_and_taken_off_again(folder):
    plain, model = whole(folder), offloaded(folder, "last_layer")
    delta = Delta.of(plain, some_change(plain), model_digest(plain))
    before = model(**tiny_inputs(), use_cache=False).logits
    with delta.applied_to(plain):
        expected = plain(**tiny_inputs(), use_cache=False).logits

    with delta.applied_to(model):
        assert torch.equal(model(**tiny_inputs(), use_cache=False).logits, expected)

    assert torch.equal(model(**tiny_inputs(), use_cache=False).logits, before)
    assert moe_layers(model)[-1].experts.down_proj.is_meta


@torch.no_grad()
def test_a_judge_that_writes_to_what_is_not_offloaded_is_noticed(folder):
    model = offloaded(folder, "last_layer")
    delta = Delta.of(model, some_change(whole(folder)), model_digest(model))

    with (
        pytest.raises(RuntimeError, match=r"in 1 tensors: model\.embed_tokens\.weight"),
        delta.applied_to(model),
    ):
        model.model.embed_tokens.weight[0, 0] += 1


def test_everything_of_an_offloaded_model_cannot_be_trained(model):
    with pytest.raises(InputError, match="a part of this one is offloaded"):
        everything(model)


def test_what_is_written_to_a_resident_layer_is_gone_after_it(folder):
    model = offloaded(folder, "last_layer")
    before = model_digest(model)

    with keep_on_device(model, [last_layer(model)]), torch.no_grad():
        moe_layers(model)[-1].experts.down_proj.fill_(7)

    assert model_digest(model) == before


def test_the_head_and_the_last_norm_are_kept_where_they_are_asked_for(folder):
    model = offloaded(folder, "everything")
    inside = {}

    for head in (False, True):
        with keep_on_device(model, [1], head=head):
            inside[head] = {n.split(".")[-2] for n, p in model.named_parameters() if p.is_meta}

    assert {"lm_head", "embed_tokens"} <= inside[False]
    assert "embed_tokens" in inside[True]
    assert "lm_head" not in inside[True]
    assert model.lm_head.weight.is_meta


def test_resident_does_nothing_to_a_model_in_one_place(folder):
    model = whole(folder)

    with keep_on_device(model, [0, 1]):
        assert not is_offloaded(model)

    assert not is_offloaded(model)


def test_input_goes_where_the_embeddings_will_run(folder):
    model = offloaded(folder, "everything")

    assert model.get_input_embeddings().weight.is_meta
    assert input_device(model) == torch.device("cpu")
