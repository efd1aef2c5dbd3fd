"""The parameters of the studies, and what is refused before anything runs."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from kedro.framework.startup import bootstrap_project

from kedro_dvc.project import load_config, study_names
from seuf.inputs import InputError
from seuf.parameters import check_parameters
from seuf.unlearning.attribution import ENOUGH_TOKENS
from seuf.unlearning.selection import every_nth

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def of_smoke() -> dict[str, Any]:
    """The parameters of the smoke study."""
    bootstrap_project(ROOT)
    return load_config(ROOT, "smoke")["parameters"]


@pytest.fixture
def parameters(of_smoke: dict[str, Any]) -> dict[str, Any]:
    """A copy of them, to be changed."""
    return copy.deepcopy(of_smoke)


def takes_a_published_model(parameters: dict[str, Any]) -> bool:
    """Tell if a study's model is from elsewhere; some name one that this project holds or makes."""
    base_model = parameters["base_model"]
    made_here = base_model.get("path", "").startswith(("data/01_raw/sandbox_base", "studies/"))
    return base_model["source"] == "external" and not made_here


@pytest.mark.parametrize("study", study_names(ROOT))
def test_the_parameters_of_each_study_are_right(study):
    bootstrap_project(ROOT)

    check_parameters(load_config(ROOT, study)["parameters"])


@pytest.mark.parametrize("study", study_names(ROOT))
def test_a_study_of_a_published_benchmark_says_itself_if_it_packs(study):
    """What its peers do; conf/base packs the sandbox's sentences."""
    bootstrap_project(ROOT)
    of_study = load_config(ROOT, study)["parameters"]
    own = Path(ROOT, "conf", study, "parameters.yml")
    if of_study["benchmark"]["name"] in ("sandbox", "own"):
        return

    said = yaml.safe_load(own.read_text())["unlearning"]

    assert said["pack"] is False


@pytest.mark.parametrize("study", study_names(ROOT))
def test_a_study_of_a_published_model_takes_no_steering_from_the_sandbox(study):
    """conf/base has 10 for its toy; published are 300 to 32,000: each row of RMU says its own."""
    bootstrap_project(ROOT)
    of_study = load_config(ROOT, study)["parameters"]
    if not takes_a_published_model(of_study):
        return

    said = yaml.safe_load(Path(ROOT, "conf", study, "parameters.yml").read_text())

    rows = [
        row
        for row in said["methods"].values()
        if isinstance(row, dict) and row.get("objective") == "rmu"
    ]
    assert rows
    assert all("steering_coefficient" in row for row in rows)
    assert "rmu_retain_weight" in said["unlearning"]["objectives"]


@pytest.mark.parametrize("study", study_names(ROOT))
def test_a_study_of_a_published_model_captures_enough_for_two_subsets(study):
    """Table 8 compares subsets of 100,000 tokens; of less than twice as many there are none."""
    bootstrap_project(ROOT)
    of_study = load_config(ROOT, study)["parameters"]
    if not takes_a_published_model(of_study):
        return

    assert of_study["routing_capture"]["max_tokens"] >= 2 * ENOUGH_TOKENS


@pytest.mark.parametrize("study", study_names(ROOT))
def test_a_study_of_a_published_model_cuts_no_question(study):
    """8,192 tokens, or what the model has: OLMoE's 4,096, which no question of TOFU needs."""
    bootstrap_project(ROOT)
    of_study = load_config(ROOT, study)["parameters"]
    if takes_a_published_model(of_study):
        assert of_study["evaluation"]["max_length"] >= 8192


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("unlearning.steps", "many", r"unlearning.steps: .*integer.*\(came: 'many'\)"),
        ("unlearning.stepz", 3, r"unlearning.stepz: Extra inputs are not permitted \(came: 3\)"),
        ("learning", 3, r"learning: Extra inputs"),
        ("methods.full_ga.objective", "best", r"methods.full_ga: .*objectives are ga, gdiff"),
        ("methods.full_ga.scope", "half", r"methods.full_ga.scope: "),
        ("methods.seuf_gdiff.selection", "best", r"'best' is unknown; expert_selection knows"),
        (
            "expert_selection.rules",
            ["best"],
            r"expert_selection.rules.0: .*'best' is no rule; rules",
        ),
        ("methods.seuf_gdiff.selection", "esft", r"'esft' is unknown; expert_selection knows"),
        (
            "methods.contrast_rmu",
            {"scope": "deletion", "selection": "pilot"},
            "methods.contrast_rmu: Value error, a deletion has no steps to try: selection 'pilot'",
        ),
        (
            "expert_selection.fixed",
            {"pilot": {"layer": 0, "expert": 1}},
            r"expert_selection.fixed.pilot is the name of a pilot",
        ),
        ("pilot.target", 1.5, r"pilot.target: .*less than or equal to 1"),
        (
            "expert_selection.rules",
            ["affinity", "contrast", "random_in:gradient_2"],
            r"'random_in:gradient_2' reads gradient: add it to routing_capture.columns",
        ),
        ("methods", {}, r"methods: .*at least 1"),
        (
            "benchmark.name",
            "trivia",
            r"benchmark: .*no benchmark 'trivia'; known: sandbox, tofu, ",
        ),
        (
            "benchmark",
            {"name": "wmdp", "domain": "chem"},
            r"benchmark.domain: .*questions on chem but no texts to forget: take bio or cyber",
        ),
        ("benchmark", {"entities": 24}, r"benchmark: .*needs a `name`: one of sandbox, tofu, "),
        ("benchmark.name", ["own"], r"benchmark: .*needs a `name`: one of sandbox, tofu, "),
        ("benchmark", "own", r"benchmark: .*needs a `name`: one of sandbox, tofu, "),
        ("benchmark", {"name": "own", "entities": 24}, r"benchmark.entities: Extra inputs"),
        ("base_model.source", "air", r"base_model: .*'air'"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_came(parameters, key, value, message):
    *way, last = key.split(".")
    place = parameters
    for part in way:
        place = place[part]
    place[last] = value

    with pytest.raises(InputError, match=message):
        check_parameters(parameters)


def test_every_wrong_parameter_is_told_at_once(parameters):
    parameters["unlearning"]["steps"] = "many"
    parameters["evaluation"]["metric"] = "taste"

    with pytest.raises(InputError, match=r"unlearning\.steps.*; evaluation\.metric"):
        check_parameters(parameters)


@pytest.mark.parametrize("group", ["evaluation", "routing_capture"])
def test_a_model_over_several_devices_passes_on_these_alone(parameters, group):
    parameters["base_model"] = {"source": "external", "path": "some/model", "device_map": "auto"}
    parameters[group]["devices"] = 2

    with pytest.raises(InputError, match=rf"{group}\.devices is 2.*device_map to null"):
        check_parameters(parameters)


def test_a_ranked_rule_may_be_a_methods_selection(parameters):
    parameters["expert_selection"]["rules"] += ["affinity_2", "esft"]
    parameters["methods"]["seuf_gdiff"]["selection"] = "affinity_2"

    check_parameters(parameters)


@pytest.mark.parametrize("name", ["own", "wmdp"])
@pytest.mark.parametrize(
    "base", [{"source": "pretrain"}, {"source": "finetune", "path": "some/model"}]
)
def test_some_texts_are_nothing_to_train_on(parameters, name, base):
    parameters["benchmark"], parameters["base_model"] = {"name": name}, base

    with pytest.raises(InputError, match=rf"'{name}' brings .*base_model\.source must be external"):
        check_parameters(parameters)


def test_a_model_that_is_taught_may_be_the_base_and_its_reference_be_made_alike(parameters):
    parameters["base_model"] = {"source": "finetune", "path": "some/model", "rank": 4}
    parameters["reference_model"] = "alike"

    check_parameters(parameters)


def test_the_study_of_spread_has_the_methods_of_the_sandbox():
    """Beside others, and with learning rates of its own, among which it is there to choose."""
    base, spread = (
        yaml.safe_load((ROOT / path).read_text())["methods"]
        for path in ("conf/base/parameters_unlearning.yml", "conf/sandbox_seeds/parameters.yml")
    )

    for row in (*base.values(), *(row for row in spread.values() if isinstance(row, dict))):
        row.pop("learning_rates", None)

    assert {name: spread.get(name) for name in base} == base


LAYERS_TRIED = {"smol_cyber": 1, "smol_tofu": 1, "smol_seeds": 4}  # every n-th of thirty


def without_rates(methods: dict[str, Any]) -> dict[str, Any]:
    """Return rows of a study without their learning rates."""
    return {
        name: {key: value for key, value in row.items() if key != "learning_rates"}
        for name, row in methods.items()
    }


def test_the_study_of_spread_of_the_real_model_repeats_the_one_of_one_base():
    """All but the repetitions, the layers tried, and grids about the rates that one base chose."""
    bootstrap_project(ROOT)
    one, spread = (load_config(ROOT, study)["parameters"] for study in ("smol_cyber", "smol_seeds"))

    replication = spread.pop("replication")
    del one["resources"], spread["resources"]  # their stages are others
    one["pilot"]["every"] = LAYERS_TRIED["smol_seeds"]

    of_spread, of_one = (without_rates(given.pop("methods")) for given in (spread, one))
    assert (spread, of_spread) == (one, of_one)
    assert replication["bases"] == {"base_0": 0, "base_1": 1, "base_2": 2}


def test_the_study_of_tofu_has_the_budget_and_the_model_of_the_one_that_makes_it():
    bootstrap_project(ROOT)
    made = load_config(ROOT, "smol_cyber")["globals"]["data_root"]

    cyber, of_tofu = (load_config(ROOT, s)["parameters"] for s in ("smol_cyber", "smol_tofu"))

    assert of_tofu["base_model"]["path"] == f"{made}/06_models/base_model"
    for shared in ("unlearning", "pilot", "routing_capture", "expert_selection"):
        assert of_tofu[shared] == cyber[shared]
    rows = load_config(ROOT, "smol_seeds")["parameters"]["methods"]
    assert all(rows[name] == row for name, row in of_tofu["methods"].items())


@pytest.mark.parametrize(("study", "every"), LAYERS_TRIED.items())
def test_a_study_of_the_real_model_tries_three_rates_a_row_and_layers_up_to_the_last(study, every):
    bootstrap_project(ROOT)
    of_study = load_config(ROOT, study)["parameters"]

    training = [row for row in of_study["methods"].values() if "objective" in row]

    assert {len(row["learning_rates"]) for row in training} == {3}
    assert of_study["pilot"]["every"] == every
    assert 29 in every_nth(30, every)
    assert {row["objective"] for row in training} == {"ga", "gdiff", "npo", "rmu", "simnpo"}


def test_methods_of_a_study_of_spread_take_as_many_updates(parameters):
    """Of ten steps: two rows have two learning rates, the third one. Deletion takes none."""
    ga = {"scope": "everything", "objective": "ga"}
    rates = {"a": [1e-4, 1e-3], "b": [1e-3, 1e-2], "c": [1e-3]}
    methods = {name: ga | {"learning_rates": of_row} for name, of_row in rates.items()}
    methods["d"] = {"scope": "deletion", "selection": "affinity"}
    parameters["unlearning"] = {"steps": 10}
    parameters["replication"] = {"bases": {"base_0": 0}, "seeds": [0]}

    with pytest.raises(InputError, match=r"as many updates, 20 here, and not c \(10\)"):
        check_parameters(parameters | {"methods": methods})


def test_the_trials_of_a_pilot_count_as_learning_rates_do(parameters):
    """Three layers and five steps are 15 updates, with two rates in each of them 30. Beside the 20
    of the row's own two rates 30 are as many as five rates of ten steps.
    """
    one = {"scope": "experts", "objective": "ga"}
    rates = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    methods = {
        "pilot": one | {"selection": "pilot", "learning_rates": rates[:2]},
        "contrast": one | {"selection": "contrast", "learning_rates": rates},
    }
    parameters["base_model"] = {"source": "pretrain", "layers": 3}
    parameters["unlearning"] = {"steps": 10}
    parameters["replication"] = {"bases": {"base_0": 0}, "seeds": [0]}

    check_parameters(
        parameters | {"methods": methods, "pilot": {"steps": 5, "learning_rates": [1e-3, 1e-2]}}
    )

    with pytest.raises(InputError, match=r"35 here, and not contrast \(50\)"):
        check_parameters(parameters | {"methods": methods, "pilot": {"steps": 5}})


def test_comparisons_are_of_rows(parameters):
    replication = {"bases": {"base_0": 0}, "seeds": [0], "comparisons": [["full_ga", "fulla"]]}
    methods = {"full_ga": {"scope": "everything", "objective": "ga"}}

    with pytest.raises(InputError, match=r"replication\.comparisons names 'fulla'"):
        check_parameters(parameters | {"methods": methods, "replication": replication})


def test_methods_are_compared_at_a_share_that_is_read_off(parameters):
    replication = {"bases": {"base_0": 0}, "seeds": [0], "compare_at": 0.8}

    with pytest.raises(InputError, match=r"compare_at is one of 0\.5, 0\.75, 0\.9"):
        check_parameters(parameters | {"replication": replication})


def test_the_sandbox_has_the_learning_rates_that_the_study_of_spread_chose():
    recorded = json.loads(
        (ROOT / "studies/sandbox_seeds/data/08_reporting/spread.json").read_text()
    )
    table = yaml.safe_load((ROOT / "conf/base/parameters_unlearning.yml").read_text())["methods"]
    training = {name: row for name, row in table.items() if "objective" in row}

    chosen = {name: [recorded[name]["learning_rate"]] for name in training}

    assert {
        name: list(map(float, row["learning_rates"])) for name, row in training.items()
    } == chosen


def test_rmu_below_the_layers_of_a_row_is_refused_before_anything_runs(parameters):
    """Layer 1 is steered, and the row trains layers 2 and 3."""
    row = {"scope": "everything", "layers": [2, 3], "objective": "rmu"}

    with pytest.raises(InputError, match=r"methods\.deep: rmu steers what leaves layer 1"):
        check_parameters(parameters | {"methods": {"deep": row}})


@pytest.mark.parametrize("selection", ["pilot", "pilot_affinity"])
def test_a_layer_may_be_chosen_by_trial(parameters, selection):
    parameters["methods"]["seuf_gdiff"]["selection"] = selection

    check_parameters(parameters)


def test_a_control_of_a_pilot_needs_one_with_its_objective(parameters):
    methods = parameters["methods"]
    methods["control"] = methods["pilot_ga"] | {"selection": "random_in:pilot"}
    check_parameters(parameters)
    del methods["pilot_ga"]

    with pytest.raises(InputError, match=r"methods\.control: .* 'pilot' found, and none"):
        check_parameters(parameters)


@pytest.mark.parametrize(
    "name", ["seuf ga", "a@b", "null", "Yes", "a.b", "-a", "_a", "1a", "é", ""]
)
def test_a_method_has_a_name_that_commands_paths_and_yaml_take_alike(parameters, name):
    parameters["methods"][name] = parameters["methods"]["full_ga"]

    with pytest.raises(InputError, match=f"methods: .*'{name}' cannot be a name"):
        check_parameters(parameters)


@pytest.mark.parametrize("name", ["SEUF_ga", "aaa", "z-9"])
def test_capitals_digits_and_dashes_are_names(parameters, name):
    parameters["methods"][name] = parameters["methods"]["full_ga"]

    check_parameters(parameters)


def test_two_methods_whose_names_differ_in_case_alone_are_refused(parameters):
    parameters["methods"]["FULL_ga"] = parameters["methods"]["full_ga"]

    with pytest.raises(InputError, match="'full_ga' and 'FULL_ga' would be one folder"):
        check_parameters(parameters)
