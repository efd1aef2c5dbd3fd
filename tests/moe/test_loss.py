"""Token losses."""

import pytest
import torch

from seuf.moe.batches import pad
from seuf.moe.loss import token_nll
from tests.tiny import VOCABULARY, tiny_batch, tiny_model, tiny_samples


@torch.no_grad()
def test_token_nll_is_minus_the_log_probability_of_the_next_token(model):
    batch = tiny_batch()
    logits = model(**batch._asdict()).logits
    expected = -logits.double().log_softmax(-1)[:, :-1].gather(2, batch.input_ids[:, 1:, None])

    nll, mask = token_nll(model, batch)

    assert nll.dtype == torch.float32
    assert torch.equal(mask, batch.attention_mask[:, 1:].bool())
    torch.testing.assert_close(nll[mask], expected[..., 0][mask].float())


@torch.no_grad()
def test_padding_has_no_loss_and_changes_none(model):
    short, long = tiny_samples(1)[0][:3], list(range(1, 13))
    alone, _ = token_nll(model, pad([short], 0))

    nll, mask = token_nll(model, pad([short, long], 0))

    assert mask.sum(1).tolist() == [2, 11]
    assert (nll[0, 2:] == 0).all()
    torch.testing.assert_close(nll[0, :2], alone[0])


@torch.no_grad()
def test_a_model_that_knows_nothing_pays_log_vocabulary(model):
    """All logits equal, so every token costs log 97 nats."""
    model.get_output_embeddings().weight.zero_()

    nll, mask = token_nll(model, tiny_batch())

    torch.testing.assert_close(nll[mask], torch.full_like(nll[mask], VOCABULARY).log())


@pytest.mark.parametrize("model_type", ["mixtral", "olmoe", "qwen2_moe"])
@torch.no_grad()
def test_the_load_balancing_loss_is_not_in_it(model_type):
    """With output_router_logits the model's own loss has the balancing term; ours does not."""
    model = tiny_model(model_type, output_router_logits=True, router_aux_loss_coef=1.0)
    batch = tiny_batch()
    own = model(**batch._asdict(), labels=batch.labels)

    nll, mask = token_nll(model, batch)

    assert own.aux_loss > 0.1
    torch.testing.assert_close(nll[mask].mean(), own.loss - own.aux_loss, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_loss_of_a_bfloat16_model_is_computed_in_float32():
    model = tiny_model("qwen2_moe").bfloat16()
    batch = tiny_batch()
    logits = model(**batch._asdict()).logits
    expected = -logits.float().log_softmax(-1)[:, :-1].gather(2, batch.input_ids[:, 1:, None])

    nll, mask = token_nll(model, batch)

    assert nll.dtype == torch.float32
    torch.testing.assert_close(nll[mask], expected[..., 0][mask])
