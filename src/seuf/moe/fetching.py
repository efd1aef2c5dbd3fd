"""From a folder, or a hub id at a revision, to a folder on this machine.

What can go wrong on the way is said by `seuf.moe.loading_errors`. Nothing is imported from the
hub's package before it is needed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from seuf.errors import InputError
from seuf.moe.loading_errors import clear_errors
from seuf.moe.wanted import Wanted

MOVING = (None, "main")
CONFIGURATION = ("config.json",)
SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.txt")  # configuration and tokenizer
CODE = ("*.py",)
IN_FOLDERS = ("*/*",)  # on the hub, copies in other formats
SINGLE = "model.safetensors"
INDEX = f"{SINGLE}.index.json"


def fetched(
    wanted: Wanted, patterns: Sequence[str] | None, ignored: Sequence[str] | None = None
) -> Path:
    """Return the folder with the files that match; what is not in the hub's cache is downloaded.

    Args:
        wanted: If it is a folder, that is returned.
        patterns: Of names in it; None for all.
        ignored: Patterns of names that are left out.

    Raises:
        InputError: If there is no such thing, or it cannot be had.
    """
    if is_folder(wanted):
        return Path(wanted.path).expanduser()
    from huggingface_hub import snapshot_download

    with clear_errors(wanted):
        there = snapshot_download(
            wanted.path,
            repo_type=wanted.kind,
            revision=wanted.revision,
            allow_patterns=None if patterns is None else list(patterns),
            ignore_patterns=None if ignored is None else list(ignored),
            token=wanted.token,
        )
    return Path(there)


def fetch_weights(wanted: Wanted, folder: Path) -> None:
    """Put a model's safetensors files, and no others, beside its configuration.

    Args:
        wanted: The model.
        folder: What `fetched` returned for its `SMALL_FILES`.

    Raises:
        InputError: If there are none, or not all that the index names.
    """
    index = folder / INDEX
    names = [SINGLE]
    if index.is_file():
        with clear_errors(wanted):
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
    fetched(replace(wanted, revision=commit_of(wanted, folder)), names)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing and not index.is_file():
        raise InputError(
            f"Cannot load the {wanted.name}: it has no {SINGLE}, nor {INDEX}, and other formats "
            "can run code when they are read. Convert it where you trust it: "
            "AutoModelForCausalLM.from_pretrained(it).save_pretrained(a folder)."
        )
    if missing:
        raise InputError(
            f"Cannot load the {wanted.name}: it lacks {len(missing)} of the {len(names)} files "
            f"that its index names, {missing[0]} among them: download or copy them again."
        )


def is_folder(wanted: Wanted) -> bool:
    """Tell a folder from a hub id.

    Raises:
        InputError: If it must be a folder, but is none.
    """
    path, there = wanted.path, Path(wanted.path).expanduser()
    if there.is_dir():
        return True
    if there.exists():
        raise InputError(f"There is no {wanted.at}: it is a file; name the folder it lies in.")
    if path.startswith(("/", ".", "~")) or path.count("/") > 1:
        raise InputError(f"There is no {wanted.at}: the folder does not exist.")
    if "/" in path and there.parent.is_dir():
        raise InputError(
            f"There is no {wanted.at}: {there.parent} is a folder here, and {there.name} not in it."
        )
    return False


def commit_of(wanted: Wanted, folder: Path) -> str | None:
    """Return the commit of a hub id that `fetched` has found; None for a folder."""
    return None if is_folder(wanted) else folder.name


def may_change(wanted: Wanted, commit: str | None, setting: str) -> str | None:
    """Return what to warn of if another commit may come tomorrow; None if that cannot be."""
    if commit is None or wanted.revision not in MOVING:
        return None
    return (
        f"The {wanted.name} may change, as its revision is {wanted.revision or 'not set'}. "
        f"This is commit {commit}: set {setting} to it."
    )
