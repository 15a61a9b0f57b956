"""A Hugging Face Hub on the loopback interface that can misbehave on demand."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote

API = re.compile(r"/api/models/(?P<name>[^/]+/[^/]+)(/revision/(?P<revision>.+))?")
RESOLVE = re.compile(r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass(frozen=True)
class Asked:
    """A request for a model, as the server received it."""

    method: str
    path: str
    first_byte: int
    authorization: str | None

    @property
    def file(self) -> str | None:
        """The file that was downloaded, or None."""
        match = RESOLVE.fullmatch(self.path)
        return match["file"] if match and self.method == "GET" else None


@dataclass
class Repository:
    """A model: the files of each commit, and the commit of each branch."""

    commits: dict[str, dict[str, bytes]]
    branches: dict[str, str]

    @classmethod
    def of(cls, files: dict[str, bytes]) -> Repository:
        """Return a model with one commit on `main`."""
        commit = commit_of(files)
        return cls({commit: files}, {"main": commit})

    def commit(self, revision: str) -> str | None:
        """Return the commit that a branch name or a commit means."""
        return self.branches.get(revision, revision if revision in self.commits else None)


def commit_of(files: dict[str, bytes]) -> str:
    """Return the id of a commit with these files."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


@dataclass
class Faults:
    """How the server misbehaves; by default it does not.

    `cut` and `stall` are for downloads of a file by its name: how many bytes of each answer are sent before the
    connection is closed, or falls silent, answer by answer. `refusal` is the status and headers of every answer,
    `refusal_of_files` only of those for files; `page` is all that is ever answered. `moves_to` becomes the branch
    `main` once a file was asked for.
    """

    cut: dict[str, list[int]] = field(default_factory=dict)
    always_cut: set[str] = field(default_factory=set)
    stall: dict[str, list[int]] = field(default_factory=dict)
    refusal: tuple[int, dict[str, str]] | None = None
    refusal_of_files: tuple[int, dict[str, str]] | None = None
    page: bytes | None = None
    silent: bool = False
    moves_to: str | None = None


class Hub:
    """The server, as a context manager."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.faults = Faults()
        self.asked: list[Asked] = []
        self.requests = 0
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("_", (_Handler,), {"hub": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The value for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def downloads(self) -> list[str]:
        """The files that were downloaded, in order."""
        return [asked.file for asked in self.asked if asked.file is not None]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        start = int(re.sub(r"\D", "", self.headers.get("Range", "")) or 0)
        self.hub.requests += 1
        # The client also makes other requests.
        if API.fullmatch(path) or RESOLVE.fullmatch(path):
            self.hub.asked.append(Asked(self.command, path, start, self.headers.get("Authorization")))
        if self.hub.faults.silent:
            self.hub.closing.wait()
            self.close_connection = True
        elif self.hub.faults.page:
            self._send(200, self.hub.faults.page, {})
        elif self.hub.faults.refusal:
            self._refuse(*self.hub.faults.refusal)
        elif match := API.fullmatch(path):
            self._describe(match["name"], unquote(match["revision"] or "main"))
        elif match := RESOLVE.fullmatch(path):
            self._resolve(match["name"], unquote(match["revision"]), match["file"], start)
        else:
            self._refuse(404, {})

    def _find(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._refuse(404, {"X-Error-Code": "RepoNotFound"})
            return None
        commit = repository.commit(revision)
        if commit is None:
            self._refuse(404, {"X-Error-Code": "RevisionNotFound"})
            return None
        return commit, repository.commits[commit]

    def _describe(self, name: str, revision: str) -> None:
        if found := self._find(name, revision):
            commit, files = found
            siblings = [{"rfilename": file} for file in files]
            self._send(200, json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode(), {})

    def _resolve(self, name: str, revision: str, file: str, start: int) -> None:
        faults = self.hub.faults
        if faults.refusal_of_files:
            return self._refuse(*faults.refusal_of_files)
        if not (found := self._find(name, revision)):
            return None
        commit, files = found
        if file not in files:
            return self._refuse(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        if faults.moves_to:
            self.hub.repositories[name].branches["main"] = faults.moves_to
        contents = files[file]
        headers = {
            "ETag": f'"{hashlib.sha256(contents).hexdigest()}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
        }
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(contents) - 1}/{len(contents)}"
        if self.command == "GET" and (file in faults.always_cut or faults.cut.get(file) or faults.stall.get(file)):
            return self._send_part(contents[start:], headers, file, start)
        return self._send(206 if start else 200, contents[start:], headers)

    def _send_part(self, body: bytes, headers: dict[str, str], file: str, start: int) -> None:
        faults = self.hub.faults
        cuts, stalls = faults.cut.get(file), faults.stall.get(file)
        sent = cuts.pop(0) if cuts else stalls.pop(0) if stalls else 0
        self._head(206 if start else 200, len(body), headers)
        self.wfile.write(body[:sent])
        self.wfile.flush()
        if stalls is not None:
            self.hub.closing.wait()
        self.close_connection = True

    def _refuse(self, status: int, headers: dict[str, str]) -> None:
        self._send(status, json.dumps({"error": HTTPStatus(status).phrase}).encode(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._head(status, len(body), headers)
        if self.command == "GET":
            self.wfile.write(body)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/octet-stream" if status < 300 else "application/json")
        self.send_header("Content-Length", str(length))
        self.end_headers()
