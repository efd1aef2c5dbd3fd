"""MD5 and SHA-256 of files and folders, from one read of their bytes.

DVC identifies files by MD5, which proves nothing: two files can be made that share one. Evidence
uses SHA-256, and the MD5 beside it is the link to dvc.lock.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from kedro_dvc.files import files_of_output

CHUNK = 1 << 22  # bytes read at once
DIRECTORY = ".dir"  # ends the MD5 of a folder in dvc.lock


class Digests(NamedTuple):
    """The digests of a file or folder.

    Attributes:
        md5: As in dvc.lock; that of a folder ends with `.dir`.
        sha256: Of a file's bytes; for a folder of its listing, as `sha256sum` prints it.
        size: In bytes.
    """

    md5: str
    sha256: str
    size: int


UNREADABLE = Digests("no MD5", "no SHA-256", 0)


def digests(paths: Iterable[Path]) -> dict[Path, Digests]:
    """Return the digests of those files and folders that exist."""
    files = {path: files_of_output(path) for path in dict.fromkeys(paths) if path.exists()}
    read = file_digests(file for in_path in files.values() for file in in_path)
    return {
        path: folder_digests({file.relative_to(path).as_posix(): read[file] for file in in_path})
        if path.is_dir()
        else read[path]
        for path, in_path in files.items()
    }


def sha256s(paths: Iterable[Path]) -> dict[Path, str]:
    """Return the SHA-256 of those files and folders that exist."""
    return {path: one.sha256 for path, one in digests(paths).items()}


def file_digests(files: Iterable[Path], tolerant: bool = False) -> dict[Path, Digests]:
    """Return the digests of files, read in threads; of several hard links one is read.

    Args:
        files: Files, no folders.
        tolerant: Leave out missing files and return `UNREADABLE` for unreadable ones instead of
            raising.

    Raises:
        OSError: If a file cannot be read and `tolerant` is not set.
    """
    links: dict[tuple[int, int], list[Path]] = defaultdict(list)
    sizes: dict[tuple[int, int], int] = {}
    for path in dict.fromkeys(files):
        try:
            facts = path.stat()
        except OSError:
            if not tolerant:
                raise
            continue
        inode = (facts.st_dev, facts.st_ino)
        links[inode].append(path)
        sizes[inode] = facts.st_size
    total = sum(sizes.values())
    bar = tqdm(total=total, desc="reading", unit="B", unit_scale=True, leave=False, disable=None)
    with bar, ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        read = pool.map(lambda paths: _read(paths[0], bar, tolerant), links.values())
        pairs = zip(links.values(), read, strict=True)
        return {path: one for paths, one in pairs if one is not None for path in paths}


def folder_digests(files: Mapping[str, Digests]) -> Digests:
    """Return the digests of a folder from those of its files, by their path inside it."""
    entries = sorted(files.items())
    listing = [{"md5": one.md5, "relpath": name} for name, one in entries]
    text = json.dumps(listing, sort_keys=True).encode()
    lines = "".join(f"{one.sha256}  {name}\n" for name, one in entries)
    return Digests(
        hashlib.md5(text, usedforsecurity=False).hexdigest() + DIRECTORY,
        hashlib.sha256(lines.encode()).hexdigest(),
        sum(one.size for one in files.values()),
    )


def _read(path: Path, bar: tqdm[Any], tolerant: bool) -> Digests | None:
    md5, sha256, size = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    try:
        buffer = bytearray(min(CHUNK, path.stat().st_size + 1))
        view = memoryview(buffer)
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                md5.update(view[:count])
                sha256.update(view[:count])
                bar.update(count)
                size += count
    except OSError as error:
        if not tolerant:
            raise
        return None if isinstance(error, FileNotFoundError) else UNREADABLE
    return Digests(md5.hexdigest(), sha256.hexdigest(), size)
