"""What can go wrong in getting or reading a model or a data set, each as one line to act on.

Begin with `LINES` at the foot. Nothing is imported from the hub's package before it is needed.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from seuf.errors import InputError
from seuf.moe.wanted import Wanted

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
LESS_MEMORY = (
    "set base_model.device_map to auto, which puts what does not fit elsewhere, or "
    "base_model.dtype to a smaller type; `kedro plan` tells what a study needs"
)


@contextmanager
def clear_errors(wanted: Wanted) -> Iterator[None]:
    """Turn whatever goes wrong in getting or reading something into one line.

    Raises:
        InputError: That line.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(explained(error, wanted)) from error


def explained(error: BaseException, wanted: Wanted) -> str:
    """Return one line that says what went wrong, and what to do."""
    causes = list(_causes(error))
    for kinds, line in LINES:
        for cause in causes:
            if isinstance(cause, kinds()) and (told := line(cause, wanted)):
                return told
    speaks_for_itself = isinstance(error, (OSError, ValueError, RuntimeError))
    what = "" if speaks_for_itself else f"{type(error).__name__}: "
    return f"Cannot load the {wanted.name}: {what}{first_line(error)}"


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or what it is."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _gated(_: Any, wanted: Wanted) -> str:
    return f"The {wanted.name} is gated: ask for access at {wanted.page}, then {LOG_IN}."


def _missing(_: Any, wanted: Wanted) -> str:
    return (
        f"There is no {wanted.name} on the hub, or your token may not see it (the hub says the "
        f"same of both), nor is there such a folder: look at {wanted.page}; if it is private, "
        f"{LOG_IN}."
    )


def _no_revision(_: Any, wanted: Wanted) -> str:
    return (
        f"The {wanted.name} has no revision {wanted.revision!r}: {wanted.page}/commits/main "
        "lists its commits."
    )


def _answered(error: Any, wanted: Wanted) -> str | None:
    status = error.response.status_code
    if status in (401, 403):
        return f"The hub refuses your token for the {wanted.name} ({status}): {LOG_IN}."
    if status == 429:
        return f"The hub was asked too often for the {wanted.name} (429): wait, or {LOG_IN}."
    return None if status < 500 else _unreachable(error, wanted)


def _unreachable(_: Any, wanted: Wanted) -> str:
    from huggingface_hub import constants

    why = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else "the hub cannot be reached"
    revision = f" at {wanted.revision}" if wanted.revision else ""
    return (
        f"The {wanted.name}{revision} is not in the cache, or not all of it "
        f"({constants.HF_HUB_CACHE}), and {why}: run {wanted.download} where there is a network, "
        "or give a folder."
    )


def _no_id(_: Any, wanted: Wanted) -> str:
    return f"There is no {wanted.name}: neither a folder, nor a hub id such as owner/name."


def _of_the_disk(error: Any, wanted: Wanted) -> str | None:
    from huggingface_hub import constants

    cache, number = constants.HF_HUB_CACHE, getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
        return (
            f"No room left on disk for the {wanted.name}: make room in {cache}, or set HF_HOME "
            "to a folder on a larger disk."
        )
    if number in (errno.EACCES, errno.EROFS):
        return f"{error.filename or cache} may not be written to: set HF_HOME to a folder that may."
    return None


def _damaged(error: Any, wanted: Wanted) -> str:
    return (
        f"A file of the {wanted.name} is damaged or cut off ({first_line(error)}): download or "
        f"copy it again."
    )


def _misfit(error: Any, wanted: Wanted) -> str | None:
    if "ignore_mismatched_sizes" not in str(error):
        return None
    return (
        f"The weights of the {wanted.name} do not fit its config.json: they have other shapes, or "
        "not all experts are there."
    )


def _no_memory(_: Any, wanted: Wanted) -> str:
    return f"The memory ran out while the {wanted.name} was loaded: {LESS_MEMORY}."


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
