"""What a method may say."""

import pytest
from pydantic import ValidationError

from seuf.inputs import InputError
from seuf.unlearning.objectives import OBJECTIVE_INPUTS, OBJECTIVES, arguments_of
from seuf.unlearning.selection import SelectionSettings, ranking_and_rank
from seuf.unlearning.settings import (
    Method,
    ObjectiveSettings,
    UnlearningSettings,
    pilot_rule,
    pilots_of_controls,
)


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_every_objective_asks_for_what_there_is(objective):
    inputs, numbers = arguments_of(objective)

    assert inputs <= {*OBJECTIVE_INPUTS}
    assert ObjectiveSettings().numbers_for(objective).keys() == numbers


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"scope": "everything"}, "needs an objective"),
        ({"scope": "nothing", "objective": "ga"}, "needs an objective"),
        ({"scope": "experts", "objective": "ga"}, "needs a selection"),
        ({"scope": "everything", "objective": "ga", "selection": "affinity"}, "needs a selection"),
        ({"scope": "everything", "objective": "ga", "anchor_weight": 1.0}, "router to anchor"),
        ({"scope": "some", "objective": "ga"}, "'nothing', 'everything', 'lora', 'experts' or"),
        ({"scope": "deletion"}, "needs a selection"),
        ({"scope": "deletion", "selection": "pilot"}, "has no steps to try: selection 'pilot'"),
        ({"scope": "deletion", "objective": "ga", "selection": "reap"}, "needs an objective"),
        ({"scope": "everything", "objective": "ga", "rank": 4}, "only scope 'lora'"),
        ({"scope": "lora", "objective": "ga", "rank": 0}, "greater than 0"),
        ({"scope": "lora", "objective": "ga", "selection": "affinity"}, "needs a selection"),
        ({"scope": "lora", "objective": "ga", "only": "experts"}, "only scope 'everything' takes"),
        (
            {"scope": "everything", "objective": "sga"},
            "no objective 'sga'; objectives are ga, gdiff, npo, rmu",
        ),
        (
            {"scope": "everything", "objective": "gdiff", "retain_loss": "mse"},
            "retain_loss 'mse' is none of nll, kl, trace",
        ),
        (
            {"scope": "everything", "objective": "rmu", "retain_loss": "kl"},
            "objective 'rmu' has no `retain_loss`",
        ),
        (
            {"scope": "everything", "only": "experts", "objective": "ga", "router_null_space": 0.1},
            "that train routers",
        ),
        (
            {
                "scope": "everything",
                "objective": "rmu",
                "steering_norms": 3.0,
                "steering_coefficient": 10.0,
            },
            "give one of",
        ),
        ({"scope": "nothing", "retain_loss": "kl"}, "objective None has no `retain_loss`"),
        ({"scope": "everything", "objective": "ga", "learning_rates": []}, "at least 1 item"),
        ({"scope": "everything", "objective": "ga", "learning_rates": [0]}, "greater than 0"),
        ({"scope": "everything", "objective": "ga", "rate": 1}, "Extra inputs"),
    ],
)
def test_a_row_that_makes_no_sense_is_refused(row, why):
    with pytest.raises(ValidationError, match=why):
        Method(**row)


@pytest.mark.parametrize(
    "row",
    [
        {"scope": "nothing"},
        {"scope": "everything", "objective": "npo"},
        {"scope": "experts", "objective": "rmu", "selection": "mine", "anchor_weight": 1.0},
    ],
)
def test_a_row_that_is_whole_is_taken(row):
    assert Method(**row).model_dump(exclude_unset=True) == row


def test_a_number_of_an_objective_is_the_study_s_or_the_function_s():
    settings = ObjectiveSettings(simnpo_beta=2)

    assert settings.numbers_for("simnpo") == {
        "simnpo_beta": 2,
        "simnpo_delta": 0.0,
        "simnpo_gamma": 0.125,
        "retain_weight": 1.0,
    }
    with pytest.raises(ValidationError, match="simnpo_beta"):
        ObjectiveSettings(simnpo_beta="high")


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"forget_target": 2.0}, {"stop_at": 0.5}, {"batchsize": 4}]
)
def test_a_budget_out_of_range_is_refused(wrong):
    with pytest.raises(ValidationError):
        UnlearningSettings(**wrong)


@pytest.mark.parametrize(
    "name", ["entropy", "affinity_0", "affinity_02", "affinity_", "affinity_2x", "esft_2", ""]
)
def test_an_unknown_rule_is_refused_with_those_known(name):
    with pytest.raises(ValidationError) as error:
        SelectionSettings(rules=["affinity", name])

    assert f"{name!r} is no rule; rules are affinity, contrast, " in str(error.value)
    assert "a rank as in affinity_2, esft, and random_in:<rule>" in str(error.value)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("affinity", ("affinity", 1)),
        ("affinity_1", ("affinity", 1)),
        ("random_30", ("random", 30)),
        ("esft", None),
        ("mine", None),
    ],
)
def test_a_rule_without_a_rank_is_of_rank_one(name, found):
    assert ranking_and_rank(name) == found


def test_rules_may_carry_a_rank_and_esft_is_one():
    rules = ["affinity", "affinity_2", "contrast_11", "random_3", "esft"]

    assert SelectionSettings(rules=rules).rules == rules


@pytest.mark.parametrize("name", ["esft", "random", "affinity_2"])
def test_an_expert_named_by_hand_may_not_be_called_like_a_rule(name):
    with pytest.raises(ValidationError, match=f"fixed.{name} is the name of a rule"):
        SelectionSettings(rules=["affinity"], fixed={name: {"layer": 1, "expert": 0}})


@pytest.mark.parametrize("threshold", [0, -0.1, 1.1])
def test_a_threshold_is_a_share(threshold):
    with pytest.raises(ValidationError, match="esft_threshold"):
        SelectionSettings(esft_threshold=threshold)


def piloted(selection: str, objective: str, **settings: object) -> Method:
    """Return a row of a table."""
    return Method(scope="experts", selection=selection, objective=objective, **settings)


def test_a_control_trains_beside_the_first_pilot_with_its_settings_but_for_the_rates():
    """The same objective with another retain loss is another method."""
    methods = {
        "a": piloted("pilot", "npo"),
        "b": piloted("pilot_affinity", "gdiff"),
        "c": piloted("pilot", "gdiff", retain_loss="kl"),
        "d": piloted("pilot", "gdiff", learning_rates=[1e-3]),
        "e": piloted("random_in:pilot", "gdiff", learning_rates=[2e-3, 4e-3]),
        "f": piloted("random_in:contrast", "gdiff"),
        "g": Method(scope="everything", objective="gdiff"),
    }

    assert pilots_of_controls(methods) == {"e": "d"}
    methods["h"] = piloted("random_in:pilot", "gdiff", anchor_weight=2.0)
    with pytest.raises(InputError, match=r"methods\.h: .* 'pilot' found, and none has the same"):
        pilots_of_controls(methods)


@pytest.mark.parametrize(
    "selection", ["randm_in:pilot", "contrast:pilot", "random_in:random_in:pilot", ":pilot"]
)
def test_what_ends_like_a_pilot_is_none(selection):
    assert pilot_rule(selection) is None


def test_a_pilot_and_its_control_are_tried_by_the_same_rule():
    rules = {s: pilot_rule(s) for s in ("pilot", "random_in:pilot", "random_in:pilot_affinity")}

    assert rules == {
        "pilot": "contrast",
        "random_in:pilot": "contrast",
        "random_in:pilot_affinity": "affinity",
    }
