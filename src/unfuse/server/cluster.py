"""Runners on many machines: the same jobs, on replicas of Ray Serve. `unfuse serve --ray`, extra `ray`.

The server keeps the queue, the stacks and the pages; a job's files travel with it, so that machines share no disk. Ray
places replicas, starts them again where they die, and finds machines; RAY_ADDRESS says which cluster, and without it
one is started here.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from unfuse.errors import Cancelled, require
from unfuse.server.child import ChildDied, Message, complaint
from unfuse.server.options import Options
from unfuse.server.worker import PREVIEW, SHEETS, work

START_SECONDS = 600.0

log = logging.getLogger("unfuse.server")


class Replica:
    """What runs on the cluster: one job at a time, its news as they come."""

    def __init__(self, names: tuple[str, ...]) -> None:
        from unfuse import engines

        loaded = {name: engines.load(name) for name in names}
        self.told = {name: {"max_layers": x.max_layers, "default_steps": x.default_steps} for name, x in loaded.items()}

    async def about(self) -> dict[str, Any]:
        """What its engines can do."""
        return self.told

    async def run(self, job: Message, files: dict[str, bytes]) -> AsyncIterator[Message]:
        """Do a job with its files; news, then the result with the files that it made. Cancelling stops the engine."""
        loop, news, stopped = asyncio.get_running_loop(), asyncio.Queue[Message](), threading.Event()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            unpack(folder, files)

            def tell(message: Message) -> None:
                if stopped.is_set():
                    raise Cancelled("cancelled")
                if message.get("preview"):
                    message = message | {"files": {PREVIEW: (folder / PREVIEW).read_bytes()}}
                loop.call_soon_threadsafe(news.put_nowait, message)

            def do() -> Message:
                try:
                    result = work(job | {"folder": name}, tell)
                except Exception as error:
                    return complaint(error)
                made = SHEETS if "file" in result else f"{result['sha256']}.zip"
                return {"result": result, "files": {made: (folder / made).read_bytes()}}

            task = asyncio.create_task(asyncio.to_thread(do))
            try:
                while not task.done() or not news.empty():
                    with contextlib.suppress(TimeoutError):
                        yield await asyncio.wait_for(news.get(), 0.05)
                yield await task
            finally:
                stopped.set()
                with contextlib.suppress(Exception):
                    await task  # its folder goes with it


class RayRunner:
    """See `jobs.Runner`: one job at a time on a replica, whichever is free."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.about: dict[str, Any] = {}
        self.starts = 0
        self.handle: Any = None
        self.response: Any = None
        self.current = ""

    async def warm(self) -> None:
        """Have the replicas up. Raises ChildDied."""
        if self.about:
            return
        self.starts += 1
        try:
            self.handle = await asyncio.to_thread(deployed, self.options)
            self.about = await asyncio.wait_for(self.handle.about.remote(), START_SECONDS)
        except Exception as error:  # of every kind that Ray has
            log.error("the cluster gives no replica", exc_info=error)
            raise ChildDied(f"the cluster gives no replica ({type(error).__name__}): see the server's log") from error

    async def run(self, message: Message, folder: Path) -> AsyncIterator[Message]:
        """See `jobs.Runner`."""
        await self.warm()
        files = await asyncio.to_thread(pack, folder)
        self.current = message["job"]
        self.response = self.handle.options(stream=True).run.remote(message, files)
        try:
            async for news in self.response:
                unpack(folder, news.pop("files", {}))
                yield news
        except asyncio.CancelledError:
            if not (current := asyncio.current_task()) or current.cancelling():
                raise  # the server ends
            yield {"error": {"type": "Cancelled", "message": "cancelled"}}
        except Exception as error:
            if type(error).__name__ not in ("RequestCancelledError", "TaskCancelledError"):
                log.error("a replica failed", exc_info=error)
                why = (
                    f"a replica of the cluster failed ({type(error).__name__}): send it again, or try a smaller picture"
                )
                raise ChildDied(why) from error
        finally:
            self.current, self.response = "", None

    def cancel(self, number: str) -> None:
        """See `jobs.Runner`."""
        if self.current == number and self.response is not None:
            self.response.cancel()

    def close(self) -> None:
        """Leave the cluster; what this server started there goes."""
        if self.handle is not None:
            retire(self.options)
            self.handle = None


_lock = threading.Lock()


def name_of(options: Options) -> str:
    """The deployment's name: another server's, on the same cluster, is another one."""
    return f"unfuse-{hashlib.sha256(str(options.data).encode()).hexdigest()[:8]}"


def retire(options: Options) -> None:
    """Take the deployment from the cluster, where that was not done yet."""
    from ray import serve

    with _lock, contextlib.suppress(Exception):
        if name_of(options) in serve.status().applications:
            serve.delete(name_of(options))


def deployed(options: Options) -> Any:
    """A handle of the deployment, made where it is not there."""
    ray = require("ray", "ray", "unfuse serve --ray")
    serve = require("ray.serve", "ray", "unfuse serve --ray")
    with _lock:
        if not ray.is_initialized():
            ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False)
            serve.start(proxy_location="Disabled")
        if (name := name_of(options)) not in serve.status().applications:
            actor = {"num_gpus": options.replica_gpus, "num_cpus": 1}
            made = serve.deployment(
                Replica,
                num_replicas=options.replicas,
                max_ongoing_requests=1,
                ray_actor_options=actor,
                graceful_shutdown_timeout_s=5,
            )
            serve.run(made.bind(options.engines), name=name, route_prefix=None)
    return serve.get_app_handle(name_of(options))


def pack(folder: Path) -> dict[str, bytes]:
    """A job's files, by their names in its folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unpack(folder: Path, files: dict[str, bytes]) -> None:
    """Write files into a folder, each whole or not at all."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        part.write_bytes(data)
        os.replace(part, path)
