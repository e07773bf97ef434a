"""Routes about the server itself: what it can do, examples, health, figures."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response

from unfuse import __version__, formats, recipe
from unfuse.layers import BLEND_MODES, KINDS
from unfuse.server.api_jobs import here
from unfuse.server.core import Server
from unfuse.server.store import NotFound

EXAMPLES = ("poster", "smoke", "halloween")
SECONDS_TO_START = 20

router = APIRouter(tags=["server"])


@router.get("/v1/capabilities", response_model=dict[str, Any])
async def capabilities(request: Request) -> Any:
    """What this server can do: engines and what they take, formats, edits, limits, examples."""
    server, _ = here(request)
    for _ in range(10 * SECONDS_TO_START):  # after a start, until a worker has read its weights
        if any(runner.about for runner in server.runners):
            break
        await asyncio.sleep(0.1)
    options = server.options
    limits = {"layers": [1, 16], "megapixels": options.megapixels, "upload_bytes": options.upload_megabytes << 20}
    limits |= {"queue": options.queue, "queue_each": options.queue_each, "stacks": options.stacks_each}
    limits |= {"bytes": int(options.gigabytes_each * 1e9), "keep_days": options.keep_days}
    return {
        "version": __version__,
        "engines": server.engines(),
        "formats": {
            "read": [suffix[1:] for row in formats.FORMATS if row.reads for suffix in row.suffixes],
            "write": [
                {"format": suffix[1:], "name": row.name, "keeps": row.keeps}
                for row in formats.FORMATS
                for suffix in row.suffixes
            ],
        },
        "pictures": ["png", "jpg", "jpeg", "webp", "avif", "tif", "tiff", "bmp", "gif"],
        "ops": recipe.schema(),
        "blend_modes": BLEND_MODES,
        "kinds": KINDS,
        "limits": limits,
        "examples": [
            {"name": name, "url": f"/v1/examples/{name}", "thumbnail": f"/v1/examples/{name}?size=320"}
            for name in examples()
        ],
    }


@cache
def examples() -> dict[str, Path]:
    """The example pictures: in the package, or, where it runs from its sources, beside it."""
    package = Path(__file__).parent
    paths = {x: [place / "examples" / f"{x}.jpg" for place in (package, package.parents[2])] for x in EXAMPLES}
    return {
        name: next(path for path in both if path.is_file())
        for name, both in paths.items()
        if any(map(Path.is_file, both))
    }


@router.get("/v1/examples/{name}", response_class=FileResponse, responses={200: {"content": {"image/jpeg": {}}}})
async def example(request: Request, name: str, size: int | None = None) -> Response:
    """An example picture; with any `size`, a thumbnail of 320 pixels."""
    server, _ = here(request)
    if name not in examples():
        raise NotFound(f"there is no example {name!r}: say one of {', '.join(examples())}")
    path = examples()[name]
    if size is not None:
        path = await thumbnail(server, path)
    return FileResponse(path, media_type="image/jpeg", headers={"cache-control": "private, max-age=86400"})


async def thumbnail(server: Server, path: Path) -> Path:
    """A small example, made once."""
    target = server.options.data / "examples" / f"320-{path.name}"
    if not target.is_file():
        target.parent.mkdir(exist_ok=True)
        await server.benches.ask("examples", do="thumbnail", source=str(path), target=str(target), size=320)
    return target


@router.get("/healthz", response_model=dict[str, bool])
async def health() -> Any:
    """Whether the server answers."""
    return {"ok": True}


@router.get("/readyz", response_model=dict[str, bool], responses={503: {"description": "Not ready."}})
async def ready(request: Request) -> Any:
    """Whether it can take work: a worker is up, and the disk has room."""
    server, _ = here(request)
    worker = any(runner.about for runner in server.runners)
    try:
        server.store.check_room()
        disk = True
    except Exception:
        disk = False
    return JSONResponse({"worker": worker, "disk": disk}, 200 if worker and disk else 503)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> PlainTextResponse:
    """Figures for Prometheus."""
    server, _ = here(request)
    return PlainTextResponse(server.figures.text(gauges(server)), media_type="text/plain; version=0.0.4")


def gauges(server: Server) -> Iterator[tuple[str, str, dict[str, str], float]]:
    """What is true now."""
    for state, count in server.jobs.finished_total.items():
        yield "unfuse_jobs_total", "Jobs finished.", {"state": state}, count
    yield "unfuse_jobs_waiting", "Jobs in the queue.", {}, len(server.jobs.waiting())
    yield "unfuse_jobs_running", "Jobs under way.", {}, len(server.jobs.running)
    yield "unfuse_workers_ready", "Workers that can run jobs.", {}, sum(bool(x.about) for x in server.runners)
    yield "unfuse_worker_starts_total", "Workers started.", {}, sum(x.starts for x in server.runners)
    yield "unfuse_bench_waiting", "Edits and exports under way or waiting.", {}, server.benches.waiting
    for name, count in server.store.counts().items():
        yield f"unfuse_{name}", "Kept on the disk.", {}, count
