"""A salt is random, the owner's alone, never written over and never in a commit."""

import stat
import subprocess

import pytest

from seuf.audit.requests import new_salt, read_salt
from seuf.inputs import InputError


def test_a_salt_is_read_as_it_was_made_and_no_two_are_alike(tmp_path):
    one, other = new_salt(tmp_path, "one"), new_salt(tmp_path, "other")

    assert (read_salt(tmp_path, "one"), read_salt(tmp_path, "other")) == (one, other)
    assert len(one) == len(other) == 32
    assert one != other


def test_nobody_but_the_owner_reads_it(tmp_path):
    (tmp_path / ".salts").mkdir(mode=0o755)

    new_salt(tmp_path, "one")

    assert stat.S_IMODE((tmp_path / ".salts").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / ".salts/one").stat().st_mode) == 0o600


def test_git_does_not_see_it(tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "seen").write_text("by git")

    new_salt(tmp_path, "one")

    command = ["git", "status", "--porcelain", "--untracked-files=all"]
    told = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert told.stdout == "?? seen\n"


def test_a_salt_is_never_written_over(tmp_path):
    salt = new_salt(tmp_path, "one")

    with pytest.raises(InputError, match=r"^\.salts/one exists: choose another id"):
        new_salt(tmp_path, "one")

    assert read_salt(tmp_path, "one") == salt


def test_a_salt_that_is_gone_is_said_to_be(tmp_path):
    with pytest.raises(InputError, match=r"^\.salts/one is not here: without its salt nobody"):
        read_salt(tmp_path, "one")


def test_a_salt_that_was_cut_short_is_none(tmp_path):
    new_salt(tmp_path, "one")
    (tmp_path / ".salts/one").write_bytes(b"short")

    with pytest.raises(InputError, match=r"is no salt: it has 5 bytes, not 32\.$"):
        read_salt(tmp_path, "one")
