"""What a model says: read off one pass, or generated."""

from __future__ import annotations

import pytest
import torch

from seuf.benchmarks.answers import exact, whole
from seuf.benchmarks.choices import Choice, ChoiceScorer
from seuf.benchmarks.produced import ProducedScorer, greedy_openings, score_produced
from seuf.benchmarks.records import Question
from seuf.benchmarks.settings import ScoringSettings
from seuf.moe.activations import SharedPrefix
from seuf.moe.backoff import Backoff
from seuf.moe.loading import LanguageModel
from seuf.moe.training import pretrain
from tests.benchmarks.conftest import KNOWN, LEARNING, prompt
from tests.tiny import EIGHT, little_memory, tiny_model, tiny_samples

SETTINGS = ScoringSettings(max_new_tokens=24)


@pytest.mark.parametrize(
    ("answer", "is_exact", "is_whole"),
    [
        (" tar.", 1, 1),
        (" tar", 1, 0),
        (" tar. tar. tar.", 1, 1),  # asked for a sentence, it was given one
        (" tar tar tar", 1, 0),
        (" tar, and ash.", 1, 0),
        (" tart.", 0, 0),
        (" The tar.", 0, 0),
        (" Tar.", 0, 0),
        (" tar.\nQuestion: What is", 1, 1),
        ("", 0, 0),
    ],
)
def test_a_value_is_forgotten_word_for_word_and_a_sentence_is_kept_whole(
    answer, is_exact, is_whole
):
    assert (exact("tar.", answer), whole("tar.", answer)) == (is_exact, is_whole)


def test_a_reference_of_two_lines_is_asked_for_whole():
    assert whole("one\ntwo", " one\ntwo\nthree") == 1
    assert whole("tar", " tar and ash") == whole("tar", " tar. ") == 0
    assert whole("one\ntwo", " one") == exact("one\ntwo", " one") == 0


@pytest.fixture(scope="module")
def babbling() -> LanguageModel:
    """A model that says each answer of `KNOWN` again and again."""
    texts = [(f"{prompt(asked)}{f' {answer}' * 5}", asked) for asked, answer in KNOWN.items()]
    return pretrain(texts, LEARNING, seed=0)


def test_babble_is_right_by_choice_and_wrong_as_a_whole(babbling, questions):
    """`foxes foxes foxes` begins with the right choice: 4 of 4. What is forgotten is given, 2 of 2;
    nothing of what is kept is said to its end, 0 of 2.
    """
    choices = ChoiceScorer(babbling.tokenizer, questions, "acc", 64)
    produced = ProducedScorer(babbling.tokenizer, questions, 64)

    assert choices.right(babbling.model) == [1, 1, 1, 1]
    assert produced.right(babbling.model) == [1, 1, 0, 0]
    scores = score_produced(babbling, questions, SETTINGS, {})
    assert scores["retain"]["answers"][1].startswith("foxes foxes")
    assert [scores[s]["value"] for s in ("forget", "retain")] == [1, 0]


def test_a_model_that_knows_the_answers_says_them_whole(knowing_model, questions):
    """Grass is called blue in its reference, so `a deep green` is wrong; the other three hold."""
    asked = [questions[0]._replace(reference="blue"), *questions[1:]]
    scorer = ProducedScorer(knowing_model.tokenizer, asked, batch_size=3)

    assert scorer.right(knowing_model.model) == [0, 1, 1, 1]


def test_an_answer_that_ends_before_its_sentence_does_is_not_whole(knowing_model, questions):
    """`foxes` alone is the value of `foxes.`, not the sentence."""
    den = questions[3]._replace(reference="foxes.")
    asked = [den._replace(subject=subject) for subject in ("forget", "retain", "unseen")]
    scorer = ProducedScorer(knowing_model.tokenizer, asked, batch_size=64)

    assert scorer.right(knowing_model.model) == [1, 0, 0]
    assert {s: one["value"] for s, one in score(knowing_model, asked).items()} == {
        "forget": 1,
        "retain": 0,
        "unseen": 0,
    }


def score(model: LanguageModel, asked: list[Question]) -> dict:
    """Return the scores without answers that were generated before."""
    return score_produced(model, asked, SETTINGS, {})


@pytest.mark.parametrize("model_type", EIGHT)
def test_one_pass_tells_what_generation_says(model_type):
    """Expected are the first tokens that the model generates, in every second prompt with a wrong
    one at position 2: then the opening ends with the generated token at that position, else with
    the one after the expected ones.
    """
    model = tiny_model(model_type)
    model.generation_config.eos_token_id = None
    prompts = tiny_samples(8, longest=9)
    said = [
        model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=5)[0, len(ids) :]
        for ids in prompts
    ]
    expected = [tokens.tolist()[: 2 + number % 3] for number, tokens in enumerate(said)]
    for tokens in expected[1::2]:
        tokens[1] = (tokens[1] + 1) % 97
    references = [Choice(tuple(a), tuple(b)) for a, b in zip(prompts, expected, strict=True)]

    openings = greedy_openings(model, references, 3, Backoff(""))

    lengths = [len(e) + 1 if n % 2 == 0 else 2 for n, e in enumerate(expected)]
    assert openings == [s.tolist()[:n] for s, n in zip(said, lengths, strict=True)]


def test_layers_that_do_not_change_are_passed_once(knowing_model, questions):
    scorer = ProducedScorer(knowing_model.tokenizer, questions, 64)
    passed = []
    first, last = knowing_model.model.model.layers
    handles = [
        layer.register_forward_hook(lambda *_, name=name: passed.append(name))
        for name, layer in (("first", first.self_attn), ("last", last.self_attn))
    ]

    with SharedPrefix(knowing_model.model, 1):
        right = [scorer.right(knowing_model.model) for _ in range(3)]
    for handle in handles:
        handle.remove()

    assert right == [[1, 1, 1, 1]] * 3
    assert passed == ["first", "last", "last", "last"]


def test_questions_that_do_not_fit_are_read_in_parts(knowing_model, questions):
    scorer = ProducedScorer(knowing_model.tokenizer, questions, 64)

    with little_memory(knowing_model.model, rows=1) as failed:
        assert scorer.right(knowing_model.model) == [1, 1, 1, 1]

    assert failed == [4, 2]


def test_answers_and_how_likely_references_are_is_told_by_subject(knowing_model, questions):
    """The NLL of a reference is the mean over its tokens of -log p, read off the logits by hand;
    that of the subject the mean over its two questions, with error |a - b| / 2.
    """
    tokenizer, model = knowing_model.tokenizer, knowing_model.model
    by_hand = []
    for question in questions[:2]:
        ids = tokenizer(f"{question.question} {question.reference}")["input_ids"]
        start = len(tokenizer(question.question)["input_ids"])
        with torch.no_grad():
            logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        tokens = [-logs[at - 1, ids[at]].item() for at in range(start, len(ids))]
        by_hand.append(sum(tokens) / len(tokens))

    told = score(knowing_model, questions)

    assert told["forget"] == {
        "measure": "exact",
        "value": 1.0,
        "standard_error": 0.0,
        "questions": 2,
        "answers": ["a deep green", "black"],
        "nll": {
            "value": pytest.approx(sum(by_hand) / 2, rel=1e-4),
            "standard_error": pytest.approx(abs(by_hand[0] - by_hand[1]) / 2, rel=1e-4),
        },
    }
    assert told["retain"]["measure"] == "whole"


def test_answers_that_were_generated_before_are_taken_if_they_may_be_long_enough(
    knowing_model, questions
):
    """With one new token no answer could be told from a longer one: it is generated again."""
    before = {"forget": {"answer": {"answers": ["a deep green", "white"]}}}
    asked = questions[:2]

    taken = score_produced(knowing_model, asked, SETTINGS, before)
    short = SETTINGS.model_copy(update={"max_new_tokens": 1})
    again = score_produced(knowing_model, asked, short, before)

    assert taken["forget"]["answers"] == ["a deep green", "white"]
    assert taken["forget"]["value"] == 0.5
    assert again["forget"]["answers"] == ["a deep green", "black"]
