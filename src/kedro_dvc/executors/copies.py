"""Files of stages copied to and from nodes that do not see the project's folder.

A small file goes with the job and its result; a larger one through the DVC remote that its output
names, or the default one, under the name that `dvc push` gives it. So does whatever has a remote of
its own: it was kept apart on purpose. Both ends compare the MD5 of what came with what was sent.

The code is a snapshot of the driver's commit, which Ray unpacks on each node. A file that a node
has already, of the snapshot or of an earlier stage, is not sent again.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple

from kedro_dvc.dependencies import commit_of
from kedro_dvc.evidence import EVIDENCE
from kedro_dvc.files import Stamp, WorkflowError, files_of, git, stamp, write_text
from kedro_dvc.hashing import file_digests

SMALL = 1 << 20  # bytes that go without a remote
KNOWN = ".dvc/tmp/kedro_dvc/copied.json"  # on a node: MD5 and state of what it has
NO_GIT = "[core]\n    no_scm = true\n"  # a snapshot is no repository


class Copied(NamedTuple):
    """A file that is sent.

    Attributes:
        path: From the project's root.
        md5: Of its bytes.
        data: These, if it is small.
        remote: The DVC remote that has them; None stands for the default one.
    """

    path: str
    md5: str
    data: bytes | None
    remote: str | None = None


class Parcel(NamedTuple):
    """What a job takes along.

    Attributes:
        inputs: What its stage reads and the snapshot has not.
        outputs: What it writes, each with the remote that it names.
    """

    inputs: list[Copied]
    outputs: Mapping[str, str | None]


def snapshot(project: Path, folder: Path, dirty: bool) -> tuple[Path, dict[str, str]]:
    """Write what git tracks of a project as a zip file; return it and the MD5 of each file.

    Args:
        project: The project's root.
        folder: Where the file is written.
        dirty: Take what is in the working tree though it is not committed.

    Raises:
        WorkflowError: If something that decides a result is not committed.
    """
    if not dirty and not commit_of(project)[1]:
        raise WorkflowError(
            "code or configuration is not committed, and nodes would run it: commit it, or --dirty"
        )
    kinds = ("-co", "--exclude-standard") if dirty else ("-c",)
    names = [name for name in git(project, "ls-files", "-z", *kinds).split("\0") if name]
    paths = {name: project / name for name in names if (project / name).is_file()}
    path = folder / "snapshot.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in paths.items():
            archive.write(file, name)
        archive.writestr(".dvc/config.local", NO_GIT)
    read = file_digests(paths.values())
    return path, {name: read[file].md5 for name, file in paths.items()}


def remotes(project: Path) -> dict[str | None, Any]:
    """Return where each DVC remote of a project keeps objects; None is the default one.

    Raises:
        WorkflowError: If there is no default remote, or DVC cannot use one.
    """
    from dvc.config import NoRemoteError
    from dvc.repo import Repo

    with Repo(str(project)) as repo:
        names = [None, *repo.config["remote"]]
        try:
            return {name: repo.cloud.get_remote_odb(name, "copy") for name in names}
        except ImportError as error:  # of what an address such as s3:// needs
            raise WorkflowError(f"a DVC remote of .dvc/config: {error}") from None
        except NoRemoteError:
            raise WorkflowError(
                "nodes without the project's folder need a DVC remote: "
                "dvc remote add --default NAME URL"
            ) from None


def check_remotes(names: Iterable[str | None], stores: Mapping[Any, Any]) -> None:
    """Raise if a remote cannot be reached or written to; an empty file is left in each.

    Args:
        names: Of those that are needed; None is the default one.
        stores: The remotes.

    Raises:
        WorkflowError: With the first line of what its file system says.
    """
    from dvc.fs import localfs

    with NamedTemporaryFile() as empty:
        md5 = file_digests([Path(empty.name)])[Path(empty.name)].md5
        for name in names:
            remote = "the default DVC remote" if name is None else f"the DVC remote {name}"
            if name not in stores:
                raise WorkflowError(f"{remote} is missing in .dvc/config: dvc remote add NAME URL")
            try:
                if not stores[name].exists(md5):
                    stores[name].add(empty.name, localfs, md5)
            except Exception as error:  # of any kind: each file system has its own
                line = next(iter(str(error).splitlines()), type(error).__name__)
                raise WorkflowError(f"{remote} takes no files: {line}") from error


def send(
    project: Path, files: Mapping[str, str], of: Mapping[str, str | None], stores: Mapping[Any, Any]
) -> list[Copied]:
    """Return files as they are sent; those that go through a remote are in it then.

    Args:
        project: The root at this end.
        files: Paths from there, each with its MD5.
        of: Outputs, each with the remote that it names.
        stores: The remotes.
    """
    from dvc.fs import localfs

    sent = []
    for path, md5 in files.items():
        own = next((remote for out, remote in of.items() if f"{path}/".startswith(f"{out}/")), None)
        file = project / path
        if own is None and file.stat().st_size <= SMALL:
            sent.append(Copied(path, md5, file.read_bytes()))
            continue
        if not stores[own].exists(md5):
            stores[own].add(str(file), localfs, md5)
        sent.append(Copied(path, md5, None, own))
    return sent


def receive(project: Path, files: Iterable[Copied], stores: Mapping[Any, Any]) -> None:
    """Write files that were sent, but those that are here already.

    Raises:
        WorkflowError: If one is not what was sent.
    """
    known = _known(project)
    for one in files:
        path = project / one.path
        if known.get(one.path) == [one.md5, stamp(path)]:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        if one.data is not None:
            temporary.write_bytes(one.data)
        else:
            store = stores[one.remote]
            store.fs.get_file(store.oid_to_path(one.md5), str(temporary))
        came = file_digests([temporary])[temporary].md5
        if came != one.md5:
            temporary.unlink()
            raise WorkflowError(f"{one.path}: sent was {one.md5}, {came} came")
        temporary.replace(path)
        known[one.path] = [one.md5, stamp(path)]
    write_text(project / KNOWN, json.dumps(known))


def remove_outputs(project: Path, outputs: Iterable[str]) -> None:
    """Delete what an earlier run has left of a stage's outputs, as DVC does."""
    for name in outputs:
        path = project / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def records_there(project: Path) -> dict[Path, Stamp]:
    """Return the state of each record of a project."""
    return {file: stamp(file) for file in files_of(project / EVIDENCE)}


def written(
    project: Path,
    outputs: Mapping[str, str | None],
    before: Mapping[Path, Stamp],
    stores: Mapping[Any, Any],
) -> list[Copied]:
    """Return what a stage has written, as it is sent: its outputs and its record.

    Args:
        project: The root at this end.
        outputs: Each with the remote that it names.
        before: The records that were there when the stage began: clocks of files and of the machine
            may differ, and be set meanwhile.
        stores: The remotes.
    """
    records = [file for file, now in records_there(project).items() if now != before.get(file)]
    files = [file for name in outputs for file in files_of(project / name)] + records
    digests = file_digests(files)
    names = {file.relative_to(project).as_posix(): digests[file].md5 for file in files}
    return send(project, names, outputs, stores)


def _known(project: Path) -> dict[str, list[Any]]:
    try:
        known: dict[str, list[Any]] = json.loads((project / KNOWN).read_text(encoding="utf-8"))
        return known
    except (FileNotFoundError, ValueError):
        return {}
