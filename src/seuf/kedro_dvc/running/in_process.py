"""The commands of generated stages, run in this process."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from kedro.framework.session import KedroSession

from seuf.kedro_dvc.errors import WorkflowError
from seuf.kedro_dvc.generation.guard import write_stamp
from seuf.kedro_dvc.generation.sync import sync
from seuf.kedro_dvc.project.study import BASE, dvc_file, load_study


@dataclass
class InProcess:
    """Runs commands as their own process would; call it with one.

    Attributes:
        project: The project's root, which is also the working directory.
    """

    project: Path
    _study: str | None = field(default=None, init=False)  # whose pipelines are loaded

    def __call__(self, command: str) -> bool:
        """Run a command, or return False if it is not one that `kedro dvc sync` writes."""
        match shlex.split(command):
            case ["kedro", "run", "--env", study, "--pipelines", pipeline, "--nodes", node]:
                self._run(study, pipeline, node)
            case ["kedro", "run", "--pipelines", pipeline, "--nodes", node]:
                self._run(BASE, pipeline, node)
            case ["kedro", "dvc", "sync", "--check", "--env", study, "--stamp"]:
                self._guard(study)
            case _:
                return False
        return True

    def _run(self, study: str, pipeline: str, node: str) -> None:
        if study != self._study:
            load_study(self.project, study)
            self._study = study
        session = KedroSession.create(self.project, env=study)
        session.run(pipeline_names=[pipeline], node_names=[node])
        session.close()

    def _guard(self, study: str) -> None:
        if sync(self.project, study, write=False):
            raise WorkflowError(f"{dvc_file(study)} is behind: run `kedro dvc sync`")
        self._study = study
        write_stamp(self.project, study)
