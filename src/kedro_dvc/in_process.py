"""Run a stage's command in this process, measure it, and let Ctrl-C stop it.

Nothing of DVC is imported: the processes that a run starts run stages and do no more.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kedro.framework.session import KedroSession

from kedro_dvc.configuration import BASE
from kedro_dvc.dependencies import edited_since_start
from kedro_dvc.files import WorkflowError
from kedro_dvc.project import dvc_file, load_study
from kedro_dvc.stages import GUARD, words_of, write_guard_file
from kedro_dvc.sync import sync

log = logging.getLogger(__name__)


@dataclass
class InProcess:
    """Runs commands as their own process would; call it with one.

    A stage whose code or configuration was edited since this process began is not run here, where
    the modules of before are loaded.

    Attributes:
        project: The project's root, which is also the working directory.
    """

    project: Path
    _study: str | None = field(default=None, init=False)  # whose pipelines are loaded

    def __call__(self, command: str) -> bool:
        """Run a command, or return False: it needs a process of its own, or is none of ours."""
        match words_of(command):
            case ["kedro", "run", "--env", study, "--pipelines", pipeline, "--nodes", node]:
                if here := self._as_loaded(study, node):
                    self._run(study, pipeline, node)
            case ["kedro", "run", "--pipelines", pipeline, "--nodes", node]:
                if here := self._as_loaded(BASE, node):
                    self._run(BASE, pipeline, node)
            case ["kedro", "dvc", "sync", "--check", "--env", study, "--stamp"]:
                if here := self._as_loaded(study, GUARD):
                    self._guard(study)
            case _:
                here = False
        return here

    def _as_loaded(self, study: str, node: str) -> bool:
        """Return whether what a stage watches is as it was when this process began."""
        files = edited_since_start(self.project, study, node)
        if files:
            log.info("%s runs in a process of its own: %s was edited", node, ", ".join(files))
        return not files

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
        write_guard_file(self.project, study)


class Interrupts:
    """Lets Ctrl-C stop a stage at once, and DVC only between its own steps.

    DVC expects it while a command runs in another process. While DVC writes its lock an interrupt
    would leave half a file behind, which no later command can read.
    """

    def __init__(self) -> None:
        self._allowed, self._pending = False, False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Keep an interrupt for the next `allowed` or `check`, or for the end; a second comes."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals come to the main thread alone
            return
        before = signal.signal(signal.SIGINT, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
        self.check()

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Raise an interrupt at once inside the context, a pending one at its beginning."""
        self.check()
        self._allowed = True
        try:
            yield
        finally:
            self._allowed = False

    @contextmanager
    def noted(self, module: Any) -> Iterator[None]:
        """Keep an interrupt that a module of DVC ignores, as what it has started gets it, too."""

        def handle(number: int, handler: Any) -> Any:
            ignored = handler is signal.SIG_IGN
            return signal.signal(number, self._note if ignored else handler)

        known = module.signal
        module.signal = SimpleNamespace(signal=handle, SIGINT=signal.SIGINT, SIG_IGN=signal.SIG_IGN)
        try:
            yield
        except Exception:
            self.check()
            raise
        finally:
            module.signal = known

    def _note(self, number: int, frame: Any) -> None:
        self._pending = True

    def check(self) -> None:
        """Raise a pending interrupt."""
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: Any) -> None:
        if self._allowed or self._pending:
            raise KeyboardInterrupt
        self._pending = True
