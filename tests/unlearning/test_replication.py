"""Methods on several base models: which runs there are, what each gives, which rate is chosen."""

from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from seuf.inputs import InputError
from seuf.unlearning.evaluations import Evaluation, Judge
from seuf.unlearning.replication import (
    LAYER_COLUMNS,
    BaseStudy,
    Run,
    Trial,
    choose_learning_rates,
    numbers_of,
    replicate,
    runs_of,
)
from seuf.unlearning.settings import Method, PilotSettings
from tests.tiny import bits, tiny_language_model
from tests.unlearning.runs import FORGET, RETAIN, SETTINGS, method

GA = Method(scope="everything", objective="ga", learning_rates=[1e-4, 1e-3])
METHODS = {"original": Method(scope="nothing"), "full_ga": GA}


def no_experts(row: Method, seed: int) -> list[tuple[int, int]]:
    return []


def grid(*rows: tuple[str, float, float | None, float]) -> pd.DataFrame:
    """Return runs: method, learning rate, utility where enough is forgotten, most forgotten."""
    columns = ["method", "learning_rate", "selection_utility", "selection_forgotten"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(reached=table["selection_utility"].notna())


def evaluated(forgotten: float, utility: float, **test: Any) -> dict[str, Any]:
    """Return a row of a log."""
    tested = {"test_forgotten": None, "test_utility": None, "test_forget_efficacy": None}
    others = {"test_retain": None, "general_loss": None, "kept": False}
    return {"forgotten": forgotten, "utility": utility, **tested, **others, **test}


def weights_tell() -> Judge:
    """Return a judge that reads off the weights how far they have moved: the same every time."""

    def judge(model: nn.Module) -> Evaluation:
        with torch.no_grad():
            size = sum(float(p.double().abs().mean()) for p in model.parameters())
        values = (1 / (1 + size), 1 / (2 + size))
        test = dict(zip(("test_forget_efficacy", "test_utility"), values, strict=True))
        return Evaluation(*values, 0.0, {**test, "test_chance": 0.0, "general_loss": size})

    return judge


def small_study() -> BaseStudy:
    judges = weights_tell, weights_tell
    return BaseStudy(tiny_language_model(), FORGET, RETAIN, SETTINGS, *judges)


def small_runs() -> list[Run]:
    """Return the original, one expert chosen by two rules, another one, and everything."""
    return [
        Run("original", Method(scope="nothing"), [], 0),
        Run("seuf", method(), [(1, 2)], 0),
        Run("contrast", method(selection="contrast"), [(1, 2)], 0),
        Run("random", method(selection="random"), [(1, 3)], 0),
        Run("full", method("everything"), [], 0),
    ]


def trial_of(selection: str, trained: list[list[tuple[int, int]]], sweep: bool = False) -> Trial:
    """Return trials of two steps in both layers, with two learning rates."""
    row = method(selection=selection)
    pilot = PilotSettings(steps=2, learning_rates=[1e-3, 1e-2], sweep=sweep)
    return Trial(row, 0, [[(0, 1)], [(1, 2)]], trained, pilot)


def test_more_base_models_that_forget_enough_count_for_more_than_utility():
    """With 1e-3 two bases forget enough and keep .4; with 1e-4 one of two does and keeps .9."""
    table = grid(
        ("m", 1e-4, 0.9, 1.0), ("m", 1e-4, None, 0.8), ("m", 1e-3, 0.5, 1.0), ("m", 1e-3, 0.3, 1.0)
    )

    assert choose_learning_rates(table) == {"m": 1e-3}


def test_of_rates_with_which_as_many_forget_enough_the_most_utility_wins():
    """1e-3 has the best single run (.9) but a mean of .5; 1e-4 has a mean of .6."""
    table = grid(
        ("m", 1e-3, 0.9, 1.0), ("m", 1e-3, 0.1, 1.0), ("m", 1e-4, 0.6, 1.0), ("m", 1e-4, 0.6, 1.0)
    )

    assert choose_learning_rates(table) == {"m": 1e-4}


def test_of_equal_learning_rates_the_smallest_is_chosen():
    """.1 + .2 is .3 but for its last bits."""
    table = grid(
        ("m", 1e-3, 0.1, 1.0), ("m", 1e-3, 0.2, 1.0), ("m", 1e-4, 0.3, 1.0), ("m", 1e-4, 0.0, 1.0)
    )

    assert choose_learning_rates(table) == {"m": 1e-4}


def test_where_no_rate_forgets_enough_the_one_that_forgets_most_is_chosen():
    assert choose_learning_rates(grid(("m", 1e-4, None, 0.2), ("m", 1e-3, None, 0.7))) == {
        "m": 1e-3
    }


def test_each_method_has_its_own_learning_rate_and_what_trains_nothing_has_none():
    table = grid(
        ("a", 1e-3, 0.5, 1.0), ("a", 1e-4, 0.4, 1.0), ("b", 1e-3, 0.4, 1.0), ("b", 1e-4, 0.5, 1.0)
    )
    original = grid(("original", float("nan"), None, 0.0))

    assert choose_learning_rates(pd.concat([original, table])) == {"a": 1e-3, "b": 1e-4}


def test_test_questions_have_no_say_in_the_choice():
    table = grid(("m", 1e-3, 0.4, 1.0), ("m", 1e-4, 0.5, 1.0)).assign(utility_at_90=[1.0, 0.0])

    assert choose_learning_rates(table) == {"m": 1e-4}


def test_every_method_tries_its_own_grid_and_the_original_runs_once():
    tasks = runs_of(METHODS, [5], no_experts)

    assert [(run.name, run.method.learning_rates, run.seed) for run in tasks] == [
        ("original", METHODS["original"].learning_rates, 5),
        ("full_ga", [1e-4], 5),
        ("full_ga", [1e-3], 5),
    ]


def test_the_other_seeds_run_with_the_chosen_learning_rate_only():
    tasks = runs_of(METHODS, [1, 2], no_experts, {"full_ga": 1e-3}, untrained=False)

    assert [(run.name, run.method.learning_rates, run.seed) for run in tasks] == [
        ("full_ga", [1e-3], 1),
        ("full_ga", [1e-3], 2),
    ]


def test_a_base_without_a_grid_runs_all_seeds_and_the_original_once():
    tasks = runs_of(METHODS, [3, 4], no_experts, {"full_ga": 1e-3})

    assert [(run.name, run.seed) for run in tasks] == [
        ("original", 3),
        ("full_ga", 3),
        ("full_ga", 4),
    ]


def test_nothing_but_the_learning_rate_of_a_method_changes():
    (task,) = runs_of({"full_ga": GA}, [1], no_experts, {"full_ga": 1e-3})

    assert task.method.model_copy(update={"learning_rates": GA.learning_rates}) == GA


def test_a_run_has_the_experts_of_its_seed():
    tasks = runs_of({"seuf": method()}, [5], lambda row, seed: [(0, seed)], {"seuf": 1e-3})

    assert [run.experts for run in tasks] == [[(0, 5)]]


def test_the_control_of_a_pilot_is_tried_as_the_pilot_whatever_its_own_grid():
    """With 2e-3, the pilot's middle rate, though its own is 8e-3."""
    rows = {
        "control": method(selection="random_in:pilot", learning_rates=[4e-3, 8e-3, 16e-3]),
        "pilot": method(selection="pilot", learning_rates=[1e-3, 2e-3, 4e-3]),
    }
    given: list[list[float]] = []

    def experts(row: Method, seed: int) -> list[tuple[int, int]]:
        given.append(row.learning_rates)
        return [(0, seed)]

    tasks = runs_of(rows, [0], experts)

    assert given == [[2e-3], [2e-3]]
    assert [run.method.learning_rates for run in tasks][:3] == [[4e-3], [8e-3], [16e-3]]


def test_a_pilot_is_tried_with_the_middle_learning_rate_whatever_the_run_has():
    row = method(selection="pilot", learning_rates=[1e-4, 1e-2, 1e-3])
    given: list[list[float]] = []

    def experts(at: Method, seed: int) -> list[tuple[int, int]]:
        given.append(at.learning_rates)
        return []

    runs_of({"pilot": row}, [0], experts)
    runs_of({"pilot": row}, [1], experts, {"pilot": 1e-2})

    assert given == [[1e-3], [1e-3]]


def test_numbers_are_read_off_the_test_path_at_equal_forgetting():
    """FE .42, .33, .25 to chance .25 forget 0, .09/.17 = .529 and 1; UT .60, .45, .34.

    At .5 it is .60 - .15 x .5/.529 = .4583; at .75 the way from .529 is .46875 done: UT .3984 and
    general loss 4 + 2 x .46875.
    """
    log = [
        evaluated(0.0, 0.9, test_forgotten=0.0, test_utility=0.60, general_loss=3.0),
        evaluated(0.5, 0.8, test_forgotten=0.09 / 0.17, test_utility=0.45, general_loss=4.0),
        evaluated(
            1.0,
            0.6,
            test_forgotten=1.0,
            test_utility=0.34,
            general_loss=6.0,
            test_forget_efficacy=0.25,
            kept=True,
        ),
    ]

    numbers = numbers_of(log, forget_target=0.9)

    assert numbers["utility_at_50"] == pytest.approx(0.4583, abs=1e-4)
    assert numbers["utility_at_75"] == pytest.approx(0.3984, abs=1e-4)
    assert numbers["general_loss_at_75"] == pytest.approx(4.9375)
    assert (numbers["utility"], numbers["forget_efficacy"]) == (0.34, 0.25)


def test_whether_enough_is_forgotten_is_asked_of_the_selection_questions():
    """There .9 lies 4/5 of the way from .5 to 1: utility .8 - .8 x .2. The test path ends at .6."""
    log = [
        evaluated(0.0, 0.9, test_forgotten=0.0, test_utility=1.0),
        evaluated(0.5, 0.8, test_forgotten=0.3, test_utility=1.0),
        evaluated(1.0, 0.6, test_forgotten=0.6, test_utility=1.0, kept=True),
    ]

    numbers = numbers_of(log, forget_target=0.9)

    assert numbers["reached"] is True
    assert numbers["selection_utility"] == pytest.approx(0.64)
    assert numbers["utility_at_75"] is None
    assert numbers["area"] is None


def test_a_step_that_was_not_evaluated_is_no_part_of_the_path():
    log = [
        evaluated(0.0, 0.9, test_forgotten=0.0, test_utility=1.0),
        {**dict.fromkeys(evaluated(0, 0)), "kept": False, "stopped": "loss is not finite"},
    ]

    numbers = numbers_of(log, forget_target=0.9)

    assert numbers["reached"] is False
    assert numbers["selection_forgotten"] == 0.0
    assert numbers["utility"] == 1.0  # nothing was kept: it is the original


def test_methods_that_choose_the_same_expert_are_one_run():
    runs, paths, _ = replicate(small_study(), small_runs())

    assert runs.set_index("method")["same_as"].dropna().to_dict() == {"contrast": "seuf"}
    columns = ["step", "loss", "utility", "kept"]
    one, other = (paths[paths["method"] == name][columns] for name in ("seuf", "contrast"))
    assert one.reset_index(drop=True).equals(other.reset_index(drop=True))


def test_every_look_of_every_run_is_in_the_paths():
    """Four steps, evaluated at every second one, after the original; of the original only it."""
    _, paths, _ = replicate(small_study(), small_runs())

    assert paths.groupby("method", sort=False)["step"].apply(list).to_dict() == {
        "original": [0],
        **{name: [0, 2, 4] for name in ("seuf", "contrast", "random", "full")},
    }


def test_a_pilot_trains_what_its_trials_chose_and_counts_them():
    """Two layers, two learning rates, two steps: at most eight updates, and fewer if some stop."""
    tried = trial_of("pilot", trained=[[(0, 1)], [(1, 2)]])
    runs, paths, swept = replicate(
        small_study(), [Run("pilot", method(selection="pilot"), [], 0, tried), *small_runs()[1:2]]
    )

    pilot, seuf = runs.to_dict("records")
    assert pilot["experts"] in ("0:1", "1:2")
    assert 4 <= pilot["trial_steps"] <= 8
    assert pilot["seconds"] >= pilot["trial_seconds"] > 0
    assert set(pilot["trial_utility"].replace(":", " ").split()) >= {"0", "1"}
    assert (seuf["trial_steps"], seuf["trial_seconds"]) == (0, 0)
    assert pd.isna(seuf["trial_utility"])
    assert set(paths[paths["method"] == "pilot"]["experts"]) == {pilot["experts"]}
    assert swept.empty


def test_the_control_of_a_pilot_shares_its_trials_and_trains_another_expert():
    beside = {"0:1": "0:3", "1:2": "1:0"}
    pilot = trial_of("pilot", trained=[[(0, 1)], [(1, 2)]])
    control = trial_of("random_in:pilot", trained=[[(0, 3)], [(1, 0)]])
    runs, _, _ = replicate(
        small_study(),
        [
            Run("pilot", method(selection="pilot"), [], 0, pilot),
            Run("control", method(selection="random_in:pilot"), [], 0, control),
        ],
    )

    one, other = runs.to_dict("records")
    assert pilot.key == control.key
    assert other["experts"] == beside[one["experts"]]
    assert other["trial_seconds"] == one["trial_seconds"]


def test_a_sweep_keeps_the_paths_of_all_layers_with_the_test_questions():
    """Two layers, two rates: the original and the look at two steps of each; both rules agree.

    The control shares the trials of its pilot. Without a sweep there are none.
    """
    rows = [
        Run(name, method(selection=name), [], 0, trial_of(name, [[(0, 1)], [(1, 2)]], sweep=True))
        for name in ("pilot", "pilot_affinity", "random_in:pilot")
    ]

    runs, _, swept = replicate(small_study(), rows)

    assert list(swept.columns) == LAYER_COLUMNS
    assert swept.groupby(["method", "rule"], sort=False).size().to_dict() == {
        ("pilot", "contrast"): 8,
        ("pilot_affinity", "affinity"): 8,
    }
    assert swept.groupby(["layer", "expert"]).size().to_dict() == {(0, 1): 8, (1, 2): 8}
    assert swept["test_utility"].notna().all()
    assert swept["general_loss"].notna().all()
    (chosen,) = swept[swept["chosen"]][["layer", "expert"]].drop_duplicates().to_numpy().tolist()
    assert runs["experts"][0] == "{}:{}".format(*chosen)
    assert set(runs["trial_steps"]) == {8}


def test_an_expert_that_is_deleted_has_no_learning_rate():
    """Its path has two points, and only the second is a checkpoint."""
    row = Method(scope="deletion", selection="contrast")

    runs, paths, _ = replicate(small_study(), [Run("deleted", row, [(1, 2)], 0)])

    assert runs["learning_rate"].isna().all()
    assert paths["learning_rate"].isna().all()
    assert paths["kept"].tolist() == [False, True]


def test_the_base_is_left_as_it_was():
    study = small_study()
    before = bits(study.base.model)

    replicate(study, small_runs()[:2])

    assert all(torch.equal(before[name], p) for name, p in study.base.model.named_parameters())


def test_the_original_is_evaluated_once_and_every_other_state_each_time():
    """Three runs of two looks after one of the original, and the one of the original itself."""
    seen: list[float] = []

    def counted() -> Judge:
        judge = weights_tell()

        def count(model: nn.Module) -> Evaluation:
            evaluation = judge(model)
            seen.append(evaluation.utility)
            return evaluation

        return count

    replicate(small_study()._replace(make_judge=counted), small_runs())

    assert len(seen) == 1 + 3 * 2
    assert seen.count(seen[0]) == 1


@pytest.mark.slow  # each process imports torch; test_workers.py has a quick one
@pytest.mark.parametrize("runs", [small_runs()[1:2], small_runs()], ids=["one", "many"])
def test_processes_give_the_bytes_of_one(runs):
    """All but the seconds, which are of the machine. A single run begins a single process."""
    one, two = (replicate(small_study(), runs, workers) for workers in (1, 2))

    for mine, theirs in zip(one, two, strict=True):
        assert (
            mine.drop(columns="seconds", errors="ignore").to_csv()
            == theirs.drop(columns="seconds", errors="ignore").to_csv()
        )


def test_a_model_on_several_devices_is_not_shared_by_processes():
    study = small_study()
    study.base.model.model.layers[1].to("meta")

    with pytest.raises(InputError, match=r"on one device; this one is on cpu, meta\.$"):
        replicate(study, small_runs(), 2)


@pytest.mark.gpu
def test_processes_on_gpus_give_the_bytes_of_one():
    """The model is back on its GPU afterwards."""
    torch.use_deterministic_algorithms(True)
    results = []
    for processes in (1, 2):
        study = small_study()
        study.base.model.to("cuda")
        results.append(replicate(study, small_runs(), processes))
        assert study.base.model.device.type == "cuda"
    torch.use_deterministic_algorithms(False)
    for one, two in zip(*results, strict=True):
        columns = [name for name in one if name != "seconds"]
        pd.testing.assert_frame_equal(one[columns], two[columns])
