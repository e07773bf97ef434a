"""A hub on this machine: what huggingface_hub's client asks for when it downloads one repository, and its faults."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

REPO, COMMIT = "Owner/Layered", "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves the files of a folder as REPO at COMMIT, which is its branch main; all weights are "large files".

    faults: for a file's path, what happens to it: "cut" breaks the connection off halfway, once; "gone" refuses it;
    "damaged" sends other bytes, once. asked: how often each file's content was asked for. ranges: from where.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        self.faults: dict[str, str] = {}
        self.asked: Counter[str] = Counter()
        self.ranges: dict[str, int] = {}

    @property
    def address(self) -> str:
        """What HF_ENDPOINT says."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Hub

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        if path == f"/api/models/{REPO}/revision/main":
            self.send(200, json.dumps({"id": REPO, "sha": COMMIT, "siblings": [], "tags": []}).encode(), body)
        elif path == f"/api/models/{REPO}/tree/{COMMIT}":
            self.send(200, json.dumps([self.entry(name) for name in self.server.content]).encode(), body)
        elif path.startswith(f"/{REPO}/resolve/{COMMIT}/"):
            self.file(path.removeprefix(f"/{REPO}/resolve/{COMMIT}/"), body)
        else:
            found = "Revision" if path.startswith(f"/api/models/{REPO}/") else "Repo"
            self.send(404, b"{}", body, {"X-Error-Code": f"{found}NotFound"})

    def entry(self, name: str) -> dict[str, Any]:
        """A file as the hub lists it."""
        content = self.server.content[name]
        about: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": small_hash(content)}
        if name.endswith(".safetensors"):
            about["lfs"] = {"oid": large_hash(content), "size": len(content), "pointerSize": 130}
        return about

    def file(self, name: str, body: bool) -> None:
        content, fault = self.server.content[name], self.server.faults.get(name)
        large = name.endswith(".safetensors")
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{large_hash(content) if large else small_hash(content)}"'}
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if body:
            self.server.asked[name] += 1
            self.server.ranges[name] = start
            if fault == "gone":
                self.send(403, b"", body)
                return
            if fault is not None:
                del self.server.faults[name]
        if fault == "damaged":
            content = content[:-1] + bytes([content[-1] ^ 1])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send(206 if start else 200, content[start:], body, headers, cut=body and fault == "cut")

    def send(
        self, code: int, content: bytes, body: bool, headers: dict[str, str] | None = None, cut: bool = False
    ) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content[: len(content) // 2] if cut else content)


def large_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def small_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # as git names it


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    """A hub that runs meanwhile."""
    hub = Hub(folder)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
