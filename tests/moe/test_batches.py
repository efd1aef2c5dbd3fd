"""Packing, padding and ordering lose nothing."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seuf.inputs import InputError
from seuf.moe.batches import (
    IGNORED,
    Batch,
    Sample,
    Span,
    as_batch,
    by_length,
    pack,
    pad,
    spans_of,
    tell_long,
    text_samples,
    tokenize,
)
from seuf.moe.training import train_tokenizer

CPU = torch.device("cpu")
SAMPLES = st.lists(st.lists(st.integers(0, 98), min_size=1, max_size=9), min_size=1, max_size=12)


@given(SAMPLES, st.integers(9, 20))
def test_pack_keeps_every_token_and_splits_no_sample(samples, length):
    packed = pack(samples, length)

    held = [block[span.start : span.stop] for block in packed for span in spans_of(block)]
    assert sorted(held) == sorted(samples)
    for block in packed:
        spans = spans_of(block)
        assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
        assert len(block) == spans[-1].stop <= length


def test_pack_puts_a_sample_where_the_least_room_is_left():
    """6 and 4 open two blocks of 8 with room 2 and 4: 2 goes to the first, 3 to the second."""
    samples = [[n] * n for n in (6, 4, 2, 3)]

    assert [[span.stop - span.start for span in spans_of(b)] for b in pack(samples, 8)] == [
        [6, 2],
        [4, 3],
    ]


def test_pack_keeps_what_counts_of_each_sample():
    """Of 3 tokens the last counts, of 2 both; in a block these are tokens 2 to 3 and 3 to 5."""
    (block,) = pack([Sample([7, 8, 9], [Span(0, 2, 3)]), [5, 6]], 5)

    assert block == [7, 8, 9, 5, 6]
    assert spans_of(block) == [Span(0, 2, 3), Span(3, 3, 5)]


@given(SAMPLES, st.integers(0, 98))
def test_pad_fills_on_the_right_and_masks_exactly_the_padding(samples, padding):
    batch = pad(samples, padding)

    assert batch.input_ids.shape == (len(samples), max(map(len, samples)))
    for ids, mask, sample in zip(*batch[:2], samples, strict=True):
        assert ids[: len(sample)].tolist() == sample
        assert ids[len(sample) :].tolist() == [padding] * (len(ids) - len(sample))
        assert mask.tolist() == [1] * len(sample) + [0] * (len(ids) - len(sample))


@given(SAMPLES, st.integers(1, 5))
def test_by_length_gives_every_sample_once_and_the_longest_first(samples, batch_size):
    batches = list(by_length(samples, batch_size, padding=0))

    positions = [position for batch in batches for position in batch.positions]
    lengths = [int(n) for batch in batches for n in batch.attention_mask.sum(1)]
    assert sorted(positions) == list(range(len(samples)))
    assert lengths == sorted(map(len, samples), reverse=True)
    assert lengths == [len(samples[position]) for position in positions]
    assert all(1 <= len(batch.positions) <= batch_size for batch in batches)


def test_short_samples_fill_a_batch_up_to_its_tokens():
    """One of 10 leaves no room for another in 12; three of 4 have 12; the two of 3 are the last."""
    samples = [[0] * length for length in (4, 10, 4, 3, 4, 3)]

    batches = [batch.input_ids.shape for batch in by_length(samples, 1, padding=0, tokens=12)]
    at_least_two = [batch.input_ids.shape for batch in by_length(samples, 2, padding=0, tokens=12)]

    assert batches == [(1, 10), (3, 4), (2, 3)]
    assert at_least_two == [(2, 10), (3, 4), (1, 3)]


def test_labels_ignore_padding_but_not_a_real_token_of_the_same_id():
    """Token 0 is the padding, and also the last word of the longer sample."""
    batch = pad([[5, 0], [7]], padding=0)

    assert batch.labels.tolist() == [[5, 0], [7, IGNORED]]


def test_padding_on_the_right_needs_no_mask_and_on_the_left_one():
    right = pad([[5, 6], [7]], padding=0)
    left = Batch(*(tensor.flip(1) for tensor in right[:2]))

    assert right.inputs(CPU)["attention_mask"] is None
    assert torch.equal(left.inputs(CPU)["attention_mask"], torch.tensor([[1, 1], [0, 1]]))


def test_inputs_lie_on_the_device():
    left = Batch(torch.tensor([[0, 7]]), torch.tensor([[0, 1]]))

    assert all(tensor.is_meta for tensor in left.inputs(torch.device("meta")).values())


def test_a_mapping_without_a_mask_is_a_batch_without_padding():
    batch = as_batch({"input_ids": [[5, 6], [7, 8]]})

    assert batch.input_ids.tolist() == [[5, 6], [7, 8]]
    assert batch.attention_mask.tolist() == [[1, 1], [1, 1]]
    assert as_batch(batch) is batch


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["Ada lives in Oslo."], 300)


@given(st.lists(st.text(max_size=20), max_size=6))
def test_tokenize_keeps_all_of_a_text_and_leaves_out_empty_ones(tokenizer, texts):
    samples = tokenize(tokenizer, texts, max_length=1000)

    assert [tokenizer.decode(ids) for ids in samples] == [text for text in texts if text]


def test_tokenize_cuts_at_max_length(tokenizer):
    whole = tokenize(tokenizer, ["zebra quilt"], 1000)[0]

    assert tokenize(tokenizer, ["zebra quilt"], 3) == [whole[:3]]


def test_tokenize_of_no_texts_is_no_samples(tokenizer):
    assert tokenize(tokenizer, [], 8) == []


def test_one_text_in_the_place_of_a_list_is_refused(language_model):
    with pytest.raises(InputError, match="Give a list of texts"):
        tokenize(language_model.tokenizer, "hello world", 8)


def test_a_text_is_closed_unless_it_is_cut(tokenizer):
    ids, end = tokenizer("zebra quilt")["input_ids"], tokenizer.eos_token_id
    length = len(ids)

    for most, expected in ((length + 1, [*ids, end]), (length, ids), (3, ids[:3])):
        assert text_samples(tokenizer, ["zebra quilt"], most) == [expected]


def test_of_a_text_with_a_prompt_only_what_follows_counts(tokenizer):
    """`Who?` are 4 tokens, ` Ada` begins with the space; the end of text counts too."""
    text, prompt = "Who? Ada", "Who?"
    length = len(tokenizer(text)["input_ids"])
    assert len(tokenizer(prompt)["input_ids"]) == 4

    asked, plain = text_samples(tokenizer, [text, text], 100, [prompt, ""])

    assert asked == plain
    assert asked.texts == [Span(0, 4, length + 1)]
    assert plain.texts == [Span(0, 0, length + 1)]


def test_a_text_that_is_cut_before_its_answer_is_left_out(tokenizer):
    assert text_samples(tokenizer, ["Who? Ada", ""], 4, ["Who?", ""]) == []


def test_a_text_must_begin_with_its_prompt(tokenizer):
    with pytest.raises(InputError, match="'Who\\? Ada' does not begin with its prompt 'What'"):
        text_samples(tokenizer, ["Who? Ada"], 100, ["What"])


def test_prompts_must_go_with_the_texts(tokenizer):
    with pytest.raises(InputError, match="prompt for each text: 1 and 2 came"):
        text_samples(tokenizer, ["Who? Ada", "Who? Bo"], 100, ["Who?"])


@given(st.integers(1, 90), st.integers(2, 20), st.booleans())
def test_a_text_that_is_split_loses_no_token(tokenizer, words, most, begins):
    """Its parts have at most `most` tokens and differ by one at most; without a beginning-of-text
    token they are, one after the other, the text itself, closed by its end if there are several.
    """
    begin = tokenizer("A")["input_ids"][:1]
    tokenizer.bos_token = tokenizer.convert_ids_to_tokens(begin)[0] if begins else None
    text = "A" + "zebra " * words
    ids = tokenizer(text)["input_ids"]

    samples = text_samples(tokenizer, [text], most, split=True)

    skipped = 1 if begins and ids[:1] == begin else 0
    assert all(sample[:skipped] == begin[:skipped] for sample in samples)
    joined = samples[0] + [token for sample in samples[1:] for token in sample[skipped:]]
    end = [] if len(ids) == most else [tokenizer.eos_token_id]
    assert joined == [*ids, *end]
    assert max(map(len, samples)) <= most
    assert max(map(len, samples)) - min(map(len, samples)) <= 1
    plain = tokenize(tokenizer, [text], most, split=True)
    assert sum(len(part) - skipped for part in plain) == len(ids) - skipped


def test_of_a_split_text_no_token_of_the_prompt_counts(tokenizer):
    """`Who?` are the first 4 tokens: what counts of all parts is the rest, closed by the end."""
    ids = [*tokenizer("Who? Ada, Bo")["input_ids"], tokenizer.eos_token_id]

    samples = text_samples(tokenizer, ["Who? Ada, Bo"], 3, ["Who?"], split=True)

    counted = [token for sample in samples for token in sample[sample.texts[0].counted :]]
    assert counted == ids[4:]


def test_how_much_of_long_texts_is_used_is_told(tokenizer):
    """Of texts of n and 1 tokens n - 2 are cut at 2."""
    texts = ["zebra quilt", "A"]
    long, short = (len(ids) for ids in tokenizer(texts)["input_ids"])
    cut = long - 2

    assert tell_long(tokenizer, texts, long, False, "unlearning") is None
    assert tell_long(tokenizer, texts, 2, True, "unlearning") == (
        "1 of 2 texts have more than 2 tokens (unlearning.max_length): they are split, all "
        f"{long + short} tokens are used."
    )
    assert tell_long(tokenizer, texts, 2, False, "unlearning") == (
        f"1 of 2 texts have more than 2 tokens and are cut: {cut} of {long + short} tokens "
        f"({cut / (long + short):.1%}) are not used; set unlearning.long_texts to split."
    )
