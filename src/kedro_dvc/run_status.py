"""What kedro-viz shows of runs: which node ran how long, which failed, how large its data are.

Kedro-viz's own hook takes note of runs of the whole pipeline alone, and DVC runs a node at a time.
This one keeps what earlier runs told of other nodes. The file's format is kedro-viz's own affair:
a test holds it to the installed version. Whatever is wrong with these files, no run fails for it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Node

from kedro_dvc.configuration import BASE
from kedro_dvc.files import files_of, one_at_a_time, path_of, write_text

FOLDER = ".viz"
SHOWN = "kedro_pipeline_events.json"  # the one file that kedro-viz reads

Event = dict[str, Any]
log = logging.getLogger(__name__)


class RunStatus:
    """Collects the events of a run and lays them over those of earlier runs of the study."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Begin anew."""
        self._project, self._study = Path(context.project_path), context.env or BASE
        self._events: list[Event] = []
        self._began: dict[str, float] = {}
        self._node: Node | None = None

    @hook_impl
    def after_catalog_created(self, catalog: CatalogProtocol) -> None:
        """Remember the catalog."""
        self._catalog = catalog

    @hook_impl
    def before_pipeline_run(self) -> None:
        """Take the time."""
        self._start = _now()

    @hook_impl
    def before_dataset_loaded(self, node: Node) -> None:
        """Remember whose input it is."""
        self._node = node

    @hook_impl
    def after_dataset_loaded(self, dataset_name: str) -> None:
        """Note what was read."""
        self._note_dataset("after_dataset_loaded", dataset_name)

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """Start the clock."""
        self._node, self._began[node.name] = node, time.perf_counter()

    @hook_impl
    def after_node_run(self, node: Node) -> None:
        """Note how long it took."""
        seconds = time.perf_counter() - self._began[node.name]
        self._note("after_node_run", str(node), node=node.name, duration=seconds, status="success")

    @hook_impl
    def after_dataset_saved(self, dataset_name: str) -> None:
        """Note what was written."""
        self._note_dataset("after_dataset_saved", dataset_name)

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Write the events of this run, and of earlier ones."""
        self._write()

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        """Note which node failed, in itself, reading or writing; write that too."""
        if self._node is not None:
            trace = "".join(traceback.format_exception(error))
            facts = {"error": str(error), "timestamp": _now(), "traceback": trace}
            self._note("on_node_error", str(self._node), node=self._node.name, **facts)
            self._write()

    def _note(self, event: str, name: str, **facts: Any) -> None:
        self._events.append(
            {"event": event, "node_id": identity(name), "start": self._start, **facts}
        )

    def _note_dataset(self, event: str, name: str) -> None:
        path = path_of(self._catalog.get(name))
        try:
            size = sum(file.stat().st_size for file in files_of(path)) if path else 0
        except OSError:  # another process is at it
            size = 0
        self._note(event, name.partition("@")[0], dataset=name, size=size)

    def _write(self) -> None:
        own = _file(self._project, self._study)
        try:
            with one_at_a_time(self._project / FOLDER):  # stages that run at once, too
                latest = {_key(event): event for event in (*_read(own), *self._events)}
                write_text(own, json.dumps(_with_ends(list(latest.values())), indent=1))
                show(self._project, self._study)
        except (OSError, ValueError, TypeError) as error:
            log.warning("kedro-viz will not show this run: %s", error)


def show(project: Path, study: str) -> None:
    """Let kedro-viz show the runs of this study."""
    own, shown = _file(project, study), project / FOLDER / SHOWN
    if own.exists():
        shutil.copyfile(own, shown)
    else:
        shown.unlink(missing_ok=True)


def forget(project: Path, study: str) -> None:
    """Delete what is known of a study's runs: an error's message may hold what its data held."""
    _file(project, study).unlink(missing_ok=True)
    (project / FOLDER / SHOWN).unlink(missing_ok=True)


def identity(name: str) -> str:
    """Return kedro-viz's id of a node, given as text, or of a data set."""
    return hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()[:8]


def _file(project: Path, study: str) -> Path:
    return project / FOLDER / f"runs_of_{study}.json"


def _read(path: Path) -> list[Event]:
    """Return the events of earlier runs; none, with a warning, if their file is damaged."""
    try:
        events = [event for event in json.loads(path.read_bytes()) if "node_id" in event]
        for event in events:
            if not all(isinstance(text, str) for text in (event["event"], event["start"])):
                raise TypeError("an event without a name or time")
            _key(event)
        return events
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("%s is begun anew, as it cannot be read: %r", path, error)
        return []


def _key(event: Event) -> tuple[str, str]:
    """Return whom the event is about; an id would not do, it changes with a node's function."""
    if "node" in event:
        return "node", event["node"]
    return event["event"], event["dataset"]


def _with_ends(events: list[Event]) -> list[Event]:
    """Return the events between the beginning and the end of a run, which has failed if one has."""
    begin = {"event": "before_pipeline_run", "timestamp": min(e["start"] for e in events)}
    end: Event = {"event": "after_pipeline_run", "timestamp": _now()}
    failed = [event for event in events if event["event"] == "on_node_error"]
    if failed:
        end |= {**failed[-1], "event": "on_pipeline_error"}
        del end["node_id"]
    return [begin, *events, end]


def _now() -> str:
    return datetime.now(tz=UTC).isoformat()
