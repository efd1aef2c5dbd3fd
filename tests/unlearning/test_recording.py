"""One step after the other, recorded or not."""

from typing import Any

import pytest
import torch

from seuf.moe.architectures import moe_layers
from seuf.unlearning.algorithm import eq4_step
from seuf.unlearning.anchor import Anchor
from seuf.unlearning.evaluations import STEP_NUMBERS
from seuf.unlearning.forward_passes import ForwardPasses
from seuf.unlearning.objectives import OBJECTIVES
from seuf.unlearning.recording import WARM_UP, RecordedStep, _copied, _tensors
from seuf.unlearning.samples import StepBatch
from seuf.unlearning.scopes import Scope, selected_experts
from tests.tiny import tiny_language_model, tiny_samples
from tests.unlearning.one_weight import one_weight
from tests.unlearning.runs import SETTINGS, method


def counting(scope: Scope) -> tuple[list[float], Any]:
    """Return a step that notes what it was given and returns it as its numbers."""
    given: list[float] = []

    def step(batch: torch.Tensor) -> torch.Tensor:
        given.append(batch.item())
        return batch.expand(3)

    return given, step


def test_on_a_cpu_every_step_is_taken_as_it_is():
    scope = one_weight()
    given, step = counting(scope)
    with scope, RecordedStep(step, scope, enabled=True) as recorded:
        for number in range(WARM_UP + 2):
            assert recorded(torch.tensor(float(number))).tolist() == [number] * 3
        recorded.wait()

        assert recorded.recording is None
    assert given == [0, 1, 2, 3, 4]


def test_a_model_on_several_devices_is_not_recorded():
    """Kernels of a graph run in one stream, and a stream belongs to one device."""
    scope = one_weight()
    scope.model.other = torch.nn.Linear(1, 1, device="meta")

    recorded = RecordedStep(counting(scope)[1], scope)

    assert recorded.device is None
    assert recorded.stream is None


def test_a_batch_is_copied_with_all_its_tensors():
    one, two = torch.ones(2), torch.zeros(1)
    batch = StepBatch(one, two, torch.tensor(5), torch.tensor(6), None, torch.tensor(3))

    copied = _copied(batch)

    assert [t.tolist() for t in _tensors(copied)] == [[1, 1], [0], 5, 6, 3]
    for one, other in zip(_tensors(copied), _tensors(batch), strict=True):
        assert one.data_ptr() != other.data_ptr()


def trained(
    objective: str,
    dtype: torch.dtype,
    lengths: list[int],
    recorded: bool,
    device: str = "cuda",
    at_once: int | None = None,
) -> Any:
    """Return numbers and weights of ten steps of a tiny model on a GPU."""
    base = tiny_language_model()
    base.model.to(device, dtype)
    rows = [[sample * 3 for sample in tiny_samples(6, seed, longest=3)] for seed in (0, 1)]
    sets = [[(r * 9)[: lengths[i % len(lengths)]] for i, r in enumerate(part)] for part in rows]
    shared = SETTINGS.model_copy(update={"steps": 10, "micro_batch_size": at_once})
    of = method(objective=objective)
    scope = selected_experts(base.model, [(1, 2)])
    passes = ForwardPasses(base, *sets, of, shared, 1, steered_layer=1, seed=0)
    anchor = Anchor(base.model, [(1, 2)], of.anchor_on)
    with (
        scope,
        RecordedStep(eq4_step(scope, passes, anchor, of, shared, 1e-3), scope, recorded) as step,
    ):
        numbers = [step(passes.batch(number)) for number in range(10)]
        step.wait()
        # Torch's grouped product of float32 matrices asks the GPU for the sizes of the groups.
        assert (step.recording is not None) == (recorded and dtype == torch.bfloat16)
        rows = torch.stack(numbers).tolist()
    assert moe_layers(base.model)[1].index == 1
    return rows, scope.snapshot()


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

    assert one == other
    assert all(torch.equal(weights[path], others[path]) for path in weights)


@pytest.mark.gpu
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_a_step_of_micro_batches_is_recorded_whole(objective):
    torch.use_deterministic_algorithms(True, warn_only=True)
    (one, weights), (other, others) = (
        trained(objective, torch.bfloat16, [9], recorded, at_once=1) for recorded in (True, False)
    )
    torch.use_deterministic_algorithms(False)

    assert one == other
    assert all(torch.equal(weights[path], others[path]) for path in weights)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_a_model_on_another_than_the_current_gpu_logs_what_the_current_one_would(objective):
    """Streams are those of the trained tensors' device, so no number is read too early."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    (one, weights), (other, others) = (
        trained(objective, torch.bfloat16, [9], True, device) for device in ("cuda:0", "cuda:1")
    )
    torch.use_deterministic_algorithms(False)

    assert len(one[0]) == len(STEP_NUMBERS)
    assert one == other
    assert all(torch.equal(weights[path], others[path].to("cuda:0")) for path in weights)
