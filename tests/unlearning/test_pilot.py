"""The layer chosen by trial: the one that whole runs would choose, at less cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from seuf.forgetting import outcome, value_at
from seuf.inputs import InputError
from seuf.moe.architectures import decoder
from seuf.moe.digests import model_digest
from seuf.moe.loading import LanguageModel
from seuf.unlearning.algorithm import unlearn
from seuf.unlearning.evaluations import LOG_COLUMNS, Evaluation
from seuf.unlearning.pilot import LayerChoice, choose_layer, summary
from seuf.unlearning.settings import Experts, PilotSettings, UnlearningSettings
from tests.tiny import hook_count, tiny_language_model, tiny_model
from tests.unlearning.runs import FORGET, RETAIN, method

CANDIDATES: list[Experts] = [[(2, 1)], [(0, 3)], [(3, 0)]]
SETTINGS = UnlearningSettings(
    steps=6, batch_size=2, evaluate_every=1, probe_tokens=16, threads=1, stop_at=9
)


@pytest.fixture
def base() -> LanguageModel:
    """Return a model of four layers."""
    base = tiny_language_model()
    return LanguageModel(tiny_model("qwen2_moe", num_hidden_layers=4), base.tokenizer)


@torch.no_grad()
def knowledge(model: nn.Module) -> Evaluation:
    """Judge by the tokens' likelihoods, so that no two states are judged alike."""
    values = []
    for samples in (FORGET, RETAIN):
        rows = [torch.tensor([ids]) for ids in samples]
        nll = [
            nn.functional.cross_entropy(model(ids, use_cache=False).logits[0, :-1], ids[0, 1:])
            for ids in rows
        ]
        values.append(float(torch.stack(nll).mean().neg().div(4).exp()))
    return Evaluation(values[0], values[1], chance=0.1)


def judged(*answers: tuple[float, float, float]) -> Callable[[nn.Module], Evaluation]:
    """Judge as written, with the forget efficacy of the test questions; the original's is .75."""
    written = iter([(0.75, 0.9, 0.75), *answers])

    def judge(model: nn.Module) -> Evaluation:
        forget, utility, test = next(written)
        beside = {"test_forget_efficacy": test, "test_utility": utility, "test_chance": 0.25}
        return Evaluation(forget, utility, 0.25, beside)

    return judge


def scripted(*answers: tuple[float, float]) -> Callable[[nn.Module], Evaluation]:
    """Judge as written: forget efficacy and utility; first the original's, .75 and .9."""
    written = iter([(0.75, 0.9), *answers])
    return lambda model: Evaluation(*next(written), chance=0.25)


def choose(base: LanguageModel, judge: Any, **changes: Any) -> LayerChoice:
    """Return the choice among three layers with trials of four steps, seen after two and four."""
    pilot = PilotSettings(**{"steps": 4, "evaluate_every": 2, **changes})
    return choose_layer(base, FORGET, RETAIN, CANDIDATES, method(), judge, SETTINGS, pilot, seed=3)


def test_the_layer_of_most_utility_at_the_target_is_chosen_and_hopeless_ones_are_given_up(base):
    """Shares (.75 - FE) / .5. Layer 2: .5 with .8, .8 with .7: .7167 at .75.

    Layer 0 has .71 at a share of .3 already: given up. Layer 3: .5 with .75, .9 with .74: .7438.
    Looks: the original, 2, 1, 2. Steps: 4, 2, 4.
    """
    judge = scripted((0.5, 0.8), (0.35, 0.7), (0.6, 0.71), (0.5, 0.75), (0.3, 0.74))

    done = choose(base, judge)

    assert done.experts == [(3, 0)]
    assert [one["layer"] for one in done.layers] == [2, 0, 3]
    assert [one["utility"] for one in done.layers] == [
        pytest.approx(0.8 - 0.1 * 0.25 / 0.3),
        None,
        pytest.approx(0.75 - 0.01 * 0.25 / 0.4),
    ]
    assert (done.evaluations, done.steps) == (6, 10)
    assert [row["stopped"] for row in done.trials if row["stopped"]] == [
        "reached",
        "dominated",
        "reached",
    ]


def test_a_layer_is_not_given_up_for_less_than_the_margin(base):
    """As above, but layer 0 goes on with .71 beside .7167: .3, then .9 of the way with .7.

    It keeps .71 - .01 x .45 / .6 = .7025 at .75. Layer 3 is .0667 below at its first look.
    """
    judge = scripted((0.5, 0.8), (0.35, 0.7), (0.6, 0.71), (0.3, 0.7), (0.6, 0.65))

    done = choose(base, judge, margin=0.05)

    assert done.experts == [(2, 1)]
    assert done.layers[1]["utility"] == pytest.approx(0.71 - 0.01 * 0.45 / 0.6)
    ends = [row["stopped"] for row in done.trials if row["stopped"]]
    assert ends == ["reached", "reached", "dominated"]


def test_a_trial_ends_where_it_first_reaches_the_target(base):
    """A share of .8 at the first look is beyond .75: .9 - .2 * .75 / .8 = .7125 at two steps."""
    done = choose(base, scripted((0.35, 0.7), (0.35, 0.5), (0.35, 0.6)))

    assert done.experts == [(2, 1)]
    assert done.layers[0]["utility"] == pytest.approx(0.7125)
    assert (done.steps, done.evaluations) == (6, 4)


def test_a_sweep_gives_no_layer_up_and_follows_the_test_questions_to_the_target(base):
    """Shares (.75 - FE) / .5 of selection | test. Layer 2 ends where both are above .75.

    Layer 2: .8 | .3, then .9 | .8. Layer 0: .3 with less utility than layer 2 has at the target,
    .76 | .76 at the end. Layer 3: .8 | .7 and .8 | .74, its steps are over. At .75 layer 2 keeps
    .9 - .2 x .75 / .8 = .7125, layer 0 .6 - .1 x .45 / .46, layer 3 .9 - .5 x .75 / .8.
    """
    judge = judged(
        *[(0.35, 0.7, 0.6), (0.3, 0.6, 0.35)],
        *[(0.6, 0.6, 0.6), (0.37, 0.5, 0.37)],
        *[(0.35, 0.4, 0.4), (0.35, 0.3, 0.38)],
    )

    done = choose(base, judge, sweep=True)

    assert done.experts == [(2, 1)]
    assert [one["utility"] for one in done.layers] == [
        pytest.approx(0.7125),
        pytest.approx(0.6 - 0.1 * 0.45 / 0.46),
        pytest.approx(0.9 - 0.5 * 0.75 / 0.8),
    ]
    assert (done.steps, done.evaluations) == (12, 7)
    ends = [(row["layer"], row["stopped"]) for row in done.trials if row["stopped"]]
    assert ends == [(2, "reached"), (0, "reached")]
    shares = [row["test_forgotten"] for row in done.trials]
    assert shares == pytest.approx([0, 0.3, 0.8, 0, 0.3, 0.76, 0, 0.7, 0.74])


def test_a_trial_of_a_sweep_ends_as_a_run_does_where_the_test_questions_do_not_come_along(base):
    """All selection questions are forgotten at two looks in a row, .4 of the test questions."""
    settings = SETTINGS.model_copy(update={"stop_at": 1.0})
    pilot = PilotSettings(steps=6, evaluate_every=2, sweep=True)
    judge = judged(*[(0.25, 0.7, 0.55)] * 3)

    done = choose_layer(base, FORGET, RETAIN, CANDIDATES[:1], method(), judge, settings, pilot)

    assert [row["stopped"] for row in done.trials] == [None, None, "forgotten"]


def test_a_sweep_must_come_as_far_as_layers_are_compared():
    with pytest.raises(ValueError, match=r"layers where 0.75 is forgotten.*a target of 0.5"):
        PilotSettings(target=0.5, sweep=True)

    assert not PilotSettings(target=0.5).sweep


def test_where_no_layer_forgets_enough_the_one_that_forgets_most_is_chosen(base):
    """Shares .3, .4 | .5, .2 | .1, .45 of .75: the second, though its utility is the lowest."""
    judge = scripted((0.6, 0.9), (0.55, 0.9), (0.5, 0.2), (0.65, 0.2), (0.7, 0.8), (0.525, 0.8))

    done = choose(base, judge)

    assert done.experts == [(0, 3)]
    assert [one["forgotten"] for one in done.layers] == pytest.approx([0.4, 0.5, 0.45])
    assert {one["utility"] for one in done.layers} == {None}


def test_a_layer_is_as_good_as_its_best_learning_rate(base):
    """Layer 2 reaches .8 with .7 and with .8, layer 0 is dominated twice, layer 3 once and wins.

    Both trials of layer 0 forget .3; the second has more utility there.
    """
    judge = scripted(
        *[(0.35, 0.7), (0.35, 0.8)],
        *[(0.6, 0.5), (0.6, 0.6)],
        *[(0.7, 0.1), (0.35, 0.85)],
    )

    done = choose(base, judge, learning_rates=[1e-3, 1e-2])

    assert done.experts == [(3, 0)]
    assert [one["learning_rate"] for one in done.layers] == [1e-2, 1e-2, 1e-2]
    assert {row["learning_rate"] for row in done.trials} == {1e-3, 1e-2}


def test_of_equals_the_first_candidate_is_chosen(base):
    assert choose(base, scripted(*[(0.35, 0.7)] * 3)).experts == CANDIDATES[0]


def test_every_row_of_the_trials_says_whose_it_is_and_which_was_chosen(base):
    done = choose(base, scripted(*[(0.35, 0.7)] * 3))

    assert all(row.keys() == {*LOG_COLUMNS, "layer", "expert", "chosen"} for row in done.trials)
    assert [(row["layer"], row["expert"], row["step"], row["chosen"]) for row in done.trials] == [
        *[(2, 1, 0, True), (2, 1, 2, True)],
        *[(0, 3, 0, False), (0, 3, 2, False)],
        *[(3, 0, 0, False), (3, 0, 2, False)],
    ]


@pytest.mark.parametrize(
    ("objective", "changes"),
    [
        pytest.param("ga", {}, marks=pytest.mark.slow),
        ("gdiff", {"prefix_cache": False}),
        pytest.param("npo", {}, marks=pytest.mark.slow),
        ("rmu", {}),
    ],
)
def test_trials_are_whole_runs_to_the_bit_and_choose_what_these_would(base, objective, changes):
    """Each layer and rate alone, to the end: the paths begin alike, the best layer is the same."""
    of = method(objective=objective, learning_rates=[3e-3, 3e-2], steering_coefficient=3.0)
    settings = SETTINGS.model_copy(update={"steps": 4, **changes})
    digest, hooks = model_digest(base.model), hook_count(base.model)
    target = 0.3

    done = choose_layer(
        base, FORGET, RETAIN, CANDIDATES, of, knowledge, settings, PilotSettings(target=target), 3
    )

    assert (model_digest(base.model), hook_count(base.model)) == (digest, hooks)
    values: list[tuple[float, int]] = []
    for place, experts in enumerate(CANDIDATES):
        log = unlearn(base, FORGET, RETAIN, of, experts, knowledge, settings, seed=3).log
        for rate in of.learning_rates:
            alone = [row for row in log if row["learning_rate"] == rate]
            trial = [
                row
                for row in done.trials
                if (row["layer"], row["learning_rate"]) == (experts[0][0], rate)
            ]
            assert len(trial) == len(alone) or trial[-1]["stopped"] in ("reached", "dominated")
            for one, other in zip(trial, alone, strict=False):
                assert {k: one[k] for k in LOG_COLUMNS if k not in ("kept", "stopped")} == {
                    k: other[k] for k in LOG_COLUMNS if k not in ("kept", "stopped")
                }
            shares, utilities = ([row[name] for row in alone] for name in ("forgotten", "utility"))
            reached = value_at(shares, utilities, target)
            values.append((-1 + max(shares) if reached is None else reached, -place))
    assert done.experts == CANDIDATES[-max(values)[1]]


def test_layers_share_what_lies_below_them(base):
    """The first layer runs for steps of layer 0 alone, and once for each batch that others see."""
    ran = []
    first = next(decoder(base.model).layers[0].children())
    first.register_forward_pre_hook(lambda module, args: ran.append(torch.is_grad_enabled()))

    def count(candidates: Sequence[Experts]) -> int:
        ran.clear()
        choose_layer(
            base,
            FORGET,
            RETAIN,
            candidates,
            method(),
            scripted(*[(0.7, 0.9)] * 9),
            SETTINGS,
            PilotSettings(steps=4, evaluate_every=2),
        )
        return len(ran)

    assert count([[(3, 0)], [(2, 1)], [(1, 2)]]) == count([[(3, 0)]])


def test_two_experts_of_a_layer_may_be_tried_together(base):
    done = choose_layer(
        base, FORGET, RETAIN, [[(1, 0), (1, 2)]], method(), scripted((0.35, 0.7)), SETTINGS
    )

    assert done.experts == [(1, 0), (1, 2)]
    assert {row["expert"] for row in done.trials} == {"0 2"}


@pytest.mark.parametrize(("candidates", "of"), [([], method()), (CANDIDATES, method("everything"))])
def test_nothing_to_try_is_refused(base, candidates, of):
    with pytest.raises(InputError, match="a method of scope 'experts' and a layer to try it in"):
        choose_layer(base, FORGET, RETAIN, candidates, of, knowledge, SETTINGS)


def test_an_original_that_knows_nothing_has_no_best_layer(base):
    """Nothing can be forgotten: the first is as good as any."""
    done = choose_layer(
        base, FORGET, RETAIN, CANDIDATES, method(), lambda _: Evaluation(0.2, 0.9, 0.25), SETTINGS
    )

    assert done.experts == CANDIDATES[0]
    assert {one["forgotten"] for one in done.layers} == {None}


def test_a_trial_that_broke_is_judged_by_what_came_before():
    """Half forgotten at step 2, then a loss that is not finite, of which nothing was evaluated."""
    rows = [
        {"step": 0, "learning_rate": 0.1, "forgotten": 0.0, "utility": 0.9},
        {"step": 2, "learning_rate": 0.1, "forgotten": 0.5, "utility": 0.8},
        {"step": 3, "learning_rate": 0.1, "forgotten": None, "utility": None},
    ]

    assert outcome(rows, 0.75) == {"utility": None, "forgotten": 0.5, "utility_there": 0.8}
    trial = [row | {"layer": 1, "expert": 2} for row in rows]
    told = summary([(1, 2)], trial, 0.25)
    assert (told["utility"], told["learning_rate"]) == (pytest.approx(0.85), 0.1)
    assert (told["steps"], told["evaluations"], told["experts"]) == (3, 1, [[1, 2]])
