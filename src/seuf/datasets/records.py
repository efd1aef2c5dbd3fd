"""Lists of records: JSON-lines files and hub data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

from seuf.errors import InputError

Record = dict[str, Any]


class RecordsDataset(AbstractDataset[list[Record], list[Record]]):
    """A JSON-lines file: one JSON object a line.

    Args:
        filepath: The file.
        fields: Fields that every record must have.
        hub: Read from the Hugging Face hub, or a folder laid out like one of its data sets, instead
            of a file: `repo` (an id or a folder) and the arguments of `datasets.load_dataset`
            (`name`, `split`, `revision`). Read-only.
        metadata: For kedro-viz and DVC.
    """

    def __init__(
        self,
        filepath: str | None = None,
        fields: list[str] | None = None,
        hub: dict[str, str] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._filepath = Path(filepath) if filepath and not hub else None
        self._fields, self._hub, self.metadata = fields or [], hub, metadata

    def load(self) -> list[Record]:
        """Return the records.

        Raises:
            InputError: If the file is missing or empty, a line is not a JSON object, or a field is
                missing; with the line's number.
        """
        if self._hub:
            return _from_hub(self._hub, self._fields)
        return _from_file(self._path(), self._fields)

    def save(self, data: list[Record]) -> None:
        """Write one record a line; whole or not at all."""
        path = self._path()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.tmp")
        lines = (json.dumps(record, ensure_ascii=False) for record in data)
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        temporary.replace(path)

    def preview(self, nrows: int = 5) -> dict[str, Any]:
        """Return the first records for kedro-viz."""
        rows = self.load()[:nrows]
        columns = list(rows[0]) if rows else []
        data = [[str(row.get(column)) for column in columns] for row in rows]
        return {"index": list(range(len(rows))), "columns": columns, "data": data}

    def _path(self) -> Path:
        if self._filepath is None:
            raise InputError("This data set is on the hub: it is read-only.")
        return self._filepath

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "hub": self._hub}

    def _exists(self) -> bool:
        return self._filepath is None or self._filepath.is_file()


def _from_file(path: Path, fields: list[str]) -> list[Record]:
    if not path.is_file():
        raise InputError(f"{path} does not exist.")
    # not splitlines: it also breaks at U+2028 and the like, which JSON allows inside a text
    lines = enumerate(path.read_text(encoding="utf-8").split("\n"), 1)
    records = [_record(path, number, line, fields) for number, line in lines if line.strip()]
    if not records:
        raise InputError(f"{path} is empty: it needs one JSON object a line.")
    return records


def _record(path: Path, number: int, line: str, fields: list[str]) -> Record:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {number}: not JSON ({error}).") from error
    if not isinstance(record, dict):
        raise InputError(f"{path}, line {number}: a JSON object is needed, not {line[:40]}.")
    return _checked(record, fields, f"{path}, line {number}")


def _from_hub(arguments: dict[str, str], fields: list[str]) -> list[Record]:
    from seuf.datasets.hub import hub_rows

    return [
        _checked(row, fields, f"{arguments['repo']}, row {number}")
        for number, row in enumerate(hub_rows(arguments), 1)
    ]


def _checked(record: Record, fields: list[str], where: str) -> Record:
    missing = [field for field in fields if field not in record]
    if missing:
        lacks, has = (", ".join(map(repr, names)) for names in (missing, record))
        raise InputError(f"{where}: missing {lacks}; it has {has}.")
    return record
