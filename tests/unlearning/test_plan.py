"""What unlearning will need, worked out by hand for a model of round sizes."""

import pytest

from seuf.moe.footprint import Footprint, LayerSize
from seuf.unlearning.plan import Need, capture, evaluation, unlearning
from seuf.unlearning.settings import Method, RoutingSettings, UnlearningSettings

# Four equal layers: a token uses 100 of 400 parameters; the head costs as much as one layer.
MODEL = Footprint(
    [LayerSize(400, 100, expert=50, router=10, width=30)] * 4,
    embeddings=100,
    head=100,
    vocabulary=10,
    hidden_size=10,
    itemsize=2,
)
LAYER = 30 * 2 + 20 * 10  # bytes a token keeps of a layer
SETTINGS = UnlearningSettings(steps=10, batch_size=2, max_length=5, evaluate_every=4)


def need(objective: str | None, scope: str = "experts", layer: int = 2, **settings) -> Need:
    """Return what a method needs, with sets of 80 and 1000 tokens and looks of 40."""
    row = {"scope": scope, "objective": objective, "learning_rates": [1e-3, 1e-2]}
    if scope == "experts":
        row |= {"selection": "affinity", "anchor_weight": 1.0}
    shared = SETTINGS.model_copy(update=settings)
    return unlearning(MODEL, Method(**row), shared, layer, (80, 1000), 40)


def test_capture_passes_the_set_or_the_part_that_is_asked_for():
    """Weights are 2 * 1800 bytes; a batch of 4 samples of 5 tokens keeps 20 * 260."""
    settings = RoutingSettings(max_length=5, batch_size=4)

    assert capture(MODEL, settings, 70) == Need(70, 3600 + 20 * LAYER)
    assert capture(MODEL, settings.model_copy(update={"max_tokens": 50}), 70).tokens == 50
    assert capture(MODEL, settings, 7).device == 3600 + 7 * LAYER


def test_a_step_costs_the_layers_from_the_expert_on_and_the_head():
    """GDiff: 20 tokens a step pass 2 of 4 layers there and back (1 + 1.5) * 1/2, and the head,
    a quarter of the layers, twice: 1.75. Two rates of 10 steps: 20 * 20 * 1.75 = 700.

    Once beforehand, 80 + 100 tokens of both sets pass the 2 layers below: 90. Looks: 40 tokens
    pass whole once, and 3 looks a rate pass the upper half: 40 * (1 + 6/2) = 160.
    """
    assert need("gdiff").tokens == pytest.approx(700 + 90 + 160)


def test_rmu_needs_no_layer_above_its_own_and_no_head():
    """20 tokens pass 1 of 4 layers there and back, 2.5 / 4: 20 * 20 * .625 = 250; prefix 90; its
    references pass that one layer: 180 / 4 = 45; looks 160.
    """
    assert need("rmu").tokens == pytest.approx(250 + 90 + 45 + 160)


def test_without_the_cache_each_step_pays_for_the_layers_below():
    """700 + 20 * 20 / 2 for two layers, and looks that pass whole: 40 * 7."""
    assert need("gdiff", prefix_cache=False).tokens == pytest.approx(700 + 200 + 280)


def test_everything_is_trained_from_the_first_layer_on():
    """20 tokens * 20 steps * (2.5 + 2 / 4) = 1200, and 280 for looks."""
    assert need("gdiff", "everything").tokens == pytest.approx(1200 + 280)


def test_the_device_holds_weights_optimizer_activations_and_a_part_of_the_logits():
    """50 + 10 parameters of 16 bytes; 20 tokens of two layers; 20 * 10 logits of 2 bytes twice."""
    assert need("gdiff").device == 3600 + 60 * 16 + 20 * 2 * LAYER + 2 * 200 * 2
    assert need("rmu").device == 3600 + 60 * 16 + 20 * LAYER
    assert need("gdiff", "everything").device == 3600 + 1800 * 16 + 20 * 4 * LAYER + 800


def test_gradient_ascent_has_no_set_to_keep():
    """10 tokens a step, 20 steps, 1.75 each: 350; 80 tokens below: 40; looks 160."""
    assert need("ga").tokens == pytest.approx(350 + 40 + 160)


def test_memory_holds_hidden_states_of_the_samples_in_use():
    """80 + 100 tokens of 10 elements of 2 bytes; RMU keeps as many again; the first layer none."""
    assert need("gdiff").memory == 3600
    assert need("rmu").memory == 7200
    assert need("gdiff", layer=0).memory == 0


def test_a_delta_is_as_large_as_what_is_trained():
    assert need("gdiff").disk == 60 * 2
    assert need("gdiff", "everything").disk == 1800 * 2


def test_the_original_needs_nothing_but_itself():
    assert need(None, "nothing") == Need(0, 3600)


def test_evaluation_passes_its_tokens_and_keeps_logits():
    """100 tokens and the head, a quarter; 8 at a time: 8 * 260, and 12 bytes for 8 * 10 logits."""
    assert evaluation(MODEL, 100, 8) == Need(125, 3600 + 8 * LAYER + 12 * 80)
