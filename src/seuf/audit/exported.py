"""Compare what an exported checkpoint holds beside its weights with its base; nothing is run.

Whoever loads a folder trusts more than its tensors: a tokenizer, a template, a file of code or a
pickle that some loader prefers. So nothing may lie there that the base does not hold to the byte.
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
TOKENIZING = (".jinja", ".bpe", ".tiktoken")  # read from folders below, or by tokenizers of old
WEIGHTS = ".safetensors"
PAGE = "README.md"
ADDED = (PAGE, "model.sig", "*.json.sig")  # by an export, and by those who sign it
NAME = "files"


def check_files(base: Path, folder: Path) -> list[Check]:
    """Return what is wrong with the files of an exported checkpoint beside its weights.

    Args:
        base: Folder of the base model.
        folder: The exported checkpoint; nothing in it is loaded.
    """
    try:
        named = set(open_checkpoint(folder).files.values())
    except (InputError, OSError) as error:
        return [*_unsafe(folder), printable(failed(NAME, str(error)))]
    others = sorted(set(_files_below(folder)) - named - {INDEX})
    wrong = [*_unsafe(folder), *_unlike_base(base, folder, others), *_missing(base, folder)]
    text = f"{len(others)} files beside the weights are the base's, a page or signatures"
    page = [noted(NAME, f"{PAGE} is compared with nothing: what it says is not checked")]
    return wrong or [passed(NAME, text), *page * (PAGE in others)]


def files_of_model(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of all that a model is loaded with beside its weights, by name.

    Configuration, tokenizer, template, and whatever could hold code; not the index, which another
    split of the same weights has otherwise.
    """
    names = {path.name for pattern in SMALL_FILES for path in folder.glob(pattern)} - {INDEX}
    looked_for = (*UNSAFE, *TOKENIZING)
    names |= {name for name in _files_below(folder) if Path(name).suffix.lower() in looked_for}
    paths = {folder / name: name for name in names if (folder / name).is_file()}
    return {paths[path]: sha256 for path, sha256 in sorted(sha256s(paths).items())}


def files_without_digest(base: Path) -> list[Check]:
    """Return a remark on files of a base model that its digest in dvc.lock does not go over."""
    from kedro_dvc.disk import listed  # with kedro, which a verification has no need of

    names = [repr(name) for name in _files_below(base) if IGNORED in Path(name).parts]
    text = f"no record covers, as DVC passes over {IGNORED}: {listed(names)}"
    return [printable(noted(NAME, f"of {base} {text}"))] if names else []


def open_checkpoint(folder: Path) -> Checkpoint:
    """Return the checkpoint in a folder, after its files were compared with its index.

    Raises:
        InputError: If its index leads out of the folder, or a file is damaged, or holds other
            tensors than the index says.
    """
    try:
        checkpoint = Checkpoint(folder)
    except SafetensorError as error:
        raise InputError(f"{folder / SINGLE} is damaged: {error}") from error
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / INDEX} is no index of a checkpoint: {error!r}") from error
    if not isinstance(checkpoint.files, dict):
        raise InputError(f"{folder / INDEX} is no index of a checkpoint.")
    files = checkpoint.all_files()
    names = sorted({str(name) for name in files.values()})
    for name in names:  # all of them, before any is opened
        if Path(name).name != name or not name.endswith(WEIGHTS):
            raise InputError(f"The index of {folder} names {name!r}: no {WEIGHTS} file in it.")
    for name in names:
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing.")
        try:
            with safe_open(folder / name, framework="pt") as file:
                keys = set(file.keys())
        except SafetensorError as error:
            raise InputError(f"{folder / name} is damaged: {error}") from error
        if wrong := sorted(keys ^ {key for key, of in files.items() if of == name}):
            raise InputError(
                f"{folder / name} and the index differ in what it holds: {wrong[0]!r}."
            )
    return checkpoint


def _files_below(folder: Path) -> Iterator[str]:
    """Yield all that is in a folder and those below it, but for these themselves."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_dir():
            yield str(path.relative_to(folder))


def _unsafe(folder: Path) -> Iterator[Check]:
    """Yield what could run code when it is loaded, and what leads out of the folder."""
    for name in sorted(_files_below(folder)):
        path = folder / name
        # "pytorch_model.bin.index.json" is only the index of a pickle
        pickle = path.name.startswith("pytorch_model") and path.suffix != ".json"
        if pickle or path.suffix.lower() in UNSAFE:
            yield failed(NAME, f"{name!r} could hold code, or a pickle, which is code: remove it")
        if not path.resolve().is_relative_to(folder.resolve()):
            yield failed(NAME, f"{name!r} is a link that leads out of {folder}")
        elif not path.is_file():
            yield failed(NAME, f"{name!r} is no file, or a link that leads nowhere")


def _unlike_base(base: Path, folder: Path, names: list[str]) -> Iterator[Check]:
    """Yield the files that are not the base's to the byte."""
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
            yield failed(NAME, f"{name!r} is not the base's")


def _missing(base: Path, folder: Path) -> Iterator[Check]:
    """Yield what a model is loaded with and the base has, but not the folder."""
    needed = {path.name for pattern in SMALL_FILES for path in base.glob(pattern)} - {INDEX}
    for name in sorted(needed):
        if not (folder / name).is_file():
            yield failed(NAME, f"{name!r} of the base is missing")
