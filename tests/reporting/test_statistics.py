"""Intervals and tests over base models and questions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from seuf.forgetting import share_forgotten, value_at
from seuf.inputs import InputError
from seuf.reporting.statistics import (
    Path,
    Paths,
    RunKey,
    estimate,
    holm,
    question_weights,
    utility_at,
)


def right(*counts: int, of: int = 20) -> np.ndarray:
    """Return evaluations at which the first so many questions are answered rightly."""
    return np.array([[1.0] * count + [0.0] * (of - count) for count in counts])


def path(forget: list[int], utility: list[int], chance: float = 0.0) -> Path:
    return Path(right(*forget), right(*utility), chance)


def noisy(rng: np.random.Generator, looks: int = 4, questions: int = 30) -> Path:
    """Return a path of random answers, all right at first."""
    forget, utility = rng.integers(0, 2, size=(2, looks, questions)).astype(float)
    forget[0] = utility[0] = 1
    return Path(forget, utility, 0.0)


def study(*methods: str, bases: int = 4, seeds: int = 2, start: int = 0) -> dict[RunKey, Path]:
    rng = np.random.default_rng(start)
    return {
        RunKey(method, f"base_{base}", seed): noisy(rng)
        for method in methods
        for base in range(bases)
        for seed in range(seeds)
    }


def unresampled(*by_base: float) -> tuple[np.ndarray, np.ndarray]:
    """Return values of one seed a base, and samples of the questions that change nothing."""
    measured = np.array(by_base)[:, None]
    return measured, np.repeat(measured[..., None], 3, axis=2)


def test_utility_is_read_off_between_two_evaluations():
    """Of 20 questions 20, 8, 0 are right: 0, .6, 1 forgotten. Three quarters are (.75-.6)/.4 = 3/8
    of the way from utility .8 to .4: .65. Half is 5/6 of the way from 1 to .8: .8333.
    """
    values = utility_at(path([20, 8, 0], [20, 16, 8]), (0.5, 0.75))

    assert values[:, 0] == pytest.approx([1 - 0.2 * 5 / 6, 0.65])


def test_chance_is_all_that_can_be_forgotten():
    """From 1 to .4 is .6 of .75, which is .8 of the way; .5 is 5/8 of the way there."""
    values = utility_at(path([20, 8], [20, 4], chance=0.25), (0.5, 0.9))

    assert values[0, 0] == pytest.approx(1 - 0.8 * 5 / 8)
    assert np.isnan(values[1, 0])


def test_where_a_path_turns_back_the_first_crossing_counts():
    """Half is forgotten at the second evaluation with utility .5, and again at the fourth."""
    assert utility_at(path([20, 10, 20, 10], [20, 10, 20, 20]), (0.5,))[0, 0] == pytest.approx(0.5)


def test_a_model_that_knows_nothing_has_nothing_to_forget():
    assert np.isnan(utility_at(path([5, 0], [20, 20], chance=0.25), (0.5,))).all()


@given(st.integers(0, 10_000), st.sampled_from([0.5, 0.75, 0.9]), st.sampled_from([0.0, 0.25]))
def test_all_samples_at_once_give_what_each_gives_alone(start, target, chance):
    rng = np.random.default_rng(start)
    run = noisy(rng, looks=6, questions=12)._replace(chance=chance)
    weights = [question_weights(12, 5, rng) for _ in range(2)]

    together = utility_at(run, (target,), *weights)[0]

    for sample, value in enumerate(together):
        forget, utility = (
            (answers @ of[:, sample]).tolist()
            for answers, of in zip((run.forget, run.utility), weights, strict=True)
        )
        shares = [share_forgotten(one, forget[0], chance) for one in forget]
        alone = None if None in shares else value_at(shares, utility, target)
        assert value == pytest.approx(np.nan if alone is None else alone, nan_ok=True)


def test_a_sample_of_questions_has_as_many_as_there_are():
    weights = question_weights(7, 50, np.random.default_rng(0))

    assert weights.sum(axis=0) == pytest.approx(np.ones(50))
    assert (weights * 7 == np.round(weights * 7)).all()


def test_the_interval_over_bases_is_students():
    """Of .1, .2, .3 the mean is .2 and the standard error .1 / sqrt(3) = .0577; t of 2 degrees of
    freedom is 4.303 at 97.5 %: .2 +- .2484. t = 3.464, and p is .0742.
    """
    found = estimate(*unresampled(0.1, 0.2, 0.3))

    assert found.mean == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.2 - 0.2484, 0.2 + 0.2484), abs=1e-4)
    assert found.p == pytest.approx(0.0742, abs=1e-4)
    assert found.p == pytest.approx(stats.ttest_1samp([0.1, 0.2, 0.3], 0).pvalue)


def test_a_base_counts_once_however_many_seeds_it_has():
    """Base means are .2 (of .1 and .3) and .4 (of one seed): .3, not the .2667 of three runs."""
    measured = np.array([[0.1, 0.3], [0.4, np.nan]])

    found = estimate(measured, np.repeat(measured[..., None], 3, axis=2))

    assert found.mean == pytest.approx(0.3)
    assert found.bases == 2


def test_bases_that_agree_by_luck_leave_what_the_questions_leave_open():
    """Both bases say .2, and on samples of the questions .1 or .3 together: an error of .1, not 0.
    t of one degree of freedom is 12.706.
    """
    measured = np.full((2, 1), 0.2)
    resampled = np.array([[[0.1, 0.3]], [[0.1, 0.3]]])

    found = estimate(measured, resampled)

    assert found.high - found.mean == pytest.approx(12.706 * 0.1, abs=1e-3)


def test_one_base_has_no_interval_and_none_no_mean():
    one, none = estimate(*unresampled(0.2, np.nan)), estimate(*unresampled(np.nan, np.nan))

    assert one.mean == pytest.approx(0.2)
    assert one.bases == 1
    assert np.isnan([one.low, one.high, one.p]).all()
    assert none.bases == 0
    assert np.isnan(none.mean)


def test_a_pair_counts_only_where_both_reach():
    """On base_1 one of the methods stops at half: the difference is that of base_0, .9 - .8."""
    runs = {
        RunKey("a", "base_0", 0): path([20, 2], [20, 18]),
        RunKey("b", "base_0", 0): path([20, 2], [20, 16]),
        RunKey("a", "base_1", 0): path([20, 2], [20, 2]),
        RunKey("b", "base_1", 0): path([20, 10], [20, 20]),
    }
    paths = Paths.of(runs, (0.5, 0.9), resamples=10)

    found = paths.difference("a", "b", 0.9)

    assert found.mean == pytest.approx(0.1)
    assert found.bases == 1
    assert paths.reached("a", target=0.9).tolist() == [[True], [True]]
    assert paths.reached("a", "b", target=0.9).tolist() == [[True], [False]]


def test_what_was_not_reached_counts_in_no_sample():
    """Half of the questions are left: on some samples 55 % are forgotten, but it was never so."""
    runs = {RunKey("a", base, 0): path([20, 10], [20, 18]) for base in ("base_0", "base_1")}

    paths = Paths.of(runs, (0.55,), resamples=200)

    assert np.isnan(paths.resampled).all()
    assert paths.utility("a", 0.55).bases == 0


def test_runs_of_one_base_must_have_the_same_questions():
    runs = {
        RunKey("a", "base_0", 0): path([20, 0], [20, 0]),
        RunKey("b", "base_0", 0): Path(right(9, 0, of=9), right(20, 0), 0.0),
    }

    with pytest.raises(InputError, match=r"The runs of base_0 were asked different questions"):
        Paths.of(runs, (0.5,))


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_a_method_does_not_differ_from_itself(start):
    runs = study("a", start=start)
    twin = {key._replace(method="b"): of for key, of in runs.items()}

    found = Paths.of({**runs, **twin}, (0.5,), resamples=50).difference("a", "b", 0.5)

    if found.bases > 1:
        assert found[:4] == (0, 0, 0, 1)


@given(st.integers(0, 1000), st.permutations(range(4)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_bases_does_not_matter(start, order):
    runs = study("a", "b", start=start)
    moved = dict(sorted(runs.items(), key=lambda item: order[int(item[0].base[-1])]))

    one, other = (
        Paths.of(of, (0.5,), resamples=50).difference("a", "b", 0.5) for of in (runs, moved)
    )

    assert one == pytest.approx(other, nan_ok=True)


def test_swapped_methods_swap_the_sign():
    paths = Paths.of(study("a", "b"), (0.5,), resamples=100)

    one, other = paths.difference("a", "b", 0.5), paths.difference("b", "a", 0.5)

    assert (one.mean, one.low, one.high) == pytest.approx((-other.mean, -other.high, -other.low))
    assert one.p == pytest.approx(other.p)


def test_the_same_seed_gives_the_same_samples():
    one, other = (Paths.of(study("a"), (0.5,), resamples=20) for _ in range(2))

    assert np.array_equal(one.resampled, other.resampled, equal_nan=True)


@pytest.mark.parametrize("spread_of_bases", [0.0, 0.05])
def test_an_interval_holds_the_truth_in_at_least_94_of_100_studies(spread_of_bases):
    """Five bases of 60 questions each, whose true difference is .2 on average; 400 studies.

    By chance alone 95 % of 400 would vary by .011. Where bases are alike the interval errs on the
    wide side, for their questions are looked at twice.
    """
    rng = np.random.default_rng(0)
    weights = question_weights(60, 200, rng)
    held = 0
    for _ in range(400):
        truth = 0.2 + spread_of_bases * rng.standard_normal((5, 1))
        answers = truth + 0.5 * rng.standard_normal((5, 60))  # difference on each question
        found = estimate(answers.mean(axis=1)[:, None], (answers @ weights)[:, None, :])
        held += found.low <= 0.2 <= found.high

    assert held / 400 >= 0.94


def test_holm_multiplies_the_smallest_by_their_number():
    """.01 x 3 = .03, .02 x 2 = .04, and .03 x 1 is lifted to .04; in the order given."""
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])


def test_holm_counts_what_could_not_be_compared():
    """.02 x 2 = .04 because there are two; without the second it would be .02."""
    assert holm([0.02, np.nan]) == pytest.approx([0.04, 1.0])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_makes_a_p_value_smaller_and_keeps_their_order(given_values):
    adjusted = holm(given_values)

    assert all(new >= old for new, old in zip(adjusted, given_values, strict=True))
    assert max(adjusted) <= 1
    order = np.argsort(given_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()
