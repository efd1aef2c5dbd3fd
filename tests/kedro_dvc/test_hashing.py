"""MD5 as DVC has it and SHA-256 as `sha256sum` has it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dvc_data.hashfile.build import build
from dvc_data.hashfile.db.local import LocalHashFileDB
from dvc_objects.fs.local import localfs

from kedro_dvc.hashing import CHUNK, digests, sha256s


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
