"""A hub of our own: an HTTP server that answers as the Hugging Face hub does, and its cache."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

COMMIT = "c0ffee" * 6 + "c0de"
API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/(revision|tree)/([^/?]+)")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class Hub(ThreadingHTTPServer):
    """Serves folders as repositories, each with one commit, `COMMIT`, which `main` and `v1` name.

    Attributes:
        folders: By kind (`models`, `datasets`) and id.
        gated: Ids whose files nobody may have.
        answer: A status that everything is answered with instead.
        served: Names of the files that were downloaded.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folders: dict[tuple[str, str], Path] = {}
        self.gated: set[str] = set()
        self.answer: int | None = None
        self.served: list[str] = []

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    """One answer; errors carry the header that the hub's client tells them by."""

    server: Hub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        api, file = API.match(self.path), FILE.match(self.path)
        if self.server.answer is not None:
            self._send(self.server.answer)
        elif api:
            self._of_api(*api.groups())
        elif file:
            self._file(*file.groups())
        else:
            self._send(404)

    def _of_api(self, kind: str, name: str, what: str, revision: str) -> None:
        folder = self.server.folders.get((kind, name))
        if folder is None:
            self._send(401, error="RepoNotFound")
        elif revision not in ("main", "v1", COMMIT):
            self._send(404, error="RevisionNotFound")
        elif what == "revision":
            self._send(200, json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode())
        else:
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            entries = [
                {
                    "type": "file",
                    "path": path.relative_to(folder).as_posix(),
                    "size": path.stat().st_size,
                    "oid": tag_of(path),
                }
                for path in files
            ]
            self._send(200, json.dumps(entries).encode())

    def _file(self, datasets: str | None, name: str, _: str, inner: str) -> None:
        kind = "datasets" if datasets else "models"
        if name in self.server.gated:
            self._send(403, error="GatedRepo")
            return
        path = self.server.folders[kind, name] / inner
        if self.command == "GET":
            self.server.served.append(inner)
        self._send(200, path.read_bytes(), tag=tag_of(path))

    def _send(self, status: int, body: bytes = b"", error: str = "", tag: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        for header, value in (("X-Error-Code", error), ("ETag", f'"{tag}"' if tag else "")):
            if value:
                self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def tag_of(path: Path) -> str:
    """Return what names a file's content."""
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()


@contextmanager
def running_hub(cache: Path, patch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Run a hub that the hub's client asks instead of the real one, with a cache of its own."""
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True).start()
        patch.setattr(constants, "ENDPOINT", hub.url)
        files = "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + files)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.delenv("HF_TOKEN", raising=False)
        yield hub
        hub.shutdown()


def cached(folder: Path, cache: Path, name: str, kind: str = "models") -> None:
    """Lay a folder's files out as the hub's cache does: contents, and a commit that links them."""
    place = cache / f"{kind}--{name.replace('/', '--')}"
    for path in (path for path in folder.rglob("*") if path.is_file()):
        blob = place / "blobs" / tag_of(path)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(path.read_bytes())
        link = place / "snapshots" / COMMIT / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (place / "refs").mkdir()
    (place / "refs/main").write_text(COMMIT)
