"""MD5 as DVC has them; the numbers are those of `md5sum`."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from kedro_dvc import hashing as integrity
from kedro_dvc.hashing import INTEGRITY_CHUNK as CHUNK
from kedro_dvc.hashing import UNREADABLE, all_objects, folder_md5, md5s, object_path, objects_of
from tests.kedro_dvc.doctor.conftest import ONE, TWO

NOTHING = "d41d8cd98f00b204e9800998ecf8427e"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    for name, text in {"one": "one\n", "two": "two\n", "empty": ""}.items():
        (tmp_path / name).write_text(text)
    return [tmp_path / "one", tmp_path / "two", tmp_path / "empty"]


def test_files_have_the_md5_of_md5sum(files):
    assert md5s(files) == dict(zip(files, [ONE, TWO, NOTHING], strict=True))


def test_a_file_longer_than_what_is_read_at_once(tmp_path):
    content = bytes(range(256)) * (CHUNK // 100)
    (tmp_path / "long").write_bytes(content)

    assert md5s([tmp_path / "long"]) == {tmp_path / "long": hashlib.md5(content).hexdigest()}


def test_a_file_of_two_names_is_read_once(files, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(integrity, "_md5", lambda path, bar: read.append(path) or ONE)
    (tmp_path / "hard").hardlink_to(files[0])
    (tmp_path / "soft").symlink_to(files[0])

    found = md5s([files[0], tmp_path / "hard", tmp_path / "soft", files[0]])

    assert found == dict.fromkeys([files[0], tmp_path / "hard", tmp_path / "soft"], ONE)
    assert len(read) == 1


def test_what_is_not_there_has_none_and_what_cannot_be_read_says_so(tmp_path):
    assert md5s([tmp_path / "gone", tmp_path]) == {tmp_path: UNREADABLE}


def test_the_md5_of_a_folder_is_that_of_its_listing():
    """By `printf '[{"md5": "c1...", "relpath": "x"}]' | md5sum`; the same is in DVC's lock."""
    assert folder_md5({"x": TWO}) == "b62694f50ab7d312b198d3af525e57aa.dir"


def test_a_listing_is_sorted_by_path():
    listing = f'[{{"md5": "{TWO}", "relpath": "a/b"}}, {{"md5": "{ONE}", "relpath": "a0"}}]'
    expected = hashlib.md5(listing.encode()).hexdigest() + ".dir"

    assert folder_md5({"a0": ONE, "a/b": TWO}) == expected
    assert folder_md5({"a/b": TWO, "a0": ONE}) == expected


@pytest.mark.parametrize(
    ("listing", "files"),
    [
        (f'[{{"md5": "{ONE}", "relpath": "a"}}, {{"md5": "{TWO}", "relpath": "b"}}]', [ONE, TWO]),
        ("[{", []),  # not one of these is a listing
        (f'[{{"md4": "{ONE}"}}]', []),
        ("7", []),
        (None, []),
    ],
)
def test_a_folder_consists_of_its_listing_and_its_files(tmp_path, listing, files):
    folder = f"{NOTHING}.dir"
    if listing is not None:
        object_path(tmp_path, folder).parent.mkdir()
        object_path(tmp_path, folder).write_text(listing)

    assert list(objects_of(tmp_path, folder)) == [folder, *files]
    assert list(objects_of(tmp_path, ONE)) == [ONE]


def test_only_objects_of_the_cache_count(tmp_path):
    for name in (f"5b/{ONE[2:]}", f"c1/{TWO[2:]}.dir", f"c1/{TWO[2:]}.x1y2.tmp", "tmp/other"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    assert all_objects(tmp_path) == {
        ONE: tmp_path / f"5b/{ONE[2:]}",
        f"{TWO}.dir": tmp_path / f"c1/{TWO[2:]}.dir",
    }
