"""Free answers: how they are asked for, generated, cut and measured."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from seuf.benchmarks import answers
from seuf.benchmarks.answers import (
    MEASURES,
    chat_prompt,
    example_answers,
    example_questions,
    free_answers,
    greedy_answers,
    mean_with_error,
    rouge_l_f1,
    rouge_l_recall,
    rouge_l_recall_pltrdy,
    score_answers,
    token_ids,
)
from seuf.benchmarks.records import ANSWER_KINDS, PRODUCED
from seuf.benchmarks.settings import ScoringSettings
from seuf.inputs import InputError
from seuf.moe.training import train_tokenizer
from tests.benchmarks.conftest import KNOWN, prompt
from tests.tiny import little_memory

SETTINGS = ScoringSettings(generate=True, max_new_tokens=24)


@pytest.fixture
def said(monkeypatch):
    """Let the model say something given; return what it was asked, with how many tokens."""
    asked = []

    def answer(text):
        def greedy(subject_model, prompts, settings, tokens, stop_tokens):
            asked.extend((prompt, tokens) for prompt in prompts)
            return [text] * len(prompts)

        monkeypatch.setattr(answers, "greedy_answers", greedy)
        return asked

    return answer


def test_rouge_is_told_by_subject_with_its_standard_error(knowing_model, questions):
    """Forget: references as learned, 1 and 1, so the error is 0. Retain: 'a colony of bees' holds
    3 of the 6 words 'bees live in a colony of' in order ('a colony of'), 'foxes' all of 'foxes':
    the mean is 3/4, the standard error sqrt((1/4)^2 * 2 / 1 / 2) = 1/4.
    """
    other = questions[2]._replace(reference="bees live in a colony of")

    scores = score_answers(knowing_model, [*questions[:2], other, questions[3]], SETTINGS)

    assert scores["forget"] == {
        "answer": {
            "measure": "rouge_l_recall",
            "value": 1.0,
            "standard_error": 0.0,
            "questions": 2,
            "answers": ["a deep green", "black"],
        }
    }
    assert scores["retain"]["answer"]["value"] == pytest.approx(0.75)
    assert scores["retain"]["answer"]["standard_error"] == pytest.approx(0.25)


def test_kinds_of_probes_are_told_apart(knowing_model, questions, said):
    said("black")
    one, two = (questions[i]._replace(kind=k) for i, k in ((0, "fill_blank"), (1, "adversarial")))

    scores = score_answers(knowing_model, [one, two], SETTINGS)["forget"]

    assert {kind: scored["value"] for kind, scored in scores.items()} == {
        "fill_blank": 0.0,
        "adversarial": 1.0,
    }


def test_a_kind_has_its_own_length_and_the_others_the_studys(knowing_model, questions, said):
    asked = said("black")

    for kind in ("fill_blank", "knowledge", "answer"):
        free_answers(knowing_model, questions[:1], ANSWER_KINDS[kind], SETTINGS)

    assert [tokens for _, tokens in asked] == [30, 32, 24]


def test_an_answer_begins_as_the_question_says(knowing_model, questions, said):
    asked = said("black")
    question = questions[0]._replace(opening="Answer:", kind="question")

    free_answers(knowing_model, [question], ANSWER_KINDS["question"], SETTINGS)

    assert asked[0][0] == f"{question.question}Answer:"  # the tokenizer has no chat template


def test_a_chat_model_is_asked_in_its_template(knowing_model, questions, said, monkeypatch):
    template = "<u>{{ messages[0].content }}</u>{% if add_generation_prompt %}<a>{% endif %}"
    monkeypatch.setattr(knowing_model.tokenizer, "chat_template", template)
    asked = said("black")
    question = questions[0]._replace(opening="Answer:", kind="question")

    free_answers(knowing_model, [question], ANSWER_KINDS["question"], SETTINGS)
    free_answers(knowing_model, [question], ANSWER_KINDS["verbatim"], SETTINGS)

    assert asked[0][0] == f"<u>{question.question}</u><a>Answer:"
    assert asked[1][0] == f"{question.question}Answer:"  # a kind that is no chat


@pytest.mark.parametrize(
    ("kind", "text", "kept"),
    [
        ("question", " Paris\nQuestion: and", "Paris\nQuestion: and"),
        ("question", "\nParis", "Paris"),  # RWKU's answers end at a token, not at a text
        ("knowledge", " Paris\nin France\n\nQuestion", "Paris\nin France"),
        ("knowledge", "Paris Question: what", "Paris"),
        ("answer", " Paris\n\nQuestion: ", "Paris\n\nQuestion:"),
    ],
)
def test_an_answer_ends_where_its_kind_says(knowing_model, questions, said, kind, text, kept):
    said(text)

    assert free_answers(knowing_model, questions[:1], ANSWER_KINDS[kind], SETTINGS) == [kept]


@pytest.fixture
def named_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words, one of them the newline, which byte-level ones lack."""
    vocabulary = {word: n for n, word in enumerate(["?", "\n", "Paris", "in", "France"])}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="?")), unk_token="?"
    )


def test_a_newline_stops_only_where_a_token_is_called_so(knowing_model, named_tokenizer):
    """The id of an unknown name is none, or that of the unknown token: neither stops."""
    stops = ANSWER_KINDS["question"].stop_tokens

    assert token_ids(named_tokenizer, stops) == {1}
    assert token_ids(knowing_model.tokenizer, stops) == set()


def test_an_answer_ends_before_its_stop_token(knowing_model):
    """`a deep green`: named by its own second token, the answer keeps the first alone."""
    tokens = knowing_model.tokenizer.tokenize(" a deep green")

    (answer,) = greedy_answers(
        knowing_model, [prompt(next(iter(KNOWN)))], SETTINGS, stop_tokens=[tokens[1]]
    )

    first = knowing_model.tokenizer.convert_tokens_to_string(tokens[:1])
    assert answer == first != " a deep green"


def test_both_numbers_are_told_where_the_first_line_scores_otherwise(
    knowing_model, questions, said
):
    """Cut at the first newline nothing is left of an answer that begins with one: 0, not 1."""
    asked = [questions[0]._replace(kind="question"), questions[1]._replace(kind="fill_blank")]
    said("\na deep green")

    scores = score_answers(knowing_model, asked, SETTINGS)["forget"]

    assert scores["question"]["value"] == 1.0
    assert scores["question"]["first_line"] == {"value": 0.0, "standard_error": 0.0}
    assert "first_line" not in scores["fill_blank"]  # `black` is in neither


def test_what_is_learned_by_heart_is_held_against_no_more_than_an_answer_can_say(
    knowing_model, questions, said, monkeypatch
):
    """With the tokens of its first three words an answer can hold no more than these."""
    said("a deep green")
    tokens = len(knowing_model.tokenizer(" a deep green")["input_ids"])
    monkeypatch.setitem(
        ANSWER_KINDS, "verbatim", ANSWER_KINDS["verbatim"]._replace(max_new_tokens=tokens)
    )
    long = questions[0]._replace(kind="verbatim", reference=" a deep green as grass is")

    scores = score_answers(knowing_model, [long], SETTINGS)

    assert scores["forget"]["verbatim"]["value"] == 1.0


def test_what_is_asked_is_the_prompt_itself(knowing_model, questions):
    found = free_answers(knowing_model, questions, ANSWER_KINDS["answer"], SETTINGS)

    assert found == list(KNOWN.values())
    assert [question.question for question in questions] == [prompt(known) for known in KNOWN]


def test_a_model_says_what_it_knows_and_stops_at_its_end_token(knowing_model):
    answers = greedy_answers(knowing_model, [prompt(q) for q in KNOWN], SETTINGS)

    assert [answer.strip() for answer in answers] == list(KNOWN.values())


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_padding_on_the_left_changes_no_answer(knowing_model, batch_size):
    settings = SETTINGS.model_copy(update={"batch_size": batch_size})
    prompts = [prompt(question) for question in KNOWN] + ["Question:", prompt("Who lives?")]

    answers = greedy_answers(knowing_model, prompts, settings)

    assert answers == [greedy_answers(knowing_model, [p], settings)[0] for p in prompts]


def test_an_answer_has_no_more_tokens_than_allowed(knowing_model):
    first = knowing_model.tokenizer(" a deep green")["input_ids"][:3]
    settings = SETTINGS.model_copy(update={"max_new_tokens": 3})

    (answer,) = greedy_answers(knowing_model, [prompt("What is the colour of grass?")], settings)

    assert answer.strip() == knowing_model.tokenizer.decode(first).strip() != "a deep green"


def test_a_long_prompt_loses_its_beginning(knowing_model):
    question = next(iter(KNOWN))
    length = len(knowing_model.tokenizer(prompt(question))["input_ids"])
    settings = SETTINGS.model_copy(update={"max_length": length})

    (answer,) = greedy_answers(knowing_model, [prompt("Who? ") + prompt(question)], settings)

    assert answer.strip() == KNOWN[question]


def test_one_warning_tells_how_many_prompts_are_cut(knowing_model, caplog):
    """Of three the two longer ones, though every look of a run asks them again."""
    prompts = ["Who?", prompt("Who lives in a hive?"), prompt("Who lives in a den?")]
    length = len(knowing_model.tokenizer("Who?")["input_ids"])
    settings = SETTINGS.model_copy(update={"max_length": length})

    for _ in range(2):
        greedy_answers(knowing_model, prompts, settings, 1)

    (record,) = caplog.records
    assert f"2 of 3 questions have more than {length} tokens" in record.message
    assert "raise evaluation.max_length" in record.message


def test_a_probe_may_ask_for_fewer_tokens_than_the_study(knowing_model):
    (answer,) = greedy_answers(knowing_model, [prompt(next(iter(KNOWN)))], SETTINGS, 1)

    assert len(knowing_model.tokenizer(answer)["input_ids"]) == 1


def test_prompts_that_do_not_fit_are_answered_in_parts(knowing_model):
    prompts = [prompt(question) for question in KNOWN]

    with little_memory(knowing_model.model, rows=1) as failed:
        answers = greedy_answers(knowing_model, prompts, SETTINGS)

    assert failed == [4, 2]
    assert [answer.strip() for answer in answers] == list(KNOWN.values())


def test_a_prompt_that_does_not_fit_is_too_long(knowing_model):
    message = r"lower evaluation.max_length or evaluation.max_new_tokens"
    with little_memory(knowing_model.model, rows=0), pytest.raises(InputError, match=message):
        greedy_answers(knowing_model, ["Who?"], SETTINGS)


TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}[{{ turn.role }}] {{ turn.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with a chat template that begins with its token of the beginning."""
    trained = train_tokenizer(["[user] Who is Ada?\n[assistant] A chemist."], 300)
    trained.add_special_tokens({"bos_token": "<s>"})
    trained.chat_template = TEMPLATE
    return trained


def adding_the_beginning(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Return the tokenizer, which now puts its token of the beginning before every text."""
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    return tokenizer


def test_a_prompt_is_a_users_turn_and_the_beginning_of_an_answer(tokenizer):
    assert chat_prompt(tokenizer, "Who is Ada?") == "<s>[user] Who is Ada?\n[assistant]"


def test_the_model_reads_the_beginning_once_whoever_puts_it_there(tokenizer):
    plain = tokenizer(chat_prompt(tokenizer, "Who?"))["input_ids"]

    adding = adding_the_beginning(tokenizer)
    prompt = chat_prompt(adding, "Who?")

    assert prompt == "[user] Who?\n[assistant]"
    assert adding(prompt)["input_ids"] == plain
    assert plain.count(tokenizer.bos_token_id) == 1


def test_a_template_without_the_beginning_is_left_as_it_is(tokenizer):
    tokenizer.chat_template = TEMPLATE.removeprefix("{{ bos_token }}")

    assert chat_prompt(adding_the_beginning(tokenizer), "Who?") == "[user] Who?\n[assistant]"


def test_a_template_that_can_think_is_told_not_to(tokenizer):
    tokenizer.chat_template = "{% if enable_thinking is false %}<think></think>{% endif %}"

    assert chat_prompt(tokenizer, "Who?") == "<think></think>"


def test_a_model_that_does_not_chat_is_refused(tokenizer):
    tokenizer.chat_template = None

    with pytest.raises(InputError, match="has no chat template: it is not a chat model"):
        chat_prompt(tokenizer, "Who?")


def test_recall_is_the_share_of_the_reference_in_order():
    """Of 'the cat sat down' the answer has 'the', 'cat', 'down' in this order: 3/4. What it says
    beyond that costs nothing.
    """
    answer = "the black cat is down, and the dog too"

    assert rouge_l_recall("the cat sat down", answer) == 0.75


def test_words_are_compared_by_their_stems():
    """'apples' and 'falling' have the stems of 'apple' and 'falls': 2 of 3."""
    assert rouge_l_recall("red apple falls", "apples falling") == pytest.approx(2 / 3)


def test_an_empty_answer_recalls_nothing():
    assert rouge_l_recall("red apple", "") == 0


def test_f1_pays_for_what_is_said_beyond_the_reference():
    """Of 2 words in the reference 1 is there, of 4 in the answer 1 counts: 2 * .5 * .25 / .75."""
    assert rouge_l_f1("red apple", "a red old car") == pytest.approx(1 / 3)


def test_f1_compares_words_as_they_are():
    assert rouge_l_f1("apples", "apple") == 0


def test_the_variant_of_rwku_splits_at_spaces_only():
    """The other variants drop the comma."""
    assert rouge_l_recall_pltrdy("Paris", "Paris, France") == 0
    assert rouge_l_recall("Paris", "Paris, France") == 1
    assert rouge_l_recall_pltrdy("the cat sat down", "the cat is down") == pytest.approx(0.75)


@pytest.mark.parametrize("answer", ["", " ", "...", "\n"])
def test_an_answer_without_a_word_recalls_nothing(answer):
    """The package itself would raise an error."""
    assert rouge_l_recall_pltrdy("red apple", answer) == 0


def test_examples_are_evenly_spaced_and_more_are_kept_without_unseen_ones(questions):
    """Of 8 forget questions the four are 0, 2, 4 and 6. Of 3 kept ones there are no four."""
    asked = [questions[0]._replace(topic=f"forget {number}") for number in range(8)]
    asked += [questions[2]._replace(topic=f"retain {number}") for number in range(3)]
    unseen = [questions[2]._replace(topic="unseen", subject="unseen")]

    alone = [question.topic for question in example_questions(asked)]
    beside = [question.topic for question in example_questions([*unseen, *asked])]

    forget = ["forget 0", "forget 2", "forget 4", "forget 6"]
    assert alone == [*forget, "retain 0", "retain 1", "retain 2"]
    assert beside == [*forget, "retain 0", "retain 1", "unseen"]
    assert example_questions([q._replace(reference="") for q in asked]) == []


def test_an_example_shows_whether_an_answer_ends(knowing_model, questions, said):
    """At least 12 tokens are asked for, or twice as many as the longest reference has."""
    asked = said(" black black")
    long = questions[0]._replace(reference="a deep green " * 20)
    tokens = len(knowing_model.tokenizer(long.reference)["input_ids"])
    settings = SETTINGS.model_copy(update={"max_new_tokens": 1000})

    assert example_answers(knowing_model, [questions[1]], settings) == ["black black"]
    example_answers(knowing_model, [long], settings)
    example_answers(knowing_model, [long], SETTINGS)

    assert [tokens for _, tokens in asked] == [12, 2 * tokens, 24]


def test_every_kind_of_probe_has_its_measure():
    measures = {*(kind.measure for kind in ANSWER_KINDS.values()), *PRODUCED.values()}
    assert measures == set(MEASURES)


def test_the_error_of_a_mean_is_the_deviation_over_the_root_of_the_number():
    """Of 1, 2, 3, 6: mean 3, squares 4 + 1 + 0 + 9 = 14, variance 14/3, error sqrt(14/12)."""
    assert mean_with_error([1, 2, 3, 6]) == {
        "value": 3,
        "standard_error": pytest.approx((14 / 12) ** 0.5),
    }


def test_a_single_value_has_no_error():
    assert mean_with_error([0.25]) == {"value": 0.25, "standard_error": 0.0}


@pytest.mark.parametrize(
    ("reference", "answer", "recall"),
    [
        ("Растворитель — эфир.", "растворитель эфир", 1.0),
        ("Растворитель — эфир.", "эфир", 0.5),
        ("溶媒は水", "溶媒は火", 0.75),
        ("Ada keeps bees", "Ada keeps sheep", 2 / 3),
        ("Zo\u00eb", "Zoe\u0308", 1.0),
        ("?", "no word", 0.0),
    ],
)
def test_words_of_any_script_are_compared(reference, answer, recall):
    """ROUGE's own tokenizer finds no word in Russian: a perfect answer got 0."""
    assert MEASURES["rouge_l_recall_any_script"](reference, answer) == pytest.approx(recall)
    assert MEASURES["rouge_l_recall"]("эфир", "эфир") == 0
