"""Sizes of sets, before anything is prepared."""

import pytest

from seuf.benchmarks import sandbox
from seuf.benchmarks.muse import MuseSettings
from seuf.benchmarks.own import OwnSettings
from seuf.benchmarks.rwku import RwkuSettings
from seuf.benchmarks.sandbox import SandboxSettings
from seuf.benchmarks.sizes import sizes
from seuf.benchmarks.tofu import TofuSettings
from seuf.benchmarks.wmdp import WmdpSettings
from seuf.inputs import InputError


def test_the_sandbox_is_made_and_counted():
    """A token is taken for four characters."""
    settings = SandboxSettings(entities=12)
    world = sandbox.prepare(settings, seed=0)

    size = sizes(settings, {})

    assert size.forget_tokens == sum(len(text.text) for text in world.forget) // 4
    assert size.selection_tokens + size.test_tokens == sum(
        (4 * len(q.question) + sum(map(len, q.choices))) // 4 for q in world.questions
    )


def test_tofu_has_twenty_questions_an_author_of_276_characters():
    """2 authors: 40 * 69 tokens; with 3 to keep 100 rows of six choices, half of them in a part."""
    size = sizes(TofuSettings(forget_authors=2, retain_authors=3), {})

    assert size == (40 * 69, 60 * 69, 100 * 69 * 3, 100 * 69 * 3)


def test_wmdp_is_as_large_as_its_cards_say():
    """Cyber: 20,901,229 bytes of programs. 200 of 1,987 questions with 1,576,479 bytes select, and
    200 of MMLU's 1,531 with 763,484, each with 109 characters around it:
    200 * (793.40 + 109) / 4 = 45,119 and 200 * (498.68 + 109) / 4 = 30,384.
    """
    size = sizes(WmdpSettings(), {})

    assert size.forget_tokens == 20_901_229 // 4
    assert size.retain_tokens == 11_061_717 // 4
    assert size.selection_tokens == 45_119 + 30_384
    # the others: 1,787 * 902.40 / 4 = 403,145; 14,042 questions of 605.19: 2,124,507
    assert size.test_tokens == 403_145 + 2_124_507


def test_fewer_texts_of_wmdp_are_their_share():
    """100 of 1,000 programs; of bio-retain 100 papers of 31,384.14 bytes; 1,000 of MMLU's 14,042
    questions, 605.19 characters each, beside 1,787 on cyber or 1,073 on bio, 509.16 each.
    """
    cyber, bio = (
        sizes(WmdpSettings(domain=d, retain="corpus", max_texts=100, mmlu_questions=1000), {})
        for d in ("cyber", "bio")
    )

    assert cyber.forget_tokens == 20_901_229 // 10 // 4
    assert bio.retain_tokens == 784_603
    assert cyber.test_tokens == 403_145 + 151_296
    assert bio.test_tokens == 136_582 + 151_296


def test_full_metrics_of_tofu_read_the_test_part_once_more():
    """Seven answers instead of six, and 59690 characters about what was known before."""
    few = sizes(TofuSettings(forget_authors=2, retain_authors=3), {})
    full = sizes(TofuSettings(forget_authors=2, retain_authors=3, metrics="full"), {})

    assert full[:3] == few[:3]
    assert full.test_tokens == few.test_tokens + 100 * 69 * 7 // 2 + 59690 // 4


def test_muse_is_as_large_as_its_card_says():
    """A question of news comes after ten: 1154 + 110.19 characters about what to forget, 1265 +
    114.25 about what to keep, and 21 around each of 11. Of 100 each 40 select; a token is taken for
    four characters. Verbatim probes are reported only: 60 of 100, of 451863 characters.
    """
    size = sizes(MuseSettings(selection_questions=40), {})

    a_pair = 1154 + 110.19 + 1265 + 114.25 + 2 * 11 * 21
    assert size.forget_tokens == 3281546 // 4
    assert size.retain_tokens == 6456895 // 4
    assert size.selection_tokens == pytest.approx(40 * a_pair / 4, abs=2)
    assert size.test_tokens == pytest.approx(60 * a_pair / 4 + 0.6 * 451863 / 4, abs=3)


def test_books_are_fewer_and_longer_than_news():
    assert sizes(MuseSettings(corpus="books"), {})[:2] == (4096855 // 4, 836924 // 4)


def test_rwku_is_as_large_as_its_paper_and_the_hub_say():
    """Half of 200 people: 8.9 MB of passages, 6,147 blanks and questions of 222.39 bytes and 120
    for an answer, of which 200 select; 6,984 attacks of 280.64, 11,379 about neighbors of 266.28;
    6,198 passages of 942.24 and 7,487 of 894.88 bytes; MMLU as for WMDP.
    """
    size = sizes(RwkuSettings(people=100), {})

    assert size[:2] == (8_900_000 // 2 // 4, 11_061_717 // 4)
    assert size.selection_tokens == pytest.approx(200 * 342.39 / 4 + 30_384, abs=2)
    probes = 2_873 * 342.39 + 3_492 * 400.64 + 2 * 2_844 * 386.28
    passages = 3_099 * 942.24 + 3_743 * 894.88
    assert size.test_tokens == pytest.approx((probes + passages) / 4 + 2_124_507, rel=1e-5)


def test_less_of_rwku_is_its_share():
    """Three people, 197 others to keep; of every other kind of probe and passage at most ten."""
    few = {"selection_questions": 50, "mmlu_questions": 1000, "other_probes": 10}
    settings = RwkuSettings(people=["a", "b", "c"], retain="people", mia_passages=10, **few)

    size = sizes(settings, {})

    assert size[:2] == (8_900_000 * 3 // 200 // 4, 8_900_000 * 197 // 200 // 4)
    reported = 6_147 * 3 // 200 - 50
    probes = reported * 342.39 + 10 * 400.64 + 20 * 386.28
    passages = 10 * 942.24 + 10 * 894.88
    assert size.test_tokens == pytest.approx((probes + passages) / 4 + 151_296, abs=4)


def test_your_own_files_are_measured(tmp_path):
    """400, 800, 1200 bytes: 100, 200, 300 tokens; questions count twice, a quarter selects."""
    files = {}
    for name, size in (("forget", 400), ("retain", 800), ("questions", 1200)):
        files[name] = tmp_path / name
        files[name].write_text("x" * size)

    assert sizes(OwnSettings(selection_share=0.25), files) == (100, 200, 150, 450)


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere does not exist"):
        sizes(OwnSettings(), {"forget": tmp_path / "nowhere"})
