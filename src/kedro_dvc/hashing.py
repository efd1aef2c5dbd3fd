"""MD5 and SHA-256 of files and folders, from one reading of their bytes.

DVC knows files by MD5, which is no evidence: two files can be made that share one. So whatever is
to be proved goes by SHA-256, and the MD5 beside it is the link to dvc.lock.

MD5 of files and folders as DVC has them, from the bytes alone: DVC's memory is not asked.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from kedro_dvc.files import files_of

CHUNK = 1 << 22
FOLDER = ".dir"  # ends the MD5 of a folder in dvc.lock
IGNORED = "__pycache__"


class Digests(NamedTuple):
    """What a file or folder is.

    Attributes:
        md5: As DVC has it; of a folder it ends with `.dir`.
        sha256: Of a file's bytes; of a folder that of its listing, as `sha256sum` prints it.
        size: In bytes.
    """

    md5: str
    sha256: str
    size: int


def digests(paths: Iterable[Path]) -> dict[Path, Digests]:
    """Return the digests of the files and folders that are there; files are read in threads."""
    files = {path: _files(path) for path in dict.fromkeys(paths) if path.exists()}
    every = list(dict.fromkeys(file for held in files.values() for file in held))
    found = dict(zip(every, _read(every), strict=True))
    return {path: _of_path(path, held, found) for path, held in files.items()}


def sha256s(paths: Iterable[Path]) -> dict[Path, str]:
    """Return the SHA-256 of the files and folders that are there."""
    return {path: found.sha256 for path, found in digests(paths).items()}


def _files(path: Path) -> list[Path]:
    return [file for file in files_of(path) if IGNORED not in file.relative_to(path).parts]


def _read(files: list[Path]) -> list[Digests]:
    size = sum(file.stat().st_size for file in files)
    bar = tqdm(total=size, desc="reading", unit="B", unit_scale=True, leave=False, disable=None)
    with bar, ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda file: _of_file(file, bar), files))


def _of_file(path: Path, bar: tqdm[Any]) -> Digests:
    md5, sha256, size = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    buffer = bytearray(min(CHUNK, path.stat().st_size + 1))
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            md5.update(view[:count])
            sha256.update(view[:count])
            bar.update(count)
            size += count
    return Digests(md5.hexdigest(), sha256.hexdigest(), size)


def _of_path(path: Path, files: list[Path], found: Mapping[Path, Digests]) -> Digests:
    if not path.is_dir():
        return found[path]
    held = sorted((file.relative_to(path).as_posix(), found[file]) for file in files)
    entries = [{"md5": one.md5, "relpath": name} for name, one in held]
    listing = json.dumps(entries, sort_keys=True).encode()
    md5 = hashlib.md5(listing, usedforsecurity=False).hexdigest() + FOLDER
    lines = "".join(f"{one.sha256}  {name}\n" for name, one in held)
    return Digests(md5, hashlib.sha256(lines.encode()).hexdigest(), sum(o.size for _, o in held))


INTEGRITY_CHUNK = 1 << 20
INTEGRITY_FOLDER = ".dir"  # ends the MD5 of a folder, and the name of its listing in the cache
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
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + INTEGRITY_FOLDER


def object_path(cache: Path, md5: str) -> Path:
    """Return where DVC's cache has an object."""
    return cache / md5[:2] / md5[2:]


def objects_of(cache: Path, md5: str) -> Iterator[str]:
    """Yield the object of a file; of a folder its listing and those of all files in it."""
    yield md5
    if md5.endswith(INTEGRITY_FOLDER):
        try:
            yield from [entry["md5"] for entry in json.loads(object_path(cache, md5).read_bytes())]
        except (OSError, ValueError, TypeError, KeyError):  # it is missing or damaged
            return


def all_objects(cache: Path) -> dict[str, Path]:
    """Return the file of every object in DVC's cache, by its MD5."""
    found = {f"{path.parent.name}{path.name}": path for path in cache.glob("??/*")}
    return {
        md5: path for md5, path in found.items() if len(md5.removesuffix(INTEGRITY_FOLDER)) == 32
    }


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
            while chunk := file.read(INTEGRITY_CHUNK):
                digest.update(chunk)
                bar.update(len(chunk))
    except FileNotFoundError:  # it has gone since
        return None
    except OSError:
        return UNREADABLE
    return digest.hexdigest()
