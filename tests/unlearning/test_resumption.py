"""A killed run goes on where it was last looked at, and ends with the bits of an unbroken one."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from seuf.moe.digests import model_digest
from seuf.moe.loading import LanguageModel
from seuf.unlearning import resumption
from seuf.unlearning.algorithm import Unlearned, unlearn
from seuf.unlearning.draws import Samples
from seuf.unlearning.judgement import Judgement
from seuf.unlearning.resumption import Kept
from seuf.unlearning.treatment import Treatment
from tests.tiny import bits, changed_names, tiny_language_model, tiny_samples
from tests.unlearning.runs import EXPERTS, SAMPLES, SETTINGS, method

F32, BF16 = torch.float32, torch.bfloat16
LOOKS = 3  # with each learning rate, at most: 5 steps, after 2, 4 and 5


class Killed(Exception):  # noqa: N818 - not an error of the run
    """Stands for the end of the process."""


class InMemory:
    """Keeps what a file would: copies, and of facts what JSON makes of them."""

    def __init__(self) -> None:
        self.saved: dict[str, Kept] = {}
        self.writes = 0

    def load(self, key: str) -> Kept | None:
        return self.saved.get(key)

    def save(self, key: str, kept: Kept) -> None:
        tensors = {name: tensor.detach().clone() for name, tensor in kept.tensors.items()}
        self.saved = {key: Kept(tensors, json.loads(json.dumps(kept.facts)))}
        self.writes += 1


class ByWeights:
    """A judge to whom the original is the worst, and any other state as good as its digest says.

    Args:
        dies_at: The call in which the process is killed; the first is of the original.
    """

    def __init__(self, dies_at: int | None = None) -> None:
        self.calls, self.dies_at = 0, dies_at

    def __call__(self, model: nn.Module) -> Judgement:
        self.calls += 1
        if self.calls == self.dies_at:
            raise Killed
        known = 1.0 if self.calls == 1 else int(model_digest(model)[:8], 16) / 16**8
        return Judgement(forget_efficacy=known, utility=0.5, chance=0.0)


class Case(NamedTuple):
    """A run of two learning rates."""

    scope: str = "experts"
    objective: str = "gdiff"
    dtype: torch.dtype = F32
    rates: tuple[float, ...] = (1e-2, 1e-3)
    forget_until: float | None = None
    seed: int = 0
    threads: int = 1

    def base(self) -> LanguageModel:
        base = tiny_language_model()
        base.model.to(self.dtype)
        return base

    def treatment(self, **settings: object) -> Treatment:
        changes = {
            "steps": 5,
            "forget_until": self.forget_until,
            "threads": self.threads,
        } | settings
        shared = SETTINGS.model_copy(update=changes)
        of = method(self.scope, self.objective, learning_rates=list(self.rates))
        return Treatment(SAMPLES, EXPERTS, of, shared, self.seed)

    def run(self, progress: InMemory | None = None, dies_at: int | None = None) -> tuple:
        judge = ByWeights(dies_at)
        return unlearn(self.base(), self.treatment(), judge, progress), judge.calls

    def killed(self, dies_at: int, progress: InMemory) -> None:
        with pytest.raises(Killed):
            self.run(progress, dies_at)


@cache
def unbroken(case: Case) -> tuple[Unlearned, int]:
    """Return what a run makes that is never killed, and how often it asks its judge."""
    return case.run()


def same(one: Unlearned, other: Unlearned, folder: Path) -> bool:
    """Tell if two runs leave the same bytes, and the same log to the last digit."""
    paths = [folder / "one", folder / "other"]
    for done, path in zip((one, other), paths, strict=True):
        done.delta.save(path)
    return paths[0].read_bytes() == paths[1].read_bytes() and repr(one.log) == repr(other.log)


CASES = [
    *(Case(s, "gdiff", d) for s in ("experts", "everything", "lora") for d in (F32, BF16)),
    *(Case("experts", objective, threads=2) for objective in ("npo", "rmu")),  # with references
]


@pytest.mark.parametrize("case", CASES, ids=str)
@given(dies_at=st.integers(2, 1 + 2 * LOOKS))
def test_wherever_it_is_killed_it_ends_with_the_same_bits(tmp_path_factory, case, dies_at):
    """Of the looks none that was saved is taken again, but that at the original is."""
    done, calls = unbroken(case)
    progress = InMemory()
    case.killed(dies_at, progress)

    again, calls_again = case.run(progress)

    assert calls == 1 + 2 * LOOKS
    assert calls_again == calls - (dies_at - 2)
    assert done.delta.tensors
    assert same(again, done, tmp_path_factory.mktemp("deltas"))


def test_it_can_be_killed_again_and_again(tmp_path):
    """Each process takes the look at the original, one more, and dies in the next."""
    case, progress = Case(), InMemory()

    for _ in range(2 * LOOKS - 1):
        case.killed(3, progress)

    assert progress.writes == 2 * LOOKS - 1
    assert same(case.run(progress)[0], unbroken(case)[0], tmp_path)


@pytest.mark.parametrize("scope", ["experts", "everything"])
def test_a_learning_rate_that_has_stopped_is_not_taken_up_again(scope, tmp_path):
    """The first one breaks at once: it is logged, and the second starts from the original."""
    case, progress = Case(scope, "gdiff", rates=(1e30, 1e-2)), InMemory()
    done, calls = unbroken(case)
    case.killed(3, progress)

    again, calls_again = case.run(progress)

    assert [entry["stopped"] for entry in done.log[:1]] == ["loss or gradient is not finite"]
    assert calls_again == calls - 1 == LOOKS
    assert same(again, done, tmp_path)


def test_what_is_forgotten_is_not_trained_on(tmp_path):
    """Every state is good enough: each learning rate ends at its first look."""
    case, progress = Case(forget_until=1.0), InMemory()
    done, calls = unbroken(case)
    case.killed(3, progress)

    again, calls_again = case.run(progress)

    assert [entry["stopped"] for entry in done.log] == ["forgotten", "forgotten"]
    assert (calls, calls_again) == (3, 2)
    assert same(again, done, tmp_path)


def test_a_run_killed_after_its_last_look_has_nothing_to_do(tmp_path):
    """Such as while its outputs are written: the original is looked at, nothing else."""
    case, progress = Case(), InMemory()
    done, _ = case.run(progress)

    again, calls = case.run(progress)

    assert calls == 1
    assert same(again, done, tmp_path)


def test_keeping_progress_changes_nothing(tmp_path):
    case, progress = Case(), InMemory()

    kept, _ = case.run(progress)

    assert progress.writes == 2 * LOOKS
    assert same(kept, unbroken(case)[0], tmp_path)


def test_the_base_of_a_resumed_run_is_left_as_it_was():
    case, progress, base = Case(dtype=BF16), InMemory(), Case(dtype=BF16).base()
    before = bits(base.model)
    case.killed(4, progress)

    unlearn(base, case.treatment(), ByWeights(), progress)

    assert changed_names(base.model, before) == set()


OTHER_SAMPLES = Samples(tiny_samples(5, seed=2), tiny_samples(5, seed=1))


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"experts": [(1, 3)]},
        {"samples": OTHER_SAMPLES},
        {"method": method(objective="gdiff", learning_rates=[1e-2, 2e-3])},
        {"settings": Case().treatment(gradient_clip=0.5).settings},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_run_starts_afresh(other):
    case, progress = Case(), InMemory()
    case.killed(4, progress)
    treatment = Treatment(**{**vars(case.treatment()), **other})

    judge = ByWeights()
    done = unlearn(case.base(), treatment, judge, progress)

    assert judge.calls == 1 + 2 * LOOKS
    assert done.log == unlearn(case.base(), treatment, ByWeights()).log


def test_another_base_starts_afresh():
    case, progress, judge = Case(), InMemory(), ByWeights()
    case.killed(4, progress)

    unlearn(tiny_language_model(seed=1), case.treatment(), judge, progress)

    assert judge.calls == 1 + 2 * LOOKS


def test_who_does_not_want_it_keeps_nothing():
    case, progress = Case(), InMemory()

    unlearn(case.base(), case.treatment(resumable=False), ByWeights(), progress)

    assert progress.writes == 0


def test_what_is_too_large_is_not_kept_and_one_line_says_so(monkeypatch, caplog):
    """The expert has 1536 parameters and the router 128: 1664 * (3 + 1) * 4 = 26624 bytes."""
    case, progress = Case(), InMemory()
    monkeypatch.setattr(resumption, "LARGEST", 26623)

    case.run(progress)

    assert progress.writes == 0
    assert [r.message for r in caplog.records if "start afresh" in r.message] == [
        "A killed run will start afresh: what it has come to is 2.66e-05 GB, at most 2.66e-05 GB "
        "are kept."
    ]
    monkeypatch.setattr(resumption, "LARGEST", 26624)
    case.run(progress)
    assert progress.writes == 2 * LOOKS
