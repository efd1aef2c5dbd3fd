"""What unlearning will need, worked out by hand for a model of round sizes."""

from dataclasses import replace

import pytest

from seuf.moe import footprint
from seuf.moe.footprint import Footprint, LayerSize
from seuf.unlearning import needs, planned_run
from seuf.unlearning.needs import Need
from seuf.unlearning.plan import capture, evaluation, treated, unlearning
from seuf.unlearning.settings import Method, RoutingSettings, SelectionSettings, UnlearningSettings

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
HELD = 16 + 3 * 2  # bytes of a parameter in training: what AdamW needs, and three copies
SETTINGS = UnlearningSettings(steps=10, batch_size=2, max_length=5, evaluate_every=4)


@pytest.fixture(autouse=True)
def _round_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backward pass costs 1.5 forward passes, the head its FLOPs, and a layer waits 1/4 s."""
    monkeypatch.setattr(planned_run, "BACKWARD", 1.5)
    monkeypatch.setattr(footprint, "HEAD", 1.0)
    monkeypatch.setattr(needs, "LAYER_SECONDS", 0.25)
    monkeypatch.setattr(needs, "ADAPTED_SECONDS", 0.01)


def need(objective: str | None, scope: str = "experts", layer: int = 2, **settings) -> Need:
    """Return what a method needs, with sets of 80 and 1000 tokens and looks of 40."""
    row = {"scope": scope, "objective": objective, "learning_rates": [1e-3, 1e-2]}
    if scope == "experts":
        row |= {"selection": "affinity", "anchor_weight": 1.0}
    shared = SETTINGS.model_copy(update=settings)
    return unlearning(MODEL, Method(**row), shared, {layer: 1}, (80, 1000), (40, 2))


# The first layer is dense; the others have 20 experts, and each in training keeps 8 elements.
SPARSE = LayerSize(400, 100, expert=50, router=10, width=30, slice_width=8, experts=20)
DENSE_FIRST = replace(MODEL, layers=[LayerSize(400, 100), SPARSE, SPARSE, SPARSE])


def esft(objective: str, router: str = "none", threshold: float = 0.15) -> Need:
    """Return what a method needs that trains ESFT's experts."""
    row = {"scope": "experts", "selection": "esft", "objective": objective, "router": router}
    method = Method(**row, learning_rates=[1e-3, 1e-2])
    selection = SelectionSettings(rules=["esft"], esft_threshold=threshold)
    experts = treated(DENSE_FIRST, method, selection, layer=3)
    return unlearning(DENSE_FIRST, method, SETTINGS, experts, (80, 1000), (40, 2))


def test_capture_passes_the_set_or_the_part_that_is_asked_for():
    """Weights are 2 * 1800 bytes; a batch of 4 samples of 5 tokens keeps 20 * 260. 70 tokens are
    3.5 batches, each of which waits a second.
    """
    settings = RoutingSettings(max_length=5, batch_size=4)

    assert capture(MODEL, settings, 70) == Need(70, 3600 + 20 * LAYER, waiting=3.5)
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
    references, of the 100 tokens to keep, pass that one layer: 25; looks 160.
    """
    assert need("rmu").tokens == pytest.approx(250 + 90 + 25 + 160)


def test_npo_needs_the_original_on_what_is_to_be_forgotten():
    """As GDiff, and the 80 tokens to forget pass the upper half once more."""
    assert need("npo").tokens == pytest.approx(need("gdiff").tokens + 40)


def test_without_the_cache_each_step_pays_for_the_layers_below():
    """700 + 20 * 20 / 2 for two layers, and looks that pass whole: 40 * 7."""
    assert need("gdiff", prefix_cache=False).tokens == pytest.approx(700 + 200 + 280)


def test_everything_is_trained_from_the_first_layer_on():
    """20 tokens * 20 steps * (2.5 + 2 / 4) = 1200, and 280 for looks."""
    assert need("gdiff", "everything").tokens == pytest.approx(1200 + 280)


def test_the_device_holds_weights_optimizer_activations_and_a_part_of_the_logits():
    """50 + 10 parameters of 16 bytes and three copies of 2; 20 tokens of two layers; 20 * 10
    logits of 2 bytes twice.
    """
    assert need("gdiff").device == 3600 + 60 * HELD + 20 * 2 * LAYER + 2 * 200 * 2
    assert need("rmu").device == 3600 + 60 * HELD + 20 * LAYER
    assert need("gdiff", "everything").device == 3600 + 1800 * HELD + 20 * 4 * LAYER + 800


def test_gradient_ascent_has_no_set_to_keep():
    """10 tokens a step, 20 steps, 1.75 each: 350; 80 tokens below: 40; looks 160."""
    assert need("ga").tokens == pytest.approx(350 + 40 + 160)


def test_memory_holds_hidden_states_of_the_samples_in_use():
    """80 + 100 tokens of 10 elements of 2 bytes; RMU keeps 100 of them twice, the first layer none
    of them.
    """
    assert need("gdiff").memory == 3600
    assert need("rmu").memory == 5600
    assert need("gdiff", layer=0).memory == 0


def test_a_delta_is_as_large_as_what_is_trained():
    assert need("gdiff").disk == 60 * 2
    assert need("gdiff", "everything").disk == 1800 * 2


def test_any_rule_but_esft_treats_one_expert_where_it_is_assumed():
    method = Method(scope="experts", selection="affinity_2", objective="ga")

    assert treated(DENSE_FIRST, method, SelectionSettings(), layer=2) == {2: 1}


def test_esft_treats_at_most_its_share_of_every_moe_layer():
    """.15 of 20 experts is 3, .16 of them 3.2; the first layer has none."""
    method = Method(scope="experts", selection="esft", objective="ga")

    for threshold, most in ((0.15, 3), (0.16, 4)):
        settings = SelectionSettings(rules=["esft"], esft_threshold=threshold)
        assert treated(DENSE_FIRST, method, settings, layer=3) == {1: most, 2: most, 3: most}


def test_esft_needs_the_memory_of_all_its_experts_and_is_trained_from_the_first_moe_layer_on():
    """9 experts of 50 parameters, see HELD; 20 tokens of three layers, and 8 elements of 2 bytes
    for each expert. A step passes 3 of 4 layers: 20 * 20 * (2.5 * 3/4 + 2/4) = 950; prefix
    180 / 4 = 45; looks 40 * (1 + 6 * 3/4) = 220.
    """
    layers, slices = 20 * 3 * LAYER, 20 * 9 * 8 * 2

    needed = esft("gdiff")

    assert needed.device == 3600 + 450 * HELD + layers + slices + 2 * 200 * 2
    assert needed.disk == 450 * 2
    assert needed.tokens == pytest.approx(950 + 45 + 220)


def test_esft_with_routers_trains_those_of_its_layers():
    assert esft("gdiff", router="layer").disk == (450 + 3 * 10) * 2


def test_rmu_on_esfts_experts_goes_up_to_the_last_of_them():
    """Up to the last layer, but no head: 20 * 20 * 2.5 * 3/4 = 750; 100 tokens pass 3 layers once
    more.
    """
    assert esft("rmu").tokens == pytest.approx(750 + 45 + 100 * 3 / 4 + 220)


# The same four layers with 20 experts each, of which LoRA adapts 300 parameters of 400.
ADAPTED = LayerSize(400, 100, 50, 10, width=30, experts=20, adapted=300, adapter=7, inputs=9)


def lora(objective: str) -> Need:
    """Return what LoRA of rank 2 needs."""
    method = Method(scope="lora", rank=2, objective=objective, learning_rates=[1e-3, 1e-2])
    model = replace(MODEL, layers=[ADAPTED] * 4)
    return unlearning(model, method, SETTINGS, {2: 1}, (80, 1000), (40, 2))


def test_lora_keeps_a_second_copy_of_the_experts_and_what_enters_each_linear_layer():
    """4 * 7 * 2 parameters, see HELD; 20 tokens of 4 layers; 20 experts of 50 parameters in
    each, of 2 bytes; 9 inputs of 4 bytes a token and layer; the logits.
    """
    layers = 20 * 4 * LAYER

    assert lora("gdiff").device == 3600 + 56 * HELD + layers + 4 * 2000 + 20 * 4 * 9 * 4 + 800


def test_rmu_by_lora_ends_at_the_layer_that_the_study_steers():
    """Layers 0 and 1."""
    half = 20 * 2 * LAYER + 2 * 2000 + 20 * 2 * 9 * 4

    assert lora("rmu").device == 3600 + 56 * HELD + half


def test_loras_delta_is_all_that_its_adapters_are_merged_into():
    assert lora("gdiff").disk == 4 * 300 * 2


def test_lora_passes_as_many_tokens_as_everything_does():
    assert lora("gdiff").tokens == need("gdiff", "everything").tokens


def test_the_original_needs_nothing_but_itself():
    assert need(None, "nothing") == Need(0, 3600)


def test_evaluation_passes_its_tokens_and_keeps_logits():
    """100 tokens and the head, a quarter; 8 at a time: 8 * 260, and 12 bytes for 8 * 10 logits.
    Three passes wait a second each. What the delta replaces stands beside it: 60 parameters.
    """
    nothing, one = (
        Method(scope="nothing"),
        Method(scope="experts", selection="random", objective="ga"),
    )
    held = 3600 + 8 * LAYER + 12 * 80

    assert evaluation(MODEL, nothing, {}, (100, 3), 8) == Need(125, held, waiting=3)
    assert evaluation(MODEL, one, {2: 1}, (100, 3), 8).device == held + 60 * 2


def test_each_pass_waits_for_its_layers_however_few_the_tokens_are():
    """GDiff: 20 steps of half of the layers there and back, 1.25; beforehand 90 tokens as of whole
    passes, 20 at once: 4.5. A look is two passes, as much as 4 whole looks are made: 8.
    """
    assert need("gdiff").waiting == pytest.approx(20 * 1.25 + 4.5 + 8)
    assert need("gdiff").seconds(rate=100) == pytest.approx(9.5 + 37.5)


def test_lora_also_waits_for_its_adapters_to_be_added():
    """2400 bytes at .01 s: 24 s beside the second that each pass of four layers waits."""
    without = need("gdiff", "everything").waiting

    assert lora("gdiff").waiting == pytest.approx(25 * without)


def part(objective: str = "ga", **row) -> Need:
    """Return what a part of everything needs of the model whose first layer is dense."""
    method = Method(scope="everything", objective=objective, learning_rates=[1e-3], **row)
    return unlearning(DENSE_FIRST, method, SETTINGS, {1: 1}, (80, 1000), (40, 2))


@pytest.mark.parametrize(
    ("row", "trained"),
    [
        ({}, 1800),
        ({"only": "experts"}, 3 * 20 * 50),
        ({"only": "routers"}, 3 * 10),
        ({"only": "experts_and_routers"}, 3 * (20 * 50 + 10)),
        ({"only": "experts", "layers": [0, 2, 3]}, 2 * 20 * 50),
        ({"layers": [0, 2]}, 2 * 400),
    ],
)
def test_a_part_of_everything_trains_that_part(row, trained):
    assert part(**row).disk == 2 * trained


def test_a_part_begins_at_its_first_layer():
    """RMU steers layer 1 by default; GA passes the layers from 2 on: 10 tokens a step there and
    back through half of the layers, the head twice: 10 * 10 * 1.75. Of the forget set 80 tokens
    pass the layers below once: 40. A look of 40 tokens passes whole, then 3 times the upper half.
    """
    assert part(layers=[2, 3]).tokens == pytest.approx(175 + 40 + 40 + 60)


def test_a_method_may_have_a_batch_of_its_own():
    """Twice the tokens in a step: twice the work, but for the looks and the whole forget set."""
    one, two = part(layers=[2, 3]), part(layers=[2, 3], batch_size=4)

    assert two.tokens - one.tokens == pytest.approx(175)
