"""The memory of a study's methods from its configuration alone."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from huggingface_hub import constants
from huggingface_hub.utils import get_session

from kedro_dvc.project import load_config
from seuf.cli import cli
from seuf.inputs import InputError
from seuf.moe.architectures import moe_layers
from seuf.moe.loading import load_model
from seuf.moe.loss import batch_nll
from seuf.moe.settings import ExternalModelSettings
from seuf.parameters import StudyParameters
from seuf.plan import (
    Memory,
    assumed_experts,
    cached_or_reachable,
    method_memory,
    study_memory,
    table,
    trained_parameters,
)
from seuf.unlearning.scopes import open_scope
from seuf.unlearning.selection import SelectionSettings
from seuf.unlearning.settings import Method, UnlearningSettings
from tests.tiny import tiny_batch, tiny_language_model, tiny_model

PROJECT = Path(__file__).parents[1]
STEP = UnlearningSettings(batch_size=2, max_length=10)  # 20 tokens of each set
LAYER = 20 * (2 * 3 * (32 + 16) * 4 + 20 * 32)  # what a layer keeps of them, see test_footprint
LOSS = 2 * 20 * 97 * 4
EXPERT, ROUTER = 1536, 128


def memory(method: Method, experts: tuple = (), dtype: torch.dtype = torch.float32) -> Memory:
    """Return what a method needs on a tiny qwen2_moe of two layers."""
    return method_memory(tiny_model("qwen2_moe").to(dtype), method, STEP, list(experts))


def one_expert(objective: str = "ga", router: str = "layer") -> Method:
    """Return a method that trains one expert."""
    return Method(scope="experts", selection="affinity", objective=objective, router=router)


def parameters() -> int:
    """Return how many parameters the tiny model has."""
    return sum(p.numel() for p in tiny_model("qwen2_moe").parameters())


def test_a_method_that_changes_nothing_needs_the_weights_alone():
    weights = 4 * parameters()

    assert memory(Method(scope="nothing")) == Memory(0, weights, 0, 0, 0, weights, 0)


def test_training_everything_in_float32_keeps_three_copies_of_the_weights_and_adamw():
    """The model and two snapshots, 4 bytes each; two moments and a gradient: 24 bytes in all."""
    n = parameters()

    need = memory(Method(scope="everything", objective="ga"))

    kept = 2 * LAYER + LOSS
    assert need == Memory(n, 4 * n, 12 * n, 8 * n, kept, 24 * n + kept, 4 * n)


def test_training_everything_in_bfloat16_has_masters():
    """Masters, moments and their gradient are float32; the model's own gradient is gone by then."""
    n = parameters()

    need = memory(Method(scope="everything", objective="ga"), dtype=torch.bfloat16)

    assert (need.weights, need.optimizer, need.snapshots, need.delta) == (
        2 * n,
        16 * n,
        4 * n,
        2 * n,
    )


def test_micro_batches_keep_activations_of_their_own_samples_alone():
    """One of two samples passes at a time: half of the tokens. A gradient in bfloat16 stands beside
    the sum of those before it, 2 bytes a parameter.
    """
    n = parameters()
    everything = Method(scope="everything", objective="ga", micro_batch_size=1)

    need = memory(everything)
    coarse = memory(everything, dtype=torch.bfloat16)

    assert need.activations == (2 * LAYER + LOSS) / 2
    assert (need.optimizer, coarse.optimizer) == (12 * n, (16 + 2) * n)


def test_one_expert_in_float32_is_counted_by_hand():
    """Layer 1 alone keeps activations; the expert in training 4 * 16 elements a token more."""
    n, kept = EXPERT + ROUTER, LAYER + LOSS + 20 * 4 * 16 * 4

    need = memory(one_expert(), [(1, 2)])

    device = 4 * parameters() + 20 * n + kept
    assert need == Memory(n, 4 * parameters(), 12 * n, 8 * n, kept, device, 4 * n)


def test_an_expert_in_bfloat16_and_its_router_have_masters():
    need = memory(one_expert(), [(1, 2)], dtype=torch.bfloat16)

    assert need.optimizer == 16 * (EXPERT + ROUTER)
    assert need.snapshots == 2 * 2 * (EXPERT + ROUTER)
    assert need.delta == 2 * (EXPERT + ROUTER)


def test_experts_of_one_layer_share_its_router():
    two = memory(one_expert(), [(1, 2), (1, 3)])
    apart = memory(one_expert(), [(0, 2), (1, 3)])
    alone = memory(one_expert(router="none"), [(1, 2), (1, 3)])

    assert two.trained == 2 * EXPERT + ROUTER
    assert apart.trained == 2 * EXPERT + 2 * ROUTER
    assert alone.trained == 2 * EXPERT


def test_adapters_stand_beside_the_weights_and_their_delta_is_what_they_are_merged_into():
    """849 of rank 1 in each of two layers, see test_footprint; A and B themselves count too.

    Each layer keeps its four experts with adapters, and 240 inputs a token.
    """
    n, each = 3 * 2 * 849, 4 * 4 * EXPERT + 4 * 20 * 240

    need = memory(Method(scope="lora", rank=3, objective="ga"))

    assert (need.trained, need.optimizer, need.snapshots) == (n, 16 * n, 8 * n)
    assert need.activations == 2 * LAYER + LOSS + 2 * each
    assert need.delta == 4 * 2 * (3072 + 1536 + 32 + 4 * EXPERT)


def test_objectives_with_a_retain_term_keep_twice_the_tokens():
    one, two = (memory(one_expert(name), [(1, 0)]).activations for name in ("ga", "gdiff"))

    assert two == 2 * one


def test_rmu_keeps_no_layer_above_the_steered_one_and_no_logits():
    """Experts of layer 0 are steered there; everything is steered at `rmu_layer`, 1."""
    slice_ = 4 * 16 * 4

    assert memory(one_expert("rmu"), [(0, 0)]).activations == 2 * (LAYER + 20 * slice_)
    assert memory(Method(scope="everything", objective="rmu")).activations == 2 * 2 * LAYER


def test_a_deletion_needs_the_model_and_snapshots_of_what_is_zeroed():
    """One output projection of 32 * 16: two snapshots, no optimizer, nothing of a step."""
    need = memory(Method(scope="deletion", selection="affinity"), [(1, 0)])

    assert need.trained == 512
    assert need.snapshots == 2 * 4 * 512
    assert (need.optimizer, need.activations) == (0, 0)


def test_a_methods_own_batch_size_counts():
    one = memory(one_expert(), [(1, 0)])
    four = memory(one_expert().model_copy(update={"batch_size": 8}), [(1, 0)])

    assert four.activations == 4 * one.activations


METHODS = {
    "everything": Method(scope="everything", objective="ga"),
    "all experts": Method(scope="everything", only="experts", objective="ga"),
    "all routers": Method(scope="everything", only="routers", objective="ga"),
    "layer": Method(scope="everything", layers=[1], objective="ga"),
    "lora": Method(scope="lora", objective="ga"),
    "expert": one_expert(),
    "expert alone": one_expert(router="none"),
    "deletion": Method(scope="deletion", selection="affinity"),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_as_many_parameters_are_counted_as_the_real_scope_trains(model, method):
    last = moe_layers(model)[-1].index
    experts = [(last, 1), (last, 3)] if method.selection else []

    counted = trained_parameters(model, method, experts)

    with open_scope(model, method, experts, seed=0) as scope:
        assert sum(counted[:3]) == sum(tensor.numel() for tensor in scope.trained.values())
        assert counted.first_layer == scope.first_layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["everything", "lora", "expert"])
def test_the_optimizer_keeps_what_is_counted(name, dtype):
    """Masters, gradients and moments after a step, without what the model holds."""
    method, model = METHODS[name], tiny_model("qwen2_moe").to(dtype)
    experts = [(1, 2)] if name == "expert" else []
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    with open_scope(model, method, experts, seed=0) as scope, scope:
        nll, mask = batch_nll(model, tiny_batch())
        (nll * mask).sum().backward()
        masters = scope.gradients_to_masters()
        optimizer = torch.optim.AdamW(masters)
        optimizer.step()
        tensors = [*masters, *scope.whole.values()]
        tensors += [tensor.grad for tensor in tensors if tensor.grad is not None]
        tensors += [t for state in optimizer.state.values() for t in state.values() if t.dim()]
        kept = {t.untyped_storage().data_ptr(): t.nbytes for t in tensors}

    counted = method_memory(tiny_model("qwen2_moe").to(dtype), method, STEP, experts)
    assert sum(size for at, size in kept.items() if at not in own) == counted.optimizer


def study(name: str, **changes: object) -> StudyParameters:
    """Return the parameters of one of the project's studies."""
    return StudyParameters.model_validate(load_config(PROJECT, name)["parameters"] | changes)


def test_every_method_of_a_study_is_planned():
    parameters = study("base")

    assert list(study_memory(parameters)) == list(parameters.methods)


def test_an_external_model_is_sized_without_its_weights(tmp_path):
    tiny_language_model().save(tmp_path)
    source = ExternalModelSettings(path=str(tmp_path), device="cpu")
    weights = sum(4 * p.numel() for p in load_model(source).model.parameters())
    (tmp_path / "model.safetensors").unlink()

    needs = study_memory(study("smoke", base_model=source.model_dump()))

    assert needs["original"].device == weights


def test_a_model_that_is_taught_first_is_sized_too(tmp_path):
    tiny_language_model().save(tmp_path)
    taught = {"source": "finetune", "path": str(tmp_path), "device": "cpu"}

    needs = study_memory(study("smoke", base_model=taught))

    assert needs["original"].weights == 4 * sum(
        p.numel() for p in tiny_language_model().model.parameters()
    )


def test_a_model_that_is_not_there_is_one_clear_line(tmp_path):
    nowhere = {"source": "external", "path": str(tmp_path / "nowhere")}

    with pytest.raises(InputError, match="There is no model at"):
        study_memory(study("smoke", base_model=nowhere))


def test_a_higher_layer_keeps_less():
    low, high = (study_memory(study("base"), layer)["seuf_gdiff"] for layer in (0, 2))

    assert high.activations < low.activations
    assert high.trained == low.trained


def test_a_layer_without_experts_is_refused():
    model = tiny_model("deepseek_v2")

    with pytest.raises(InputError, match=r"Layer 0 is not a MoE layer; MoE layers are \[1, 2\]"):
        assumed_experts(model, one_expert(), SelectionSettings(), 0)


def test_a_fixed_expert_of_a_layer_without_experts_is_refused():
    settings = SelectionSettings(fixed={"mine": {"layer": 0, "expert": 3}})
    mine = one_expert().model_copy(update={"selection": "mine"})

    with pytest.raises(InputError, match="Layer 0 is not a MoE layer"):
        assumed_experts(tiny_model("deepseek_v2"), mine, settings, None)


def test_rankings_are_assumed_in_one_layer_and_fixed_experts_where_they_are():
    model, settings = (
        tiny_model("qwen2_moe"),
        SelectionSettings(top=2, fixed={"mine": {"layer": 1, "expert": 3}}),
    )
    mine = one_expert().model_copy(update={"selection": "mine"})

    assert assumed_experts(model, one_expert(), settings, None) == [(0, 0), (0, 1)]
    assert assumed_experts(model, one_expert(), settings, 1) == [(1, 0), (1, 1)]
    assert assumed_experts(model, mine, settings, 0) == [(1, 3)]
    assert assumed_experts(model, METHODS["lora"], settings, 0) == []


@pytest.mark.parametrize(
    ("selection", "experts"),
    [
        ("pilot", [(0, 0)]),
        ("random_in:pilot", [(0, 0)]),
        ("random_in:mine", [(1, 3)]),
        ("random_in:esft", [(0, 0), (1, 0)]),
    ],
)
def test_a_layer_that_is_not_known_yet_is_assumed_to_be_the_lowest(selection, experts):
    """Of trials and of random controls; that of an expert named by hand lies in its layer."""
    settings = SelectionSettings(fixed={"mine": {"layer": 1, "expert": 3}})
    method = one_expert().model_copy(update={"selection": selection})

    assert assumed_experts(tiny_model("qwen2_moe"), method, settings, None) == experts


def test_esft_is_assumed_to_take_as_many_experts_as_it_can():
    """.3 of 4 experts is 1.2: 2 in each of 2 layers."""
    settings = SelectionSettings(rules=["esft"], esft_threshold=0.3)
    esft = one_expert().model_copy(update={"selection": "esft"})

    chosen = assumed_experts(tiny_model("qwen2_moe"), esft, settings, None)

    assert chosen == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_the_table_says_its_units():
    (row,) = table(
        {"a": Memory(1234567, 2 * 10**9, 3 * 10**6, 4 * 10**6, 5 * 10**6, 12345678901, 0)}
    )

    assert row == {
        "method": "a",
        "trained": "1,234,567",
        "weights": "2 GB",
        "optimizer": "3 MB",
        "snapshots": "4 MB",
        "activations": "5 MB",
        "device in all": "12.3 GB",
        "delta on disk": "0 MB",
    }


def test_the_command_prints_it(monkeypatch):
    monkeypatch.chdir(PROJECT)

    done = CliRunner().invoke(cli, ["plan", "--env", "smoke"])

    assert done.exit_code == 0
    assert "| method" in done.output
    assert "| original" in done.output


def test_the_command_names_the_studies_there_are(monkeypatch):
    monkeypatch.chdir(PROJECT)

    done = CliRunner().invoke(cli, ["plan", "--env", "nope"])

    assert done.exit_code == 1
    assert "There is no study 'nope'" in done.stderr


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch, tmp_path):
    """The client's own five attempts take half a minute; nothing listens at port 9."""
    client, asked = type(get_session()), []
    send = client.send

    def send_and_note(self, request, **options):
        asked.append(request.url.path)
        return send(self, request, **options)

    monkeypatch.setattr(client, "send", send_and_note)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    with pytest.raises(InputError, match=r"is not in the cache.*and the hub cannot be reached"):
        cached_or_reachable(ExternalModelSettings(path="owner/name"))

    assert [path for path in asked if "owner/name" in path] == ["/api/models/owner/name"]


def test_a_model_in_the_cache_is_planned_without_the_hub(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "a" * 40
    snapshot = tmp_path / f"models--owner--name/snapshots/{commit}"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")

    found = cached_or_reachable(ExternalModelSettings(path="owner/name", revision=commit))

    assert (found.path, found.revision) == (str(snapshot), None)
