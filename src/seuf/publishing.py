"""Upload an exported model to the hub: one commit to a repository, private by default.

`check_destination` finds beforehand what would stop the upload, `push` uploads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from seuf.inputs import InputError
from seuf.moe.hub import LOG_IN, SMALL_FILES, first_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PUSHED = (*SMALL_FILES, "*.safetensors", "README.md", "LICENSE*", "NOTICE*", "*.sig")
NO_REPOSITORY = "not a repository on the hub: owner/name"
READ_FOR_PATHS = ("*.json", "*.jinja", "*.md")


class Destination(NamedTuple):
    """Where to upload a model.

    Attributes:
        repository: `owner/name` on the hub.
        public: Whether everyone may read it; otherwise only whom its owner admits.
        revision: A branch, created if missing; None for the main one.
        exist_ok: Whether the repository may exist; files of the same name are replaced there.
    """

    repository: str
    public: bool = False
    revision: str | None = None
    exist_ok: bool = False


def check_destination(to: Destination) -> None:
    """Check that there is a token, and that the repository is as the destination says.

    Raises:
        InputError: If not, or the hub cannot be reached.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    if to.repository.count("/") != 1:
        raise InputError(f"{to.repository!r} is {NO_REPOSITORY}.")
    with _clear_errors(to):
        api = _api(to)
        try:
            private = api.model_info(to.repository).private
        except RepositoryNotFoundError:
            return
    if not to.exist_ok:
        raise InputError(
            f"{to.repository} exists on the hub: say --exist-ok to replace files of the same name."
        )
    if private == to.public:
        present = "private" if private else "public"
        raise InputError(
            f"{to.repository} is {present} on the hub: say --{present}, or change that on its page "
            "first."
        )


def push(folder: Path, to: Destination, message: str) -> tuple[str, list[str]]:
    """Upload a folder as one commit; return the commit's URL and the files left out.

    Only `PUSHED` files are uploaded, which transformers loads without running code, and none from
    subfolders: a base model's folder may contain anything.

    Args:
        folder: A checkpoint with its card.
        to: The destination.
        message: The commit's message.

    Raises:
        InputError: If a file names a folder on this machine, or the hub refuses the upload.
    """
    from huggingface_hub import CommitOperationAdd

    names = sorted({p.name for pattern in PUSHED for p in folder.glob(pattern) if p.is_file()})
    _check_for_paths(folder, names)
    left_out = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {*names}
    with _clear_errors(to):
        api = _api(to)
        api.create_repo(to.repository, private=not to.public, exist_ok=to.exist_ok)
        if to.revision is not None:
            api.create_branch(to.repository, branch=to.revision, exist_ok=True)
        # upload_folder splits a large folder into several commits, so half a model could remain
        commit = api.create_commit(
            to.repository,
            [
                CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name)
                for name in names
            ],
            commit_message=message,
            revision=to.revision,
        )
    return commit.commit_url, sorted(left_out)


def _api(to: Destination) -> HfApi:
    """Return the hub's client.

    Raises:
        InputError: If there is no token, or offline mode is set.
    """
    from huggingface_hub import HfApi, constants, get_token

    if constants.is_offline_mode():
        raise InputError(f"HF_HUB_OFFLINE is set, so nothing is pushed to {to.repository}.")
    if get_token() is None:
        raise InputError(f"There is no token for the hub: {LOG_IN}.")
    return HfApi()


def _check_for_paths(folder: Path, names: list[str]) -> None:
    """Check that no small file names a folder on this machine.

    Raises:
        InputError: If one does.
    """
    local = {str(Path.home()), str(Path.cwd()), str(folder.resolve().parent)} - {"/"}
    for name in names:
        if not any(Path(name).match(pattern) for pattern in READ_FOR_PATHS):
            continue
        text = (folder / name).read_text(encoding="utf-8", errors="replace")
        if found := next((path for path in sorted(local) if f"{path}/" in text), None):
            what = "it" if name == "README.md" else "the base model's, and export again"
            raise InputError(
                f"{folder / name} names {found}, a folder on this machine: edit {what}."
            )


@contextmanager
def _clear_errors(to: Destination) -> Iterator[None]:
    """Turn any error of the hub or the network into an `InputError` of one line."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.HFValidationError as error:
        raise InputError(f"{to.repository!r} is {NO_REPOSITORY}.") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            line = f"The hub refuses your token for {to.repository} ({status}): it needs write"
            raise InputError(f"{line} access; {LOG_IN}.") from error
        line = f"The hub answers {status} about {to.repository}: {first_line(error)}"
        raise InputError(line) from error
    except (errors.HTTPError, OSError) as error:
        line = f"The hub cannot be reached at {constants.ENDPOINT} ({first_line(error)})"
        raise InputError(f"{line}: repeat the command once it can.") from error
    except ValueError as error:  # the hub's client checks the card's front matter
        if isinstance(error, InputError):
            raise
        raise InputError(f"The hub refuses the card: {' '.join(str(error).split())}") from error
