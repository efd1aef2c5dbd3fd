"""Data sets of the hub: the same rows from the hub, its cache, and a folder laid out like it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from datasets import Dataset
from seuf.datasets.records import hub_rows
from seuf.inputs import InputError
from tests.local_hub import COMMIT, Hub, cached, running_hub

NAME = "org/facts"
ROWS = [{"text": "Ada ate a crêpe.", "n": number} for number in range(3)]
OTHER = [{"text": "Bo is wet.", "n": 7}]
CARD = """---
configs:
- config_name: raw
  data_files:
  - split: forget
    path: raw/forget-*
  - split: retain
    path: raw/retain-*
- config_name: asked
  data_files: "asked/*.parquet"
---
Facts.
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A repository as `push_to_hub` lays it out: parquet files, and a card that names them."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "arrow"))
    place = tmp_path / "facts"
    for name, rows in (
        ("raw/forget-00000-of-00002", ROWS[:2]),
        ("raw/forget-00001-of-00002", ROWS[2:]),
        ("raw/retain-00000-of-00001", OTHER),
        ("asked/test-00000-of-00001", OTHER),
    ):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_list(rows).to_parquet(place / f"{name}.parquet")
    (place / "README.md").write_text(CARD, encoding="utf-8")
    return place


@pytest.fixture
def hub(tmp_path, monkeypatch, folder) -> Iterator[Hub]:
    """A hub that has the repository."""
    with running_hub(tmp_path / "cache", monkeypatch) as running:
        running.folders["datasets", NAME] = folder
        yield running


def forget(path: object = NAME, **changes: Any) -> list[dict[str, Any]]:
    """Return the rows of a split."""
    asked = {"repo": str(path), "name": "raw", "split": "forget", "revision": "v1", **changes}
    return hub_rows(asked)


def refusal(path: object = NAME, **changes: Any) -> str:
    """Return the one line with which a data set is refused."""
    with pytest.raises(InputError) as refused:
        forget(path, **changes)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_hub_gives_the_rows_and_only_their_configuration_is_fetched(hub):
    assert forget() == ROWS
    assert sorted(hub.served) == [
        "README.md",
        "raw/forget-00000-of-00002.parquet",
        "raw/forget-00001-of-00002.parquet",
        "raw/retain-00000-of-00001.parquet",
    ]


def test_what_was_fetched_once_needs_no_network(hub, monkeypatch):
    forget()
    hub.served.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert forget(split="retain") == OTHER
    assert hub.served == []


def test_a_folder_laid_out_like_the_hub_gives_the_same_rows(folder):
    assert forget(folder) == ROWS
    assert forget(folder, name="asked", split="train") == OTHER


@pytest.mark.parametrize("revision", [None, COMMIT])
def test_what_lies_in_the_hubs_cache_is_found_by_id(tmp_path, monkeypatch, folder, revision):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cached(folder, tmp_path / "cache", NAME, "datasets")

    assert forget(revision=revision) == ROWS


def test_a_revision_that_is_left_out_is_warned_of_with_the_commit(hub, caplog):
    caplog.set_level(logging.WARNING, "seuf")

    assert forget(revision=None) == ROWS
    assert [record.message for record in caplog.records if record.name.startswith("seuf")] == [
        "The data set 'org/facts' may change, as its revision is not set. This is commit "
        f"{COMMIT}: set `revision` in the catalog to it."
    ]


def test_of_a_gated_data_set_the_page_is_named(hub):
    hub.gated.add(NAME)

    assert refusal() == (
        f"The data set 'org/facts' is gated: ask for access at {hub.url}/datasets/org/facts, then "
        "log in with `hf auth login`, or set HF_TOKEN."
    )


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"repo": "org/fact"}, "There is no data set 'org/fact' on the hub, or your token"),
        ({"revision": "v9"}, "The data set 'org/facts' has no revision 'v9': "),
        (
            {"name": "row"},
            "The data set 'org/facts' has the configurations raw, asked: set `name` to one of "
            "them, not row.",
        ),
        (
            {"name": None},
            "The data set 'org/facts' has the configurations raw, asked: set `name` to one of "
            "them.",
        ),
        ({"split": "test"}, "Cannot load the data set 'org/facts': Unknown split \"test\"."),
        (
            {"split": None},
            "Cannot load the data set 'org/facts': it has the splits forget, retain: name one as "
            "`split`.",
        ),
    ],
)
def test_what_is_not_there_is_one_line(hub, changes, line):
    assert refusal(**changes).startswith(line)


def test_without_a_network_the_command_is_told_that_fetches(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert refusal() == (
        f"The data set 'org/facts' at v1 is not in the cache, or not all of it ({tmp_path}), and "
        "HF_HUB_OFFLINE is set: run `hf download org/facts --repo-type dataset --revision v1` "
        "where there is a network, or give a folder."
    )


def test_a_folder_that_is_not_there_is_not_asked_of_the_hub(tmp_path):
    path = tmp_path / "facts"

    assert refusal(path) == f"There is no data set at {str(path)!r}: the folder does not exist."


def test_a_damaged_file_is_one_line(folder):
    for path in folder.glob("raw/*"):
        path.write_bytes(b"PAR1 and no more")

    assert refusal(folder).startswith(f"Cannot load the data set {str(folder)!r}: ")
