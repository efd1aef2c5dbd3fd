"""A hub of our own: an HTTP server that answers as the Hugging Face hub does, and its cache."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

COMMIT = "c0ffee" * 6 + "c0de"
API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/(revision|tree)/([^/?]+)")
PAGE = re.compile(r"/api/models/([^/]+/[^/?]+)(?:$|[?])")
UPLOAD = re.compile(r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch)/([^/?]+)")
BATCH = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")
TOKEN = "hf_of_ours"
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class Hub(ThreadingHTTPServer):
    """Serves folders as repositories, each with one commit, `COMMIT`, which `main` and `v1` name.

    Attributes:
        folders: By kind (`models`, `datasets`) and id.
        gated: Ids whose files nobody may have.
        answer: A status that everything is answered with instead.
        served: Names of the files that were downloaded.
        private: Of each repository that was created, whether it is private.
        pushed: Files of each repository and revision that were committed.
        commits: Messages of the commits.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folders: dict[tuple[str, str], Path] = {}
        self.gated: set[str] = set()
        self.answer: int | None = None
        self.served: list[str] = []
        self.private: dict[str, bool] = {}
        self.pushed: dict[tuple[str, str], dict[str, bytes]] = {}
        self.commits: list[str] = []
        self.stored: dict[str, bytes] = {}  # large files, by SHA-256

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

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        upload, batch = UPLOAD.match(self.path), BATCH.match(self.path)
        if self.server.answer is not None:
            self._send(self.server.answer)
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401)
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif batch:
            self._batch(json.loads(body)["objects"])
        elif upload and upload[1] in self.server.private:
            {"preupload": self._preupload, "commit": self._commit, "branch": self._branch}[
                upload[2]
            ](upload[1], upload[3], body)
        else:
            self._send(404, error="RepoNotFound")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.stored[self.path.removeprefix("/lfs/")] = body
        self._send(200)

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        address = json.dumps({"url": f"{self.server.url}/{name}"}).encode()
        if name in self.server.private:
            self._send(409, address)
            return
        private = asked.get("visibility") == "private" or asked.get("private", False)
        self.server.private[name] = private
        self.server.pushed[name, "main"] = {}
        self._send(200, address)

    def _branch(self, name: str, revision: str, _: bytes) -> None:
        self.server.pushed.setdefault((name, revision), {})
        self._json({})

    def _preupload(self, name: str, revision: str, body: bytes) -> None:
        files = json.loads(body)["files"]
        for file in files:
            file["uploadMode"] = "lfs" if file["path"].endswith(".safetensors") else "regular"
            file["shouldIgnore"] = False
        self._json({"files": files})

    def _batch(self, objects: list[dict[str, Any]]) -> None:
        for one in objects:
            one["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}}
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, revision: str, body: bytes) -> None:
        if (name, revision) not in self.server.pushed:
            self._send(404, error="RevisionNotFound")
            return
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.server.commits.append(value["summary"])
            elif line["key"] == "lfsFile":
                content = self.server.stored[value["oid"]]
                self.server.pushed[name, revision][value["path"]] = content
            else:
                content = base64.b64decode(value["content"])
                self.server.pushed[name, revision][value["path"]] = content
        url = f"{self.server.url}/{name}/commit/{COMMIT}"
        self._json({"commitUrl": url, "commitOid": COMMIT})

    def _json(self, what: dict[str, Any]) -> None:
        self._send(200, json.dumps(what).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        api, file, page = (one.match(self.path) for one in (API, FILE, PAGE))
        if self.server.answer is not None:
            self._send(self.server.answer)
        elif api:
            self._of_api(*api.groups())
        elif file:
            self._file(*file.groups())
        elif page and page[1] in self.server.private:
            private = self.server.private[page[1]]
            self._json({"id": page[1], "private": private, "sha": COMMIT, "siblings": []})
        elif page:
            self._send(401, error="RepoNotFound")
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
        if self.command != "HEAD":
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
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no_token"))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its store is not stood in for
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            patch.delenv(name, raising=False)
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
