"""Do 50 people who poll and export slow down a job? `python benchmarks/server_load.py [--users 50] [--jobs 4]`

Starts a server, decomposes a picture a few times with nobody else there, and again while every user asks once a second
how far a job is and what stacks there are, and at every tenth turn exports a stack (a PSD, a project, a PNG, by turns),
which one of them edits. Prints the job's seconds and the times of the answers. The users run on the same machine.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from pathlib import Path
from typing import Any

EXPORTS = ("psd", "zip", "png")


class Client:
    """A person's connection."""

    def __init__(self, port: int) -> None:
        self.line = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Any:
        self.line.request(method, path, body, {"content-type": kind} if body else {})
        answer = self.line.getresponse()
        data = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {data[:200]!r}")
        return json.loads(data) if "json" in answer.headers["content-type"] else data

    def decompose(self, picture: bytes) -> float:
        """Seconds from sending a picture to its stack."""
        mark = uuid.uuid4().hex
        head = f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'.encode()
        body = head + picture + f"\r\n--{mark}--\r\n".encode()
        began = time.perf_counter()
        job = self.ask("POST", "/v1/decompositions", body, f"multipart/form-data; boundary={mark}")
        while job["state"] in ("queued", "running"):
            time.sleep(0.05)
            job = self.ask("GET", f"/v1/jobs/{job['id']}")
        if job["state"] != "done":
            raise RuntimeError(job["error"])
        self.stack, self.job = job["stack"], job["id"]
        return time.perf_counter() - began


def user(port: int, stack: str, job: str, number: int, stop: threading.Event, times: dict[str, list[float]]) -> None:
    """One person, until `stop`. The first one edits now and then, so that the others' exports are new."""
    client, chance = Client(port), random.Random(number)
    turn = chance.randrange(10)
    while not stop.is_set():
        turn += 1
        asks: list[tuple[str, str, str, bytes | None]] = [("poll", "GET", f"/v1/jobs/{job}", None)]
        asks.append(("list", "GET", "/v1/stacks", None))
        if turn % 10 == 0:
            asks.append(("export", "GET", f"/v1/stacks/{stack}/export/{EXPORTS[turn // 10 % 3]}", None))
        if turn % 5 == 0 and number == 0:
            edit = {"edits": [{"op": "move", "layer": 1, "x": chance.choice((-3, 3))}]}
            asks.append(("edit", "POST", f"/v1/stacks/{stack}/edits", json.dumps(edit).encode()))
        for name, method, path, body in asks:
            began = time.perf_counter()
            try:
                client.ask(method, path, body)
            except (RuntimeError, OSError) as error:
                name = f"{name}, refused ({error})"
                client = Client(port)
            times[name].append(time.perf_counter() - began)
        stop.wait(chance.uniform(0.5, 1.5))


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=4, help="decompositions in each half")
    parser.add_argument("--picture", type=Path, default=Path(__file__).parents[1] / "examples" / "poster.jpg")
    options = parser.parse_args()
    picture = options.picture.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "unfuse.cli",
            "serve",
            "--port",
            "0",
            "--no-browser",
            "--data",
            f"{folder}/data",
        ]
        with open(f"{folder}/log", "w+") as log:
            server = subprocess.Popen(command, stderr=log, env=os.environ)
            try:
                while "unfuse at http://" not in (said := Path(folder, "log").read_text()):
                    time.sleep(0.1)
                measure(int(said.partition("127.0.0.1:")[2].partition("/")[0]), picture, options)
            finally:
                server.terminate()
                server.wait()


def measure(port: int, picture: bytes, options: argparse.Namespace) -> None:
    """Jobs alone, then with users."""
    client = Client(port)
    client.decompose(picture)  # the first one reads weights
    alone = [client.decompose(picture) for _ in range(options.jobs)]
    stop, times = threading.Event(), defaultdict[str, list[float]](list)
    people = [
        threading.Thread(target=user, args=(port, client.stack, client.job, number, stop, times))
        for number in range(options.users)
    ]
    for person in people:
        person.start()
    time.sleep(3)
    loaded = [client.decompose(picture) for _ in range(options.jobs)]
    stop.set()
    for person in people:
        person.join()
    for name, seconds in (("alone", alone), (f"with {options.users} users", loaded)):
        print(f"job {name}: median {statistics.median(seconds):.2f} s of {', '.join(f'{x:.2f}' for x in seconds)}")
    for name, each in sorted(times.items()):
        low, high = statistics.median(each), sorted(each)[int(0.95 * len(each))]
        print(f"{name}: {len(each)} asked, p50 {1000 * low:.0f} ms, p95 {1000 * high:.0f} ms")


if __name__ == "__main__":
    main()
