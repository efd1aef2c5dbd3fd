"""Salts of requests, each in a file of its own, apart from all that is committed or shared.

With its salt a request's digests can be told from those of a guessed text; without it, never.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from seuf.errors import InputError

FOLDER = ".salts"
SIZE = 32  # bytes, as SHA-256 has


def new_salt(project: Path, name: str) -> bytes:
    """Return a new salt, which lies in a file that the owner alone can read.

    Raises:
        InputError: If there is one of this name: what was salted with it would be lost.
    """
    folder = _folder(project)
    salt = secrets.token_bytes(SIZE)
    try:
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise InputError(f"{FOLDER}/{name} exists: choose another id for the request.") from error
    with os.fdopen(file, "wb") as opened:
        os.fchmod(file, 0o600)
        opened.write(salt)
    return salt


def read_salt(project: Path, name: str) -> bytes:
    """Return the salt of this name.

    Raises:
        InputError: If it is gone, or cut short.
    """
    path = project / FOLDER / name
    if not path.is_file():
        raise InputError(
            f"{FOLDER}/{name} is not here: without its salt nobody can tell what request {name} "
            "was about."
        )
    salt = path.read_bytes()
    if len(salt) != SIZE:
        raise InputError(f"{FOLDER}/{name} is no salt: it has {len(salt)} bytes, not {SIZE}.")
    return salt


def _folder(project: Path) -> Path:
    """Return the folder, which git leaves alone and nobody else can enter."""
    folder = project / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    return folder
