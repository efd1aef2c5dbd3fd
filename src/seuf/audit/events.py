"""Send the recorded runs behind a model as OpenLineage events.

Events are made from the records after the runs; the same runs give the same events.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit
from uuid import NAMESPACE_URL, uuid5

from kedro_dvc.evidence import read_record
from kedro_dvc.project import dvc_file
from seuf.audit import needs_extra
from seuf.audit.audited import recorded_stages
from seuf.inputs import InputError

if TYPE_CHECKING:
    from openlineage.client.event_v2 import Dataset, RunEvent
    from openlineage.client.transport.transport import Transport

PRODUCER = "urn:seuf:kedro-dvc"
ENDPOINT = "api/v1/lineage"  # of a collector whose URL has no path
TIMEOUT = 5.0  # seconds per event
RETRIES = 2
SHA256 = 64  # hexadecimal digits
Run = Mapping[str, Any]


def recorded_runs(project: Path, study: str) -> list[dict[str, Any]]:
    """Return the records of the stages in a study's dvc.lock, oldest first, each with its inputs.

    Raises:
        InputError: If the study has not run, or a record is not valid.
    """
    runs = []
    for stage in recorded_stages((project / dvc_file(study)).with_suffix(".lock")).values():
        try:
            record = read_record(project, study, stage.node)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"The record of {stage.name} cannot be read: {error}") from error
        if record is not None:
            inputs = {path: file.md5 for path, file in stage.deps.items() if file is not None}
            runs.append({**record, "stage": stage.name, "inputs": inputs})
    return sorted(runs, key=lambda run: run["started"])


@needs_extra()
def emit(
    runs: list[dict[str, Any]], study: str, to: str, confidential: Collection[str] = ()
) -> int:
    """Send a START and a COMPLETE event for each run and return the number of events sent.

    Args:
        runs: Each with `stage`, `started`, `seconds`; `inputs` and `outputs` map paths to SHA-256
            or, from dvc.lock, MD5.
        study: Namespace of the jobs and data sets.
        to: A file, to which the events are appended, or an http(s) URL; the environment variable
            OPENLINEAGE_API_KEY holds its key, if it needs one.
        confidential: Paths sent without their digest, from which a small set could be guessed.

    Raises:
        InputError: If the events cannot be written or are refused, or the extra is missing.
    """
    from openlineage.client import OpenLineageClient

    client = OpenLineageClient(transport=_transport(to))
    if client.transport.kind == "noop":  # OPENLINEAGE_DISABLED is set
        return 0
    events = [event for run in runs for event in _events(run, study, confidential)]
    try:
        for event in events:
            client.emit(event)
    except (OSError, RuntimeError) as error:  # OSError includes all errors of `requests`
        raise InputError(
            f"The events could not be sent to {without_secrets(to)}: {_reason(error)}."
        ) from error
    finally:
        client.close()
    return len(events)


def run_id(study: str, run: Run) -> str:
    """Return the UUID of a run, derived from its study, stage and start."""
    return str(uuid5(NAMESPACE_URL, f"urn:seuf:{study}:{run['stage']}:{run['started']}"))


def started_on(run: Run) -> datetime:
    """Return when a run began, in UTC; a time without a zone is taken as UTC."""
    started = datetime.fromisoformat(run["started"])
    return (started if started.tzinfo else started.replace(tzinfo=UTC)).astimezone(UTC)


def finished_on(run: Run) -> datetime:
    """Return when a run ended, in UTC."""
    return started_on(run) + timedelta(seconds=run["seconds"])


def _events(run: Run, study: str, confidential: Collection[str]) -> list[RunEvent]:
    from openlineage.client import event_v2 as lineage

    def datasets(kind: type[Dataset], files: Mapping[str, str | None]) -> list[Any]:
        return [
            kind(
                namespace=study,
                name=path,
                facets=_version(None if path in confidential else files[path]),
            )
            for path in sorted(files)
        ]

    states = lineage.RunState.START, lineage.RunState.COMPLETE
    return [
        lineage.RunEvent(
            eventType=state,
            eventTime=time.isoformat(),
            producer=PRODUCER,
            run=lineage.Run(runId=run_id(study, run)),
            job=lineage.Job(namespace=study, name=run["stage"]),
            inputs=datasets(lineage.InputDataset, run.get("inputs") or {}),
            outputs=datasets(lineage.OutputDataset, run.get("outputs") or {}),
        )
        for state, time in zip(states, (started_on(run), finished_on(run)), strict=True)
    ]


def _version(digest: str | None) -> dict[str, Any]:
    from openlineage.client.generated.dataset_version_dataset import DatasetVersionDatasetFacet

    if digest is None:
        return {}
    kind = "sha256" if len(digest) == SHA256 else "md5"
    return {"version": DatasetVersionDatasetFacet(f"{kind}:{digest}", producer=PRODUCER)}


def _transport(to: str) -> Transport:
    """Return the OpenLineage transport to a file or URL."""
    from openlineage.client.transport.file import FileConfig, FileTransport
    from openlineage.client.transport.http import HttpConfig, HttpTransport

    if "://" not in to:
        return FileTransport(FileConfig(log_file_path=str(Path(to)), append=True))
    url = urlsplit(to)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise InputError(f"Events go to a file or an http(s) URL, not to {without_secrets(to)}.")
    key = os.environ.get("OPENLINEAGE_API_KEY")
    settings = {
        "url": urlunsplit((url.scheme, url.netloc, "", "", "")),
        "endpoint": f"{url.path.strip('/') or ENDPOINT}{'?' if url.query else ''}{url.query}",
        "timeout": TIMEOUT,
        "retry": {"total": RETRIES},
        **({"auth": {"type": "api_key", "apiKey": key}} if key else {}),
    }
    return HttpTransport(HttpConfig.from_dict(settings))


def without_secrets(to: str) -> str:
    """Return an address without user, password and query, which may be secret."""
    if "://" not in to:
        return to
    url = urlsplit(to)
    return urlunsplit((url.scheme, url.netloc.rpartition("@")[2], url.path, "", ""))


def _reason(error: Exception) -> str:
    """Return the reason in a few words; the error's own text may contain the whole address."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"it answered {response.status_code}"
    cause = error.__cause__ or error
    return getattr(cause, "strerror", None) or type(cause).__name__
