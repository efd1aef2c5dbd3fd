"""Which samples each step takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seuf.inputs import InputError
from seuf.unlearning.draws import Draw, Samples, draws, used_by


def some(count: int) -> list[list[int]]:
    """Return so many samples of two tokens."""
    return [[1, 2]] * count


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 30), st.integers(1, 5))
def test_every_epoch_draws_each_sample_once(forget, retain, steps, batch_size):
    drawn = draws(Samples(some(forget), some(retain)), steps, batch_size, seed=3)

    assert len(drawn) == steps
    for name, first, count in (("forget", 0, forget), ("retain", forget, retain)):
        order = [position - first for draw in drawn for position in getattr(draw, name)]
        assert len(order) == steps * batch_size
        for start in range(0, len(order) - count + 1, count):
            assert sorted(order[start : start + count]) == list(range(count))


@given(st.integers(0, 50))
def test_draws_are_decided_by_the_seed(seed):
    samples = Samples(some(40), some(40))

    one, same, other = (draws(samples, 5, 8, s) for s in (seed, seed, seed + 1))

    assert one == same
    assert one != other
    assert [draw.forget for draw in one] != [[p - 40 for p in draw.retain] for draw in one]


def test_more_steps_begin_with_the_same_draws():
    samples = Samples(some(5), some(7))

    assert draws(samples, 9, 2, 0)[:4] == draws(samples, 4, 2, 0)


@pytest.mark.parametrize(
    ("forget", "retain", "name"), [([], [[1, 2]], "forget"), ([[1, 2]], [], "retain")]
)
def test_an_empty_set_is_refused(forget, retain, name):
    with pytest.raises(InputError, match=f"The {name} set has no sample"):
        Samples(forget, retain)


def test_samples_to_keep_are_used_only_by_objectives_that_need_them():
    steps = [Draw([2, 0], [7, 5]), Draw([1, 2], [5, 6])]

    assert used_by(steps, {"forget_nll"}) == [0, 1, 2]
    assert used_by(steps, {"forget_nll", "retain_nll"}) == [0, 1, 2, 5, 6, 7]
