"""Processes of this machine, as the server's event loop uses them: runners for jobs, benches for stacks, decoders."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from unfuse.errors import UnfuseError
from unfuse.server import bench, decoding, worker
from unfuse.server.child import FRESH, FRESH_MODULES, SPAWN, Child, ChildDied, Message
from unfuse.server.options import Options

GRACE = 10.0  # seconds that a worker has to stop after it was told to
START = 600.0  # and to read its weights
MOST_WAITING = 64  # requests for a bench


class Refused(UnfuseError):
    """What a process of ours says is wrong with what it was given; `kind` is the error's own name."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Busy(UnfuseError):
    """Too many requests wait for the same thing."""


class LocalRunner:
    """A worker process, started again whenever it ended."""

    def __init__(self, options: Options, device: str) -> None:
        self.options, self.device = options, device
        self.about: dict[str, Any] = {}
        self.starts = 0
        self.child: Child | None = None
        self.threads = ThreadPoolExecutor(1, thread_name_prefix="runner")
        self.current = ""

    async def warm(self) -> None:
        """Start the process and have it read its weights. Raises ChildDied, or Refused where an engine cannot run."""
        if self.child is not None:
            return
        self.starts += 1
        self.child = Child(SPAWN, worker.main, self.device, self.options.engines)
        try:
            answer = await self.listen(START)
        except ChildDied:
            self.drop()
            raise
        if "error" in answer:
            self.drop()
            raise Refused(answer["error"]["type"], answer["error"]["message"])
        self.about = answer["ready"]

    async def listen(self, seconds: float | None) -> Message:
        """What the process says next."""
        assert self.child is not None
        return await asyncio.get_running_loop().run_in_executor(self.threads, self.child.receive, seconds)

    async def run(self, message: Message, folder: Path) -> AsyncIterator[Message]:
        """See `jobs.Runner`."""
        await self.warm()
        assert self.child is not None
        self.current = message["job"]
        try:
            self.child.send(message)
            while True:
                news = await self.listen(self.options.job_seconds)
                if news.pop("job", None) == message["job"]:
                    yield news
                    if "result" in news or "error" in news:
                        return
        except ChildDied:
            self.drop()
            raise
        finally:
            self.current = ""

    def cancel(self, number: str) -> None:
        """See `jobs.Runner`."""
        if self.current != number or self.child is None:
            return
        child = self.child
        try:
            child.send({"cancel": number})
        except ChildDied:
            return
        asyncio.get_running_loop().call_later(GRACE, self.end_if_still, number, child)

    def end_if_still(self, number: str, child: Child) -> None:
        """End the process where it still works at a job that was cancelled."""
        if self.current == number and self.child is child:
            child.process.kill()

    def drop(self) -> None:
        """Forget the process."""
        self.about = {}
        if self.child is not None:
            self.child.kill()
        self.child = None

    def close(self) -> None:
        """See `jobs.Runner`."""
        self.drop()
        self.threads.shutdown(wait=False)


class Benches:
    """The processes that edit, draw and export; a stack always goes to the same one, which remembers it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.children: list[Child | None] = [None] * options.benches
        self.threads = [ThreadPoolExecutor(1, thread_name_prefix="bench") for _ in self.children]
        self.waiting = 0

    def warm(self) -> None:
        """Have the processes started before anybody waits for them."""
        for place, threads in enumerate(self.threads):
            threads.submit(self.exchange, place, {"do": "hello"})

    async def ask(self, stack: str, **request: Any) -> Message:
        """A bench's answer. Raises Refused with what is wrong, ChildDied, or Busy where too many wait."""
        if self.waiting >= MOST_WAITING:
            raise Busy(f"{self.waiting} requests wait for edits and exports: try again soon")
        place = sum(stack.encode()) % len(self.children)
        self.waiting += 1
        try:
            work = asyncio.get_running_loop().run_in_executor(self.threads[place], self.exchange, place, request)
            answer = await work
        finally:
            self.waiting -= 1
        return checked(answer)

    def exchange(self, place: int, request: Message) -> Message:
        """One request and its answer, in a thread."""
        child = self.children[place]
        if child is None or not child.process.is_alive():
            child = self.children[place] = Child(
                SPAWN, bench.main, self.options.max_pixels, self.options.memory_megabytes
            )
        try:
            child.send(request)
            return child.receive(self.options.edit_seconds)
        except ChildDied:
            self.children[place] = None
            raise

    def close(self) -> None:
        """End them."""
        for child in self.children:
            if child is not None:
                child.kill()
        for threads in self.threads:
            threads.shutdown(wait=False, cancel_futures=True)


class Decoders:
    """A process for each file that was sent, a few at a time."""

    def __init__(self, options: Options, at_once: int = 2) -> None:
        self.options = options
        self.threads = ThreadPoolExecutor(at_once, thread_name_prefix="decoder")
        self.waiting = 0
        if FRESH is not SPAWN:  # what every decoder imports is imported once, now
            from multiprocessing import forkserver

            FRESH.set_forkserver_preload(FRESH_MODULES)
            forkserver.ensure_running()

    async def picture(self, source: Path, target: Path) -> Message:
        """Decode a picture to a PNG of ours. Raises Refused with what is wrong with it."""
        return await self.ask(decoding.picture, str(source), str(target))

    async def project(self, source: Path, target: Path, name: str) -> Message:
        """Read a file of layers to a project of ours. Raises Refused with what is wrong with it."""
        return await self.ask(decoding.project, str(source), str(target), name)

    async def ask(self, main: Callable[..., None], *args: str) -> Message:
        """The answer of a fresh process."""
        if self.waiting >= MOST_WAITING:
            raise Busy(f"{self.waiting} uploads wait to be decoded: try again soon")
        self.waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return checked(await loop.run_in_executor(self.threads, self.once, main, *args))
        finally:
            self.waiting -= 1

    def once(self, main: Callable[..., None], *args: str) -> Message:
        """Start a process, hear it, end it."""
        options = self.options
        child = Child(FRESH, main, *args, options.max_pixels, options.memory_megabytes, options.decode_seconds)
        try:
            return child.receive(2 * options.decode_seconds + 10)
        except ChildDied as error:
            raise Refused("PictureError", f"the file could not be decoded: {error}") from error
        finally:
            child.kill()

    def close(self) -> None:
        """Take no more."""
        self.threads.shutdown(wait=False, cancel_futures=True)


def checked(answer: Message) -> Message:
    """The answer, or the error that it says."""
    if "error" in answer:
        raise Refused(answer["error"]["type"], answer["error"]["message"])
    return answer
