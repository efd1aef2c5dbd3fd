"""The plan of a study from its configuration alone."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from kedro_dvc.project import load_config
from seuf.cli import cli
from seuf.inputs import InputError
from seuf.moe.footprint import BACKWARD, footprint
from seuf.moe.loading import load_model
from seuf.moe.settings import ExternalModelSettings
from seuf.pipelines.parameters import StudyParameters
from seuf.pipelines.plan import needs, table
from seuf.unlearning.needs import Need
from tests.tiny import tiny_language_model

PROJECT = Path(__file__).parents[2]


def study(name: str, **changes: object) -> StudyParameters:
    """Return the parameters of one of the project's studies."""
    return StudyParameters.model_validate(load_config(PROJECT, name)["parameters"] | changes)


def test_every_stage_and_every_method_has_its_needs():
    parameters = study("base")

    stages = needs(parameters, {})

    assert list(stages)[:2] == ["make_base_model", "capture_routing"]
    for method in parameters.methods:
        assert {f"unlearn@{method}", f"evaluate@{method}"} <= stages.keys()
    assert stages["unlearn@original"].tokens == 0


def test_the_base_models_weights_are_what_is_written():
    """The smoke study's model, made: as many bytes as its checkpoint's tensors."""
    parameters = study("smoke")

    from seuf.moe.training import new_model

    model = new_model(parameters.base_model, parameters.base_model.vocabulary)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    assert needs(parameters, {})["make_base_model"].disk == size


def test_an_external_model_is_sized_without_its_weights(tmp_path):
    tiny_language_model().save(tmp_path)
    weights = sum(4 * p.numel() for p in load_model(source(tmp_path)).model.parameters())
    (tmp_path / "model.safetensors").unlink()

    stages = needs(study("smoke", base_model=source(tmp_path).model_dump()), {})

    assert stages["unlearn@original"].device == weights


def source(folder: Path) -> ExternalModelSettings:
    """Return settings of a model on the CPU."""
    return ExternalModelSettings(path=str(folder), device="cpu")


def test_a_model_that_is_taught_is_written_and_needs_room_for_its_adapters(tmp_path):
    """849 parameters of rank 1 in each of 2 layers, 16 bytes each: see tests/moe/test_adapters.

    10 steps of 4 * 16 tokens pass there and back, 2.5, and twice the head.
    """
    tiny_language_model().save(tmp_path)
    taught = {"source": "finetune", "path": str(tmp_path), "device": "cpu", "steps": 10}
    taught |= {"batch_size": 4, "length": 16}

    one, two = (
        needs(study("smoke", base_model=taught | {"rank": rank}), {})["make_base_model"]
        for rank in (1, 2)
    )

    model = load_model(source(tmp_path)).model
    size = footprint(model)
    assert one.disk == sum(4 * p.numel() for p in model.parameters())
    assert two.device - one.device == 16 * 2 * 849
    assert one.tokens == pytest.approx(10 * 64 * (1 + BACKWARD + 2 * size.head_share()))


def test_a_model_that_is_not_there_is_one_clear_line(tmp_path):
    nowhere = {"source": "external", "path": str(tmp_path / "nowhere")}

    with pytest.raises(InputError, match="There is no model at"):
        needs(study("smoke", base_model=nowhere), {})


def test_a_higher_layer_costs_less():
    low, high = (needs(study("base"), {}, layer)["unlearn@seuf_gdiff"] for layer in (0, 2))

    assert high.tokens < low.tokens
    assert high.device < low.device
    assert high.memory > low.memory


def test_esft_is_planned_for_as_many_experts_as_it_can_take():
    """.15 of 8 experts is 1.2: 2 in each of 3 layers."""
    selection = {"rules": ["affinity", "esft"]}
    row = {"scope": "experts", "objective": "ga"}
    methods = {
        "one": {**row, "selection": "affinity", "router": "none"},
        "many": {**row, "selection": "esft", "router": "none"},
    }

    stages = needs(study("base", expert_selection=selection, methods=methods), {})

    assert stages["unlearn@many"].disk == 2 * 3 * stages["unlearn@one"].disk


def test_a_study_of_spread_repeats_its_runs():
    """Five rates with the first of three seeds, one with the others, on three bases: 21 runs."""
    parameters = study("sandbox_seeds")
    once = needs(parameters.model_copy(update={"replication": None}), {})

    spread = needs(parameters, {})

    assert spread["capture_routing"].tokens == 3 * once["capture_routing"].tokens
    runs = spread["unlearn@seuf_ga"].tokens / once["unlearn@seuf_ga"].tokens
    assert runs == pytest.approx(21)


def test_the_table_adds_work_and_disk_and_takes_the_most_of_memory():
    stages = {
        "make": Need(1000, 2 * 10**9, 10**9, 10**9),
        "unlearn@a": Need(500, 3 * 10**9, 0, 10**9),
        "unlearn@b": Need(500, 3 * 10**9, 0, 10**9),
    }

    rows = table(stages, rate=10).to_dict("records")

    assert [row["stage"] for row in rows] == ["make", "unlearn@a, b", "all"]
    assert rows[-1] == {
        "stage": "all",
        "tokens": "2,000",
        "time": "0:03:20",
        "device GB": "3",
        "memory GB": "1",
        "disk GB": "3",
    }


def test_the_command_prints_it(monkeypatch):
    monkeypatch.chdir(PROJECT)

    done = CliRunner().invoke(cli, ["plan", "--env", "smoke", "--rate", "5000"])

    assert done.exit_code == 0
    assert "| stage" in done.output
    assert "| all" in done.output


def test_the_command_names_the_studies_there_are(monkeypatch):
    monkeypatch.chdir(PROJECT)

    done = CliRunner().invoke(cli, ["plan", "--env", "nope"])

    assert done.exit_code == 1
    assert "There is no study 'nope'" in done.stderr
