"""What the routes work with: the store, the queue and the processes, put together."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import UploadFile

from unfuse import engines
from unfuse.errors import UnfuseError
from unfuse.server import shelf
from unfuse.server.cluster import RayRunner
from unfuse.server.jobs import Conflict, Jobs, Runner
from unfuse.server.observe import Figures
from unfuse.server.options import Options
from unfuse.server.runners import Benches, Decoders, LocalRunner
from unfuse.server.store import Row, Stale, Store

SWEEP_SECONDS = 3600.0
TAKES = {"embedded": (), "fake": ("steps",)}  # the options that an engine reads; others read them all
ALL_TAKES = ("prompt", "steps", "seed")

log = logging.getLogger("unfuse.server")


class Server:
    """Everything behind the routes."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.figures = Figures()
        self.store = Store(options.data, options.keep_free_megabytes << 20)
        self.benches, self.decoders = Benches(options), Decoders(options)
        self.runners: list[Runner] = (
            [RayRunner(options) for _ in range(options.replicas)]
            if options.ray
            else [LocalRunner(options, device) for device in options.devices]
        )
        self.jobs = Jobs(self.store, options, self.runners)
        self.locks: dict[str, asyncio.Lock] = {}
        self.drawing: dict[Path, asyncio.Task[Any]] = {}
        self.listeners = 0  # of events

    @asynccontextmanager
    async def life(self, _: Any) -> AsyncIterator[None]:
        """From the first request to the last."""
        self.jobs.start()
        self.benches.warm()
        sweeper = asyncio.create_task(self.sweep())
        try:
            yield
        finally:
            sweeper.cancel()
            await self.jobs.stop()
            self.benches.close()
            self.decoders.close()
            self.store.close()

    async def sweep(self) -> None:
        """Remove what is too old, now and every hour."""
        while True:
            try:
                self.store.sweep(self.options.keep_days)
            except (UnfuseError, OSError):
                log.exception("sweep")
            await asyncio.sleep(SWEEP_SECONDS)

    def engine(self, name: str) -> str:
        """The engine that a request names, as the library calls it. Raises EngineError."""
        known = {full.partition(":")[0]: full for full in self.options.engines}
        if name and name not in known:
            from unfuse.errors import EngineError

            raise EngineError(f"engine {name!r} is not offered here: say one of {', '.join(known)}")
        return known[name] if name else self.options.engines[0]

    def engines(self) -> list[dict[str, Any]]:
        """What the engines here are and take."""
        told: dict[str, Any] = next((runner.about for runner in self.runners if runner.about), {})
        return [
            {
                "name": (key := full.partition(":")[0]),
                "about": engines.TABLE[key].about,
                "ready": full in told,
                "takes": list(TAKES.get(key, ALL_TAKES)),
                **told.get(full, {"max_layers": None, "default_steps": None}),
            }
            for full in self.options.engines
        ]

    # --- files that are sent

    def check_room(self, owner: str) -> None:
        """Raise DiskFull or QuotaExceeded before anything new is taken."""
        self.store.check_room()
        self.store.check_quota(owner, self.options.stacks_each, self.options.gigabytes_each * 1e9)

    async def receive(self, file: UploadFile, target: Path) -> str:
        """Write a file that was sent; its SHA-256."""
        digest = hashlib.sha256()
        with target.open("xb") as opened:
            while block := await file.read(1 << 20):
                digest.update(block)
                opened.write(block)
        return digest.hexdigest()

    # --- stacks

    @asynccontextmanager
    async def changing(self, owner: str, number: str, if_match: str | None) -> AsyncIterator[Row]:
        """A stack that nobody else changes meanwhile. Raises NotFound, Stale, Conflict, DiskFull or QuotaExceeded."""
        async with self.locks.setdefault(number, asyncio.Lock()):
            row = self.store.stack(owner, number)
            if if_match not in (None, "*") and if_match.strip().removeprefix("W/").strip('"') != str(row.version):
                raise Stale(f"the stack has version {row.version} and not {if_match}: get it again")
            if job := self.jobs.busy(number):
                raise Conflict(f"job {job.id} is splitting a layer of this stack: wait for it, or cancel it")
            self.store.check_room()
            yield row

    async def change(self, row: Row, **request: Any) -> Row:
        """Have a bench change a stack, and take the result."""
        answer = await self.bench(row, **request)
        return self.store.change(row, shelf.Saved(answer["sha256"], answer["size"], answer["about"]))

    async def bench(self, row: Row, **request: Any) -> dict[str, Any]:
        """A bench's answer about a stack."""
        folder = str(self.store.stack_folder(row.id))
        return await self.benches.ask(row.id, folder=folder, project=row.project, **request)

    async def drawn(self, row: Row, key: str, suffix: str, **request: Any) -> Path:
        """A picture or export of a stack, from the cache or made now, once however many ask."""
        path = self.store.stack_folder(row.id) / "cache" / f"{key}{suffix}"
        if path.is_file():
            path.touch()
            return path
        if path not in self.drawing:
            self.store.check_room()
            path.parent.mkdir(exist_ok=True)
            task = asyncio.create_task(self.bench(row, target=str(path), **request))
            self.drawing[path] = task
            task.add_done_callback(lambda _: self.drawing.pop(path, None))
        await asyncio.shield(self.drawing[path])
        return path

    def told(self, row: Row) -> dict[str, Any]:
        """What the API says of a stack."""
        base, short = f"/v1/stacks/{row.id}", row.project[: shelf.SHORT]
        original = (self.store.stack_folder(row.id) / shelf.ORIGINAL).is_file()
        return {
            **row.about,
            "id": row.id,
            "name": row.name,
            "version": row.version,
            "created": row.created,
            "changed": row.changed,
            "layers": [linked(base, short, entry) for entry in row.about["layers"]],
            "flat": f"{base}/flat.png?v={short}",
            "original": f"{base}/original.png?v={short}" if original else None,
        }

    def summary(self, row: dict[str, Any]) -> dict[str, Any]:
        """What a list says of a stack."""
        thumbnail = f"/v1/stacks/{row['id']}/flat.webp?size=320&v={row['project'][: shelf.SHORT]}"
        return row | {"layers": row["count"], "thumbnail": thumbnail}


def linked(base: str, short: str, entry: dict[str, Any]) -> dict[str, Any]:
    """A layer's entry with the address of its picture; a group's changes with anything in the stack."""
    url = f"{base}/layers/{quote(entry['id'], safe='')}.png?v={entry.get('hash', short)}"
    inner = {"layers": [linked(base, short, inside) for inside in entry["layers"]]} if "layers" in entry else {}
    return entry | {"url": url} | inner


def found(entries: list[dict[str, Any]], number: str) -> dict[str, Any] | None:
    """The entry of a layer by its id, in groups too."""
    for entry in entries:
        inside = entry if entry["id"] == number else found(entry.get("layers", []), number)
        if inside is not None:
            return inside
    return None
