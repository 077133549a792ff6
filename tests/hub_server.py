"""A server that answers as the Hugging Face Hub does, as far as fetching a repository asks."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

COMMIT = "1" * 40


class Hub(ThreadingHTTPServer):
    """Serves one repository, `org/name`.

    Attributes:
        files: Content by name.
        asked: Names of the files that were fetched.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.files, self.asked = dict(files), list[str]()

    @property
    def address(self) -> str:
        """What `HF_ENDPOINT` has to be."""
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(files: Mapping[str, bytes]) -> Iterator[Hub]:
    """Serve files while the body runs."""
    with Hub(files) as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def _answer(self, *, body: bool) -> None:
        path = urlsplit(self.path).path
        files, place = self.server.files, "/api/models/org/name"
        if path.startswith(("/api/models/org/gated", "/org/gated")):
            self._say(403, b"", body, {"X-Error-Code": "GatedRepo"})
        elif path in (place, f"{place}/revision/main", f"{place}/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in files]
            self._json({"id": "org/name", "sha": COMMIT, "siblings": siblings, "private": False}, body)
        elif path.startswith(f"{place}/revision/"):
            self._say(404, b"", body, {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith(f"{place}/tree/"):
            kinds = [{"type": "file", "path": n, "size": len(c), "oid": _oid(c)} for n, c in files.items()]
            self._json(kinds, body)
        elif path.startswith("/org/name/resolve/") and (name := path.split("/", 5)[5]) in files:
            self.server.asked += [name] if body else []
            self._say(200, files[name], body, {"ETag": f'"{_oid(files[name])}"', "X-Repo-Commit": COMMIT})
        else:
            code = "EntryNotFound" if path.startswith("/org/name/") else "RepoNotFound"
            self._say(404, b"", body, {"X-Error-Code": code})

    def _json(self, value: Any, body: bool) -> None:
        self._say(200, json.dumps(value).encode(), body, {"Content-Type": "application/json"})

    def _say(self, status: int, content: bytes, body: bool, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
