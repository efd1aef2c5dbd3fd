"""The training loop: what it keeps, when it stops, what it writes down."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from seuf.inputs import InputError
from seuf.unlearning.algorithm import Checkpoint
from seuf.unlearning.scopes import Scope
from tests.unlearning.one_weight import Loss, one_weight, run, scripted, train, upwards


def test_the_best_checkpoint_is_kept_not_the_last():
    """Balances .3, .6, .4 after 2, 4 and 6 steps of .1: the weight of step 4 is .4."""
    scope, best = run(scripted((0.75, 0.8), (0.4, 0.75), (0.6, 0.75)))

    assert best.balance == pytest.approx(0.6)
    assert best.tensors["weight"].item() == pytest.approx(0.4, abs=1e-4)
    assert scope.model.weight.item() == pytest.approx(0.6, abs=1e-4)


def test_the_original_is_kept_where_nothing_is_better():
    """Balances .1, .2 and .25 against .25 of the original."""
    _, best = run(scripted((0.75, 0.6), (0.75, 0.7), (0.75, 0.75)))

    assert best.balance == 0.25
    assert best.tensors is None


def test_of_two_equals_the_first_is_kept():
    _, best = run(scripted((0.4, 0.75), (0.4, 0.75), (0.4, 0.75)))

    assert best.tensors["weight"].item() == pytest.approx(0.2, abs=1e-4)


def test_training_stops_once_the_knowledge_is_at_chance():
    scope, best = run(scripted((0.5, 0.8), (0.25, 0.8)))

    assert [entry["step"] for entry in best.log] == [2, 4]
    assert [entry["stopped"] for entry in best.log] == [None, "forgotten"]
    assert scope.model.weight.item() == pytest.approx(0.4, abs=1e-4)


def test_the_goal_can_be_set_above_chance():
    _, best = run(scripted((0.5, 0.8), (0.4, 0.8)), forget_until=0.4)

    assert [entry["stopped"] for entry in best.log] == [None, "forgotten"]


def test_the_last_step_is_evaluated_even_out_of_turn():
    """Evaluated at 4, and at 6 though it is no multiple of 4."""
    _, best = run(scripted((0.5, 0.8), (0.5, 0.8)), evaluate_every=4)

    assert [entry["step"] for entry in best.log] == [4, 6]


def test_every_evaluation_is_logged_with_its_numbers():
    """The loss at step 2 is minus the weight after one step, -.1; its slope is -1."""
    _, best = run(scripted((0.5, 0.8)), steps=2)

    (entry,) = best.log
    assert entry.pop("loss") == pytest.approx(-0.1, abs=1e-4)
    assert entry == {
        "learning_rate": 0.1,
        "step": 2,
        "anchor": 0.0,
        "gradient_norm": 1.0,
        "forget_efficacy": 0.5,
        "utility": 0.8,
        "chance": 0.25,
        "balance": pytest.approx(0.55),
        "overlap_forget": 0.9,
        "overlap_retain": 1.0,
        "stopped": None,
    }


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
    scope, best = run(scripted((0.5, 0.8), (0.4, 0.8)), breaking(value, slope))

    assert [entry["step"] for entry in best.log] == [2, 4, 5]
    assert best.log[-1]["stopped"] == "loss or gradient is not finite"
    assert best.tensors["weight"].item() == pytest.approx(0.4, abs=1e-4)
    assert scope.model.weight.item() == pytest.approx(0.4, abs=1e-4)
    assert scope.model.weight.grad is None


def test_a_broken_run_leaves_no_gradient_to_the_next():
    scope = one_weight()

    with scope:
        loss = breaking(1.0, float("nan"))(scope)
        train(scope, scripted(*[(0.5, 0.8)] * 2), loss, Checkpoint(balance=0.25))

        assert scope.model.weight.grad is None


def test_the_anchor_is_added_to_the_objective():
    """Objective -w and anchor +w cancel: the gradient is 0 and nothing moves."""
    scope, best = one_weight(), Checkpoint(balance=0.25)

    with scope:
        anchor = scope.model.weight.sum
        train(scope, scripted((0.5, 0.8)), upwards(scope), best, anchor=anchor, steps=2)

    assert scope.model.weight.item() == 0
    assert best.log[0]["gradient_norm"] == 0


def test_the_gradient_is_clipped_and_logged_unclipped():
    """Slope 50 is logged; clipped to 1e-10 it no longer dwarfs AdamW's eps of 1e-8: step ~1 %."""

    def steep(scope: Scope) -> Loss:
        return lambda step: -50 * scope.model.weight.sum()

    scope, best = run(scripted((0.5, 0.8)), steep, steps=1, gradient_clip=1e-10)

    assert best.log[0]["gradient_norm"] == pytest.approx(50)
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
            Checkpoint(balance=0.25),
        )

    assert scope.model.weight.item() == 1.0


def test_the_best_of_several_runs_is_kept_in_one_place():
    """The second run starts from the original again and finds nothing better."""
    scope = one_weight()
    original, best = scope.snapshot(), Checkpoint(balance=0.25)

    with scope:
        for rate, utility in ((0.1, 0.8), (0.5, 0.7)):
            evaluate = scripted((0.4, utility))
            train(scope, evaluate, upwards(scope), best, learning_rate=rate, steps=2)
            scope.restore(original)

    assert [entry["learning_rate"] for entry in best.log] == [0.1, 0.5]
    assert best.tensors["weight"].item() == pytest.approx(0.2, abs=1e-4)
    assert scope.model.weight.item() == 0


def test_a_step_that_does_not_fit_is_not_split_but_an_error_that_says_what_to_lower():
    def large(scope: Scope) -> Loss:
        def loss(step: int) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        return loss

    with pytest.raises(InputError) as raised:
        run(scripted((0.5, 0.8)), large)

    assert str(raised.value) == (
        "A step does not fit in memory (CUDA out of memory. Tried to allocate 2.00 GiB): lower "
        "unlearning.batch_size or unlearning.max_length, to which packed samples are joined."
    )
