"""The training loop: what it keeps, when it stops, what it writes down."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from seuf.inputs import InputError
from seuf.unlearning.evaluations import Evaluation, EvaluationPath
from seuf.unlearning.scopes import Scope
from tests.unlearning.one_weight import Loss, from_half, one_weight, run, scripted, train, upwards


def kept(path: EvaluationPath) -> list[int]:
    """Return the steps of the rows that say `kept`."""
    return [row["step"] for row in path.log if row["kept"]]


def test_of_those_that_forgot_enough_the_one_of_most_utility_is_kept():
    """Shares (.75 - FE) / .5: .4, .6, .8 of a target of .5; the second has the better utility."""
    scope, path = run(scripted((0.55, 0.85), (0.45, 0.8), (0.35, 0.7)))

    assert [row["forgotten"] for row in path.log] == pytest.approx([0, 0.4, 0.6, 0.8])
    assert kept(path) == [4]
    assert path.tensors["weight"].item() == pytest.approx(0.4, abs=1e-4)
    assert scope.model.weight.item() == pytest.approx(0.6, abs=1e-4)


def test_where_none_forgot_enough_the_nearest_is_kept():
    """Shares .1, .3 and .2, the utility of the nearest is the worst."""
    _, path = run(scripted((0.7, 0.9), (0.6, 0.5), (0.65, 0.8)))

    assert kept(path) == [4]


def test_the_untouched_model_is_no_candidate():
    """Nothing is forgotten and utility falls: the original would be better, the first is kept."""
    _, path = run(scripted((0.75, 0.6), (0.75, 0.6), (0.75, 0.5)))

    assert kept(path) == [2]
    assert path.tensors["weight"].item() == pytest.approx(0.2, abs=1e-4)


def test_of_two_equals_the_first_is_kept():
    _, path = run(scripted((0.4, 0.75), (0.4, 0.75), (0.4, 0.75)))

    assert kept(path) == [2]


def test_training_stops_once_two_evaluations_in_a_row_are_at_chance():
    scope, path = run(scripted((0.25, 0.8), (0.3, 0.8), (0.25, 0.8), (0.2, 0.8)), steps=12)

    assert [row["step"] for row in path.log] == [0, 2, 4, 6, 8]
    assert [row["stopped"] for row in path.log] == [None] * 4 + ["forgotten"]
    assert scope.model.weight.item() == pytest.approx(0.8, abs=1e-4)


def test_it_can_stop_before_chance():
    """A share of .8 is a forget efficacy of .35."""
    _, path = run(scripted((0.35, 0.8), (0.3, 0.8)), stop_at=0.8)

    assert path.log[-1]["stopped"] == "forgotten"


def test_the_last_step_is_evaluated_even_out_of_turn():
    """Evaluated at 4, and at 6 though it is no multiple of 4."""
    _, path = run(scripted((0.5, 0.8), (0.5, 0.8)), evaluate_every=4)

    assert [row["step"] for row in path.log] == [0, 4, 6]


def test_every_evaluation_is_logged_with_its_numbers():
    """The loss at step 2 is minus the weight after one step, -.1; its slope is -1."""
    _, path = run(scripted((0.5, 0.8)), steps=2)

    original, row = path.log
    assert {k for k, v in original.items() if v is not None} == {
        *("learning_rate", "step", "forget_efficacy", "utility", "chance", "forgotten"),
        *("overlap_forget", "overlap_retain", "kept"),
    }
    assert row.pop("loss") == pytest.approx(-0.1, abs=1e-4)
    assert {k: v for k, v in row.items() if v is not None} == {
        "learning_rate": 0.1,
        "step": 2,
        "anchor": 0.0,
        "gradient_norm": 1.0,
        "forget_efficacy": 0.5,
        "utility": 0.8,
        "chance": 0.25,
        "forgotten": 0.5,
        "overlap_forget": 0.9,
        "overlap_retain": 1.0,
        "kept": True,
    }


def test_the_share_forgotten_on_test_questions_is_that_of_their_own_original():
    """From .9 to .5 with chance .1 is half of the way."""
    at = {"test_chance": 0.1}
    before = Evaluation(0.75, 0.9, 0.25, at | {"test_forget_efficacy": 0.9})
    path = EvaluationPath(before, target=0.5)

    path.add({}, Evaluation(0.5, 0.8, 0.25, at | {"test_forget_efficacy": 0.5}), {})

    assert path.log[0]["test_forgotten"] == pytest.approx(0.5)


def breaking(value: float, slope: float) -> Callable[[Scope], Loss]:
    """Return a loss that is sound for four steps and then has this value and slope."""

    def of(scope: Scope) -> Loss:
        def loss(step: int) -> Tensor:
            weight = scope.model.weight.sum()
            broken = value + slope * (weight - weight.detach())
            return -weight if step < 4 else broken

        return loss

    return of


@pytest.mark.parametrize(
    ("value", "slope"), [(float("nan"), 1.0), (float("inf"), 1.0), (1.0, float("nan"))]
)
def test_a_loss_or_gradient_that_is_not_finite_ends_the_run_and_spoils_nothing(value, slope):
    """The fifth step breaks: the weight stays at .4, and the best is that of step 4."""
    scope, path = run(scripted((0.5, 0.8), (0.4, 0.8)), breaking(value, slope))

    assert [row["step"] for row in path.log] == [0, 2, 4, 5]
    assert path.log[-1]["stopped"] == "loss or gradient is not finite"
    assert path.tensors["weight"].item() == pytest.approx(0.4, abs=1e-4)
    assert scope.model.weight.item() == pytest.approx(0.4, abs=1e-4)
    assert scope.model.weight.grad is None


def test_a_broken_run_leaves_no_gradient_to_the_next():
    scope = one_weight()

    with scope:
        loss = breaking(1.0, float("nan"))(scope)
        train(scope, scripted(*[(0.5, 0.8)] * 2), loss, from_half())

        assert scope.model.weight.grad is None


def test_the_anchor_is_added_to_the_objective():
    """Objective -w and anchor +w cancel: the gradient is 0 and nothing moves."""
    scope, path = one_weight(), from_half()

    with scope:
        anchor = scope.model.weight.sum
        train(scope, scripted((0.5, 0.8)), upwards(scope), path, anchor=anchor, steps=2)

    assert scope.model.weight.item() == 0
    assert path.log[1]["gradient_norm"] == 0


def test_the_gradient_is_clipped_and_logged_unclipped():
    """Slope 50 is logged; clipped to 1e-10 it no longer dwarfs AdamW's eps of 1e-8: step ~1 %."""

    def steep(scope: Scope) -> Loss:
        return lambda step: -50 * scope.model.weight.sum()

    scope, path = run(scripted((0.5, 0.8)), steep, steps=1, gradient_clip=1e-10)

    assert path.log[1]["gradient_norm"] == pytest.approx(50)
    assert scope.model.weight.item() == pytest.approx(0.1 * 0.01 / 1.01, rel=1e-3)


def test_there_is_no_weight_decay():
    """A weight of 1 without a slope stays 1, to the bit."""
    scope = one_weight()
    nn.init.ones_(scope.model.weight)

    with scope:
        train(
            scope,
            scripted((0.5, 0.8), (0.5, 0.8), (0.5, 0.8)),
            lambda step: 0 * scope.model.weight.sum(),
            from_half(),
        )

    assert scope.model.weight.item() == 1.0


def test_the_best_of_several_runs_is_kept_in_one_place():
    """The second run starts from the original again and finds nothing better."""
    scope = one_weight()
    original, path = scope.snapshot(), from_half()

    with scope:
        for rate, utility in ((0.1, 0.8), (0.5, 0.7)):
            evaluate = scripted((0.4, utility))
            train(scope, evaluate, upwards(scope), path, learning_rate=rate, steps=2)
            scope.restore(original)

    assert [row["learning_rate"] for row in path.log] == [0.1, 0.1, 0.5, 0.5]
    assert path.tensors["weight"].item() == pytest.approx(0.2, abs=1e-4)
    assert scope.model.weight.item() == 0


def test_a_step_that_does_not_fit_is_not_split_but_an_error_that_says_what_to_set():
    def large(scope: Scope) -> Loss:
        def loss(step: int) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        return loss

    with pytest.raises(InputError) as raised:
        run(scripted((0.5, 0.8)), large)

    assert str(raised.value) == (
        "A step does not fit in memory (CUDA out of memory. Tried to allocate 2.00 GiB): set "
        "unlearning.micro_batch_size to fewer samples, which leaves the step what it is, or lower "
        "unlearning.max_length."
    )
