"""What the driver of a run costs a stage, with a cluster that is only played.

Methods of two stages each (`unlearn`, `evaluate`) and a comparison at the end, as in a study; each
stage reads ten files. A node of the played cluster sleeps and writes the stage's output. What is
measured is all that DVC and `kedro_dvc.parallel` do: checks, hashes, locks, cache and dvc.lock.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

import yaml

SHARED = 9  # files that every stage reads, as code is


class SleepingNodes:
    """An executor whose nodes sleep, then write what the stage's command would."""

    copies = False

    def __init__(self, nodes: int, seconds: float) -> None:
        self._free, self._seconds, self._guard = nodes, seconds, threading.Lock()
        self._held: set[str] = set()

    def check(self, jobs: Sequence[Any]) -> None:
        """Find nothing wrong."""

    def admit(self, waiting: Sequence[Any]) -> list[Any]:
        """Return as many as there are free nodes."""
        with self._guard:
            admitted = list(waiting[: self._free - len(self._held)])
            self._held.update(job.stage for job in admitted)
        return admitted

    def submit(self, job: Any) -> Any:
        """Begin a job."""
        return job

    def result(self, handle: Any) -> Any:
        """Sleep, then write the output, whose path is the last word of the command."""
        from kedro_dvc.executors.jobs import Ended

        time.sleep(self._seconds)
        Path(handle.commands[0].split()[-1]).write_text(handle.stage)
        self.release(handle)
        return Ended(1, None, [])

    def release(self, job: Any) -> None:
        """Free the node of a job."""
        with self._guard:
            self._held.discard(job.stage)

    def stop(self) -> None:
        """Stop nothing."""

    def close(self) -> None:
        """Close nothing."""


class _Silent:
    def planned(self, stages: list[str]) -> None:
        pass

    def began(self, stage: str) -> None:
        pass

    def waits(self, why: str) -> None:
        pass

    def ended(self, outcome: Any) -> None:
        pass


def _project(root: Path, methods: int) -> None:
    shared = [f"code_{number}.py" for number in range(SHARED)]
    for name in (*shared, "data"):
        (root / name).write_text(name)
    names = [f"m{number}" for number in range(methods)]
    stages: dict[str, Any] = {
        "unlearn": {
            "matrix": {"method": names},
            "cmd": "unlearn ${item.method}.delta",
            "deps": ["data", *shared],
            "outs": ["${item.method}.delta"],
        },
        "evaluate": {
            "matrix": {"method": names},
            "cmd": "evaluate ${item.method}.scores",
            "deps": ["${item.method}.delta", *shared],
            "outs": ["${item.method}.scores"],
        },
        "compare": {
            "cmd": "compare all",
            "deps": [f"{name}.scores" for name in names],
            "outs": ["all"],
        },
    }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))


def seconds_of_a_run(methods: int, nodes: int, seconds: float) -> tuple[float, float, float]:
    """Return how long a run takes, how much of it is this process's, and one with nothing to do."""
    from dvc.repo import Repo

    from kedro_dvc.run import reproduce

    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        os.environ["DVC_SITE_CACHE_DIR"] = str(Path(folder, "site"))
        project = Path(folder, "project")
        project.mkdir()
        with chdir(project):
            Repo.init(no_scm=True).close()
            _project(project, methods)
            times = []
            for _ in range(2):
                start, used = time.perf_counter(), time.process_time()
                executor = SleepingNodes(nodes, seconds)
                reproduce(project, ["dvc.yaml"], _Silent(), executor=executor)
                times.append((time.perf_counter() - start, time.process_time() - used))
    return *times[0], times[1][0]


def main(sizes: Sequence[int] = (50, 200, 500), nodes: int = 50) -> None:
    """Print the driver's milliseconds a stage for several sizes of the graph."""
    logging.disable(logging.WARNING)  # DVC tells of each stage
    for methods in sizes:
        first, own, again = seconds_of_a_run(methods, nodes, 0.0)
        stages = 2 * methods + 1
        print(  # noqa: T201
            f"{stages:5} stages on {nodes} nodes: {1000 * first / stages:.1f} ms a stage, "
            f"{1000 * own / stages:.1f} of them computing; "
            f"{1000 * again / stages:.1f} if nothing is to do"
        )


if __name__ == "__main__":
    main()
