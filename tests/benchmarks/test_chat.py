"""Prompts in a chat model's own form."""

from __future__ import annotations

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from seuf.benchmarks.answers import chat_prompt
from seuf.inputs import InputError
from seuf.moe.training import train_tokenizer

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

    with pytest.raises(InputError, match="has no chat template: it is no chat model"):
        chat_prompt(tokenizer, "Who?")
