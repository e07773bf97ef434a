"""The routes. Everything under /v1 speaks JSON; what is wrong is told as `{"error": {"type", "message"}}`."""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from unfuse import __version__
from unfuse.errors import UnfuseError
from unfuse.server import api_jobs, api_stacks, api_tool
from unfuse.server.child import FULL, NO_ROOM, ChildDied
from unfuse.server.core import Server
from unfuse.server.jobs import Conflict, QueueFull
from unfuse.server.observe import Watch
from unfuse.server.options import Options
from unfuse.server.runners import Busy, Refused
from unfuse.server.safety import Denied, Gate
from unfuse.server.schemas import Error
from unfuse.server.store import DiskFull, NotFound, QuotaExceeded, Stale

PAGE = Path(__file__).with_name("page")
STATUS: dict[type[Exception], int] = {
    NotFound: 404,
    Stale: 409,
    Conflict: 409,
    QueueFull: 429,
    Busy: 429,
    QuotaExceeded: 403,
    DiskFull: 507,
    ChildDied: 503,
}
WRONG: dict[int | str, str] = {
    400: "Not a request that can be read.",
    401: "No token, or a wrong one.",
    403: "From another site, or more than a token may have.",
    404: "Not there, for you.",
    408: "The upload took too long.",
    409: "Made for another state of things.",
    413: "More bytes than are taken.",
    421: "For another host.",
    422: "Wrong values; the message says which are allowed.",
    429: "Too much at once: see Retry-After.",
    503: "A process died: try again.",
    507: "The disk is full.",
}
RETRY_SECONDS = "5"
OWN_FAULTS = ("ServerFault", "OSError")

log = logging.getLogger("unfuse.server")


def make(options: Options, port: int) -> Any:
    """The ASGI application of a server that listens on a port."""
    server = Server(options)
    app = FastAPI(
        title="unfuse",
        version=__version__,
        summary="Turn one flat picture into a stack of editable layers, edit it, and put it together again, exactly.",
        docs_url=None,
        redoc_url=None,
        lifespan=server.life,
        responses={code: {"model": Error, "description": about} for code, about in WRONG.items()},
        separate_input_output_schemas=False,
    )
    app.state.server = server
    for module in (api_jobs, api_stacks, api_tool):
        app.include_router(module.router)
    app.add_exception_handler(UnfuseError, wrong)
    app.add_exception_handler(OSError, wrong_disk)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, fault)
    app.mount("/", Page())
    return Watch(Gate(app, options, port), server.figures)


class Page(StaticFiles):
    """The page's files, as they were built into the package; without them, a hint."""

    def __init__(self) -> None:
        super().__init__(directory=PAGE, html=True, check_dir=False)

    async def get_response(self, path: str, scope: Any) -> Response:
        """See StaticFiles."""
        if path == "." and not (PAGE / "index.html").is_file():
            return PlainTextResponse(
                "The page is not built into this unfuse. The API is at /v1, described in /openapi.json.\n"
            )
        response = await super().get_response(path, scope)
        stays = path.startswith("assets/") and response.status_code == 200  # their names have hashes
        response.headers["cache-control"] = "public, max-age=31536000, immutable" if stays else "no-cache"
        return response


def told(status: int, kind: str, message: str, **headers: str) -> JSONResponse:
    """An error as every route tells it."""
    if status in (429, 503):
        headers = {"retry-after": RETRY_SECONDS} | headers
    return JSONResponse({"error": {"type": kind, "message": message}}, status, headers)


async def wrong(request: Request, error: Any) -> JSONResponse:
    """An error of ours. No path of this disk is told."""
    message = str(error).replace(str(request.app.state.server.options.data), "the server")
    if isinstance(error, Refused):
        if error.kind == "DiskFull":
            return told(507, error.kind, message)
        if error.kind in OWN_FAULTS:
            log.error(message, extra={"fields": {"request": request.scope.get("request_id")}})
            return told(500, error.kind, "the server could not do this; its log says more")
        return told(422, error.kind, message)
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 422)
    return told(status, type(error).__name__, message)


async def wrong_disk(request: Request, error: Any) -> JSONResponse:
    """A file that cannot be written."""
    if error.errno in FULL:
        return told(507, "DiskFull", NO_ROOM)
    return await fault(request, error)


async def refused(request: Request, error: Any) -> JSONResponse:
    """What the gate or the framework refuses."""
    if isinstance(error, Denied):
        headers = {"connection": "close", **(error.headers or {})}  # what is still to come is not listened to
        return JSONResponse(error.body(), error.status_code, headers)
    kinds = {404: "NotFound", 405: "MethodNotAllowed"}
    messages = {404: f"there is nothing at {request.url.path}", 405: f"{request.method} is not for {request.url.path}"}
    kind = kinds.get(error.status_code, "BadRequest")
    message = messages.get(error.status_code, str(error.detail))
    return JSONResponse({"error": {"type": kind, "message": message}}, error.status_code, error.headers)


async def invalid(request: Request, error: Any) -> JSONResponse:
    """A request that does not follow the API's description."""
    return told(422, "InvalidRequest", "; ".join(problem(each) for each in error.errors()[:5]))


def problem(error: Mapping[str, Any]) -> str:
    """What pydantic says of a field, with its value."""
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "json_invalid":
        return f"the body is not JSON, from character {error['loc'][-1]} on: {error['ctx']['error']}"
    if error["type"] == "missing":
        return f"{place} is missing: what is needed stands in /openapi.json"
    if error["type"] == "extra_forbidden":
        return f"{place} is no field here: those that are stand in /openapi.json"
    return f"{place} is {reprlib.repr(error['input'])}: {error['msg']}"


async def fault(request: Request, error: Any) -> JSONResponse:
    """A mistake in the server."""
    log.error("fault", exc_info=error, extra={"fields": {"request": request.scope.get("request_id")}})
    return told(500, "ServerFault", "a mistake in unfuse: the server's log says more")
