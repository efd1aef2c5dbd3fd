"""Compare the files beside an exported checkpoint's weights with the base's, without loading any.

Loading a folder trusts more than its tensors: a tokenizer, a template, a file of code or a pickle
that some loader prefers. So every file must be in the base too, equal to the byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from filecmp import cmp
from fnmatch import fnmatch
from pathlib import Path

from safetensors import SafetensorError, safe_open

from kedro_dvc.files import IGNORED
from kedro_dvc.hashing import sha256s
from seuf.audit import Check, failed, noted, passed, printable
from seuf.inputs import InputError
from seuf.moe.checkpoints import Checkpoint
from seuf.moe.hub import INDEX, SINGLE, SMALL_FILES

UNSAFE = tuple(".bin .ckpt .dll .dylib .joblib .pickle .pkl .pt .pth .py .pyc .pyd .so".split())
TOKENIZING = (".jinja", ".bpe", ".tiktoken")  # read from subfolders, or by old tokenizers
WEIGHTS = ".safetensors"
PAGE = "README.md"
ADDED = (PAGE, "model.sig", "*.json.sig")  # by an export and by its signers
NAME = "files"


def check_files(base: Path, folder: Path) -> list[Check]:
    """Return the checks of the files beside an exported checkpoint's weights.

    Args:
        base: Folder of the base model.
        folder: The exported checkpoint; nothing in it is loaded.
    """
    try:
        weights = set(open_checkpoint(folder).files.values())
    except (InputError, OSError) as error:
        return [*_unsafe(folder), printable(failed(NAME, str(error)))]
    others = sorted(set(_files_below(folder)) - weights - {INDEX})
    wrong = [*_unsafe(folder), *_unlike_base(base, folder, others), *_missing(base, folder)]
    if wrong:
        return wrong
    checks = [
        passed(NAME, f"{len(others)} files beside the weights are the base's, a page or signatures")
    ]
    if PAGE in others:
        checks.append(noted(NAME, f"{PAGE} is not compared: what it says is not checked"))
    return checks


def files_of_model(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that loading a model can read beside its weights, by name.

    These are configuration, tokenizer, templates, and whatever could hold code. The index is left
    out: the same weights split into other files have another one.
    """
    names = _names_of_small_files(folder)
    suffixes = (*UNSAFE, *TOKENIZING)
    names |= {name for name in _files_below(folder) if Path(name).suffix.lower() in suffixes}
    paths = {folder / name: name for name in names if (folder / name).is_file()}
    return {paths[path]: sha256 for path, sha256 in sorted(sha256s(paths).items())}


def files_without_digest(base: Path) -> list[Check]:
    """Return a NOTE on files of a base model that its digest in dvc.lock does not cover."""
    from kedro_dvc.disk import listed  # imports kedro, which a verification can do without

    names = [repr(name) for name in _files_below(base) if IGNORED in Path(name).parts]
    text = f"no record covers these files of {base}, as DVC ignores {IGNORED}: {listed(names)}"
    return [printable(noted(NAME, text))] if names else []


def open_checkpoint(folder: Path) -> Checkpoint:
    """Return the checkpoint in a folder, after comparing its files with its index.

    Raises:
        InputError: If the index names a file outside the folder, or a file is damaged or holds
            other tensors than the index says.
    """
    try:
        checkpoint = Checkpoint(folder)
    except SafetensorError as error:
        raise InputError(f"{folder / SINGLE} is damaged: {error}") from error
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / INDEX} is not a checkpoint's index: {error!r}") from error
    if not isinstance(checkpoint.files, dict):
        raise InputError(f"{folder / INDEX} is not a checkpoint's index.")
    files = checkpoint.all_files()
    names = sorted({str(name) for name in files.values()})
    for name in names:  # check every name before opening any file
        if Path(name).name != name or not name.endswith(WEIGHTS):
            raise InputError(f"The index of {folder} names {name!r}, not a {WEIGHTS} file in it.")
    for name in names:
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing.")
        try:
            with safe_open(folder / name, framework="pt") as file:
                keys = set(file.keys())
        except SafetensorError as error:
            raise InputError(f"{folder / name} is damaged: {error}") from error
        indexed = {key for key, file_name in files.items() if file_name == name}
        if wrong := sorted(keys ^ indexed):
            raise InputError(f"{folder / name} and the index disagree on tensor {wrong[0]!r}.")
    return checkpoint


def _files_below(folder: Path) -> Iterator[str]:
    """Yield the relative path of every file and link in a folder and its subfolders."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_dir():
            yield str(path.relative_to(folder))


def _unsafe(folder: Path) -> Iterator[Check]:
    """Yield a failure for each file that could run code, and each link out of the folder."""
    for name in sorted(_files_below(folder)):
        path = folder / name
        # "pytorch_model.bin.index.json" is only the index of a pickle
        pickle = path.name.startswith("pytorch_model") and path.suffix != ".json"
        if pickle or path.suffix.lower() in UNSAFE:
            yield failed(
                NAME, f"{name!r} could hold code, or a pickle, which can run code: remove it"
            )
        if not path.resolve().is_relative_to(folder.resolve()):
            yield failed(NAME, f"{name!r} is a link out of {folder}")
        elif not path.is_file():
            yield failed(NAME, f"{name!r} is not a regular file, or is a broken link")


def _unlike_base(base: Path, folder: Path, names: list[str]) -> Iterator[Check]:
    """Yield a failure for each of the files that is not equal to the base's."""
    for name in names:
        path = folder / name
        added = any(fnmatch(name, pattern) for pattern in ADDED) and path.parent == folder
        if added or not path.is_file():
            continue
        if path.suffix == WEIGHTS:
            yield failed(NAME, f"{name!r} holds weights that the checkpoint does not name")
        elif not (base / name).is_file():
            yield failed(NAME, f"{name!r} is not in the base")
        elif not cmp(base / name, path, shallow=False):
            yield failed(NAME, f"{name!r} differs from the base's")


def _missing(base: Path, folder: Path) -> Iterator[Check]:
    """Yield a failure for each small file of the base that the folder lacks."""
    for name in sorted(_names_of_small_files(base)):
        if not (folder / name).is_file():
            yield failed(NAME, f"{name!r} of the base is missing")


def _names_of_small_files(folder: Path) -> set[str]:
    return {path.name for pattern in SMALL_FILES for path in folder.glob(pattern)} - {INDEX}
