"""Routes of jobs: decompositions, splits and variants, their state, events, preview, result and end."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Form, Header, Request
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse

from unfuse.errors import EngineError
from unfuse.server import shelf
from unfuse.server.allowed import check_table
from unfuse.server.bench import PICTURES
from unfuse.server.core import Server, found
from unfuse.server.events import HEARTBEAT, lines
from unfuse.server.runners import Busy
from unfuse.server.schemas import Decomposition, Job, Split, TableFile
from unfuse.server.store import NotFound, Row
from unfuse.server.worker import SHEETS, TABLE

MOST_ROWS = 500
MOST_LISTENERS = 500
MOST_TABLE = 1 << 20

router = APIRouter()
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200)]


def here(request: Request) -> tuple[Server, str]:
    """The server, and who asks."""
    return request.app.state.server, request.scope["owner"]


def accepted(job: dict[str, Any]) -> JSONResponse:
    """The answer to a request that takes a while."""
    return JSONResponse(job, 202, {"location": f"/v1/jobs/{job['id']}"})


def layer_count(text: str | int) -> int | str:
    """'auto' or a number."""
    return "auto" if text == "auto" else int(text)


def check_count(server: Server, engine: str, layers: int | str) -> None:
    """Raise EngineError where an engine that is ready cannot give so many layers; others say so themselves."""
    told = next((x for x in server.engines() if x["name"] == engine.partition(":")[0]), {})
    most = told.get("max_layers") or 16
    if layers != "auto" and not 1 <= int(layers) <= most:
        raise EngineError(f"layers={layers}: say 1 to {most}, or 'auto'")


@router.post("/v1/decompositions", status_code=202, response_model=Job, tags=["jobs"])
async def decompose(request: Request, form: Annotated[Decomposition, Form()], key: Key = None) -> Any:
    """Take a picture apart. The answer is a job; when it is done, `stack` names the stack."""
    server, owner = here(request)
    server.check_room(owner)
    options: dict[str, Any] = {"engine": server.engine(form.engine), "layers": layer_count(form.layers)}
    options |= {"prompt": form.prompt, "steps": form.steps, "seed": form.seed}
    check_count(server, options["engine"], options["layers"])
    folder = server.store.new_folder()
    try:
        upload = folder / "upload"
        sha256 = await server.receive(form.file, upload)
        fingerprint = hashlib.sha256(json.dumps([sha256, options], sort_keys=True).encode()).hexdigest()
        if (before := server.jobs.again(owner, key, fingerprint)) is not None:
            return accepted(before)
        server.jobs.check_queue(owner)
        picture = await server.decoders.picture(upload, folder / shelf.ORIGINAL)
        upload.unlink()
        job = {"options": options, "picture": picture, "megapixels": picture["width"] * picture["height"] / 1e6}
        known = {"key": key, "fingerprint": fingerprint}
        name = Path(form.file.filename or "picture").stem[:200] or "picture"
        return accepted(await server.jobs.submit(owner, "decomposition", name, job, folder, **known))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@router.post("/v1/stacks/{stack}/layers/{layer:path}/split", status_code=202, response_model=Job, tags=["jobs"])
async def split(request: Request, stack: str, layer: str, body: Split, key: Key = None) -> Any:
    """Take one layer of a stack apart again: it becomes a group, in a new version of the stack."""
    server, owner = here(request)
    async with server.changing(owner, stack, None) as row:
        options: dict[str, Any] = {
            "layer": layer,
            "engine": server.engine(body.engine or ""),
            "layers": layer_count(body.layers),
        }
        options |= {"prompt": body.prompt, "steps": body.steps, "seed": body.seed}
        check_count(server, options["engine"], options["layers"])
        if (entry := found(row.about["layers"], layer)) is None:
            raise NotFound(f"there is no layer {layer!r} in stack {stack!r}")
        left, top, right, bottom = entry["box"]
        job = {"options": options, "project": row.project, "megapixels": (right - left) * (bottom - top) / 1e6}
        return await queued(server, row, "split", job, key)


@router.post("/v1/stacks/{stack}/variants", status_code=202, response_model=Job, tags=["jobs"])
async def variants(request: Request, stack: str, form: Annotated[TableFile, Form()], key: Key = None) -> Any:
    """Make a picture for every row of a table. When the job is done, its result is a zip."""
    server, owner = here(request)
    row = server.store.stack(owner, stack)
    server.store.check_room()
    table = (await form.table.read(MOST_TABLE + 1))[: MOST_TABLE + 1]
    job = {"options": {}, "project": row.project, "table": hashlib.sha256(table).hexdigest()}
    return await queued(server, row, "variants", job, key, table)


async def queued(
    server: Server, row: Row, kind: str, job: dict[str, Any], key: str | None, table: bytes | None = None
) -> JSONResponse:
    """Queue a job about a stack, with links to what it needs of it."""
    fingerprint = hashlib.sha256(json.dumps([row.id, job], sort_keys=True).encode()).hexdigest()
    if (before := server.jobs.again(row.owner, key, fingerprint)) is not None:
        return accepted(before)
    folder, place = server.store.new_folder(), server.store.stack_folder(row.id)
    try:
        for name in (f"{row.project}.zip", shelf.ORIGINAL):
            if (place / name).is_file():
                os.link(place / name, folder / name)
        (folder / PICTURES).mkdir()
        names = server.store.pictures(row)
        for name in names:
            os.link(place / PICTURES / name, folder / PICTURES / name)
        if table is not None:
            if len(table) > MOST_TABLE:
                raise EngineError(f"the table has more than {MOST_TABLE:,} bytes: send it in parts")
            (folder / PICTURES / TABLE).write_bytes(table)
            check_table(folder / PICTURES / TABLE, names, MOST_ROWS)
        known = {"key": key, "fingerprint": fingerprint, "stack": row.id}
        return accepted(await server.jobs.submit(row.owner, kind, row.name, job, folder, **known))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def state(request: Request, job: str) -> Any:
    """How far a job is."""
    server, owner = here(request)
    return server.jobs.told(owner, job)


async def events(request: Request, job: str) -> StreamingResponse:
    """A job's state as server-sent events, again whenever it changes; the stream ends with the job."""
    server, owner = here(request)
    server.jobs.told(owner, job)
    if server.listeners >= MOST_LISTENERS:
        raise Busy(f"{server.listeners} clients listen to events: ask for the job's state instead")

    async def body() -> Any:
        server.listeners += 1
        try:
            async for line in lines(server.jobs.events(owner, job, HEARTBEAT)):
                yield line
        finally:
            server.listeners -= 1

    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(body(), media_type="text/event-stream", headers=headers)


async def preview(request: Request, job: str) -> FileResponse:
    """What the engine has so far."""
    server, owner = here(request)
    return FileResponse(server.jobs.preview(owner, job), media_type="image/webp", headers={"cache-control": "no-store"})


async def cancel(request: Request, job: str) -> Any:
    """Stop a job; one that is finished stays as it is."""
    server, owner = here(request)
    return await server.jobs.cancel(owner, job)


@router.get("/v1/jobs/{job}/result", response_class=FileResponse, tags=["jobs"])
async def result(request: Request, job: str) -> FileResponse:
    """The file that a job of kind 'variants' made: a zip."""
    server, owner = here(request)
    path = server.jobs.sheets(owner, job, SHEETS)
    return FileResponse(
        path, media_type="application/zip", filename=f"{server.jobs.told(owner, job)['name']}-variants.zip"
    )


EVENT_STREAM: Any = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}
WEBP: Any = {200: {"content": {"image/webp": {}}}}
for base in ("/v1/jobs/{job}", "/v1/decompositions/{job}"):
    said = base.split("/")[2]
    router.add_api_route(base, state, response_model=Job, tags=["jobs"], operation_id=f"{said}_state")
    router.add_api_route(
        base, cancel, methods=["DELETE"], response_model=Job, tags=["jobs"], operation_id=f"{said}_cancel"
    )
    router.add_api_route(
        f"{base}/events",
        events,
        response_class=StreamingResponse,
        responses=EVENT_STREAM,
        tags=["jobs"],
        operation_id=f"{said}_events",
    )
    router.add_api_route(
        f"{base}/preview",
        preview,
        response_class=FileResponse,
        responses=WEBP,
        tags=["jobs"],
        operation_id=f"{said}_preview",
    )
