"""Top-k sets and their overlap (Fig. 3)."""

import pytest
import torch

from seuf.moe.architectures import moe_layers
from seuf.moe.batches import by_length, pad
from seuf.moe.routing import TopKSets, capture_routing
from seuf.moe.stability import RoutingProbe, first_tokens, probe_of, routing_overlap
from tests.tiny import TOP_K, bits, changed_names, tiny_model, tiny_samples


def chosen(*experts: tuple[int, ...]) -> torch.Tensor:
    """Return the top-k sets of one layer of four experts, one tuple a token."""
    return torch.tensor([[[e in token for e in range(4)] for token in experts]])


def test_overlap_of_the_same_choices_is_one():
    assert routing_overlap(chosen((0, 1), (2, 3)), chosen((0, 1), (2, 3))).tolist() == [1.0]


def test_overlap_of_disjoint_choices_is_zero():
    assert routing_overlap(chosen((0, 1)), chosen((2, 3))).tolist() == [0.0]


def test_overlap_is_the_mean_share_of_experts_kept():
    """The first token keeps one of two experts, the second both: (1/2 + 1) / 2."""
    assert routing_overlap(chosen((0, 2), (1, 3)), chosen((0, 1), (1, 3))).tolist() == [0.75]


def test_overlap_is_told_by_layer():
    """All kept in one layer, none in the other."""
    one = torch.cat([chosen((0, 1)), chosen((0, 1))])
    other = torch.cat([chosen((0, 1)), chosen((2, 3))])

    assert routing_overlap(one, other).tolist() == [1.0, 0.0]


def test_padding_has_no_top_k_set(model):
    """The sets of two samples padded together are those of each alone, one after the other."""
    short, long = [3, 4, 5], [6, 7, 8, 9, 10, 11]

    together, apart = (
        capture_routing(model, batches, top_k_sets=True).top_k_sets
        for batches in ([pad([short, long], 0)], [pad([short], 0), pad([long], 0)])
    )

    assert together.shape == (len(moe_layers(model)), 9, 4)
    assert (together.sum(-1) == TOP_K).all()
    assert torch.equal(together, apart)


def test_the_sets_of_a_probe_are_those_of_a_capture(model):
    batches = list(by_length(tiny_samples(5), 2, 0))
    routing = capture_routing(model, batches, top_k_sets=True)

    sets = TopKSets(batches)
    one, again, higher = sets(model), sets(model), sets(model, moe_layers(model)[-1].index)

    assert torch.equal(one, routing.top_k_sets)
    assert torch.equal(again, one)
    assert torch.equal(higher, one[-1:])


def test_a_probe_sees_nothing_in_an_unchanged_model_and_leaves_it_so(model):
    before = bits(model)

    probe = RoutingProbe(model, tiny_samples(3), tiny_samples(3, seed=1), padding=0)

    assert probe.overlap(model) == {"forget": 1.0, "retain": 1.0}
    assert changed_names(model, before) == set()


@pytest.mark.parametrize("first_layer", [0, 1])
@pytest.mark.parametrize("model_type", ["mixtral", "olmoe", "qwen2_moe"])
@torch.no_grad()
def test_a_probe_sees_a_router_that_was_turned_around(model_type, first_layer):
    """With every logit negated, top-2 of 4 becomes the other two in that layer; 1 of 2 is left.

    The probe that begins at that layer takes the one below for what it was.
    """
    model = tiny_model(model_type)
    probe = RoutingProbe(model, tiny_samples(3), tiny_samples(3, seed=1), 0, first_layer)

    for parameter in moe_layers(model)[-1].router.parameters():
        parameter.neg_()

    assert probe.overlap(model) == pytest.approx({"forget": 0.5, "retain": 0.5})


def test_first_tokens_takes_whole_samples_until_there_are_enough():
    """2 + 3 tokens are enough for 3, 4 or 5; for 6 the third sample is taken too."""
    samples = [[1, 2], [3, 4, 5], [6]]

    assert first_tokens(samples, 2) == samples[:1]
    assert first_tokens(samples, 3) == samples[:2]
    assert first_tokens(samples, 5) == samples[:2]
    assert first_tokens(samples, 6) == samples
    assert first_tokens(samples, 100) == samples


def test_a_probe_of_texts_sees_their_first_tokens(language_model):
    probe = probe_of(language_model, ["Ada lives"] * 9, ["Bo lives"] * 9, max_length=8, tokens=1)

    one = len(language_model.tokenizer("Ada lives")["input_ids"])
    assert probe.original["forget"].shape[1] == one
    assert probe.overlap(language_model.model) == {"forget": 1.0, "retain": 1.0}


def test_a_probe_sees_all_of_a_long_text(language_model):
    text = "Ada lives in Oslo, and Bo lives in Rome."
    probe = probe_of(language_model, [text], ["Bo lives"], max_length=4, tokens=100)

    assert probe.original["forget"].shape[1] == len(language_model.tokenizer(text)["input_ids"])


@torch.no_grad()
def test_a_probe_that_begins_higher_is_the_one_of_that_layer():
    """Three layers, the last router turned around: both see 1/2 of one layer's choices kept."""
    model = tiny_model("mixtral", num_hidden_layers=3)
    samples = tiny_samples(3), tiny_samples(3, seed=1)
    of_all, own = RoutingProbe(model, *samples, 0), RoutingProbe(model, *samples, 0, 2)

    for parameter in moe_layers(model)[-1].router.parameters():
        parameter.neg_()

    assert of_all.beginning_at(2).overlap(model) == own.overlap(model)
    assert own.overlap(model)["forget"] < 1
