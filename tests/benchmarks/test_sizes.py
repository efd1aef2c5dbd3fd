"""Sizes of sets, before anything is prepared."""

import pytest

from seuf.benchmarks import sandbox
from seuf.benchmarks.settings import OwnSettings, SandboxSettings, TofuSettings
from seuf.benchmarks.sizes import sizes
from seuf.errors import InputError


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
