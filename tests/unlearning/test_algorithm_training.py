"""How a run of Algorithm 1 trains, and what it reports."""

import pytest

from seuf.unlearning.algorithm import samples_of
from seuf.unlearning.evaluations import LOG_COLUMNS
from tests.unlearning.runs import SETTINGS, method, run


def test_all_learning_rates_start_from_the_same_model(language_model):
    """The second rate's log is what it would be alone, to the last digit."""
    alone = run(language_model, method(learning_rates=[1e-3]))
    both = run(language_model, method(learning_rates=[1e-2, 1e-3]))

    def numbers(log: list[dict]) -> list[tuple]:
        return [(e["learning_rate"], e["step"], e["loss"], e["gradient_norm"]) for e in log]

    assert numbers(both.log)[3:] == numbers(alone.log)
    assert [entry["learning_rate"] for entry in both.log] == [1e-2] * 3 + [1e-3] * 3


def test_gradient_ascent_raises_the_loss_on_the_forget_set(language_model):
    """`loss` is minus the mean NLL of the batch, so it falls."""
    done = run(language_model, method(anchor_weight=0.0), steps=20)

    assert done.log[-1]["loss"] < done.log[1]["loss"] - 0.1


def test_the_anchor_keeps_the_loss_of_routing_low(language_model):
    """The same run without anchor logs 0; with a heavy one the distance to the target falls."""
    without = run(language_model, method(anchor_weight=0.0), steps=20)
    heavy = run(language_model, method(anchor_weight=1000.0), steps=20)

    assert {entry["anchor"] for entry in without.log[1:]} == {0.0}
    assert heavy.log[-1]["anchor"] < heavy.log[1]["anchor"]


def test_the_anchor_is_weighted(language_model):
    """Before the first update the distance is the same, so ten times the weight logs ten times."""
    one, ten = (
        run(language_model, method(anchor_weight=weight), steps=1).log[1]["anchor"]
        for weight in (1.0, 10.0)
    )

    assert one > 0
    assert ten == pytest.approx(10 * one)


def test_the_log_has_the_columns_it_promises(language_model):
    for entry in run(language_model, method()).log:
        assert set(entry) == set(LOG_COLUMNS)


def test_trained_share_is_that_of_the_scope(language_model):
    """The expert has 1024 + 512 parameters, the router 128."""
    total = sum(parameter.numel() for parameter in language_model.model.parameters())

    assert run(language_model, method()).trained_share == pytest.approx(1664 / total)
    assert run(language_model, method("everything")).trained_share == 1.0


def test_a_method_may_steer_further_than_the_study(language_model):
    """The forget term of RMU grows with the length of its target."""
    near, far = (
        run(language_model, method("experts", "rmu", steering_coefficient=c)) for c in (1.0, 100.0)
    )

    assert far.log[1]["loss"] > near.log[1]["loss"]


def test_texts_become_samples_cut_or_packed(language_model):
    """A text that is not cut is closed by the end of text, as it is where others follow it."""
    texts = ["Ada lives in Oslo."] * 6
    tokenizer = language_model.tokenizer
    single = [*tokenizer(texts[0])["input_ids"], tokenizer.eos_token_id]
    cut = SETTINGS.model_copy(update={"max_length": 4, "long_texts": "cut"})
    packed = SETTINGS.model_copy(update={"max_length": 2 * len(single) + 1, "pack": True})

    assert samples_of(language_model, texts, cut) == [single[:4]] * 6
    assert samples_of(language_model, texts, SETTINGS) == [single] * 6
    assert samples_of(language_model, texts, packed) == [single * 2] * 3


def test_a_sample_of_one_token_is_left_out(language_model):
    """Nothing is predicted from it, and a batch of such would have no loss."""
    one = SETTINGS.model_copy(update={"max_length": 2})
    language_model.tokenizer.eos_token = None
    assert len(language_model.tokenizer("A")["input_ids"]) == 1

    assert len(samples_of(language_model, ["A", "Ada lives"], one)) == 1


def test_how_many_texts_are_too_long_for_their_answers_is_told(language_model, caplog):
    """Of the first the question alone is longer than six tokens."""
    texts, prompts = (
        ["Who lives in Oslo, and why? Ada", "Who? Ada"],
        ["Who lives in Oslo, and why?", "Who?"],
    )
    short = SETTINGS.model_copy(update={"max_length": 6, "long_texts": "cut"})

    samples = samples_of(language_model, texts, short, prompts)

    assert len(samples) == 1
    assert "1 of 2 texts are left out: nothing of them counts within 6 tokens" in caplog.text


def test_a_long_text_becomes_several_samples_and_a_line_says_so(language_model, caplog):
    """2,000 tokens and the end in samples of 64: 32 of them, none left out."""
    caplog.set_level("INFO", "seuf")
    tokenizer = language_model.tokenizer
    word = " Ada"
    text = word * 2000
    ids = tokenizer(text)["input_ids"]
    long = SETTINGS.model_copy(update={"max_length": 64})

    samples = samples_of(language_model, [text], long)

    assert [token for sample in samples for token in sample] == [*ids, tokenizer.eos_token_id]
    assert len(samples) == -(-(len(ids) + 1) // 64)
    assert "1 of 1 texts have more than 64 tokens (unlearning.max_length)" in caplog.text
    assert f"they are split, all {len(ids)} tokens are used" in caplog.text
    samples_of(language_model, [text], long.model_copy(update={"long_texts": "cut"}))
    assert f"{len(ids) - 64} of {len(ids)} tokens" in caplog.text
