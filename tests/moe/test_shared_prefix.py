"""Layers below a change run once for each batch; results are the same to the bit."""

import pytest
import torch
from torch import nn

from seuf.moe.activations import SharedPrefix
from seuf.moe.architectures import decoder, moe_layers
from seuf.moe.batches import Batch
from seuf.moe.forward import stop_after
from tests.tiny import inputs_of, last_layer, tiny_batch, tiny_model


def count_of_first_layer(model: nn.Module) -> list[int]:
    """Return a list that grows each time the first layer computes something."""
    ran = []
    first = next(decoder(model).layers[0].children())
    first.register_forward_pre_hook(lambda module, args: ran.append(1))
    return ran


def change(model: nn.Module) -> None:
    """Change the last MoE layer."""
    with torch.no_grad():
        moe_layers(model)[-1].experts.down_proj.mul_(1.5)


@pytest.mark.parametrize("use_cache", [False, None])
@torch.no_grad()
def test_a_changed_model_gives_what_it_gives_alone_and_runs_the_lower_layers_once(model, use_cache):
    """lm-evaluation-harness leaves `use_cache` to the configuration."""
    batches = [tiny_batch(seed=seed) for seed in (0, 1)]
    shared = SharedPrefix(model, last_layer(model))
    with shared:
        before = [model(**inputs_of(b), use_cache=use_cache).logits for b in batches]
    change(model)
    expected = [model(**inputs_of(b), use_cache=use_cache).logits for b in batches]
    ran = count_of_first_layer(model)

    with shared:
        now = [model(**inputs_of(b), use_cache=use_cache).logits for b in batches]

    assert ran == []
    for one, other, old in zip(now, expected, before, strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, old)


@torch.no_grad()
def test_the_same_tokens_under_another_mask_are_another_batch(model):
    right = tiny_batch()
    whole = Batch(right.input_ids, torch.ones_like(right.input_ids))

    with SharedPrefix(model, 1):
        for batch in (right, whole, right, whole):
            shared = model(**inputs_of(batch), use_cache=False).logits
    expected = model(**inputs_of(whole), use_cache=False).logits

    assert torch.equal(shared, expected)


@torch.no_grad()
def test_a_pass_that_ends_above_the_layer_is_shared_too(model):
    ran = count_of_first_layer(model)

    with SharedPrefix(model, 1):
        for _ in range(3):
            with stop_after(model, 1):
                decoder(model)(**inputs_of(tiny_batch()), use_cache=False)

    assert len(ran) == 1


def test_training_passes_are_left_alone(model):
    """With gradients the lower layers may be what is trained."""
    ran = count_of_first_layer(model)

    with SharedPrefix(model, 1):
        for _ in range(2):
            model(**inputs_of(tiny_batch()), use_cache=False)

    assert len(ran) == 2


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_next", "jamba"])
@torch.no_grad()
def test_generation_is_left_alone(model_type):
    """Greedy answers are the same with and without."""
    model, prompt = tiny_model(model_type), torch.tensor([[5, 6, 7]])
    expected = model.generate(prompt, max_new_tokens=5, do_sample=False)

    with SharedPrefix(model, 1):
        model(prompt)
        answers = [model.generate(prompt, max_new_tokens=5, do_sample=False) for _ in range(2)]

    assert all(torch.equal(answer, expected) for answer in answers)


@torch.no_grad()
def test_what_finds_no_room_is_computed_again():
    """Six samples of 12 tokens, 32 wide, 4 bytes each: 9216 bytes."""
    model = tiny_model("mixtral")
    assert tiny_batch().input_ids.shape == (6, 12)

    for limit, runs in ((9216, 1), (9215, 2)):
        ran = count_of_first_layer(model)
        with SharedPrefix(model, 1, limit=limit):
            for _ in range(2):
                model(**inputs_of(tiny_batch()), use_cache=False)
        assert len(ran) == runs


def test_the_model_is_left_as_it_was(model):
    forward = decoder(model).forward

    with pytest.raises(ZeroDivisionError), SharedPrefix(model, 1):
        _ = 1 / 0

    assert decoder(model).forward == forward
    assert "forward" not in vars(decoder(model))
