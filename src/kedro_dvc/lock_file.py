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
from typing import Any, NamedTuple

from dvc.dvcfile import PROJECT_FILE
from dvc.stage import Stage
from dvc.utils.serialize import load_yaml
from dvc.utils.serialize._yaml import _get_yaml

from kedro_dvc.files import stamp, write_text

LOCK = "dvc.lock"
HEAD = "schema: '2.0'\nstages:\n"  # of a lock file that holds stages alone
TOP = len("stages:\n")
STAGE = re.compile(r"(?m)^  (?=[^\s])(?!: )")  # where one begins; `:` is below a name that is long
OUTSIDE = re.compile(r"(?m)^(?!  |$)")  # a line that is no stage's, such as the end of a document
ANCHOR = re.compile(r"[\s\[{,][&*][^\s&]")  # where the name of a value may stand


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


class _Text(NamedTuple):
    """A stage as a lock file has it.

    Attributes:
        said: What it says.
        text: The same in YAML.
        first: The number of its first anchor; None if it may have some and they are not known.
        anchors: How many it has: names of values that stand in several places of it.
    """

    said: Any
    text: str
    first: int | None
    anchors: int


class _LockFile:
    """A lock file as it was last read or written, with the text of each stage."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: Any = None
        self._content: dict[str, Any] = {}
        self._texts: dict[str, _Text] = {}  # by stage
        self.before: set[str] = self._load()

    def _load(self) -> set[str]:
        """Read the file; return the names of its stages."""
        exists = self._path.exists()
        self._stamp, self._texts = stamp(self._path), {}
        self._content = load_yaml(str(self._path)) if exists else {}
        stages = self._content.get("stages", {})
        if _holds_stages_alone(self._content):
            written = self._path.read_text(encoding="utf-8")
            head, *texts = STAGE.split(written)
            known = head == HEAD and not OUTSIDE.search(written, len(HEAD))
            if known and len(texts) == len(stages):
                self._texts = {
                    name: _Text(said, f"  {text}", None if ANCHOR.search(text) else 0, 0)
                    for (name, said), text in zip(stages.items(), texts, strict=True)
                }
        return set(stages)

    def read(self) -> dict[str, Any]:
        """Return the content; read the file again only if someone else has changed it."""
        if stamp(self._path) != self._stamp:
            self._load()
        return {
            key: dict(value) if key == "stages" else value for key, value in self._content.items()
        }

    def write(self, content: dict[str, Any]) -> None:
        """Write what the file is to hold from now on."""
        if _holds_stages_alone(content):
            before, self._texts, anchors = self._texts, {}, 0
            for name, said in content["stages"].items():
                known = before.get(name)
                if known is None or known.said is not said or known.first not in (0, anchors + 1):
                    known = _text_of_stage(name, said, anchors + 1)
                self._texts[name] = known
                anchors += known.anchors
            text = HEAD + "".join(known.text for known in self._texts.values())
        else:
            text = _text(content)
        write_text(self._path.resolve(), text)  # it may be a link
        self._content, self._stamp = content, stamp(self._path)


def _holds_stages_alone(content: dict[str, Any]) -> bool:
    return (
        list(content) == ["schema", "stages"] and content["schema"] == "2.0" and content["stages"]
    )


class _Serializer(_get_yaml().Serializer):  # type: ignore[misc] # that of DVC's YAML library
    """Counts the anchors of a text; DVC numbers them through the file, a stage has only its own."""

    made = 0

    def generate_anchor(self, node: Any) -> Any:
        """Return the name of the next one."""
        self.made += 1
        return super().generate_anchor(node)


def _text_of_stage(name: str, said: Any, first: int) -> _Text:
    """Return the text of a stage; its first anchor, if it has one, gets that number."""
    yaml, stream = _get_yaml(), StringIO()
    yaml.Serializer = _Serializer
    yaml.serializer.last_anchor_id, serializer = first - 1, yaml.serializer
    yaml.dump({"stages": {name: said}}, stream)
    return _Text(said, stream.getvalue()[TOP:], first if serializer.made else 0, serializer.made)


def _text(content: dict[str, Any]) -> str:
    stream = StringIO()
    _get_yaml().dump(content, stream)
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
