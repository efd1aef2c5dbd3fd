"""Where experts and routers are, what their logits mean, and how long a sample may be."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from seuf.benchmarks.answers import greedy_answers
from seuf.benchmarks.choices import ChoiceScorer
from seuf.benchmarks.harness import score_questions
from seuf.benchmarks.records import Question
from seuf.benchmarks.settings import ScoringSettings
from seuf.inputs import InputError
from seuf.moe.architectures import (
    ROUTERS,
    check_positions,
    decoder_layer,
    gate_probabilities,
    input_device,
    moe_layers,
    positions_of,
)
from seuf.pipelines.routing_capture.nodes import capture_routing
from seuf.unlearning.algorithm import samples_of
from seuf.unlearning.attribution import RoutingSettings
from seuf.unlearning.settings import UnlearningSettings
from tests.moe.test_routing import router_outputs
from tests.tiny import (
    CONFIGS,
    EXPERTS,
    tiny_model,
)

# Model types of transformers whose experts are fused and that are refused, each for its reason.
REFUSED = {
    "axk2": "not tried",
    "bailing_hybrid": "not tried",
    "beam": "the router is a function of the block, not a module beside the experts",
    "cohere2_moe": "softmax or sigmoid by configuration",
    "deepseek_v4": "the first layers choose by token id",
    "dots3_note": "not tried",
    "dots3_note_text": "not tried",
    "flint": "the router is not beside the experts",
    "gemma4": "the router is beside the block and returns probabilities",
    "gemma4_text": "the same",
    "glm_moe_dsa": "layers hand on more than hidden states",
    "granitemoehybrid": "not tried",
    "hy_v4": "not tried",
    "inkling2_text": "not tried",
    "inkling_text": "shared experts have logits of their own",
    "kimi_linear": "not tried",
    "minimax_m3_vl_text": "not tried",
    "nemotron_h": "experts without a gate",
    "qwen3_5_moe": "a vision model; its text part is qwen3_5_moe_text",
    "qwen4_exp": "not tried",
    "qwen4_exp_text": "not tried",
    "zaya": "the router is a network with a state",
}


def fused_model_types() -> Iterator[str]:
    """Yield the causal language models of transformers that know fused experts."""
    for model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        try:
            architecture = AutoModelForCausalLM._model_mapping[
                type(AutoConfig.for_model(model_type))
            ]
        except Exception:
            continue
        if "use_experts_implementation" in inspect.getsource(inspect.getmodule(architecture)):
            yield model_type


def test_every_model_kind_of_transformers_is_understood_or_refused_for_a_reason():
    """A kind that comes with a new version of transformers fails here until it is looked at."""
    known = {*CONFIGS, *REFUSED}

    assert set(fused_model_types()) - known == set()


@pytest.mark.parametrize(
    "model_type", ["axk2", "cohere2_moe", "deepseek_v4", "hy_v4", "kimi_linear"]
)
def test_a_router_that_is_not_understood_is_refused_by_its_name(model_type):
    small = {"num_hidden_layers": 2, "num_experts": 4, "n_routed_experts": 4}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **small))

    with pytest.raises(InputError, match=r"The router \w+Router is not understood") as error:
        moe_layers(model)

    assert ", ".join(sorted(ROUTERS)) in str(error.value)
    assert "seuf/moe/architectures.py" in str(error.value)


def test_every_router_that_is_named_is_one_of_a_tiny_model():
    """So none is understood without the tests of conformance having seen it."""
    models = [tiny_model(model_type) for model_type in CONFIGS]

    assert {type(moe_layers(model)[-1].router).__name__ for model in models} == set(ROUTERS)


def test_deepseek_counts_its_first_dense_layer():
    """Three layers, of which layer 0 is dense: the MoE layers are 1 and 2."""
    assert [layer.index for layer in moe_layers(tiny_model("deepseek_v2"))] == [1, 2]


def test_a_dense_layer_between_moe_layers_is_counted():
    model = tiny_model("qwen2_moe", num_hidden_layers=3, mlp_only_layers=[1])

    assert [layer.index for layer in moe_layers(model)] == [0, 2]


@pytest.mark.parametrize(
    ("model_type", "has"),
    [
        ("deepseek_v2", True),
        ("hunyuan_v1_moe", True),
        ("granitemoeshared", True),
        ("mixtral", False),
    ],
)
def test_a_shared_expert_is_found_where_there_is_one(model_type, has):
    assert (moe_layers(tiny_model(model_type))[0].shared is not None) == has


def test_a_dense_model_has_no_moe_layers_to_give():
    dense = LlamaForCausalLM(
        LlamaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=1, intermediate_size=8)
    )

    with pytest.raises(InputError, match="llama model has no MoE layer"):
        moe_layers(dense)


def test_experts_of_another_shape_are_no_moe_layer():
    """JetMoe keeps its experts' tensors in two modules of their own."""
    small = {"num_hidden_layers": 1, "hidden_size": 32, "kv_channels": 8, "vocab_size": 97}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("jetmoe", **small))

    with pytest.raises(InputError, match="jetmoe model has no MoE layer"):
        moe_layers(model)


def test_a_moe_type_without_any_moe_layer_is_refused():
    model = tiny_model("qwen2_moe", mlp_only_layers=[0, 1])

    with pytest.raises(InputError, match="qwen2_moe model has no MoE layer"):
        moe_layers(model)


def test_softmax_gates_are_the_softmax_over_all_experts():
    """Logits log 1, log 2, log 3, log 4 give 0.1, 0.2, 0.3, 0.4."""
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).log()

    gates = gate_probabilities(SimpleNamespace(gate="softmax"), logits)

    torch.testing.assert_close(gates, torch.tensor([[0.1, 0.2, 0.3, 0.4]]))


def test_sigmoid_gates_are_the_scores_scaled_to_sum_one():
    """The sigmoids of 0 and log 3 are 1/2 and 3/4: of their sum 5/4 they are 2/5 and 3/5."""
    logits = torch.tensor([[0.0, 3.0]])
    logits[0, 1] = logits[0, 1].log()

    gates = gate_probabilities(SimpleNamespace(gate="sigmoid"), logits)

    torch.testing.assert_close(gates, torch.tensor([[0.4, 0.6]]))


def test_gates_of_bfloat16_logits_are_computed_in_float32(model):
    logits = torch.randn(5, EXPERTS, generator=torch.Generator().manual_seed(0)).bfloat16()

    gates = gate_probabilities(moe_layers(model)[0], logits)

    assert gates.dtype == torch.float32
    assert torch.equal(gates, gate_probabilities(moe_layers(model)[0], logits.float()))
    torch.testing.assert_close(gates.sum(-1), torch.ones(5))


def test_deepseek_chooses_within_its_best_groups_only():
    """Two groups of two experts, one of them allowed: whoever holds the best expert gives both.

    So the second expert is the best one's neighbour (0-1, 2-3), although another may score higher.
    """
    logits, _, chosen = router_outputs(tiny_model("deepseek_v2"))[0]

    first = logits.argmax(-1)
    assert torch.equal(chosen.sort().values, torch.stack([first // 2 * 2, first // 2 * 2 + 1], 1))
    assert not torch.equal(chosen.sort().values, logits.topk(2).indices.sort().values)


def test_a_bias_decides_the_choice_and_has_no_part_in_the_gates():
    model = tiny_model("minimax_m2")
    layer = moe_layers(model)[0]
    before = router_outputs(model)[0]

    model.model.layers[0].mlp.e_score_correction_bias.copy_(torch.tensor([9.0, 9.0, 0.0, 0.0]))
    after = router_outputs(model)[0]

    assert torch.equal(after[2].sort().values, torch.tensor([[0, 1]]).expand_as(after[2]))
    assert torch.equal(gate_probabilities(layer, before), gate_probabilities(layer, after))


def test_input_device_is_that_of_the_embeddings(model):
    assert input_device(model) == model.get_input_embeddings().weight.device


@pytest.mark.parametrize("index", [-1, 9])
def test_a_layer_out_of_range_is_refused(model, index):
    with pytest.raises(InputError, match=f"there is no layer {index}"):
        decoder_layer(model, index)


LONG = "Ada lives in Oslo. " * 20
ASKED = [
    Question(LONG, ["yes", "no"], 0, "Ada", subject, "test") for subject in ("forget", "retain")
]


def configured(**config: object) -> SimpleNamespace:
    """Return what stands for a model: only its configuration is asked."""
    return SimpleNamespace(config=SimpleNamespace(**config))


def test_a_sample_may_fill_the_positions_but_not_pass_them():
    check_positions(
        configured(max_position_embeddings=4), [[1], [1, 2, 3, 4]], "set it to {} or less"
    )

    with pytest.raises(InputError) as refused:
        check_positions(configured(max_position_embeddings=4), [[1] * 5], "set it to {} or less")
    assert str(refused.value) == (
        "The model has 4 positions, and a sample has 5 tokens: set it to 4 or less."
    )


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({}, None),
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "default"}}, 4096),
        # stretched: 4 times the 4096 it was trained on
        (
            {
                "max_position_embeddings": 4096,
                "rope_parameters": {"factor": 4.0, "original_max_position_embeddings": 4096},
            },
            16384,
        ),
    ],
)
def test_the_configuration_tells_the_positions(config, positions):
    assert positions_of(configured(**config)) == positions


def test_samples_to_unlearn_are_held_against_the_model(language_model):
    """The tiny model has 64 positions, and each word is a token or more."""
    texts = ["Ada lives in Oslo. " * 20]
    settings = UnlearningSettings(max_length=65, long_texts="cut")

    with pytest.raises(InputError, match=r"has 64 positions.* set unlearning.max_length to 64"):
        samples_of(language_model, texts, settings)
    samples_of(language_model, texts, settings.model_copy(update={"max_length": 64}))


def test_questions_are_held_against_the_model_that_answers_them(language_model):
    settings = ScoringSettings(max_length=512)
    scorer = ChoiceScorer(language_model.tokenizer, ASKED, settings.metric, 2)

    with pytest.raises(InputError, match="a question with a choice must have 64 or less"):
        scorer.answers(language_model.model)
    with pytest.raises(InputError, match=r"set evaluation.max_length to 64 or less"):
        score_questions(language_model, ASKED, settings)


def test_a_prompt_and_its_answer_are_held_against_the_model(language_model):
    """60 tokens of a prompt leave 4 to say."""
    settings = ScoringSettings(max_length=60)

    with pytest.raises(InputError, match=r"65 tokens: a prompt and its answer must have 64"):
        greedy_answers(language_model, [LONG], settings, max_new_tokens=5)
    greedy_answers(language_model, [LONG], settings, max_new_tokens=4)


def test_texts_whose_routing_is_recorded_are_held_against_the_model(language_model):
    texts = [{"text": LONG}]
    settings = RoutingSettings(max_length=65, long_texts="cut")

    with pytest.raises(InputError, match=r"set routing_capture.max_length to 64 or less"):
        capture_routing(language_model, texts, texts, settings, 0)
