"""What a step is given: samples, what lies below the trained layer, references, inputs."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seuf.inputs import InputError
from seuf.moe.architectures import decoder, moe_layers
from seuf.moe.batches import Batch, Sample, Span, pack
from seuf.moe.forward import hidden_before
from seuf.moe.loading import LanguageModel
from seuf.moe.loss import batch_nll
from seuf.unlearning.algorithm import unlearn
from seuf.unlearning.anchor import Anchor
from seuf.unlearning.forward_passes import (
    ForwardPasses,
    steering_vector,
)
from seuf.unlearning.objectives import OBJECTIVES, arguments_of
from seuf.unlearning.samples import counted_tokens, draw_batches, text_numbers
from tests.tiny import hook_count, last_layer, little_memory, tiny_samples
from tests.unlearning.runs import SETTINGS, FirstIsWorst, method

FORGET, RETAIN = tiny_samples(5), tiny_samples(7, seed=1)
WITH_REFERENCE = {n for n in OBJECTIVES if any("reference" in i for i in arguments_of(n)[0])}


@pytest.fixture
def base(model, language_model) -> LanguageModel:
    """Every architecture, with some tokenizer."""
    return LanguageModel(model, language_model.tokenizer)


@pytest.fixture
def asking(monkeypatch):
    """Return the passes of an objective that asks for the named inputs."""

    def passes(
        base: LanguageModel,
        *names: str,
        first: int = 0,
        sets: Any = (FORGET, RETAIN),
        **settings: Any,
    ) -> ForwardPasses:
        namespace: dict[str, Any] = {}
        exec(f"def asked({', '.join(names)}): ...", namespace)
        monkeypatch.setitem(OBJECTIVES, "asked", namespace["asked"])
        shared = SETTINGS.model_copy(update={"steps": 3, **settings})
        of = method("everything", "asked")
        return ForwardPasses(base, *sets, of, shared, first, steered_layer=first, seed=0)

    return passes


@torch.no_grad()
def test_references_are_of_the_original_model(language_model, asking):
    """The head is set to zero afterwards, so that every token costs log 300."""
    passes = asking(language_model, "forget_nll", "forget_reference_nll")
    original = passes.objective_inputs(passes.batch(1))["forget_nll"].sums()

    language_model.model.get_output_embeddings().weight.zero_()

    now = passes.objective_inputs(passes.batch(1))
    predicted = now["forget_nll"].mask.sum(1)
    torch.testing.assert_close(now["forget_reference_nll"], original)
    torch.testing.assert_close(now["forget_nll"].sums(), predicted * torch.tensor(300.0).log())


PACKED = Sample([5, 6, 7, 8, 9, 4], [Span(0, 1, 4), Span(4, 4, 6)])


def test_of_a_text_the_first_token_and_the_prompt_have_no_loss():
    """Texts 5 6 7 8, of which 5 is the prompt, and 9 4: the losses of 6 7 8 and of 4 count.

    As if the texts stood alone: the first token of each is told by nothing, or by another text.
    """
    assert text_numbers(PACKED).tolist() == [-1, 0, 0, 0, -1, 1]
    assert counted_tokens(PACKED).tolist() == [False, *[True] * 5]
    assert text_numbers([5, 6, 7]).tolist() == [-1, 0, 0]
    assert counted_tokens([5, 6]).tolist() == [True] * 2


@torch.no_grad()
def test_losses_of_packed_texts_are_sums_over_each_text(language_model, asking):
    """Those of one pass over the block: attention is not told where a text begins."""
    passes = asking(language_model, "forget_nll", "forget_reference_nll", sets=([PACKED], RETAIN))
    ids = torch.tensor([PACKED])
    values, _ = batch_nll(language_model.model, Batch(ids, torch.ones_like(ids)))

    given = passes.objective_inputs(passes.batch(0))

    expected = torch.stack([values[0, :3].sum(), values[0, 4]]).repeat(2)
    torch.testing.assert_close(given["forget_nll"].sums(), expected)
    torch.testing.assert_close(given["forget_reference_nll"], expected)
    assert given["forget_nll"].lengths().tolist() == [3, 1] * 2


@torch.no_grad()
def test_a_prompt_is_no_part_of_losses_and_activations_but_of_the_anchor(language_model, asking):
    asked = Sample([5, 6, 7, 8], [Span(0, 2, 4)])
    losses = [f"{name}_{kind}" for name in ("forget", "retain") for kind in ("nll", "hidden")]
    passes = asking(language_model, *losses, "forget_reference_nll", sets=([asked], [asked]))
    batch = passes.batch(0)

    given = passes.objective_inputs(batch)

    for name in ("forget", "retain"):
        assert given[f"{name}_nll"].mask.tolist() == [[False, True, True]] * 2
        assert given[f"{name}_hidden"].mask.tolist() == [[False, False, True, True]] * 2
    answers = given["forget_nll"].values[:, 1:].sum(1)
    torch.testing.assert_close(given["forget_reference_nll"], answers)
    assert batch.forget_mask[:2].all()


def test_batches_of_packed_samples_have_one_shape(language_model, asking):
    """So that a recorded step can take them all."""
    packed = pack(tiny_samples(9), 12)
    passes = asking(language_model, "forget_nll", sets=(packed, RETAIN))

    longest = max(map(len, [*packed, *RETAIN]))
    most = max(len(sample.texts) for sample in packed)
    for step in range(3):
        assert passes.batch(step).texts.shape == (2, most, longest)


@torch.no_grad()
def test_reference_activations_are_of_the_original_model(language_model, asking):
    """Those of padding are zero; it does not count."""
    passes = asking(language_model, "forget_hidden", "retain_hidden", "retain_reference_hidden")
    hidden, mask, _ = passes.objective_inputs(passes.batch(2))["retain_hidden"]

    language_model.model.get_input_embeddings().weight.mul_(2)

    now = passes.objective_inputs(passes.batch(2))
    torch.testing.assert_close(now["retain_reference_hidden"], hidden * mask[..., None])
    assert now["retain_hidden"].distance(now["retain_reference_hidden"]) > 0.01


@torch.no_grad()
def test_reference_activations_of_a_bfloat16_model_are_kept_in_it(language_model, asking):
    language_model.model.bfloat16()

    passes = asking(language_model, "forget_hidden", "retain_hidden", "retain_reference_hidden")

    assert passes.reference_hidden.rows.dtype == torch.bfloat16
    now = passes.objective_inputs(passes.batch(0))
    assert now["retain_reference_hidden"].dtype == torch.bfloat16
    assert now["retain_hidden"].distance(now["retain_reference_hidden"]) < 1e-3


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reference_predictions_are_of_the_original_model(language_model, asking, dtype):
    """All layers are set to zero afterwards; the head stays. At first nothing diverges."""
    model = language_model.model.to(dtype)
    names = [f"{s}{k}_predictions" for s in ("forget", "retain") for k in ("", "_reference")]
    passes = asking(language_model, *names)
    before = passes.objective_inputs(passes.batch(1))

    for parameter in decoder(model).layers.parameters():
        parameter.zero_()

    after = passes.objective_inputs(passes.batch(1))
    assert passes.forget_last.rows.dtype == dtype
    for s in ("forget", "retain"):
        original = after[f"{s}_reference_predictions"]
        at_first, now = (i[f"{s}_predictions"].divergence(original) for i in (before, after))
        rounding = 1e-6 if dtype == torch.float32 else 1e-4
        assert at_first.values[at_first.mask].abs().max() < rounding
        assert now.mean() > 0.01


@torch.no_grad()
def test_a_head_in_training_is_copied_for_the_reference_alone(language_model, asking):
    """The head is set to zero afterwards: every token is then as likely, but not before."""
    head = language_model.model.get_output_embeddings()
    passes = asking(language_model, "forget_predictions", "forget_reference_predictions")

    head.weight.zero_()

    now = passes.objective_inputs(passes.batch(0))
    own, original = (now[f"forget{k}_predictions"].logits for k in ("", "_reference"))
    assert own.head is head
    assert original.head is not head
    assert original.head(original.hidden[0]).std() > 0.01
    assert asking(language_model, "forget_predictions").reference_head is None


def test_a_frozen_head_is_the_original_s_own(language_model):
    of = method("experts", "undial", retain_loss="kl")

    passes = ForwardPasses(language_model, FORGET, RETAIN, of, SETTINGS, 1, 1, seed=0)

    assert passes.reference_head is passes.head


@torch.no_grad()
def test_the_retain_loss_is_the_row_s_own(language_model):
    """The NLL of tokens, or their divergence from the original, which is none at first."""
    losses = {}
    for which in ("nll", "kl"):
        of = method("experts", "gdiff", retain_loss=which)
        passes = ForwardPasses(language_model, FORGET, RETAIN, of, SETTINGS, 1, 1, seed=0)
        losses[which] = passes.objective_inputs(passes.batch(0))["retain_loss"].mean()
        nll = passes.nll(passes.samples_at(passes.positions[0][1])).mean()

    torch.testing.assert_close(losses["nll"], nll)
    assert losses["kl"].abs() < 1e-6


def test_nothing_is_computed_that_no_objective_asks_for(language_model, asking):
    passes = asking(language_model, "forget_nll", "steering")

    assert passes.reference_nll == {}
    assert passes.reference_hidden is None
    assert len(passes.batch(0).input_ids) == 2
    assert passes.objective_inputs(passes.batch(0)).keys() == {"forget_nll", "steering"}


def test_both_sets_pass_the_model_together_and_once_a_step(language_model, asking, monkeypatch):
    sizes, inner = [], ForwardPasses.predictions
    monkeypatch.setattr(
        ForwardPasses, "predictions", lambda self, b: (sizes.append(len(b[0])), inner(self, b))[1]
    )
    passes = asking(language_model, "forget_nll", "forget_predictions", "retain_loss")

    passes.objective_inputs(passes.batch(0))

    assert sizes == [4]


@pytest.mark.parametrize("kind", ["nll", "hidden"])
def test_each_set_has_its_own_part_of_the_pass(language_model, asking, kind):
    """As if each had passed alone, but for the padding to the longest of both."""
    passes = asking(language_model, f"forget_{kind}", f"retain_{kind}")
    now = passes.objective_inputs(passes.batch(0))

    for name, positions in zip(("forget", "retain"), passes.positions[0], strict=True):
        alone = getattr(passes, kind)(passes.samples_at(positions))
        part, width = now[f"{name}_{kind}"], alone.mask.shape[1]
        assert torch.equal(part.mask[:, :width], alone.mask)
        assert not part.mask[:, width:].any()
        torch.testing.assert_close(
            part.values[:, :width][alone.mask], alone.values[alone.mask], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("kind", ["nll", "hidden"])
def test_the_anchor_watches_tokens_to_forget_only(language_model, asking, kind):
    losses, hooks = [], hook_count(language_model.model)
    for names in ([f"forget_{kind}"], [f"forget_{kind}", f"retain_{kind}"]):
        anchor = Anchor(language_model.model, [(0, 1)], "softmax")
        passes = asking(language_model, *names)
        batch = passes.batch(0)

        with anchor.watching(batch.forget_mask):
            passes.objective_inputs(batch)
        losses.append(anchor.loss(torch.device("cpu")))

        assert losses[-1].requires_grad
        assert hook_count(language_model.model) == hooks
    torch.testing.assert_close(*losses)


@given(st.integers(1, 64), st.floats(0.5, 1000), st.integers(0, 9))
def test_the_steering_vector_has_its_length_and_no_negative_part(size, length, seed):
    vector = steering_vector(size, length, seed)

    assert vector.norm().item() == pytest.approx(length, rel=1e-4)
    assert (vector >= 0).all()
    assert torch.equal(vector, steering_vector(size, length, seed))


def test_a_target_may_be_so_many_norms_of_what_is_forgotten(language_model):
    """Twice the mean norm over the tokens of all samples drawn; no prompt and no padding.

    Here the first token of each is its prompt, and a pass takes samples of different length.
    """
    forget = [Sample(ids, [Span(0, 1, len(ids))]) for ids in tiny_samples(3)]
    of, shared = method(objective="rmu", steering_norms=2.0), SETTINGS
    states = [hidden_before(language_model.model, 1, torch.tensor([ids])) for ids in forget]

    passes = ForwardPasses(language_model, forget, RETAIN, of, shared, 0, 0, seed=0)

    expected = 2 * torch.cat([one[0, 1:] for one in states]).norm(dim=-1).mean()
    torch.testing.assert_close(passes.steering.norm(), expected, rtol=1e-4, atol=1e-4)


def test_another_seed_steers_elsewhere():
    assert not torch.equal(steering_vector(8, 1.0, 0), steering_vector(8, 1.0, 1))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 30), st.integers(1, 5))
def test_every_epoch_draws_each_sample_once(forget, retain, steps, batch_size):
    drawn = draw_batches(forget, retain, steps, batch_size, seed=3)

    assert len(drawn) == steps
    for which, first, count in ((0, 0, forget), (1, forget, retain)):
        order = [position - first for draw in drawn for position in draw[which]]
        assert len(order) == steps * batch_size
        for start in range(0, len(order) - count + 1, count):
            assert sorted(order[start : start + count]) == list(range(count))


@given(st.integers(0, 50))
def test_draws_are_decided_by_the_seed(seed):
    one, same, other = (draw_batches(40, 40, 5, 8, s) for s in (seed, seed, seed + 1))

    assert one == same
    assert one != other
    assert [forget for forget, _ in one] != [[p - 40 for p in retain] for _, retain in one]


def test_more_steps_begin_with_the_same_draws():
    assert draw_batches(5, 7, 9, 2, 0)[:4] == draw_batches(5, 7, 4, 2, 0)


@torch.no_grad()
def test_losses_and_activations_are_the_same_with_and_without_the_cache(base, asking):
    last = last_layer(base.model)
    names = ("forget_nll", "retain_nll", "forget_hidden")
    cached, plain = (asking(base, *names, first=last, prefix_cache=c) for c in (True, False))

    one, other = (passes.objective_inputs(passes.batch(0)) for passes in (cached, plain))

    assert cached.prefix is not None
    assert plain.prefix is None
    for name in names:
        kept = one[name].mask
        torch.testing.assert_close(
            one[name].values[kept], other[name].values[kept], rtol=1e-5, atol=1e-5
        )


@torch.no_grad()
def test_layers_below_do_not_run_again(base, asking):
    passes, ran = asking(base, "forget_nll", first=last_layer(base.model)), []
    first = next(decoder(base.model).layers[0].children())
    first.register_forward_pre_hook(lambda module, args: ran.append(1))

    passes.objective_inputs(passes.batch(0))

    assert ran == []


@torch.no_grad()
def test_reference_sums_are_of_each_sample_alone(base, asking):
    passes = asking(base, "forget_nll", "retain_nll", first=last_layer(base.model), steps=5)

    sums = passes.nll_sums(range(5))

    for position, sample in enumerate(FORGET):
        ids = torch.tensor([sample])
        nll, _ = batch_nll(base.model, Batch(ids, torch.ones_like(ids)))
        torch.testing.assert_close(sums[position], nll.sum()[None], rtol=1e-5, atol=1e-4)


def test_nothing_is_cached_below_the_first_layer(language_model, asking):
    assert asking(language_model, "forget_nll", first=0).prefix is None


def trained(base: LanguageModel, forget: Any, retain: Any, objective: str, **settings: Any):
    """Return what a short run makes of the last layer's expert 2."""
    experts = [(last_layer(base.model), 2)]
    shared = SETTINGS.model_copy(update={"steps": 20, "evaluate_every": 10, **settings})
    of = method(objective=objective)
    return unlearn(base, forget, retain, of, experts, FirstIsWorst(), shared).delta.tensors


@pytest.mark.parametrize("objective", ["gdiff", "rmu"])
def test_twenty_steps_give_the_same_weights_with_and_without_the_cache(base, objective):
    """One objective takes losses from the cache, one activations."""
    _same_with_and_without_the_cache(base, objective)


@pytest.mark.parametrize("objective", sorted({*OBJECTIVES} - {"gdiff", "rmu"}))
def test_so_they_do_with_each_other_objective(language_model, objective):
    _same_with_and_without_the_cache(language_model, objective)


def _same_with_and_without_the_cache(base: LanguageModel, objective: str) -> None:
    """Compare to rounding: a sample's hidden state was computed beside other samples."""
    sets = tiny_samples(5), tiny_samples(5, seed=1)

    one, other = (trained(base, *sets, objective, prefix_cache=c) for c in (True, False))

    assert one.keys() == other.keys()
    for key, tensor in one.items():
        # AdamW turns a gradient of nearly nothing into a whole step: few weights may differ
        close = torch.isclose(tensor, other[key], rtol=1e-3, atol=1e-4)
        assert close.float().mean() > 0.98


@pytest.mark.parametrize("objective", sorted({*OBJECTIVES} - WITH_REFERENCE))
def test_where_the_arithmetic_is_the_same_the_weights_are_the_same_to_the_bit(
    language_model, objective
):
    """Samples of one length, as many as a step takes: each pass holds the same rows.

    Not so with a reference: its pass holds one sample alone, a step's pass two.
    """
    rows, common = tiny_samples(4, longest=3), {"batch_size": 1, "steps": 20}

    one, other = (
        trained(language_model, rows[:1], rows[1:2], objective, prefix_cache=c, **common)
        for c in (True, False)
    )

    assert moe_layers(language_model.model)[-1].index == 1
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_samples_that_do_not_fit_pass_in_parts_before_the_first_step(language_model, asking):
    """Four fail once, in the first of the passes; the others begin with the smaller size."""
    names = ("forget_nll", "forget_reference_nll", "retain_hidden", "retain_reference_hidden")

    def before_training() -> list[torch.Tensor]:
        passes = asking(language_model, *names, first=1, steps=6)
        sums = torch.stack([passes.reference_nll[n] for n in range(5)])
        return [sums, passes.reference_hidden.rows, passes.prefix.rows]

    whole = before_training()
    with little_memory(language_model.model, rows=2) as failed:
        parts = before_training()

    assert failed == [4]
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


def test_a_sample_that_does_not_fit_is_too_long(language_model, asking):
    with (
        little_memory(language_model.model, rows=0),
        pytest.raises(InputError, match=r"lower unlearning\.max_length"),
    ):
        asking(language_model, "forget_nll", "forget_reference_nll")
