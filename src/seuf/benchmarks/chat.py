"""Ask in a chat model's own form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seuf.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def chat_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return a user's turn and the beginning of the answer, as the model's chat template has them.

    The tokenizer is given the prompt as it is: where it puts the token of the beginning before
    every text, the prompt comes without.

    Raises:
        InputError: If the tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise InputError(
            "The model's tokenizer has no chat template: it is no chat model, or its "
            "chat_template.jinja is missing."
        )
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}],
        add_generation_prompt=True,
        tokenize=False,
        enable_thinking=False,  # where a template knows it: the answer is what is scored
    )
    assert isinstance(prompt, str)
    beginning = tokenizer.bos_token_id
    if beginning is not None and tokenizer(prompt)["input_ids"][:2] == [beginning, beginning]:
        return prompt.removeprefix(str(tokenizer.bos_token))
    return prompt
