"""Lists of records, and what is said of a line that is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kedro.io import DatasetError

from seuf.datasets.records import RecordsDataset
from seuf.inputs import InputError

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
