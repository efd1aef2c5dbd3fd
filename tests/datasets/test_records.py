"""Lists of records: files, and data sets of the hub, its cache and folders laid out like one."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st
from kedro.io import DatasetError

from datasets import Dataset
from seuf.datasets import records
from seuf.datasets.records import RecordsDataset, hub_rows
from seuf.inputs import InputError
from tests.local_hub import COMMIT, Hub, cached, running_hub

ROWS = [{"text": "Ada ate a crêpe.", "n": 1}, {"text": "Zürich\nis wet", "n": 2}]


def written(folder: Path, *lines: str) -> str:
    """Return the path of a file with these lines."""
    path = folder / "records.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def refusal(data_set: RecordsDataset) -> str:
    """Return the message that the user sees: that of the cause of Kedro's own error."""
    with pytest.raises(DatasetError) as refused:
        data_set.load()
    assert isinstance(refused.value.__cause__, InputError)
    return str(refused.value.__cause__)


def test_records_come_back_as_they_were_saved(tmp_path):
    data_set = RecordsDataset(str(tmp_path / "new/records.jsonl"), fields=["text"])

    data_set.save(ROWS)

    assert data_set.load() == ROWS
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["records.jsonl"]


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.booleans()), min_size=1))
def test_any_text_survives(tmp_path_factory, rows):
    data_set = RecordsDataset(str(tmp_path_factory.mktemp("any") / "records.jsonl"))

    data_set.save(rows)

    assert data_set.load() == rows


def test_a_line_ends_at_a_newline_only(tmp_path):
    """JSON leaves U+2028 and U+0085 in a text as they are."""
    path = written(tmp_path, '{"text": "one\u2028line\u0085here"}\r', '{"text": "two"}')

    assert RecordsDataset(path).load() == [{"text": "one\u2028line\u0085here"}, {"text": "two"}]


def test_no_record_at_all_is_a_file_that_dvc_does_not_warn_of(tmp_path):
    data_set = RecordsDataset(str(tmp_path / "none.jsonl"), may_be_empty=True)

    data_set.save([])

    assert data_set.load() == []
    assert (tmp_path / "none.jsonl").read_bytes() == b"\n"


def test_empty_lines_are_passed_over(tmp_path):
    path = written(tmp_path, '{"a": 1}', "", '{"a": 2}', "")

    assert RecordsDataset(path).load() == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "{path} is empty: it needs one JSON object a line."),
        (["", " "], "{path} is empty: it needs one JSON object a line."),
        (
            ['{"text": "a"}', "", "{text: 1}"],
            "{path}, line 3: not JSON (Expecting property name enclosed in double quotes: "
            "line 1 column 2 (char 1)).",
        ),
        (['{"text": "a"}', "[1, 2]"], "{path}, line 2: a JSON object is needed, not [1, 2]."),
        (
            ['{"text": "a", "id": 1}', '{"test": "b", "id": 2}'],
            "{path}, line 2: missing 'text'; it has 'test', 'id'.",
        ),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path, lines, message):
    path = written(tmp_path, *lines)

    assert refusal(RecordsDataset(path, fields=["text"])) == message.format(path=path)


@pytest.mark.parametrize(
    ("lines", "where"),
    [
        (['{"text": "a"}', '{"text": "b", "text": "c"}'], "line 2: 'text'"),
        (['[{"text": "a"},', '{"text": "b", "text": "b"}]'], "row 2: 'text'"),
        (['{"text": "a", "more": [{"of": 1, "by": 2, "of": 3}]}'], "line 1: 'of'"),
    ],
)
def test_a_key_that_stands_twice_is_refused_as_one_text_would_be_lost(tmp_path, lines, where):
    path = written(tmp_path, *lines)

    message = refusal(RecordsDataset(path, fields=["text"]))

    assert message == f"{path}, {where} stands twice in one JSON object."


def test_equal_keys_of_two_objects_are_no_repetition(tmp_path):
    path = written(tmp_path, '[{"text": "a", "more": {"text": "b"}}, {"text": "a"}]')

    assert len(RecordsDataset(path, fields=["text"]).load()) == 2


def test_a_long_array_is_read_in_a_time_that_grows_with_its_length(tmp_path, monkeypatch):
    """Each row looked for an escape in the whole file: 4,000 times 84 ms, five minutes."""
    looks = []

    class Text(str):
        def __contains__(self, part):
            looks.append(part)
            return super().__contains__(part)

    path = written(tmp_path, json.dumps([{"text": "x"}] * 4000))
    monkeypatch.setattr(records, "_text", lambda path: Text(path.read_text()))

    RecordsDataset(path).load()

    assert looks == ["\\u"]


def test_a_table_without_rows_is_told_what_it_lacks(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text("text,topic\n")

    assert refusal(RecordsDataset(str(path))) == (
        f"{path} is empty: it needs a row below its header."
    )


def test_a_folder_is_no_file(tmp_path):
    assert refusal(RecordsDataset(str(tmp_path))) == f"{tmp_path} is a folder: a file is needed."


def test_a_missing_file_is_named(tmp_path):
    data_set = RecordsDataset(str(tmp_path / "nothing.jsonl"))

    assert not data_set.exists()
    assert refusal(data_set) == f"{tmp_path}/nothing.jsonl does not exist."


def test_all_missing_fields_are_named(tmp_path):
    path = written(tmp_path, '{"id": 1}')

    message = refusal(RecordsDataset(path, fields=["question", "id", "answer"]))

    assert message == f"{path}, line 1: missing 'question', 'answer'; it has 'id'."


def test_a_save_that_fails_leaves_the_old_file(tmp_path):
    data_set = RecordsDataset(str(tmp_path / "records.jsonl"))
    data_set.save(ROWS)

    with pytest.raises(Exception, match="not JSON serializable"):
        data_set.save([{"text": object()}])

    assert data_set.load() == ROWS


def test_kedro_viz_sees_the_first_rows(tmp_path):
    data_set = RecordsDataset(str(tmp_path / "records.jsonl"))
    data_set.save(ROWS)

    assert data_set.preview(nrows=1) == {
        "index": [0],
        "columns": ["text", "n"],
        "data": [["Ada ate a crêpe.", "1"]],
    }


@pytest.fixture
def hub(tmp_path, monkeypatch) -> dict[str, str]:
    """A folder shaped like a data set of the hub: a card that names a configuration's file."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    repository = tmp_path / "repository"
    repository.mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (repository / "forget10.json").write_text(lines, encoding="utf-8")
    card = "---\nconfigs:\n- config_name: forget10\n  data_files: forget10.json\n---\n"
    (repository / "README.md").write_text(card, encoding="utf-8")
    return {
        "repo": str(repository),
        "name": "forget10",
        "split": "train",
        "cache_dir": str(tmp_path / "cache"),
    }


def test_a_hub_data_set_gives_the_same_records(hub):
    data_set = RecordsDataset(hub=hub, fields=["text", "n"])

    assert data_set.exists()
    assert data_set.load() == ROWS


def test_a_field_that_the_hub_lacks_is_named_with_its_row(hub):
    message = refusal(RecordsDataset(hub=hub, fields=["answer"]))

    assert message == f"{hub['repo']}, row 1: missing 'answer'; it has 'text', 'n'."


def test_the_hub_goes_before_a_file_and_is_read_only(hub, tmp_path):
    data_set = RecordsDataset(str(tmp_path / "records.jsonl"), hub=hub)

    assert data_set.load() == ROWS
    with pytest.raises(Exception, match="on the hub: it is read-only"):
        data_set.save(ROWS)


NAME = "org/facts"
HUB_ROWS = [{"text": "Ada ate a crêpe.", "n": number} for number in range(3)]
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
        ("raw/forget-00000-of-00002", HUB_ROWS[:2]),
        ("raw/forget-00001-of-00002", HUB_ROWS[2:]),
        ("raw/retain-00000-of-00001", OTHER),
        ("asked/test-00000-of-00001", OTHER),
    ):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_list(rows).to_parquet(place / f"{name}.parquet")
    (place / "README.md").write_text(CARD, encoding="utf-8")
    return place


@pytest.fixture
def remote(tmp_path, monkeypatch, folder) -> Iterator[Hub]:
    """A hub that has the repository."""
    with running_hub(tmp_path / "cache", monkeypatch) as running:
        running.folders["datasets", NAME] = folder
        yield running


def forget(path: object = NAME, **changes: Any) -> list[dict[str, Any]]:
    """Return the rows of a split."""
    asked = {"repo": str(path), "name": "raw", "split": "forget", "revision": "v1", **changes}
    return hub_rows(asked)


def hub_refusal(path: object = NAME, **changes: Any) -> str:
    """Return the one line with which a data set is refused."""
    with pytest.raises(InputError) as refused:
        forget(path, **changes)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_hub_gives_the_rows_and_only_their_configuration_is_fetched(remote):
    assert forget() == HUB_ROWS
    assert sorted(remote.served) == [
        "README.md",
        "raw/forget-00000-of-00002.parquet",
        "raw/forget-00001-of-00002.parquet",
        "raw/retain-00000-of-00001.parquet",
    ]


def test_what_was_fetched_once_needs_no_network(remote, monkeypatch):
    forget()
    remote.served.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert forget(split="retain") == OTHER
    assert remote.served == []


def test_a_folder_laid_out_like_the_hub_gives_the_same_rows(folder):
    assert forget(folder) == HUB_ROWS
    assert forget(folder, name="asked", split="train") == OTHER


@pytest.mark.parametrize("revision", [None, COMMIT])
def test_what_lies_in_the_hubs_cache_is_found_by_id(tmp_path, monkeypatch, folder, revision):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cached(folder, tmp_path / "cache", NAME, "datasets")

    assert forget(revision=revision) == HUB_ROWS


def test_a_revision_that_is_left_out_is_warned_of_with_the_commit(remote, caplog):
    caplog.set_level(logging.WARNING, "seuf")

    assert forget(revision=None) == HUB_ROWS
    assert [record.message for record in caplog.records if record.name.startswith("seuf")] == [
        "The data set 'org/facts' may change, as its revision is not set. This is commit "
        f"{COMMIT}: set `revision` in the catalog to it."
    ]


def test_of_a_gated_data_set_the_page_is_named(remote):
    remote.gated.add(NAME)

    assert hub_refusal() == (
        f"The data set 'org/facts' is gated: ask for access at {remote.url}/datasets/org/facts, "
        "then log in with `hf auth login`, or set HF_TOKEN."
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
def test_what_is_not_there_is_one_line(remote, changes, line):
    assert hub_refusal(**changes).startswith(line)


def test_without_a_network_the_command_is_told_that_fetches(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert hub_refusal() == (
        f"The data set 'org/facts' at v1 is not in the cache, or not all of it ({tmp_path}), and "
        "HF_HUB_OFFLINE is set: run `hf download org/facts --repo-type dataset --revision v1` "
        "where there is a network, or give a folder."
    )


def test_a_folder_that_is_not_there_is_not_asked_of_the_hub(tmp_path):
    path = tmp_path / "facts"

    assert hub_refusal(path) == f"There is no data set at {str(path)!r}: the folder does not exist."


def test_a_damaged_file_is_one_line(folder):
    for path in folder.glob("raw/*"):
        path.write_bytes(b"PAR1 and no more")

    assert hub_refusal(folder).startswith(f"Cannot load the data set {str(folder)!r}: ")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (
            '{"text": "a"}\n'.encode("utf-16"),
            " is UTF-16, not UTF-8 text: it needs one JSON object a line",
        ),
        (
            gzip.compress(b'{"text": "a"}\n', mtime=0),
            " is compressed by gzip, not UTF-8 text: it needs one JSON object a line",
        ),
        (b'{"text": "a"}\n{"text": "caf\xe9"}\n', ", line 2: not UTF-8 (byte 0xe9): save it"),
        (b"[" * 100_000, ", line 1: not JSON (maximum recursion depth"),
        (b'{"text": ' + b"9" * 5000 + b"}", ", line 1: not JSON (Exceeds the"),
    ],
)
def test_what_is_no_text_or_no_json_is_one_line_with_its_place(tmp_path, data, reason):
    path = tmp_path / "texts.jsonl"
    path.write_bytes(data)

    with pytest.raises(DatasetError) as error:
        RecordsDataset(str(path)).load()

    assert str(error.value.__cause__).startswith(f"{path}{reason}")
    assert "\n" not in str(error.value.__cause__)


def test_a_table_in_another_encoding_is_not_asked_for_json(tmp_path):
    """Excel saves "Unicode Text" as UTF-16."""
    path = tmp_path / "texts.tsv"
    path.write_text("text\na\n", encoding="utf-16")

    with pytest.raises(DatasetError) as error:
        RecordsDataset(str(path)).load()

    expected = f"{path} is UTF-16, not UTF-8 text: it needs a row below its header."
    assert str(error.value.__cause__) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("marked.jsonl", '\ufeff{"text": "a, b"}\n{"text": "c\u2028d"}\n'),
        ("array.json", '\n[\n  {"text": "a, b"},\n  {"text": "c\u2028d"}\n]\n'),
        ("table.csv", '\ufefftext\r\n"a, b"\r\nc\u2028d\r\n'),
        ("table.TSV", "text\na, b\nc\u2028d\n"),
    ],
)
def test_an_array_a_table_and_the_mark_of_utf_8_are_read(tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode())

    rows = RecordsDataset(str(tmp_path / name), fields=["text"]).load()

    assert rows == [{"text": "a, b"}, {"text": "c\u2028d"}]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.json", '[{"text": "a"},\n{text: 1}]', "line 2: not JSON (Expecting property name"),
        ("a.json", '[{"text": "a"}, 7]', "row 2: a JSON object is needed, not 7."),
        ("a.json", '[{"test": "a"}]', "row 1: missing 'text'; it has 'test'."),
        ("a.csv", "text,text\na,b\n", "line 1: 'text' names columns 1 and 2."),
        ("a.csv", "text,,\na,b,c\n", "line 1: there is no name over columns 2 and 3."),
        ("a.csv", "test\na\n", "row 1: missing 'text'; it has 'test'."),
        ("a.csv", "text,topic\na,b\nc\n", "row 2: it has 1 fields, the first row names 2."),
        ("a.csv", 'text\n"a\n', "line 2: not CSV (unexpected end of data)."),
        ("a.jsonl", '{"text": "a"}\n{"text": "\\ud83d"}\n', "line 2: half of a surrogate pair"),
        ("a.json", '[{"text": ["\\udc00"]}]', "row 1: half of a surrogate pair"),
    ],
)
def test_a_row_that_cannot_be_used_is_one_line_with_its_place(tmp_path, name, text, reason):
    (tmp_path / name).write_text(text, encoding="utf-8")

    message = refusal(RecordsDataset(str(tmp_path / name), fields=["text"]))

    assert message.startswith(f"{tmp_path / name}, {reason}")
    assert "\n" not in message


def test_an_escaped_pair_is_a_character(tmp_path):
    path = written(tmp_path, '{"text": "\\ud83d\\ude00"}')

    assert RecordsDataset(path).load() == [{"text": "\U0001f600"}]
