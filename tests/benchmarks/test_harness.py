"""What lm-evaluation-harness is given, and what it gives back."""

from __future__ import annotations

import io
import sys
import warnings
from contextlib import nullcontext, redirect_stderr
from statistics import mean

import pytest
from lm_eval.api.instance import Instance
from tqdm import tqdm

from seuf.benchmarks import sandbox
from seuf.benchmarks.choices import ChoiceScorer, check_questions, encode_choices
from seuf.benchmarks.harness import WithoutBars, harness_model, score_questions
from seuf.benchmarks.records import Question
from seuf.benchmarks.sandbox import SandboxSettings
from seuf.benchmarks.settings import ScoringSettings
from seuf.inputs import InputError
from seuf.moe.activations import SharedPrefix
from seuf.moe.loading import LanguageModel
from tests.tiny import EIGHT, last_layer, little_memory, tiny_language_model, tiny_model

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

    told = list(zip(questions, scorer.answers(model.model), scorer.right(model.model), strict=True))
    for subject in ("forget", "retain"):
        assert scores[subject]["answers"] == [a for q, a, _ in told if q.subject == subject]
        right = [value for q, _, value in told if q.subject == subject]
        assert scores[subject]["accuracy"] == pytest.approx(mean(right), abs=1e-12)


def test_a_kind_that_stands_apart_is_scored_by_its_name(knowing_model, questions):
    """The two questions about what is kept are asked again, one of them called wrong: 1/2."""
    right, wrong = (q._replace(kind="related_facts") for q in questions[2:])
    wrong = wrong._replace(answer=(wrong.answer + 1) % 4)

    scores = score_questions(knowing_model, [right, *questions, wrong], ScoringSettings())

    assert {name: of["accuracy"] for name, of in scores.items()} == {
        "forget": 1.0,
        "related_facts": 0.5,
        "retain": 1.0,
    }
    assert scores["related_facts"]["answers"][0] == right.answer


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


def test_warnings_are_kept_where_bars_are_not():
    """Of a bar that is written between them nothing is left, not even the end of its line."""
    kept = io.StringIO()

    with redirect_stderr(WithoutBars(kept)):
        sys.stderr.write("before\n")
        for _ in tqdm(range(3), mininterval=0):
            pass
        sys.stderr.write("odd scores")
        sys.stderr.write("\n")

    assert kept.getvalue() == "before\nodd scores\n"


def test_what_the_harness_warns_of_is_said_where_there_is_no_terminal(
    knowing_model, questions, capfd, monkeypatch
):
    inner = type(knowing_model.model).forward

    def warned(self, *args, **kwargs):
        warnings.warn("the logits are odd", stacklevel=1)
        return inner(self, *args, **kwargs)

    monkeypatch.setattr(type(knowing_model.model), "forward", warned)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = lambda message, *_: sys.stderr.write(f"{message}\n")
        score_questions(knowing_model, questions[:2], ScoringSettings())

    assert "the logits are odd" in capfd.readouterr().err


def test_nothing_is_printed_where_there_is_no_terminal(knowing_model, questions, capfd):
    score_questions(knowing_model, questions, ScoringSettings())

    assert capfd.readouterr() == ("", "")


def test_one_warning_tells_how_many_questions_are_cut(knowing_model, questions, caplog):
    """A last token is not read: the first question just fits, the other three are longer."""
    short, *longer = [q._replace(question=q.question * (n + 1)) for n, q in enumerate(questions)]
    texts = [f"{short.question} {choice}" for choice in short.choices]
    length = max(map(len, knowing_model.tokenizer(texts)["input_ids"])) - 1

    score_questions(knowing_model, [short, *longer], ScoringSettings(max_length=length))

    (record,) = caplog.records
    assert f"3 of 4 questions have more than {length} tokens" in record.message


@pytest.mark.parametrize("metric", ["acc", "acc_norm"])
def test_looks_read_a_long_question_as_the_report_does(metric):
    """Looks read it whole, the report without its beginning: the two preferred different choices
    for some of these. At 12 tokens every question is cut.
    """
    model = tiny_language_model(1)
    questions = [
        q._replace(question=f"Who? Who? {name} Who? {q.question}", part="test")
        for q in WORDY[::3]
        for name in ("Ada", "Bo", "Oslo", "Rome", "lives", "in", "Ada Bo", "Bo Ada", "A", "B")
    ]
    longest = max(
        len(one.continuation) for q in questions for one in encode_choices(model.tokenizer, q)
    )
    settings = ScoringSettings(metric=metric, max_length=longest + 1)

    scores = score_questions(model, questions, settings)
    scorer = ChoiceScorer(model.tokenizer, questions, metric, 8, settings.max_length)

    told = list(zip(questions, scorer.answers(model.model), strict=True))
    for subject in ("forget", "retain"):
        assert scores[subject]["answers"] == [a for q, a in told if q.subject == subject]


def test_a_choice_longer_than_a_sequence_is_one_line_before_anything_is_scored(knowing_model):
    """lm-eval's bare AssertionError came after the training."""
    long = Question("Who?", ["lye " * 132, "mead"], 0, "", "forget", "test")
    settings = ScoringSettings(max_length=128)
    message = r"A choice or reference has \d+ tokens, evaluation.max_length is 128: raise it"

    for score in (
        lambda: check_questions(knowing_model.tokenizer, [long], settings),
        lambda: ChoiceScorer(knowing_model.tokenizer, [long], "acc", 8, 128),
        lambda: score_questions(knowing_model, [long], settings),
    ):
        with pytest.raises(InputError, match=message):
            score()
    with pytest.raises(InputError, match=f"'Who\\?': {message}"):
        check_questions(knowing_model.tokenizer, [long], settings)


def test_more_cut_questions_than_may_be_are_refused(knowing_model):
    """One of fifty is 2 %, twice the default."""
    short = Question("Who?", ["a", "b"], 0, "", "forget", "test")
    asked = [*[short] * 49, short._replace(question="Who? " * 40)]
    settings = ScoringSettings(max_length=64)

    with pytest.raises(InputError, match="1 of 50 questions have more than 64 tokens and would lo"):
        check_questions(knowing_model.tokenizer, asked, settings)
    check_questions(knowing_model.tokenizer, asked, settings.model_copy(update={"may_cut": 0.02}))


def likelihoods(base: LanguageModel, below: int | None = None) -> list[float]:
    """Return what the harness makes of some choices; with layers below one shared, if asked."""
    requests = [
        Instance("loglikelihood", {}, (question.question, f" {choice}"), idx)
        for idx, question in enumerate(WORDY)
        for choice in question.choices
    ]
    settings = ScoringSettings(batch_size=3, max_length=64)
    with nullcontext() if below is None else SharedPrefix(base.model, below) as shared:
        values = []
        for _ in range(2):
            values.append(harness_model(base, settings).loglikelihood(requests, disable_tqdm=True))
        assert shared is None or (below and len(shared._kept) > 0)
    assert values[0] == values[1]
    return [value for value, _ in values[0]]


@pytest.mark.parametrize("model_type", EIGHT)
def test_log_likelihoods_are_identical_with_a_shared_prefix(model_type, language_model):
    base = LanguageModel(tiny_model(model_type, vocab_size=300), language_model.tokenizer)

    shared = likelihoods(base, below=last_layer(base.model))

    assert shared == likelihoods(base)
    assert len(set(shared)) > 4


def test_the_harness_begins_again_with_half_where_memory_runs_out(knowing_model, questions):
    settings = ScoringSettings(batch_size=8)
    whole = score_questions(knowing_model, questions, settings)

    with little_memory(knowing_model.model, rows=3) as failed:
        parts = score_questions(knowing_model, questions, settings)

    assert failed == [8, 4]
    assert parts == whole
