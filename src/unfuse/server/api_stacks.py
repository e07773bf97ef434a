"""Routes of stacks: list, upload, look at, edit, undo, export, remove."""

from __future__ import annotations

import hashlib
import mimetypes
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Header, Query, Request
from fastapi.responses import FileResponse, Response

from unfuse import formats
from unfuse.errors import FormatError
from unfuse.formats.names import NOT_IN_FILES
from unfuse.server import shelf
from unfuse.server.allowed import check
from unfuse.server.api_jobs import here
from unfuse.server.bench import PICTURES
from unfuse.server.core import Server, found
from unfuse.server.schemas import Name, Picture, PictureFile, Position, Recipe, Stack, StackFile, StackSummary
from unfuse.server.store import NotFound, Row

FOREVER = "private, max-age=31536000, immutable"
SUFFIXES = (".png", ".webp")

router = APIRouter(tags=["stacks"])
IfMatch = Annotated[str | None, Header(description="The version that the request is for.", max_length=40)]
IfNoneMatch = Annotated[str | None, Header(max_length=1000)]
Size = Annotated[int | None, Query(ge=1, le=8192, description="Most pixels on the longer side; never enlarged.")]
Hash = Annotated[
    str | None, Query(max_length=64, description="Of what is asked for; then it is never asked for again.")
]


@router.get("/v1/stacks", response_model=list[StackSummary])
async def stacks(request: Request) -> Any:
    """All your stacks, the last changed first."""
    server, owner = here(request)
    return [server.summary(row) for row in server.store.stacks(owner)]


@router.post("/v1/stacks", status_code=201, response_model=Stack)
async def upload(request: Request, response: Response, form: Annotated[StackFile, Form()]) -> Any:
    """Send a stack: a project, or any file of layers that the package reads."""
    server, owner = here(request)
    server.check_room(owner)
    name = Path(form.file.filename or "stack").name[:200] or "stack"
    folder, target = server.store.new_folder(), server.store.new_folder()
    try:
        await server.receive(form.file, folder / "upload")
        read = await server.decoders.project(folder / "upload", target, name)
        saved = shelf.Saved(read["sha256"], read["size"], read["about"])
        row = server.store.add(owner, Path(name).stem or name, saved, target)
    finally:
        for place in (folder, target):
            shutil.rmtree(place, ignore_errors=True)
    response.headers["location"] = f"/v1/stacks/{row.id}"
    return with_version(response, server, row)


@router.get("/v1/stacks/{stack}", response_model=Stack)
async def stack(request: Request, response: Response, stack: str) -> Any:
    """A stack: its layers bottom to top, its history, how exactly it gives the picture back."""
    server, owner = here(request)
    return with_version(response, server, server.store.stack(owner, stack))


@router.patch("/v1/stacks/{stack}", response_model=Stack)
async def rename(request: Request, response: Response, stack: str, body: Name) -> Any:
    """Give a stack another name."""
    server, owner = here(request)
    row = server.store.stack(owner, stack)
    server.store.execute("update stacks set name = ? where id = ?", (body.name, row.id))
    return with_version(response, server, server.store.stack(owner, stack))


@router.delete("/v1/stacks/{stack}", status_code=204)
async def remove(request: Request, stack: str) -> Response:
    """Remove a stack and all its files."""
    server, owner = here(request)
    async with server.changing(owner, stack, None) as row:
        server.store.remove(row)
    return Response(status_code=204)


# --- edits


@router.post("/v1/stacks/{stack}/edits", response_model=Stack)
async def edit(request: Request, response: Response, stack: str, recipe: Recipe, if_match: IfMatch = None) -> Any:
    """Run a recipe: all its edits, as one step of the history, or none."""
    server, owner = here(request)
    async with server.changing(owner, stack, if_match) as row:
        check(recipe.edits, server.store.pictures(row))
        row = await server.change(row, do="edit", data=recipe.model_dump())
        return with_version(response, server, row)


@router.post("/v1/stacks/{stack}/undo", response_model=Stack)
async def undo(request: Request, response: Response, stack: str, if_match: IfMatch = None) -> Any:
    """Take back the last step of the history."""
    return await travel(request, response, stack, if_match, steps=-1)


@router.post("/v1/stacks/{stack}/redo", response_model=Stack)
async def redo(request: Request, response: Response, stack: str, if_match: IfMatch = None) -> Any:
    """Do again what was taken back last."""
    return await travel(request, response, stack, if_match, steps=1)


@router.put("/v1/stacks/{stack}/position", response_model=Stack)
async def position(request: Request, response: Response, stack: str, body: Position, if_match: IfMatch = None) -> Any:
    """Go to a place in the history: 0 is before the first step."""
    return await travel(request, response, stack, if_match, to=body.position)


async def travel(
    request: Request, response: Response, stack: str, if_match: str | None, steps: int = 0, to: int | None = None
) -> Any:
    """Go so many steps, or to a position."""
    server, owner = here(request)
    async with server.changing(owner, stack, if_match) as row:
        target = row.about["position"] + steps if to is None else to
        if to is None and not 0 <= target <= len(row.about["history"]):
            raise FormatError(f"there is nothing to {'undo' if steps < 0 else 'redo'}")
        if target != row.about["position"]:
            row = await server.change(row, do="travel", position=target)
        return with_version(response, server, row)


@router.post("/v1/stacks/{stack}/pictures", status_code=201, response_model=Picture)
async def picture(request: Request, stack: str, form: Annotated[PictureFile, Form()]) -> Any:
    """Send a picture for edits of this stack; recipes use it by the name that is answered."""
    server, owner = here(request)
    row = server.store.stack(owner, stack)
    server.check_room(owner)
    folder = server.store.new_folder()
    try:
        await server.receive(form.file, folder / "upload")
        told = await server.decoders.picture(folder / "upload", folder / "picture.png")
        with (folder / "picture.png").open("rb") as file:
            name = f"p_{hashlib.file_digest(file, 'sha256').hexdigest()[: shelf.SHORT]}.png"
        place = server.store.stack_folder(row.id) / PICTURES
        place.mkdir(exist_ok=True)
        size = (folder / "picture.png").stat().st_size
        (folder / "picture.png").replace(place / name)
        server.store.add_picture(row, name, size)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"picture": name, "width": told["width"], "height": told["height"]}


# --- pictures and exports

DRAWN: Any = {200: {"content": {"image/png": {}, "image/webp": {}}}, 304: {"description": "You have it already."}}


@router.get("/v1/stacks/{stack}/layers/{picture:path}", response_class=FileResponse, responses=DRAWN)
async def layer_picture(
    request: Request, stack: str, picture: str, size: Size = None, v: Hash = None, if_none_match: IfNoneMatch = None
) -> Response:
    """A layer as `<id>.png` or `<id>.webp`, as it shows but for opacity and blend mode, cropped to its box; a group to
    what its box has on the canvas, one clear pixel where that is nothing.
    """
    server, owner = here(request)
    row = server.store.stack(owner, stack)
    number, dot, suffix = picture.rpartition(".")
    entry = found(row.about["layers"], number)
    if entry is None or f"{dot}{suffix}" not in SUFFIXES:
        raise NotFound(f"stack {stack!r} has no layer picture {picture!r}: ask for ID.png or ID.webp")
    version = entry.get("hash") or row.project[: shelf.SHORT]
    name = "layer" if "hash" in entry else f"cropped-{hashlib.sha256(number.encode()).hexdigest()[: shelf.SHORT]}"
    return await drawn(server, row, number, (name, version, size), f".{suffix}", v, if_none_match)


async def whole(
    request: Request, stack: str, suffix: str, what: str, size: int | None, v: str | None, if_none_match: str | None
) -> Response:
    """A picture of the whole stack."""
    server, owner = here(request)
    row = server.store.stack(owner, stack)
    if what != "flat" and not (server.store.stack_folder(row.id) / shelf.ORIGINAL).is_file():
        raise NotFound(f"stack {stack!r} was sent with its layers: it has no original picture")
    return await drawn(server, row, what, (what, row.project[: shelf.SHORT], size), f".{suffix}", v, if_none_match)


Suffix = Literal["png", "webp"]


@router.get("/v1/stacks/{stack}/flat.{suffix}", response_class=FileResponse, responses=DRAWN)
async def flat(
    request: Request, stack: str, suffix: Suffix, size: Size = None, v: Hash = None, if_none_match: IfNoneMatch = None
) -> Response:
    """The stack, flattened: without a size, to the bit what the Python API gives."""
    return await whole(request, stack, suffix, "flat", size, v, if_none_match)


@router.get("/v1/stacks/{stack}/original.{suffix}", response_class=FileResponse, responses=DRAWN)
async def original(
    request: Request, stack: str, suffix: Suffix, size: Size = None, v: Hash = None, if_none_match: IfNoneMatch = None
) -> Response:
    """The picture that the stack was made from."""
    return await whole(request, stack, suffix, "original", size, v, if_none_match)


@router.get("/v1/stacks/{stack}/difference.{suffix}", response_class=FileResponse, responses=DRAWN)
async def difference(
    request: Request, stack: str, suffix: Suffix, size: Size = None, v: Hash = None, if_none_match: IfNoneMatch = None
) -> Response:
    """How far the flattened stack is from the original, channel by channel: black where it is not."""
    return await whole(request, stack, suffix, "difference", size, v, if_none_match)


@router.get(
    "/v1/stacks/{stack}/export/{format}", response_class=FileResponse, responses={200: {"content": {"*/*": {}}}}
)
async def export(request: Request, stack: str, format: str) -> FileResponse:
    """The stack in a format, named by its suffix without the dot: 'psd', 'zip', 'pptx', 'png', ..."""
    server, owner = here(request)
    row = server.store.stack(owner, stack)
    known = [suffix for format_ in formats.FORMATS for suffix in format_.suffixes]
    if f".{format}" not in known:
        raise FormatError(f"{format!r} is not a format: say one of {', '.join(suffix[1:] for suffix in known)}")
    path = await server.drawn(row, f"export-{row.project[: shelf.SHORT]}", f".{format}", do="export")
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    name = NOT_IN_FILES.sub("_", row.name).strip(" .") or "stack"
    return FileResponse(path, media_type=kind, filename=f"{name}.{format}")


async def drawn(
    server: Server, row: Row, what: str, key: tuple[str, str, int | None], suffix: str, v: str | None, known: str | None
) -> Response:
    """A picture with its ETag; nothing where the client has it."""
    name = "-".join(str(part or "full") for part in key)
    headers = {"etag": f'"{name}{suffix}"', "cache-control": FOREVER if v == key[1] else "private, no-cache"}
    if known is not None and headers["etag"] in known:
        return Response(status_code=304, headers=headers)
    path = await server.drawn(row, name, suffix, do="picture", what=what, size=key[2])
    return FileResponse(path, media_type=f"image/{suffix[1:]}", headers=headers)


def with_version(response: Response, server: Server, row: Row) -> dict[str, Any]:
    """A stack as the API tells it, its version as the ETag."""
    response.headers["etag"] = f'"{row.version}"'
    response.headers["cache-control"] = "no-store"
    return server.told(row)
