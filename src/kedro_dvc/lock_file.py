"""dvc.lock written after every stage in a time that does not grow with the stages that it has.

DVC reads and writes the whole file each time, in pure Python: with hundreds of stages that is
seconds after each. Here the text of a stage is made when it changes and kept beside what it says.
The bytes are those of DVC, but for comments, which no one writes there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from dvc.dvcfile import PROJECT_FILE
from dvc.stage import Stage
from dvc.utils.serialize import load_yaml
from dvc.utils.serialize._yaml import _dump

from kedro_dvc.files import stamp, write_text

LOCK = "dvc.lock"
HEAD = "schema: '2.0'\nstages:\n"  # of a lock file that holds stages alone
TOP = len("stages:\n")
STAGE = re.compile(r"(?m)^  (?=[^\s])")  # where one begins
ANCHOR = "&id"  # begins the name of a value that stands in several places of a stage's parameters


class LockFiles:
    """The lock files that a run changes, and the order in which it adds stages to them.

    That order is the one in which stages are planned: which of several ends first is not to be
    seen in the files.
    """

    def __init__(self) -> None:
        self._places: dict[str, int] = {}  # of stages, by address
        self._files: dict[str, _LockFile] = {}

    def plan(self, stages: list[Stage]) -> None:
        """Note the order of a run."""
        self._places = {stage.addressing: place for place, stage in enumerate(stages)}

    def modify(self, original: Callable[..., Any], path: str, fs: Any = None) -> Any:
        """Do what DVC's `modify_yaml` does, of which a lock file is only one use."""
        return self.changed(path) if Path(path).name == LOCK else original(path, fs=fs)

    @contextmanager
    def changed(self, path: str) -> Iterator[dict[str, Any]]:
        """Yield the content of a lock file, which may not exist yet; write what becomes of it.

        As DVC does, a stage is replaced whole or left alone.
        """
        if path not in self._files:
            self._files[path] = _LockFile(Path(path))
        file = self._files[path]
        content = file.read()
        yield content
        dvc_file = os.path.relpath(Path(path).with_suffix(".yaml"))
        prefix = "" if dvc_file == PROJECT_FILE else f"{dvc_file}:"
        stages = content.get("stages", {})
        added = [name for name in stages if name not in file.before]
        for name in sorted(added, key=lambda name: self._places.get(f"{prefix}{name}", 0)):
            stages[name] = stages.pop(name)
        file.write(content)


class _LockFile:
    """A lock file as it was last read or written, with the text of each stage."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: Any = None
        self._content: dict[str, Any] = {}
        self._texts: dict[str, tuple[Any, str]] = {}  # by stage: what it says, and as text
        self.before: set[str] = self._load()

    def _load(self) -> set[str]:
        """Read the file; return the names of its stages."""
        exists = self._path.exists()
        self._stamp, self._texts = stamp(self._path) if exists else None, {}
        self._content = load_yaml(str(self._path)) if exists else {}
        stages = self._content.get("stages", {})
        if _holds_stages_alone(self._content):
            head, *texts = STAGE.split(self._path.read_text(encoding="utf-8"))
            if head == HEAD and len(texts) == len(stages):
                pairs = zip(stages.items(), texts, strict=True)
                self._texts = {name: (said, f"  {text}") for (name, said), text in pairs}
        return set(stages)

    def read(self) -> dict[str, Any]:
        """Return the content; read the file again only if someone else has changed it."""
        if (stamp(self._path) if self._path.exists() else None) != self._stamp:
            self._load()
        return {
            key: dict(value) if key == "stages" else value for key, value in self._content.items()
        }

    def write(self, content: dict[str, Any]) -> None:
        """Write what the file is to hold from now on."""
        if _holds_stages_alone(content):
            self._texts = {
                name: known
                if (known := self._texts.get(name)) and known[0] is said
                else (said, _text({"stages": {name: said}})[TOP:])
                for name, said in content["stages"].items()
            }
            self._number_anchors()
            text = HEAD + "".join(text for _, text in self._texts.values())
        else:
            text = _text(content)
        write_text(self._path, text)
        self._content, self._stamp = content, stamp(self._path)

    def _number_anchors(self) -> None:
        """Make the texts of stages with anchors anew, together: DVC numbers them through the file.

        Alone each would begin with `&id001`, and YAML with two anchors of one name is not read.
        """
        anchored = {name: said for name, (said, text) in self._texts.items() if ANCHOR in text}
        if len(anchored) > 1:
            _, *texts = STAGE.split(_text({"stages": anchored}))
            for (name, said), text in zip(anchored.items(), texts, strict=True):
                self._texts[name] = said, f"  {text}"


def _holds_stages_alone(content: dict[str, Any]) -> bool:
    return (
        list(content) == ["schema", "stages"] and content["schema"] == "2.0" and content["stages"]
    )


def _text(content: dict[str, Any]) -> str:
    stream = StringIO()
    _dump(content, stream)
    return stream.getvalue()


@contextmanager
def replaced(module: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Put a function, which is given the original as its first argument, in a module."""
    original = getattr(module, name)
    setattr(module, name, partial(function, original))
    try:
        yield
    finally:
        setattr(module, name, original)
