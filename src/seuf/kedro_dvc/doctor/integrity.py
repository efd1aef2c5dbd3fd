"""MD5 of files and folders as DVC has them, from the bytes alone: DVC's memory is not asked."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

CHUNK = 1 << 20
FOLDER = ".dir"  # ends the MD5 of a folder, and the name of its listing in the cache
UNREADABLE = "no MD5"


def md5s(files: Iterable[Path]) -> dict[Path, str]:
    """Return the MD5 of each file that is there, `no MD5` for those that cannot be read.

    Files are read in threads, and names that are links to one file only once.
    """
    names, size = _by_file(files)
    with (
        tqdm(
            total=size, desc="reading", unit="B", unit_scale=True, leave=False, disable=None
        ) as bar,
        ThreadPoolExecutor() as pool,
    ):
        found = pool.map(lambda same: _md5(same[0], bar), names)
        return {path: md5 for same, md5 in zip(names, found, strict=True) if md5 for path in same}


def folder_md5(files: Mapping[str, str]) -> str:
    """Return the MD5 of a folder.

    Args:
        files: The MD5 of each file in it, by its path from there.
    """
    listing = [{"md5": md5, "relpath": name} for name, md5 in sorted(files.items())]
    text = json.dumps(listing, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + FOLDER


def object_path(cache: Path, md5: str) -> Path:
    """Return where DVC's cache has an object."""
    return cache / md5[:2] / md5[2:]


def objects_of(cache: Path, md5: str) -> Iterator[str]:
    """Yield the object of a file; of a folder its listing and those of all files in it."""
    yield md5
    if md5.endswith(FOLDER):
        try:
            yield from [entry["md5"] for entry in json.loads(object_path(cache, md5).read_bytes())]
        except (OSError, ValueError, TypeError, KeyError):  # it is missing or damaged
            return


def all_objects(cache: Path) -> dict[str, Path]:
    """Return the file of every object in DVC's cache, by its MD5."""
    found = {f"{path.parent.name}{path.name}": path for path in cache.glob("??/*")}
    return {md5: path for md5, path in found.items() if len(md5.removesuffix(FOLDER)) == 32}


def _by_file(paths: Iterable[Path]) -> tuple[list[list[Path]], int]:
    """Return the names of each file, and the size of all files."""
    names: dict[tuple[int, int], list[Path]] = defaultdict(list)
    sizes: dict[tuple[int, int], int] = {}
    for path in dict.fromkeys(paths):
        if (facts := _facts(path)) is not None:
            names[facts.st_dev, facts.st_ino].append(path)
            sizes[facts.st_dev, facts.st_ino] = facts.st_size
    return list(names.values()), sum(sizes.values())


def _facts(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _md5(path: Path, bar: tqdm[Any]) -> str | None:
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                bar.update(len(chunk))
    except FileNotFoundError:  # it has gone since
        return None
    except OSError:
        return UNREADABLE
    return digest.hexdigest()
