"""A real server in a process of its own, for tests: `Running`. As a program it is `unfuse` with one more engine.

The engine `slow` takes 50 ms a step; the prompt can have its process killed, or have it ask for all memory.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unfuse import engines
from unfuse.engines import EngineLayers, OnStep
from unfuse.engines.fake import Fake

if __name__ != "serving":  # in the server and its workers, which are run from this file; not where tests import it
    engines.TABLE["slow"] = engines.Entry("serving", "Slow", "for tests")


class Slow(Fake):
    """The fake engine, slowly."""

    name = "slow"

    def decompose(self, pictures: Any, layers: Any, **options: Any) -> list[EngineLayers]:
        on_step: OnStep = options.pop("on_step")

        def slowly(step: engines.Step) -> None:
            time.sleep(0.05)
            on_step(step)
            if step.step == 2 and options["prompts"][0] == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if step.step == 2 and options["prompts"][0] == "hoard":
                raise MemoryError

        return super().decompose(pictures, layers, on_step=slowly, **options)


class Answer:
    """What came back."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The type of the error."""
        return str(self.json["error"]["type"])

    @property
    def image(self) -> Image.Image:
        return Image.open(BytesIO(self.body))


class Running:
    """A server on a free port. `stop` ends it kindly, `kill` does not."""

    def __init__(self, data: Path, *options: str, token: str = "", before: str = "", engine: str = "fake") -> None:
        command = [sys.executable, __file__, "serve", "--port", "0", "--no-browser", "--data", str(data)]
        command += ["--engine", engine, *options]
        if before:  # said by a shell first, such as a limit
            command = ["bash", "-c", f'{before}; exec "$@"', "bash", *command]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        self.log = (data.parent / f"{data.name}.log").open("a+b")
        self.token, self.before = token, 0
        self.before = len(self.said())  # of servers before it in the same folder
        self.process = subprocess.Popen(command, stderr=self.log, stdout=self.log, env=environment)
        until = time.monotonic() + 60
        while b"unfuse at http://" not in (said := self.said()):
            assert self.process.poll() is None, said.decode()
            assert time.monotonic() < until, said.decode()
            time.sleep(0.05)
        self.port = int(said.rpartition(b"unfuse at http://")[2].split(b"/")[0].rpartition(b":")[2])

    def said(self) -> bytes:
        """All that it logged."""
        return Path(self.log.name).read_bytes()[self.before :]

    def ask(self, method: str, path: str, body: Any = None, file: Any = None, **headers: str) -> Answer:
        """One request. `body` is sent as JSON, or as bytes; `file` makes a form: (field, name, bytes, fields)."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token and "authorization" not in sent:
            sent["authorization"] = f"Bearer {self.token}"
        if file is not None:
            body, sent["content-type"] = form(*file)
        elif body is not None and not isinstance(body, bytes):
            body, sent["content-type"] = json.dumps(body).encode(), "application/json"
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            line.request(method, path, body, sent)
            answer = line.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            line.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return self.ask("POST", path, {} if body is None else body, **headers)

    def decompose(self, picture: bytes, name: str = "test.png", **fields: Any) -> Answer:
        """Send a picture."""
        return self.ask("POST", "/v1/decompositions", file=("file", name, picture, fields))

    def finished(self, job: str) -> Any:
        """A job's last state, by its events."""
        states = list(self.events(job))
        return states[-1]

    def events(self, job: str) -> Iterator[Any]:
        """A job's states as they come."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        line.request("GET", f"/v1/jobs/{job}/events", headers={"authorization": f"Bearer {self.token}"})
        answer = line.getresponse()
        assert answer.status == 200, answer.read()
        for row in answer:
            if row.startswith(b"data: "):
                yield json.loads(row[6:])
        line.close()

    def stack(self, picture: bytes | None = None, **fields: Any) -> Any:
        """A new stack, made of a picture."""
        job = self.decompose(picture or png(picture_of()), **fields)
        assert job.status == 202, job.body
        done = self.finished(job.json["id"])
        assert done["state"] == "done", done
        return self.get(f"/v1/stacks/{done['stack']}").json

    def kill(self) -> None:
        """End it as a power cut does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def stop(self) -> None:
        """End it as Ctrl-C does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.log.close()


def form(field: str, name: str, data: bytes, fields: dict[str, Any]) -> tuple[bytes, str]:
    """A multipart form (RFC 7578), and its content type."""
    mark = uuid.uuid4().hex
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    head = f'--{mark}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
    parts.append(head.encode() + b"Content-Type: application/octet-stream\r\n\r\n" + data + b"\r\n")
    return b"".join([*parts, f"--{mark}--\r\n".encode()]), f"multipart/form-data; boundary={mark}"


def picture_of(width: int = 60, height: int = 40, seed: int = 0) -> Any:
    """`h w 4` uint8: a wall, a lamp and noise; opaque."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(seed).integers(0, 20, (height, width, 3))
    lamp = np.hypot(x - width / 3, y - height / 2) < height / 4
    rgb = np.where(lamp[..., None], [250, 220, 90], [40, 60, 110]) - noise // 2
    return np.dstack((rgb, np.full((height, width), 255))).clip(0, 255).astype(np.uint8)


def png(pixels: Any) -> bytes:
    """Pixels as a file."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    from unfuse import cli

    cli.main()
