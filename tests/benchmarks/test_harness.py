"""What lm-evaluation-harness is given, and what it gives back."""

from __future__ import annotations

import pytest

from seuf.benchmarks import sandbox
from seuf.benchmarks.harness import score_questions
from seuf.benchmarks.records import Question
from seuf.benchmarks.scoring import ChoiceScorer
from seuf.benchmarks.settings import SandboxSettings, ScoringSettings
from tests.tiny import tiny_language_model

WORDY = [
    Question(
        question=f"Question: Where does {name} live? Answer:",
        choices=[f"in {place}" for place in places],
        answer=0,
        topic="",
        subject=subject,
        part="test",
    )
    for name, places, subject in (
        ("Ada", ["Oslo", "a hut near Rome", "Rome"], "forget"),
        ("Bo", ["the old town of Oslo", "Rome"], "forget"),
        ("Ada Bo", ["Zürich {{x}}", "'Rome'", 'the "new" Oslo, by the sea', "[1, 2]"], "retain"),
        ("nobody", ["lives", "Oslo Oslo Oslo"], "retain"),
    )
]


@pytest.mark.parametrize("metric", ["acc", "acc_norm"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_fast_scorer_prefers_what_the_harness_prefers(metric, seed):
    model = tiny_language_model(seed)
    world = sandbox.prepare(SandboxSettings(entities=12), seed)
    questions = [*WORDY, *world.questions[::7]]
    settings = ScoringSettings(metric=metric, batch_size=7, max_length=64)

    scores = score_questions(model, questions, settings)
    scorer = ChoiceScorer(model.tokenizer, questions, metric, batch_size=5)

    answers = scorer.answers(model.model)
    for subject in ("forget", "retain"):
        own = [a for a, q in zip(answers, questions, strict=True) if q.subject == subject]
        assert scores[subject]["answers"] == own
        assert scores[subject]["accuracy"] == pytest.approx(
            scorer.accuracy(model.model)[subject], abs=1e-12
        )


def test_the_standard_error_is_that_of_a_mean(knowing_model, questions):
    """Two of the four right answers of each subject: the variance is 4 * (1/2)^2 / 3 = 1/3, the
    standard error sqrt(1/3 / 4) = 0.288675.
    """
    misled = [q._replace(answer=(q.answer + wrong) % 4) for wrong in (0, 1) for q in questions]

    scores = score_questions(knowing_model, misled, ScoringSettings())

    for subject in ("forget", "retain"):
        assert scores[subject]["accuracy"] == 0.5
        assert scores[subject]["questions"] == 4
        assert scores[subject]["standard_error"] == pytest.approx((1 / 12) ** 0.5)


def test_nothing_is_printed_where_there_is_no_terminal(knowing_model, questions, capfd):
    score_questions(knowing_model, questions, ScoringSettings())

    assert capfd.readouterr() == ("", "")
