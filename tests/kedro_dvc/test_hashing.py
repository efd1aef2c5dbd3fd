"""MD5 as DVC has it and SHA-256 as `sha256sum` has it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from dvc_data.hashfile.build import build
from dvc_data.hashfile.db.local import LocalHashFileDB
from dvc_objects.fs.local import localfs

from kedro_dvc import hashing
from kedro_dvc.hashing import (
    CHUNK,
    UNREADABLE,
    Digests,
    digests,
    file_digests,
    folder_digests,
    sha256s,
)

# `one`, `two` with a line break and nothing, by md5sum
ONE, TWO = "5bbf5a52328e7439ae6e719dfe712200", "c193497a1a06b2c72230e6146ff47080"
NOTHING = "d41d8cd98f00b204e9800998ecf8427e"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    for name, text in {"one": "one\n", "two": "two\n", "empty": ""}.items():
        (tmp_path / name).write_text(text)
    return [tmp_path / "one", tmp_path / "two", tmp_path / "empty"]


def test_a_file_has_the_digests_that_md5sum_and_sha256sum_print(tmp_path: Path):
    """`one` and a line break."""
    (tmp_path / "file").write_text("one\n")

    found = digests([tmp_path / "file"])[tmp_path / "file"]

    assert found.md5 == "5bbf5a52328e7439ae6e719dfe712200"
    assert found.sha256 == "2c8b08da5ce60398e1f19af0e5dccc744df274b826abe585eaba68c525434806"
    assert found.size == 4


def test_a_file_longer_than_a_chunk_is_read_to_its_end(tmp_path: Path):
    content = bytes(range(256)) * (CHUNK // 256) + b"end"
    (tmp_path / "file").write_bytes(content)

    found = digests([tmp_path / "file"])[tmp_path / "file"]

    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert found.md5 == hashlib.md5(content).hexdigest()
    assert found.size == len(content)


def test_a_folder_has_the_md5_that_dvc_gives_it(tmp_path: Path):
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "b").write_text("one\n")
    (folder / "below/a").write_text("two\n")

    _, _, tree = build(
        LocalHashFileDB(localfs, str(tmp_path / "cache")), str(folder), localfs, "md5"
    )

    assert digests([folder])[folder].md5 == tree.hash_info.value


def test_the_sha256_of_a_folder_is_that_of_its_listing(tmp_path: Path):
    """As `sha256sum b below/a | sha256sum` gives it."""
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "b").write_text("one\n")
    (folder / "below/a").write_text("two\n")
    one, two = (hashlib.sha256(text).hexdigest() for text in (b"one\n", b"two\n"))

    listing = f"{one}  b\n{two}  below/a\n".encode()

    assert sha256s([folder]) == {folder: hashlib.sha256(listing).hexdigest()}


def test_what_is_not_there_has_no_digests(tmp_path: Path):
    assert digests([tmp_path / "nothing"]) == {}


def test_files_have_the_md5_of_md5sum(files):
    assert [one.md5 for one in file_digests(files).values()] == [ONE, TWO, NOTHING]


def test_a_file_of_several_links_is_read_once(files, tmp_path, monkeypatch):
    read, one = [], Digests(ONE, "", 4)
    monkeypatch.setattr(hashing, "_read", lambda path, *rest: read.append(path) or one)
    (tmp_path / "hard").hardlink_to(files[0])
    (tmp_path / "soft").symlink_to(files[0])

    found = file_digests([files[0], tmp_path / "hard", tmp_path / "soft", files[0]])

    assert found == dict.fromkeys([files[0], tmp_path / "hard", tmp_path / "soft"], one)
    assert len(read) == 1


def test_where_it_is_tolerated_a_file_may_be_gone_or_unreadable(tmp_path):
    """A folder cannot be read as a file."""
    files = [tmp_path / "gone", tmp_path]

    assert file_digests(files, tolerant=True) == {tmp_path: UNREADABLE}


@pytest.mark.parametrize("name", ["gone", "folder"])
def test_elsewhere_it_may_not(tmp_path, name):
    (tmp_path / "folder").mkdir()

    with pytest.raises(OSError, match=name):
        file_digests([tmp_path / name])


def test_the_md5_of_a_folder_is_that_of_its_listing():
    """By `printf '[{"md5": "c1...", "relpath": "x"}]' | md5sum`; the same is in DVC's lock."""
    folder = folder_digests({"x": Digests(TWO, "", 4)})

    assert folder.md5 == "b62694f50ab7d312b198d3af525e57aa.dir"


def test_a_listing_is_sorted_by_path():
    listing = f'[{{"md5": "{TWO}", "relpath": "a/b"}}, {{"md5": "{ONE}", "relpath": "a0"}}]'
    expected = hashlib.md5(listing.encode()).hexdigest() + ".dir"
    one, two = Digests(ONE, "", 4), Digests(TWO, "", 4)

    assert folder_digests({"a0": one, "a/b": two}).md5 == expected
    assert folder_digests({"a/b": two, "a0": one}).md5 == expected
