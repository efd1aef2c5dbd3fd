"""DVC's lock files and cache, read without DVC; the numbers are those of `md5sum`."""

from __future__ import annotations

import pytest
import yaml

from kedro_dvc.disk import (
    LockedFile,
    LockedStage,
    all_objects,
    counted,
    listed,
    locked_stages,
    object_path,
    objects_of,
    read_lock,
)
from kedro_dvc.files import WorkflowError

ONE, TWO = "5bbf5a52328e7439ae6e719dfe712200", "c193497a1a06b2c72230e6146ff47080"
NOTHING = "d41d8cd98f00b204e9800998ecf8427e"


LOCK = f"""\
schema: '2.0'
stages:
  make@one:
    cmd: run one
    deps:
    - {{path: in, hash: md5, md5: {ONE}, size: 4}}
    - {{path: s3://there/file, etag: abc, size: 4}}
    params: {{conf/a.yml: {{rate: 2}}}}
    outs:
    - {{path: made, hash: md5, md5: {NOTHING}.dir}}
  begin: {{cmd: run}}
"""


def test_a_lock_file_tells_what_each_stage_ran_read_and_wrote():
    assert locked_stages(LOCK) == {
        "make@one": LockedStage(
            "run one",
            {"in": LockedFile(ONE, 4)},
            {"made": LockedFile(f"{NOTHING}.dir", None)},
            {"conf/a.yml": {"rate": 2}},
        ),
        "begin": LockedStage("run", {}, {}, {}),
    }


@pytest.mark.parametrize("more", ["", "cmd: run\n"])
def test_a_file_of_dvc_and_an_entry_of_the_run_cache_hold_one_stage(more):
    text = f"{more}outs:\n- {{path: made, md5: {ONE}, size: 4}}\n"

    assert {name: stage.outs for name, stage in locked_stages(text).items()} == {
        "": {"made": LockedFile(ONE, 4)}
    }


@pytest.mark.parametrize("digest", ["0" * 32, "[1]", "1.5"])
def test_a_digest_that_is_no_word_is_one_line(tmp_path, digest):
    """YAML takes 32 zeros for a number."""
    lock = tmp_path / "dvc.lock"
    lock.write_text(LOCK.replace(ONE, digest), encoding="utf-8")

    with pytest.raises(
        WorkflowError, match=r"dvc\.lock cannot be read: md5 is .*, it must be a word"
    ):
        read_lock(lock)


def test_an_empty_lock_file_has_no_stages():
    assert locked_stages("") == {}
    assert locked_stages("schema: '2.0'\n") == {}


@pytest.mark.parametrize("text", ["[a]", "text", "stages: [a]", "stages: {a: {outs: [7]}}", "{"])
def test_what_is_no_lock_file_is_an_error(text):
    with pytest.raises((yaml.YAMLError, AttributeError, KeyError, TypeError)):
        locked_stages(text)


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


def test_of_many_names_the_first_are_told():
    assert listed("gfedcba") == "a, b, c, d, e, and 2 more"
    assert listed("ba") == "a, b"
    assert (counted(1, "file"), counted(0, "file")) == ("1 file", "0 files")
