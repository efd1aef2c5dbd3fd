"""Lists of records: JSON lines, JSON arrays, CSV, and data sets of the Hugging Face hub.

A folder laid out like a data set of the hub is read in the same way.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

from seuf.inputs import InputError
from seuf.moe.hub import HubReference, clear_errors, commit_of, fetch_files, revision_warning

Record = dict[str, Any]

CARD = "README.md"
SEPARATORS = {".csv": ",", ".tsv": "\t"}
NOT_UTF8 = {
    b"\x1f\x8b": "compressed by gzip",
    b"PK\x03\x04": "a zip archive",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
logger = logging.getLogger(__name__)


class RecordsDataset(AbstractDataset[list[Record], list[Record]]):
    """A file of JSON lines. A JSON array and CSV are read too, but not written.

    Args:
        filepath: The file. One that ends in `.csv` or `.tsv` names its fields in the first row;
            all its values are texts.
        fields: Fields that every record must have.
        hub: Instead of a file, a data set of the Hugging Face hub or a folder laid out like one:
            `repo` (an id or a folder) and arguments of `datasets.load_dataset` (`name`, `split`,
            `revision`). Read-only.
        may_be_empty: Whether a file may have no record.
        metadata: For kedro-viz and DVC.
    """

    def __init__(
        self,
        filepath: str | None = None,
        fields: list[str] | None = None,
        hub: dict[str, str] | None = None,
        may_be_empty: bool = False,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._filepath = Path(filepath) if filepath and not hub else None
        self._fields, self._hub, self.metadata = fields or [], hub, metadata
        self._may_be_empty = may_be_empty

    def load(self) -> list[Record]:
        """Return the records.

        Raises:
            InputError: If the file is missing or empty, a line is not a JSON object, a field is
                missing or stands twice, or a text has half a surrogate pair; with the number of the
                line or row.
        """
        records = []
        for where, record in _hub_rows(self._hub) if self._hub else _rows(self._path()):
            missing = [field for field in self._fields if field not in record]
            if missing:
                lacks, has = (", ".join(map(repr, names)) for names in (missing, record))
                raise InputError(f"{where}: missing {lacks}; it has {has}.")
            records.append(record)
        if not records and not self._may_be_empty and not self._hub:
            raise InputError(f"{self._filepath} is empty: {_needs(self._path())}.")
        return records

    def save(self, data: list[Record]) -> None:
        """Write one record a line, atomically."""
        path = self._path()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.tmp")
        lines = (json.dumps(record, ensure_ascii=False) for record in data)
        # an empty line if there is no record: DVC warns of an empty file
        temporary.write_text("\n".join([*lines, ""]) or "\n", encoding="utf-8")
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


def _rows(path: Path) -> Iterator[tuple[str, Record]]:
    """Yield each record of a file after its place, such as `texts.jsonl, line 3`."""
    text = _text(path)
    if separator := SEPARATORS.get(path.suffix.lower()):
        yield from _table_rows(path, text, separator)
        return
    is_array = text.lstrip().startswith("[")
    # not splitlines, which also breaks at U+2028 and the like: JSON allows these inside a text
    parts = [text] if is_array else text.split("\n")
    repeated: dict[int, tuple[str, Record]] = {}  # by id of an object, a key it repeats

    def to_record(pairs: list[tuple[str, Any]]) -> Record:
        record = dict(pairs)
        if len(record) < len(pairs):
            keys = [key for key, _ in pairs]
            repeated[id(record)] = next(key for key in record if keys.count(key) > 1), record
        return record

    decode = json.JSONDecoder(object_pairs_hook=to_record).decode
    for number, part in enumerate(parts, 1):
        if not part.strip():
            continue
        try:
            read = decode(part)
        except (ValueError, RecursionError) as error:  # also of a number of thousands of digits
            line = getattr(error, "lineno", 1) if is_array else number
            reason = str(error).partition(";")[0]
            raise InputError(f"{path}, line {line}: not JSON ({reason}).") from error
        has_escapes = "\\u" in part  # UTF-8 itself cannot hold half a surrogate pair
        for row, record in enumerate(read if is_array else [read], 1):
            where = f"{path}, row {row}" if is_array else f"{path}, line {number}"
            if not isinstance(record, dict):
                shown = json.dumps(record)[:40]
                raise InputError(f"{where}: a JSON object is needed, not {shown}.")
            for inner in _objects(record) if repeated else ():
                if id(inner) in repeated:
                    key, _ = repeated[id(inner)]
                    raise InputError(f"{where}: {key!r} stands twice in one JSON object.")
            if has_escapes and not _is_unicode(record):  # it could not be saved
                raise InputError(
                    f"{where}: half of a surrogate pair (\\ud800 to \\udfff) is no character."
                )
            yield where, record


def _objects(value: Any) -> Iterator[Record]:
    """Yield the JSON objects in a value, itself first."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _objects(item)


def _is_unicode(record: Record) -> bool:
    """Return whether the record can be encoded as UTF-8."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _table_rows(path: Path, text: str, separator: str) -> Iterator[tuple[str, Record]]:
    """Yield the rows of CSV or TSV text as records, by the names in its first row."""
    csv.field_size_limit(2**31 - 1)  # a cell may hold a whole document
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        names = next(rows, [])
        if repeated := [name for name in names if names.count(name) > 1]:
            columns = " and ".join(str(n) for n, one in enumerate(names, 1) if one == repeated[0])
            reason = f"{repeated[0]!r} names" if repeated[0] else "there is no name over"
            raise InputError(f"{path}, line 1: {reason} columns {columns}.")
        for number, row in enumerate(filter(None, rows), 1):
            if len(row) != len(names):
                raise InputError(
                    f"{path}, row {number}: it has {len(row)} fields, the first row names "
                    f"{len(names)}."
                )
            yield f"{path}, row {number}", dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}, line {rows.line_num}: not CSV ({error}).") from error


def _needs(path: Path) -> str:
    """Return what a file needs that has no record or is no text."""
    if path.suffix.lower() in SEPARATORS:
        return "it needs a row below its header"
    return "it needs one JSON object a line"


def _text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        InputError: If the file is missing, unreadable or not UTF-8; with the line.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: a file is needed.")
    if not path.is_file():
        raise InputError(f"{path} does not exist.") from FileNotFoundError(2, "", str(path))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    for beginning, kind in NOT_UTF8.items():
        if data.startswith(beginning):
            raise InputError(f"{path} is {kind}, not UTF-8 text: {_needs(path)}.")
    try:
        return data.decode("utf-8-sig")  # drops the byte-order mark that some editors write
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: not UTF-8 (byte {data[error.start]:#04x}): save it as UTF-8."
        ) from error


def _hub_rows(arguments: Mapping[str, Any]) -> Iterator[tuple[str, Record]]:
    for number, row in enumerate(hub_rows(arguments), 1):
        yield f"{arguments['repo']}, row {number}", row


def hub_rows(arguments: Mapping[str, Any]) -> list[Record]:
    """Return the rows of one split of one configuration.

    The files are fetched first, only the configuration's where the card names them; then they are
    read from their folder without network.

    Args:
        arguments: Those of `datasets.load_dataset`, with `repo` (a hub id or a folder) in the place
            of `path`, which Kedro would make absolute.

    Raises:
        InputError: If there is no such data set, or it cannot be fetched or read.
    """
    from datasets import disable_progress_bars, load_dataset

    options = dict(arguments)
    repo, revision, token = (options.pop(key, None) for key in ("repo", "revision", "token"))
    reference = HubReference(repo, revision, "dataset", token)
    folder = fetch_files(reference, [CARD])
    commit = commit_of(reference, folder)
    if warning := revision_warning(reference, commit, "`revision` in the catalog"):
        logger.warning(warning)
    fetch_files(replace(reference, revision=commit), _needed_files(reference, folder, options))
    if not sys.stderr.isatty():  # keep progress bars out of logs
        disable_progress_bars()
    with clear_errors(reference):
        rows = load_dataset(str(folder), **options)
        if isinstance(rows, Mapping):
            raise ValueError(f"it has the splits {', '.join(rows)}: name one as `split`.")
        return [dict(row) for row in rows]


def _needed_files(
    reference: HubReference, folder: Path, options: Mapping[str, Any]
) -> list[str] | None:
    """Return patterns of the files to fetch; None for all."""
    if "data_dir" in options:
        return None
    named = options.get("data_files") or _files_of_card(reference, folder, options.get("name"))
    patterns = list(_patterns(named))
    # in a card `**/` also matches no folder; when fetching it does not
    return [CARD, *patterns, *(p.replace("**/", "") for p in patterns)] if patterns else None


def _files_of_card(reference: HubReference, folder: Path, name: str | None) -> Any:
    """Return the card's `data_files` of a configuration, by default of the default one."""
    from huggingface_hub import DatasetCard

    if not (folder / CARD).is_file():
        return None
    configurations = DatasetCard.load(folder / CARD).data.to_dict().get("configs") or []
    known = {config.get("config_name", "default"): config for config in configurations}
    defaults = [key for key, config in known.items() if config.get("default") or len(known) == 1]
    chosen = name or next(iter(defaults), "default")
    if known and chosen not in known:
        raise InputError(
            f"The {reference.name} has the configurations {', '.join(known)}: set `name` to one of "
            f"them{f', not {name}' if name else ''}."
        )
    return known.get(chosen, {}).get("data_files")


def _patterns(named: Any) -> Iterator[str]:
    """Yield every pattern in `data_files`: a path, a list of paths, or paths by split."""
    if isinstance(named, str):
        yield named
    elif isinstance(named, Mapping):
        yield from _patterns(named["path"] if "path" in named else list(named.values()))
    else:
        for item in named or []:
            yield from _patterns(item)
