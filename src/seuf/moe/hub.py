"""Find a model or a data set: a folder, or a hub repository at a revision.

`fetch_files` returns the folder that holds it on this machine. `clear_errors` turns errors of
downloading or reading it into one line that says what to do. The hub's package is imported only
when it is needed.
"""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from seuf.inputs import InputError

CONFIGURATION = ("config.json",)
SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.txt")  # configuration and tokenizer
CODE = ("*.py",)
IN_FOLDERS = ("*/*",)  # on the hub, copies in other formats
SINGLE = "model.safetensors"
INDEX = f"{SINGLE}.index.json"
MOVING_REVISIONS = (None, "main")
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
CPU_ALLOCATOR = "DefaultCPUAllocator: "  # the CPU has no memory left: a plain RuntimeError of torch
LESS_MEMORY = (
    "set base_model.device_map to auto, which puts what does not fit elsewhere, or "
    "base_model.dtype to a smaller type; `kedro plan` tells what a study needs"
)


@dataclass(frozen=True)
class HubReference:
    """A model or a data set, as a study names it.

    Attributes:
        path: A folder, or a hub id.
        revision: Commit, tag or branch of a hub id; None for its newest.
        kind: `model` or `dataset`, as the hub calls them.
        token: The hub's access token; by default that of the login.
    """

    path: str
    revision: str | None = None
    kind: str = "model"
    token: str | None = None

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"{self._kind} {self.path!r}"

    @property
    def at(self) -> str:
        """Its name in messages about whether it exists."""
        return f"{self._kind} at {self.path!r}"

    @property
    def _kind(self) -> str:
        return "data set" if self.kind == "dataset" else self.kind

    @property
    def page(self) -> str:
        """Its address on the hub."""
        from huggingface_hub import constants

        folder = "datasets/" if self.kind == "dataset" else ""
        return f"{constants.ENDPOINT}/{folder}{self.path}"

    @property
    def download(self) -> str:
        """The command that puts it into the cache."""
        kind = " --repo-type dataset" if self.kind == "dataset" else ""
        revision = f" --revision {self.revision}" if self.revision else ""
        return f"`hf download {self.path}{kind}{revision}`"


def fetch_files(
    reference: HubReference, patterns: Sequence[str] | None, ignored: Sequence[str] | None = None
) -> Path:
    """Return the folder with the files that match; what is not in the hub's cache is downloaded.

    Args:
        reference: If it is a folder, that is returned.
        patterns: Patterns of file names; None for all files.
        ignored: Patterns of file names that are left out.

    Raises:
        InputError: If there is no such thing, or it cannot be downloaded.
    """
    if is_folder(reference):
        return Path(reference.path).expanduser()
    from huggingface_hub import snapshot_download

    with clear_errors(reference):
        folder = snapshot_download(
            reference.path,
            repo_type=reference.kind,
            revision=reference.revision,
            allow_patterns=None if patterns is None else list(patterns),
            ignore_patterns=None if ignored is None else list(ignored),
            token=reference.token,
        )
    return Path(folder)


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
    """Return whether a reference is a folder, not a hub id.

    Raises:
        InputError: If it can only be a folder, and there is none.
    """
    path, local = reference.path, Path(reference.path).expanduser()
    if local.is_dir():
        return True
    if local.exists():
        raise InputError(f"There is no {reference.at}: it is a file; name the folder it lies in.")
    if path.startswith(("/", ".", "~")) or path.count("/") > 1:
        raise InputError(f"There is no {reference.at}: the folder does not exist.")
    if "/" in path and local.parent.is_dir():
        raise InputError(
            f"There is no {reference.at}: {local.parent} is a folder here, and "
            f"{local.name} not in it."
        )
    return False


def commit_of(reference: HubReference, folder: Path) -> str | None:
    """Return the commit of a hub id that `fetch_files` has found; None for a folder."""
    return None if is_folder(reference) else folder.name


def revision_warning(reference: HubReference, commit: str | None, setting: str) -> str | None:
    """Return a warning if the revision may move to another commit, else None."""
    if commit is None or reference.revision not in MOVING_REVISIONS:
        return None
    return (
        f"The {reference.name} may change, as its revision is {reference.revision or 'not set'}. "
        f"This is commit {commit}: set {setting} to it."
    )


@contextmanager
def clear_errors(reference: HubReference) -> Iterator[None]:
    """Turn any error of downloading or reading something into one line.

    Raises:
        InputError: With that line.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(explained(error, reference)) from error


def explained(error: BaseException, reference: HubReference) -> str:
    """Return one line that says what went wrong, and what to do."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    line = _of_the_hub(causes, reference) or _of_the_disk(causes, reference)
    if line := line or _of_the_network(causes, reference) or _of_the_files(causes, reference):
        return line
    speaks_for_itself = isinstance(error, (OSError, ValueError, RuntimeError))
    what = "" if speaks_for_itself else f"{type(error).__name__}: "
    return f"Cannot load the {reference.name}: {what}{first_line(error)}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _any(causes: list[BaseException], *kinds: type[BaseException]) -> bool:
    return any(isinstance(cause, kinds) for cause in causes)


def _of_the_hub(causes: list[BaseException], reference: HubReference) -> str | None:
    """Return the meaning of the hub's answer."""
    from huggingface_hub import errors

    if _any(causes, errors.GatedRepoError):
        return f"The {reference.name} is gated: ask for access at {reference.page}, then {LOG_IN}."
    if _any(causes, errors.RepositoryNotFoundError):
        return (
            f"There is no {reference.name} on the hub, or your token may not see it (the hub says "
            f"the same of both), nor is there such a folder: look at {reference.page}; if it is "
            f"private, {LOG_IN}."
        )
    if _any(causes, errors.RevisionNotFoundError):
        return (
            f"The {reference.name} has no revision {reference.revision!r}: "
            f"{reference.page}/commits/main lists its commits."
        )
    for cause in causes:
        status = cause.response.status_code if isinstance(cause, errors.HfHubHTTPError) else 0
        if status in (401, 403):
            return f"The hub refuses your token for the {reference.name} ({status}): {LOG_IN}."
        if status == 429:
            return f"The hub was asked too often for the {reference.name} (429): wait, or {LOG_IN}."
        if status >= 500:
            return _unreachable(reference)
    return None


def _of_the_disk(causes: list[BaseException], reference: HubReference) -> str | None:
    from huggingface_hub import constants

    for cause in causes:
        number = getattr(cause, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(cause):
            return (
                f"No room left on disk for the {reference.name}: make room in "
                f"{constants.HF_HUB_CACHE}, or set HF_HOME to a folder on a larger disk."
            )
        if number in (errno.EACCES, errno.EROFS):
            path = getattr(cause, "filename", None) or constants.HF_HUB_CACHE
            return f"{path} may not be written to: set HF_HOME to a folder that may."
    return None


def _of_the_network(causes: list[BaseException], reference: HubReference) -> str | None:
    from huggingface_hub import errors

    # the hub's client raises HTTPError for errors of the network itself
    if _any(causes, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HTTPError):
        return _unreachable(reference)
    if _any(causes, errors.HFValidationError):
        return f"There is no {reference.name}: neither a folder, nor a hub id such as owner/name."
    return _unreachable(reference) if _any(causes, ConnectionError, TimeoutError) else None


def _unreachable(reference: HubReference) -> str:
    from huggingface_hub import constants

    why = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else "the hub cannot be reached"
    revision = f" at {reference.revision}" if reference.revision else ""
    return (
        f"The {reference.name}{revision} is not in the cache, or not all of it "
        f"({constants.HF_HUB_CACHE}), and {why}: run {reference.download} "
        "where there is a network, or give a folder."
    )


def _of_the_files(causes: list[BaseException], reference: HubReference) -> str | None:
    """Return what is wrong with existing files, or with loading them."""
    from safetensors import SafetensorError

    torch = sys.modules.get("torch")  # not imported: no error of torch can have been raised
    for cause in causes:
        if isinstance(cause, SafetensorError):
            return (
                f"A file of the {reference.name} is damaged or cut off ({first_line(cause)}): "
                "download or copy it again."
            )
    out_of_memory = _any(causes, MemoryError, *([] if torch is None else [torch.OutOfMemoryError]))
    if out_of_memory or any(CPU_ALLOCATOR in str(c) for c in causes if isinstance(c, RuntimeError)):
        return f"The memory ran out while the {reference.name} was loaded: {LESS_MEMORY}."
    if any(isinstance(c, RuntimeError) and "ignore_mismatched_sizes" in str(c) for c in causes):
        return (
            f"The weights of the {reference.name} do not fit its config.json: they have other "
            "shapes, or not all experts are there."
        )
    return None
