"""The queue: jobs wait in it by fair turns, runners take them out, and whoever asks is told how it goes.

Everything about a job that a restart has to know is in the store before anybody is told of it; how far a job is lives
in memory. A job that was running when the server ended is run again once; if the server ended again, it has failed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from unfuse.errors import UnfuseError
from unfuse.server import shelf
from unfuse.server.child import ChildDied, Message, complaint
from unfuse.server.options import Options
from unfuse.server.store import DONE, NotFound, Store
from unfuse.server.worker import PREVIEW

MOST_RUNS = 2
MOST_TOLD = 20  # rows of a table that could not be made

log = logging.getLogger("unfuse.server")


class QueueFull(UnfuseError):
    """No more jobs are taken at the moment."""


class Conflict(UnfuseError):
    """The request does not fit what was asked before it."""


@dataclass
class Job:
    """A job in memory. `place` is how many go before it."""

    id: str
    owner: str
    kind: str
    name: str
    request: dict[str, Any]
    created: float
    state: str = "queued"
    stack: str | None = None
    place: int | None = None
    step: int = 0
    total: int = 0
    stage: str = "waiting"
    error: dict[str, str] | None = None
    started: float | None = None
    finished: float | None = None
    expected: float | None = None  # seconds, from jobs of this kind before
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def of(cls, row: dict[str, Any]) -> Job:
        """A job as the store has it, waiting."""
        return cls(**{name: row[name] for name in ("id", "owner", "kind", "name", "request", "created", "stack")})

    def told(self) -> dict[str, Any]:
        """What the API says of it."""
        names = (
            "id",
            "kind",
            "name",
            "state",
            "place",
            "step",
            "total",
            "stage",
            "stack",
            "error",
            "created",
            "finished",
        )
        return {name: getattr(self, name) for name in names} | {"seconds_left": self.seconds_left()}

    def seconds_left(self) -> float | None:
        """From the steps so far, or from jobs before, where there is anything to go by."""
        if self.state != "running" or self.started is None:
            return None
        spent = time.time() - self.started
        if self.total > 1 and 0 < self.step < self.total:
            return round(spent / self.step * (self.total - self.step), 1)
        return None if self.expected is None else round(max(0.0, self.expected - spent), 1)

    def tell(self, **changes: Any) -> None:
        """Change it, and wake whoever listens."""
        for name, value in changes.items():
            setattr(self, name, value)
        self.changed.set()
        self.changed = asyncio.Event()


class Runner(Protocol):
    """What runs one job after the other: a process of this machine, or a place in a cluster."""

    about: dict[str, Any]  # what its engines can do, by name; empty while it is not ready
    starts: int  # how often it was started

    async def warm(self) -> None:
        """Get ready. Raises UnfuseError."""
        ...

    def run(self, message: Message, folder: Path) -> AsyncIterator[Message]:
        """Run a job; news as they come, at last `{"result": ...}` or `{"error": ...}`. Raises ChildDied."""
        ...

    def cancel(self, number: str) -> None:
        """Stop the job with that number soon."""
        ...

    def close(self) -> None:
        """End it."""
        ...


def fair(jobs: Iterable[Job], served: dict[str, float]) -> list[Job]:
    """The order in which waiting jobs come: every owner's first, then every owner's second, and so on.

    Within a round, owners who were served longest ago come first. jobs: the oldest first.
    """
    rounds: dict[str, int] = {}
    keyed = []
    for job in jobs:
        number = rounds.get(job.owner, 0)
        rounds[job.owner] = number + 1
        keyed.append(((number, served.get(job.owner, 0.0), job.created), job))
    return [job for _, job in sorted(keyed, key=lambda pair: pair[0])]


class Jobs:
    """The queue and its runners."""

    def __init__(self, store: Store, options: Options, runners: list[Runner]) -> None:
        self.store, self.options, self.runners = store, options, runners
        self.jobs: dict[str, Job] = {}  # those that are not finished, and those that finished lately
        self.served: dict[str, float] = {}
        self.speed: dict[str, float] = {}  # seconds a megapixel, by engine
        self.wake = asyncio.Condition()
        self.running: dict[str, Runner] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self.finished_total: dict[str, int] = dict.fromkeys(DONE, 0)

    def start(self) -> None:
        """Take up what an earlier server left, and begin."""
        for row in self.store.jobs(unfinished=True):
            job = Job.of(row)
            self.jobs[job.id] = job
            runs = job.request.get("runs", 0)
            if row["state"] == "running" and runs >= MOST_RUNS:
                why = f"the server ended {runs} times while it ran: try a smaller picture, or look at the server's log"
                self.end(job, "failed", error={"type": "ServerEnded", "message": why})
            elif not self.store.job_folder(job.id).is_dir():
                self.end(job, "failed", error={"type": "ServerEnded", "message": "its files are gone: send it again"})
            else:
                self.store.job_state(job.id, state="queued")
        self.places()
        self.tasks = [asyncio.create_task(self.serve(runner)) for runner in self.runners]

    async def stop(self) -> None:
        """End the runners; what is unfinished is taken up by the next server."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for runner in self.runners:
            runner.close()

    # --- asking

    def waiting(self) -> list[Job]:
        """Jobs that wait, in the order in which they come."""
        return fair([job for job in self.jobs.values() if job.state == "queued"], self.served)

    def check_queue(self, owner: str) -> None:
        """Raise QueueFull where the queue takes no more, of anybody or of this owner."""
        waiting = self.waiting()
        own = sum(job.owner == owner for job in waiting)
        if len(waiting) >= self.options.queue or own >= self.options.queue_each:
            raise QueueFull(
                f"{len(waiting)} jobs are waiting, {own} of them yours; the limits are {self.options.queue} and "
                f"{self.options.queue_each}: try again later"
            )

    def again(self, owner: str, key: str | None, fingerprint: str) -> dict[str, Any] | None:
        """The job that the same request made before. Raises Conflict where the key came with another request."""
        if key is None or (found := self.store.job_by_key(owner, key)) is None:
            return None
        if found["fingerprint"] != fingerprint:
            raise Conflict(f"the Idempotency-Key {key!r} was used for another request: use a new one")
        return self.told(owner, found["id"])

    async def submit(
        self, owner: str, kind: str, name: str, request: dict[str, Any], source: Path, **known: Any
    ) -> dict[str, Any]:
        """Queue a job; `source` is the folder with its files, which becomes the job's."""
        self.check_queue(owner)
        number = f"j_{secrets.token_hex(10)}"
        job = Job(number, owner, kind, name, request, time.time(), stack=known.get("stack"))
        os.rename(source, self.store.job_folder(number))
        row = vars(job) | {"key": known.get("key"), "fingerprint": known.get("fingerprint")}
        self.store.add_job(row)
        self.jobs[number] = job
        async with self.wake:
            self.places()
            self.wake.notify()
        return job.told()

    def told(self, owner: str, number: str) -> dict[str, Any]:
        """A job's state. Raises NotFound."""
        job = self.jobs.get(number)
        if job is not None:
            if job.owner != owner:
                raise NotFound(f"there is no job {number!r}")
            return job.told()
        row = self.store.job(owner, number)
        old = Job.of(row)
        old.tell(state=row["state"], error=row["error"], finished=row["finished"], stage=row["state"])
        return old.told()

    async def events(self, owner: str, number: str, seconds: float) -> AsyncIterator[dict[str, Any] | None]:
        """A job's state, again whenever it changes, up to the last; None where nothing changed for so long."""
        while True:
            told = self.told(owner, number)
            job = self.jobs.get(number)
            changed = job.changed if job else None
            yield told
            if told["state"] in DONE or changed is None:
                return
            while not changed.is_set():
                try:
                    await asyncio.wait_for(changed.wait(), seconds)
                except TimeoutError:
                    yield None

    async def cancel(self, owner: str, number: str) -> dict[str, Any]:
        """Stop a job; one that is finished stays as it is."""
        told = self.told(owner, number)
        job = self.jobs.get(number)
        if job is None or job.state in DONE:
            return told
        if job.id in self.running:
            self.running[job.id].cancel(job.id)
        self.end(job, "cancelled")
        return job.told()

    def busy(self, stack: str) -> Job | None:
        """The job that will change a stack, if there is one."""
        return next(
            (x for x in self.jobs.values() if x.stack == stack and x.kind == "split" and x.state not in DONE), None
        )

    # --- running

    async def serve(self, runner: Runner) -> None:
        """Run what waits, one job after the other, for ever."""
        while True:
            try:
                await runner.warm()
            except UnfuseError as error:
                log.error("a worker cannot start: %s", error)
            async with self.wake:
                while not (waiting := self.waiting()):
                    await self.wake.wait()
                job = waiting[0]
                self.begin(job, runner)
            try:
                await self.run(job, runner)
            except UnfuseError as error:
                self.end(job, "failed", error={"type": type(error).__name__, "message": str(error)})
            except OSError as error:
                self.end(job, "failed", error=complaint(error)["error"])
            finally:
                self.running.pop(job.id, None)

    def begin(self, job: Job, runner: Runner) -> None:
        """Mark a job as running."""
        self.running[job.id] = runner
        self.served[job.owner] = time.time()
        job.request["runs"] = job.request.get("runs", 0) + 1
        self.store.job_state(job.id, state="running", request=json.dumps(job.request))
        area = job.request.get("megapixels")
        speed = self.speed.get(job.request["options"].get("engine", ""))
        job.tell(state="running", place=None, stage="starting", started=time.time())
        job.expected = speed * area if speed is not None and area else None
        self.places()

    async def run(self, job: Job, runner: Runner) -> None:
        """Have a runner run a job and take the result in, unless it was cancelled meanwhile."""
        folder = self.store.job_folder(job.id)
        message = {"job": job.id, "kind": job.kind, "folder": str(folder), "max_pixels": self.options.max_pixels}
        message |= job.request
        try:
            async for news in runner.run(message, folder):
                if job.state != "running":
                    runner.cancel(job.id)  # again: it may have been starting
                    continue
                if "error" in news:
                    self.end(job, "failed", error={key: news["error"][key] for key in ("type", "message")})
                elif "result" in news:
                    self.take(job, news["result"], folder)
                else:
                    job.tell(**{key: news[key] for key in ("stage", "step", "total") if key in news})
            why = "it ended without a result: send it again"
        except ChildDied as error:
            why = str(error)
        if job.state == "running":
            self.end(job, "failed", error={"type": "WorkerDied", "message": why})

    def take(self, job: Job, result: Message, folder: Path) -> None:
        """Take a result into the store."""
        self.store.check_room()
        if "sha256" in result:
            saved = shelf.Saved(result["sha256"], result["size"], result["about"])
            if job.kind == "split":
                assert job.stack is not None
                row = self.store.stack(job.owner, job.stack)
                place = self.store.stack_folder(row.id) / f"{saved.sha256}.zip"
                place.unlink(missing_ok=True)
                os.link(folder / place.name, place)
                with self.store.together():
                    self.store.change(row, saved)
                    self.store.job_state(job.id, state="done")
            else:
                source = self.store.new_folder()
                for name in (f"{saved.sha256}.zip", shelf.ORIGINAL):
                    os.link(folder / name, source / name)  # until it is written down, the job keeps what it needs
                with self.store.together():
                    job.stack = self.store.add(job.owner, job.name, saved, source).id
                    self.store.job_state(job.id, state="done", stack=job.stack)
        self.end(job, "done", error=partly(result.get("failed", [])))
        if (area := job.request.get("megapixels")) and job.started:
            self.speed[job.request["options"]["engine"]] = (time.time() - job.started) / area

    def end(self, job: Job, state: str, error: dict[str, str] | None = None) -> None:
        """Mark a job as finished; its files go, but for a result that is fetched later."""
        now = time.time()
        self.store.job_state(job.id, state=state, error=error, stack=job.stack, finished=now)
        self.finished_total[state] += 1
        job.tell(state=state, error=error, finished=now, place=None, stage=state)
        self.places()
        self.jobs = {key: x for key, x in self.jobs.items() if x.state not in DONE or now - (x.finished or now) < 60}
        if job.kind != "variants" or state != "done":
            shutil.rmtree(self.store.job_folder(job.id), ignore_errors=True)

    def places(self) -> None:
        """Tell waiting jobs how many go before them."""
        for place, job in enumerate(self.waiting()):
            if job.place != place:
                job.tell(place=place)

    def preview(self, owner: str, number: str) -> Path:
        """Where a job's preview is. Raises NotFound where there is none, yet or any more."""
        self.told(owner, number)
        path = self.store.job_folder(number) / PREVIEW
        if not path.is_file():
            raise NotFound(f"job {number!r} has no preview now")
        return path

    def sheets(self, owner: str, number: str, name: str) -> Path:
        """Where the file is that a finished job made. Raises NotFound."""
        if self.told(owner, number)["state"] != "done" or not (path := self.store.job_folder(number) / name).is_file():
            raise NotFound(f"job {number!r} has no result to fetch")
        return path


def partly(failed: list[str]) -> dict[str, str] | None:
    """What a job that is done says of rows that are not; None where there are none."""
    if not failed:
        return None
    more = f"; and {len(failed) - MOST_TOLD} more" if len(failed) > MOST_TOLD else ""
    return {"type": "RowsFailed", "message": f"not made: {'; '.join(failed[:MOST_TOLD])}{more}. The others are there"}
