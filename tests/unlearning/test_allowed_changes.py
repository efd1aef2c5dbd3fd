"""What a method promises to change is what its scope trains, for every architecture."""

from __future__ import annotations

import pytest

from seuf.inputs import InputError
from seuf.moe.architectures import moe_layers
from seuf.moe.checkpoints import Checkpoint
from seuf.moe.names import row_path, rows_of_experts, split_row, to_checkpoint
from seuf.unlearning.allowed_changes import allowed_changes, owner_of
from seuf.unlearning.scopes import Deletion, everything, selected_experts
from seuf.unlearning.settings import Method
from tests.tiny import last_layer, tiny_model


def method_of(scope, **more):
    """Return a method of a scope."""
    needs = {"selection": "contrast"} if scope in ("experts", "deletion") else {}
    objective = {} if scope in ("nothing", "deletion") else {"objective": "ga"}
    return Method(scope=scope, **needs, **objective, **more)


def empty(model, folder):
    """Return the model without its weights, as an audit has it."""
    model.save_pretrained(folder)
    return Checkpoint(folder).empty_model()


def keys_of(model, trained):
    """Return the checkpoint's keys of what a scope trains."""
    rows = rows_of_experts(model)
    return {
        key
        for place, tensor in trained.items()
        for one, value in (
            [(row_path(place, e), tensor[e]) for e in range(rows[place])]
            if place in rows
            else [(place, tensor)]
        )
        for key in to_checkpoint(model, one, value.detach())
    }


@pytest.mark.parametrize("router", ["layer", "none"])
def test_selected_experts_promise_what_their_scope_trains(model, router, tmp_path):
    experts = [(layer.index, 2) for layer in moe_layers(model)]
    trained = selected_experts(model, experts, router).trained

    promised = allowed_changes(empty(model, tmp_path), method_of("experts", router=router), experts)

    assert promised == keys_of(model, trained)


def test_a_deletion_promises_the_output_projections_alone(model, tmp_path):
    experts = [(last_layer(model), 1), (last_layer(model), 2)]
    deleted = Deletion(model, experts).trained

    promised = allowed_changes(empty(model, tmp_path), method_of("deletion"), experts)

    assert promised == keys_of(model, deleted)
    assert promised < keys_of(model, selected_experts(model, experts).trained)


def test_of_a_router_the_row_of_the_expert_is_promised_and_no_other(model, tmp_path):
    """The scope trains all routers' tensors with a mask: here the rows are told apart."""
    experts = [(last_layer(model), 1), (last_layer(model), 3)]
    bare, whole = (
        keys_of(model, selected_experts(model, experts, router).trained)
        for router in ("none", "row")
    )

    promised = allowed_changes(empty(model, tmp_path), method_of("experts", router="row"), experts)

    assert bare < promised
    assert promised - bare == {row_path(k, e) for k in whole - bare for e in (1, 3)}
    assert whole - bare


@pytest.mark.parametrize("only", [None, "experts", "routers", "experts_and_routers"])
def test_a_part_of_everything_promises_what_its_scope_trains(model, only, tmp_path):
    layers = [last_layer(model)]
    trained = everything(model, only, layers).trained

    promised = allowed_changes(
        empty(model, tmp_path), method_of("everything", only=only, layers=layers), []
    )

    assert promised == keys_of(model, trained)


@pytest.mark.parametrize("scope", ["everything", "lora"])
def test_everything_promises_every_parameter(model, scope, tmp_path):
    promised = allowed_changes(empty(model, tmp_path), method_of(scope), [])

    assert promised == keys_of(model, dict(model.named_parameters()))


def test_nothing_promises_nothing(tmp_path):
    assert allowed_changes(empty(tiny_model("olmoe"), tmp_path), method_of("nothing"), []) == set()


@pytest.mark.parametrize("expert", [(1, 4), (1, -1), (7, 0)])
def test_an_expert_that_is_not_there_is_refused(expert, tmp_path):
    model = empty(tiny_model("olmoe"), tmp_path)

    with pytest.raises(InputError, match=rf"no expert {expert[1]} in layer {expert[0]}"):
        allowed_changes(model, method_of("experts"), [expert])


@pytest.mark.parametrize(
    ("model_type", "key", "owner"),
    [
        ("olmoe", "model.layers.1.mlp.experts.3.up_proj.weight", "expert 3 of layer 1"),
        ("olmoe", "model.layers.0.mlp.gate.weight", "router of layer 0"),
        ("olmoe", "model.layers.0.mlp.gate.weight[2]", "router of layer 0"),
        ("olmoe", "model.layers.1.self_attn.q_proj.weight", "layer 1, no expert"),
        ("olmoe", "lm_head.weight", "no layer"),
        (
            "granitemoe",
            "model.layers.1.block_sparse_moe.input_linear.weight[2]",
            "expert 2 of layer 1",
        ),
    ],
)
def test_a_key_is_said_to_belong_to_an_expert_a_router_or_a_layer(model_type, key, owner, tmp_path):
    model = empty(tiny_model(model_type), tmp_path)

    assert split_row(key)[0] in Checkpoint(tmp_path).files
    assert owner_of(model, key) == owner
