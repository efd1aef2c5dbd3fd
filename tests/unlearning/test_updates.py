"""One update after the other, recorded or not."""

from functools import partial
from typing import Any

import pytest
import torch

from seuf.moe.architectures import moe_layers
from seuf.unlearning.draws import Samples
from seuf.unlearning.objectives import OBJECTIVES
from seuf.unlearning.quantities import Feed
from seuf.unlearning.scopes import Scope, selected_experts
from seuf.unlearning.treatment import Treatment, loss_of, quantities_of
from seuf.unlearning.trunk import Rows
from seuf.unlearning.updates import NUMBERS, WARM, Updates, _copied, _tensors
from tests.tiny import tiny_language_model, tiny_samples
from tests.unlearning.one_weight import one_weight
from tests.unlearning.runs import SETTINGS, method


def upwards(scope: Scope, feed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a loss whose slope is minus the feed."""
    return -(scope.model.weight * feed).sum(), torch.zeros(())


def test_an_update_returns_its_loss_anchor_and_norm():
    """The weight is 0 and the feed 3: loss 0, slope -3; AdamW steps by its rate of .1."""
    scope = one_weight()
    with scope:
        numbers = Updates(scope, partial(upwards, scope), 0.1, clip=10.0)(torch.tensor(3.0))

    assert dict(zip(NUMBERS, numbers.tolist(), strict=True)) == {
        "loss": 0.0,
        "anchor": 0.0,
        "gradient_norm": 3.0,
    }
    assert scope.model.weight.item() == pytest.approx(0.1, abs=1e-4)


def test_on_a_cpu_nothing_is_recorded():
    scope = one_weight()
    with scope:
        update = Updates(scope, partial(upwards, scope), 0.1, clip=1.0, recorded=True)
        for _ in range(WARM + 2):
            update(torch.tensor(1.0))

    assert update.recording is None


def test_a_feed_is_copied_with_all_its_tensors():
    feed = Feed(Rows(torch.ones(2), torch.zeros(1), None), torch.tensor(3), None)

    copied = _copied(feed)

    assert [t.tolist() for t in _tensors(copied)] == [[1, 1], [0], 3]
    for one, other in zip(_tensors(copied), _tensors(feed), strict=True):
        assert one.data_ptr() != other.data_ptr()


def trained(objective: str, dtype: torch.dtype, lengths: list[int], recorded: bool) -> Any:
    """Return numbers and weights of ten steps of a tiny model on a GPU."""
    base = tiny_language_model()
    base.model.to("cuda", dtype)
    rows = [[sample * 3 for sample in tiny_samples(6, seed, longest=3)] for seed in (0, 1)]
    sets = [[(r * 9)[: lengths[i % len(lengths)]] for i, r in enumerate(part)] for part in rows]
    shared = SETTINGS.model_copy(update={"steps": 10})
    run = Treatment(Samples(*sets), [(1, 2)], method(objective=objective), shared, seed=0)
    scope = selected_experts(base.model, run.experts)
    quantities = quantities_of(base, scope, run)
    with scope:
        update = Updates(scope, partial(loss_of, quantities, run), 1e-3, 1.0, recorded)
        numbers = [update(quantities.feed(step)) for step in range(10)]
        update.wait()
    # Torch's grouped product of float32 matrices asks the GPU for the sizes of the groups.
    assert (update.recording is not None) == (recorded and dtype == torch.bfloat16)
    assert moe_layers(base.model)[1].index == 1
    return torch.stack(numbers), scope.snapshot()


@pytest.mark.gpu
@pytest.mark.parametrize("lengths", [[9], [9, 7]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_recorded_steps_give_the_same_bits_as_others(objective, dtype, lengths):
    """Batches of another width are not played back but computed; the next one is played again."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    (one, weights), (other, others) = (
        trained(objective, dtype, lengths, recorded) for recorded in (True, False)
    )
    torch.use_deterministic_algorithms(False)

    assert torch.equal(one, other)
    assert all(torch.equal(weights[place], others[place]) for place in weights)
