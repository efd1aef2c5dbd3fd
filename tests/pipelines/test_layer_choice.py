"""What the stage that tries layers writes, and what an audit makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

from seuf.audit import FAIL, PASS
from seuf.audit.results import check_method
from seuf.benchmarks.records import Question
from seuf.benchmarks.settings import ScoringSettings
from seuf.moe.deltas import Delta
from seuf.pipelines.layer_choice.nodes import choose_layer, draw_beside
from seuf.pipelines.routing_capture.nodes import capture_routing
from seuf.pipelines.unlearning.nodes import experts_of
from seuf.unlearning.attribution import RoutingSettings
from seuf.unlearning.selection import SelectionSettings
from seuf.unlearning.settings import Method, PilotSettings, UnlearningSettings
from tests.tiny import tiny_language_model

FORGET = [{"text": f"Ada lives in Oslo, Bo lives in Rome {i}."} for i in range(120)]
RETAIN = [{"text": f"Bo lives in Oslo; {i} {i}."} for i in range(150)]
QUESTIONS = [
    Question(
        f"{number}: where does {name} live?", ["Oslo.", "Rome."], 0, "", subject, part
    )._asdict()
    for part in ("selection", "test")
    for subject, name in (("forget", "Ada"), ("retain", "Bo"))
    for number in range(6)
]
ROW = {"scope": "experts", "objective": "ga", "learning_rates": [1e-2], "anchor_weight": 1.0}
PILOT = PilotSettings(steps=4, evaluate_every=2)


@pytest.fixture(scope="module")
def routing() -> tuple[pd.DataFrame, pd.DataFrame]:
    return capture_routing(tiny_language_model(), FORGET, RETAIN, RoutingSettings(), 0)


def choose(
    routing: tuple[pd.DataFrame, pd.DataFrame], selection: str, pilot: PilotSettings = PILOT
) -> tuple[Any, ...]:
    """Return what the stage writes of a method, or of the control of one."""
    if selection == "random_in:pilot":
        return draw_beside(*choose(routing, "pilot", pilot), routing[0], base_seed=0, seed=1)
    return choose_layer(
        tiny_language_model(),
        *routing,
        FORGET,
        RETAIN,
        QUESTIONS,
        Method(selection=selection, **ROW),
        SelectionSettings(),
        UnlearningSettings(batch_size=2, probe_tokens=64, threads=1),
        pilot,
        ScoringSettings(max_length=64),
        base_seed=0,
        seed=1,
        general_texts=RETAIN[:2],
    )


def test_each_layers_best_expert_is_tried_and_one_is_chosen(routing):
    chosen, trials, timing = choose(routing, "pilot_affinity")

    best = routing[0].loc[routing[0].groupby("layer")["affinity"].idxmax(), ["layer", "expert"]]
    tried = trials[["layer", "expert"]].drop_duplicates()
    assert sorted(map(tuple, tried.to_numpy())) == sorted(map(tuple, best.to_numpy()))
    assert list(map(tuple, chosen["experts"])) in [[tuple(one)] for one in best.to_numpy().tolist()]
    assert trials.loc[trials["chosen"], "layer"].unique().tolist() == [chosen["experts"][0][0]]
    assert chosen["evaluations"] == 1 + (trials["step"] > 0).sum()
    assert json.loads(json.dumps(chosen))["rule"] == "affinity"
    assert trials["test_forget_efficacy"].isna().all()
    assert timing["seconds"] > 0


def test_a_sweep_tells_of_every_layers_test_questions_and_general_loss(routing):
    sweep = PILOT.model_copy(update={"sweep": True})

    chosen, trials, _ = choose(routing, "pilot_affinity", sweep)

    about = trials[["base", "seed", "objective", "rule"]].drop_duplicates()
    assert about.to_numpy().tolist() == [[0, 1, "ga", "affinity"]]
    assert set(trials["layer"]) == {layer["layer"] for layer in chosen["layers"]}
    assert trials[["test_utility", "test_forgotten", "general_loss"]].notna().all(axis=None)
    assert "dominated" not in set(trials["stopped"])


def test_a_sweep_is_of_the_objectives_that_it_names(routing):
    others = PILOT.model_copy(update={"sweep": ["npo"]})

    _, trials, _ = choose(routing, "pilot_affinity", others)

    assert "rule" not in trials
    assert [others.sweeps(name) for name in ("npo", "ga")] == [True, False]
    with pytest.raises(ValidationError, match="nga"):
        PilotSettings(sweep=["nga"])


def test_unlearning_takes_what_trials_of_the_method_chose(routing):
    chosen, *_ = choose(routing, "pilot")

    read = json.loads(json.dumps(chosen))
    experts = experts_of(read, Method(selection="pilot", **ROW))
    assert experts == list(map(tuple, chosen["experts"]))


def test_the_control_is_another_expert_of_the_layer_that_trials_chose(routing):
    chosen, of_pilot, timing = choose(routing, "pilot")
    control, trials, its_timing = choose(routing, "random_in:pilot")

    ((layer, expert),), ((its_layer, other),) = chosen["experts"], control["experts"]
    assert (its_layer, other != expert) == (layer, True)
    assert trials.loc[trials["chosen"], "expert"].unique().tolist() == [expert]
    pd.testing.assert_frame_equal(trials, of_pilot)
    assert its_timing.keys() == timing.keys()


@pytest.mark.parametrize("selection", ["pilot", "random_in:pilot"])
def test_an_audit_works_the_choice_out_again_from_the_trials(routing, selection, tmp_path):
    chosen, trials, _ = choose(routing, selection)
    tables = {"routing_forget": routing[0], "routing_retain": routing[1], "trials": trials}
    for name, table in tables.items():
        table.to_csv(tmp_path / name, index=False)
    method = {**ROW, "selection": selection}
    parameters = {
        "seed": 1,
        "base_seed": 0,
        "pilot": PILOT.model_dump(),
        "expert_selection": {"top": 1},
    }
    about = {
        "method": Method.model_validate(method).model_dump(),
        "seed": 1,
        "experts": json.loads(json.dumps(chosen["experts"])),
    }
    audited: Any = SimpleNamespace(
        method="mine",
        delta=Delta({}, "", about=about),
        settings=method,
        study=SimpleNamespace(config={"parameters": parameters}),
        project=Path(tmp_path),
        path=lambda name: name,
        read=lambda name: json.loads(json.dumps(chosen)),
    )

    first = [check.result for check in check_method(audited)]
    better = trials.assign(utility=trials["utility"].where(trials["chosen"], 2.0))
    better = better.assign(forgotten=better["forgotten"].where(better["chosen"], 1.0))
    better.to_csv(tmp_path / "trials", index=False)
    *_, tampered = check_method(audited)

    assert first == [PASS, PASS]
    assert tampered.result == FAIL
    assert f"from the recorded trials {selection} chooses" in tampered.text
