"""What a study names: a folder, or something on the hub at a revision.

What can go wrong in getting or reading a model or a data set, each as one line to act on.

Begin with `LINES` at the foot. Nothing is imported from the hub's package before it is needed.

From a folder, or a hub id at a revision, to a folder on this machine.

What can go wrong on the way is said by `seuf.moe.hub`. Nothing is imported from the
hub's package before it is needed.
"""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seuf.inputs import InputError


@dataclass(frozen=True)
class HubReference:
    """Something that a study names.

    Attributes:
        path: A folder, or a hub id.
        revision: Commit, tag or branch of a hub id; None for its newest.
        kind: `model` or `dataset`, as the hub calls them.
        token: Of the hub, if it is not the one that is logged in.
    """

    path: str
    revision: str | None = None
    kind: str = "model"
    token: str | None = None

    @property
    def name(self) -> str:
        """How it is spoken of."""
        return f"{self._kind} {self.path!r}"

    @property
    def at(self) -> str:
        """How it is spoken of where it may not be."""
        return f"{self._kind} at {self.path!r}"

    @property
    def _kind(self) -> str:
        return "data set" if self.kind == "dataset" else self.kind

    @property
    def page(self) -> str:
        """Where the hub shows it."""
        from huggingface_hub import constants

        place = "datasets/" if self.kind == "dataset" else ""
        return f"{constants.ENDPOINT}/{place}{self.path}"

    @property
    def download(self) -> str:
        """The command that puts it into the cache."""
        kind = " --repo-type dataset" if self.kind == "dataset" else ""
        revision = f" --revision {self.revision}" if self.revision else ""
        return f"`hf download {self.path}{kind}{revision}`"


LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
LESS_MEMORY = (
    "set base_model.device_map to auto, which puts what does not fit elsewhere, or "
    "base_model.dtype to a smaller type; `kedro plan` tells what a study needs"
)


@contextmanager
def clear_errors(reference: HubReference) -> Iterator[None]:
    """Turn whatever goes wrong in getting or reading something into one line.

    Raises:
        InputError: That line.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(explained(error, reference)) from error


def explained(error: BaseException, reference: HubReference) -> str:
    """Return one line that says what went wrong, and what to do."""
    causes = list(_causes(error))
    for kinds, line in LINES:
        for cause in causes:
            if isinstance(cause, kinds()) and (told := line(cause, reference)):
                return told
    speaks_for_itself = isinstance(error, (OSError, ValueError, RuntimeError))
    what = "" if speaks_for_itself else f"{type(error).__name__}: "
    return f"Cannot load the {reference.name}: {what}{first_line(error)}"


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or what it is."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _gated(_: Any, reference: HubReference) -> str:
    return f"The {reference.name} is gated: ask for access at {reference.page}, then {LOG_IN}."


def _missing(_: Any, reference: HubReference) -> str:
    return (
        f"There is no {reference.name} on the hub, or your token may not see it (the hub says the "
        f"same of both), nor is there such a folder: look at {reference.page}; if it is private, "
        f"{LOG_IN}."
    )


def _no_revision(_: Any, reference: HubReference) -> str:
    return (
        f"The {reference.name} has no revision {reference.revision!r}: "
        f"{reference.page}/commits/main lists its commits."
    )


def _answered(error: Any, reference: HubReference) -> str | None:
    status = error.response.status_code
    if status in (401, 403):
        return f"The hub refuses your token for the {reference.name} ({status}): {LOG_IN}."
    if status == 429:
        return f"The hub was asked too often for the {reference.name} (429): wait, or {LOG_IN}."
    return None if status < 500 else _unreachable(error, reference)


def _unreachable(_: Any, reference: HubReference) -> str:
    from huggingface_hub import constants

    why = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else "the hub cannot be reached"
    revision = f" at {reference.revision}" if reference.revision else ""
    return (
        f"The {reference.name}{revision} is not in the cache, or not all of it "
        f"({constants.HF_HUB_CACHE}), and {why}: run {reference.download} "
        "where there is a network, or give a folder."
    )


def _no_id(_: Any, reference: HubReference) -> str:
    return f"There is no {reference.name}: neither a folder, nor a hub id such as owner/name."


def _of_the_disk(error: Any, reference: HubReference) -> str | None:
    from huggingface_hub import constants

    cache, number = constants.HF_HUB_CACHE, getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
        return (
            f"No room left on disk for the {reference.name}: make room in {cache}, or set HF_HOME "
            "to a folder on a larger disk."
        )
    if number in (errno.EACCES, errno.EROFS):
        return f"{error.filename or cache} may not be written to: set HF_HOME to a folder that may."
    return None


def _damaged(error: Any, reference: HubReference) -> str:
    return (
        f"A file of the {reference.name} is damaged or cut off ({first_line(error)}): download or "
        f"copy it again."
    )


def _misfit(error: Any, reference: HubReference) -> str | None:
    if "ignore_mismatched_sizes" not in str(error):
        return None
    return (
        f"The weights of the {reference.name} do not fit its config.json: they have other "
        "shapes, or not all experts are there."
    )


def _no_memory(_: Any, reference: HubReference) -> str:
    return f"The memory ran out while the {reference.name} was loaded: {LESS_MEMORY}."


def _of_hub(*names: str) -> Callable[[], tuple[type[BaseException], ...]]:
    def found() -> tuple[type[BaseException], ...]:
        from huggingface_hub import errors

        return tuple(getattr(errors, name) for name in names)

    return found


def _of_safetensors() -> tuple[type[BaseException], ...]:
    from safetensors import SafetensorError

    return (SafetensorError,)


def _of_torch() -> tuple[type[BaseException], ...]:
    torch = sys.modules.get("torch")  # without it nothing of torch's can have been raised
    return (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)


# What an error is, the first that fits, and what is said of it. HTTPError is what the hub's client
# raises of the network itself, whatever package it is made with.
LINES: list[tuple[Callable[[], tuple[type[BaseException], ...]], Callable[..., str | None]]] = [
    (_of_hub("GatedRepoError"), _gated),
    (_of_hub("RepositoryNotFoundError"), _missing),
    (_of_hub("RevisionNotFoundError"), _no_revision),
    (_of_hub("HfHubHTTPError"), _answered),
    (lambda: (Exception,), _of_the_disk),
    (_of_hub("LocalEntryNotFoundError", "OfflineModeIsEnabled"), _unreachable),
    (_of_hub("HTTPError"), _unreachable),
    (_of_hub("HFValidationError"), _no_id),
    (lambda: (ConnectionError, TimeoutError), _unreachable),
    (_of_safetensors, _damaged),
    (_of_torch, _no_memory),
    (lambda: (RuntimeError,), _misfit),
]


MOVING = (None, "main")
CONFIGURATION = ("config.json",)
SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.txt")  # configuration and tokenizer
CODE = ("*.py",)
IN_FOLDERS = ("*/*",)  # on the hub, copies in other formats
SINGLE = "model.safetensors"
INDEX = f"{SINGLE}.index.json"


def fetch_files(
    reference: HubReference, patterns: Sequence[str] | None, ignored: Sequence[str] | None = None
) -> Path:
    """Return the folder with the files that match; what is not in the hub's cache is downloaded.

    Args:
        reference: If it is a folder, that is returned.
        patterns: Of names in it; None for all.
        ignored: Patterns of names that are left out.

    Raises:
        InputError: If there is no such thing, or it cannot be had.
    """
    if is_folder(reference):
        return Path(reference.path).expanduser()
    from huggingface_hub import snapshot_download

    with clear_errors(reference):
        there = snapshot_download(
            reference.path,
            repo_type=reference.kind,
            revision=reference.revision,
            allow_patterns=None if patterns is None else list(patterns),
            ignore_patterns=None if ignored is None else list(ignored),
            token=reference.token,
        )
    return Path(there)


def fetch_weights(reference: HubReference, folder: Path) -> None:
    """Put a model's safetensors files, and no others, beside its configuration.

    Args:
        reference: The model.
        folder: What `fetch_files` returned for its `SMALL_FILES`.

    Raises:
        InputError: If there are none, or not all that the index names.
    """
    index = folder / INDEX
    names = [SINGLE]
    if index.is_file():
        with clear_errors(reference):
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
    fetch_files(replace(reference, revision=commit_of(reference, folder)), names)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing and not index.is_file():
        raise InputError(
            f"Cannot load the {reference.name}: it has no {SINGLE}, nor {INDEX}, and other formats "
            "can run code when they are read. Convert it where you trust it: "
            "AutoModelForCausalLM.from_pretrained(it).save_pretrained(a folder)."
        )
    if missing:
        raise InputError(
            f"Cannot load the {reference.name}: it lacks {len(missing)} of the {len(names)} files "
            f"that its index names, {missing[0]} among them: download or copy them again."
        )


def is_folder(reference: HubReference) -> bool:
    """Tell a folder from a hub id.

    Raises:
        InputError: If it must be a folder, but is none.
    """
    path, there = reference.path, Path(reference.path).expanduser()
    if there.is_dir():
        return True
    if there.exists():
        raise InputError(f"There is no {reference.at}: it is a file; name the folder it lies in.")
    if path.startswith(("/", ".", "~")) or path.count("/") > 1:
        raise InputError(f"There is no {reference.at}: the folder does not exist.")
    if "/" in path and there.parent.is_dir():
        raise InputError(
            f"There is no {reference.at}: {there.parent} is a folder here, and "
            f"{there.name} not in it."
        )
    return False


def commit_of(reference: HubReference, folder: Path) -> str | None:
    """Return the commit of a hub id that `fetch_files` has found; None for a folder."""
    return None if is_folder(reference) else folder.name


def revision_warning(reference: HubReference, commit: str | None, setting: str) -> str | None:
    """Return what to warn of if another commit may come tomorrow; None if that cannot be."""
    if commit is None or reference.revision not in MOVING:
        return None
    return (
        f"The {reference.name} may change, as its revision is {reference.revision or 'not set'}. "
        f"This is commit {commit}: set {setting} to it."
    )
