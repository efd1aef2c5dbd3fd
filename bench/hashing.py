"""How fast an audit reads: `python -m bench.hashing --folder /dev/shm --gb 8 --files 16`.

Beside it, in turns: bare reading, `sha256sum` and `md5sum` one after the other on one core, which
is what the same two digests take without it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")

from kedro_dvc.hashing import digests

PIECE = 1 << 24


def main() -> None:
    """Write files of random bytes, measure, print a line a way, delete the files."""
    options = _options()
    folder = options.folder / "seuf-bench-hashing"
    try:
        files = _write(folder, options.gb, options.files)
        ways: dict[str, Callable[[], object]] = {
            "digests (MD5 and SHA-256)": lambda: digests(files),
            "one core, one digest after the other": lambda: [_both(file) for file in files],
            "bare reading, one core": lambda: list(map(_read, files)),
        }
        _report({name: _median(way, options.times) for name, way in ways.items()}, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path, gb: float, number: int) -> list[Path]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    piece, pieces = os.urandom(PIECE), max(1, int(gb * 1e9 / number / PIECE))
    files = [folder / f"{place}.bin" for place in range(number)]
    for file in files:
        with file.open("wb") as out:
            for _ in range(pieces):
                out.write(piece)
    return files


def _both(file: Path) -> list[str]:
    with file.open("rb") as content:
        md5 = hashlib.file_digest(content, "md5").hexdigest()
    with file.open("rb") as content:
        return [md5, hashlib.file_digest(content, "sha256").hexdigest()]


def _read(file: Path) -> None:
    buffer = bytearray(PIECE)
    with file.open("rb", buffering=0) as content:
        while content.readinto(buffer):
            pass


def _median(way: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        way()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _report(seconds: dict[str, float], options: argparse.Namespace) -> None:
    print(f"{options.gb} GB in {options.files} files, {os.cpu_count()} cores")  # noqa: T201
    first = next(iter(seconds.values()))
    for name, taken in seconds.items():
        rate = options.gb / taken
        print(f"  {name:40} {rate:6.2f} GB/s  {taken / first:6.2f}")  # noqa: T201


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--gb", type=float, default=4.0)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--times", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
