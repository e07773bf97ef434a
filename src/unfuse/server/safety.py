"""Who may ask, what for, and how much may be sent: everything that is checked before a route runs.

A browser is not to be tricked into asking for somebody else: on this machine the Host header must name it (DNS
rebinding), and what changes something must come from our own page (Origin and Sec-Fetch-Site). With tokens, every
request needs one, but for the two health checks; they are compared in constant time, and whoever guesses has to wait.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlsplit

from starlette.exceptions import HTTPException

from unfuse.server.options import LOCAL, Options

COOKIE = "unfuse"
OPEN = ("/healthz", "/readyz")  # what needs no token
SAFE = ("GET", "HEAD", "OPTIONS")
GUESSES, GUESSES_SECONDS = 10, 60.0  # wrong tokens from one address
MOST_ADDRESSES = 10_000
JSON_BYTES = 4 << 20
FORM_ROOM = 1 << 20  # of a form, beside the file
DROPPED = 4  # times the limit that is taken and dropped

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; font-src 'self'; connect-src 'self'; worker-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Denied(HTTPException):
    """A request that goes no further. An HTTPException, because FastAPI lets no other through while it reads a body."""

    def __init__(self, status: int, kind: str, message: str, **headers: str) -> None:
        super().__init__(status, message, headers)
        self.kind = kind

    def body(self) -> dict[str, Any]:
        """What the answer says."""
        return {"error": {"type": self.kind, "message": self.detail}}


@dataclass
class Guesses:
    """How often an address came with a wrong token lately."""

    times: dict[str, list[float]] = field(default_factory=dict)

    def wait(self, address: str) -> float:
        """Seconds that an address has to wait; 0 where it may try."""
        now = time.monotonic()
        lately = [when for when in self.times.get(address, ()) if now - when < GUESSES_SECONDS]
        return GUESSES_SECONDS - (now - lately[-GUESSES]) if len(lately) >= GUESSES else 0.0

    def wrong(self, address: str) -> None:
        """Remember a wrong token."""
        now = time.monotonic()
        lately = [when for when in self.times.pop(address, []) if now - when < GUESSES_SECONDS]
        self.times[address] = [*lately[-GUESSES:], now]
        while len(self.times) > MOST_ADDRESSES:
            del self.times[next(iter(self.times))]


class Gate:
    """ASGI middleware: lets a request through to `app`, with its owner in the scope, or answers it."""

    def __init__(self, app: Any, options: Options, port: int) -> None:
        self.app, self.options = app, options
        self.owners = options.owners
        self.cookies = {cookie_of(token): owner for token, owner in self.owners.items()}
        self.guesses = Guesses()
        hosts = {"localhost", "127.0.0.1", "[::1]", f"[{options.host}]" if ":" in options.host else options.host}
        self.hosts = {host for name in hosts | set(options.names) for host in (name.lower(), f"{name.lower()}:{port}")}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See the ASGI specification, version 3."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}

        async def safely(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(pair for pair in extra if pair[0] not in given)]
            await send(message)

        try:
            self.check_host(headers)
            self.check_origin(scope["method"], headers)
            if scope["path"] == "/" and self.owners and (token := self.offered(scope)):
                await answer(safely, 303, b"", {"location": "/", "set-cookie": self.cookie(scope, headers, token)})
                return
            scope["owner"] = LOCAL if scope["path"] in OPEN else self.owner(scope, headers)
            body = Body(receive, self.most(headers), self.options.upload_seconds, headers)
            await self.app(scope, body.receive, safely)
        except Denied as denied:
            headers = {"content-type": "application/json", "connection": "close", **(denied.headers or {})}
            await answer(safely, denied.status_code, json.dumps(denied.body()).encode(), headers)

    # --- where a request comes from

    def check_host(self, headers: Mapping[str, str]) -> None:
        """On this machine, the request must be for this machine by name; elsewhere the token says as much."""
        if (self.options.loopback or self.options.names) and headers.get("host", "").lower() not in self.hosts:
            raise Denied(421, "WrongHost", "the Host header names another machine; open the address the server printed")

    def check_origin(self, method: str, headers: Mapping[str, str]) -> None:
        """What changes something is not for other sites' pages."""
        if method in SAFE:
            return
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        host = headers.get("host", "").lower()
        if (origin is not None and urlsplit(origin).netloc.lower() != host) or site not in ("same-origin", "none"):
            raise Denied(403, "CrossSite", "requests from other sites' pages are refused")

    # --- who asks

    def owner(self, scope: Any, headers: Mapping[str, str]) -> str:
        """Whose token the request has."""
        if not self.owners:
            return LOCAL
        address = scope["client"][0] if scope.get("client") else ""
        self.check_guesses(address)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        found, given = None, bool(token)
        if scheme.lower() == "bearer" and token:
            found = same(token.strip(), self.owners)
        elif (morsel := cookies(headers).get(COOKIE)) is not None:
            found, given = same(morsel.value, self.cookies), True
        if found is not None:
            return found
        if given:
            self.guesses.wrong(address)
        raise Denied(
            401,
            "NoToken",
            "this server needs a token: send 'Authorization: Bearer TOKEN', or open /?token=TOKEN in a browser",
            **{"www-authenticate": "Bearer"},
        )

    def check_guesses(self, address: str) -> None:
        """Whoever came with many wrong tokens has to wait, with a right one too."""
        if (seconds := self.guesses.wait(address)) > 0:
            wait = str(int(seconds) + 1)
            raise Denied(429, "TooManyGuesses", f"too many wrong tokens: wait {wait} s", **{"retry-after": wait})

    def offered(self, scope: Any) -> str:
        """The token in the address of the page."""
        return parse_qs(str(scope["query_string"], "latin-1")).get("token", [""])[0]

    def cookie(self, scope: Any, headers: Mapping[str, str], token: str) -> str:
        """The cookie that stands for a token from now on."""
        address = scope["client"][0] if scope.get("client") else ""
        self.check_guesses(address)
        if same(token, self.owners) is None:
            self.guesses.wrong(address)
            raise Denied(401, "NoToken", "this token is not known here")
        secure = "; Secure" if headers.get("x-forwarded-proto") == "https" else ""
        return f"{COOKIE}={cookie_of(token)}; Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000{secure}"

    # --- how much is sent

    def most(self, headers: Mapping[str, str]) -> int:
        """Bytes that a request's body may have."""
        if headers.get("content-type", "").startswith("multipart/form-data"):
            return (self.options.upload_megabytes << 20) + FORM_ROOM
        return JSON_BYTES


class Body:
    """A request's body while it comes in: it ends where it grows too large or takes too long."""

    def __init__(self, receive: Any, most: int, seconds: float, headers: Mapping[str, str]) -> None:
        self.inner, self.most, self.left = receive, most, most
        self.until = time.monotonic() + seconds
        self.complete = False
        length = headers.get("content-length", "0")
        self.announced = int(length) if length.isdecimal() else 0

    async def receive(self) -> Any:
        """The next message, counted. Raises Denied."""
        if self.complete:
            return await self.inner()
        if self.announced > self.most:
            await self.too_large()
        message = await self.next()
        if self.left < 0:
            await self.too_large()
        return message

    async def next(self) -> Any:
        """The next message, of any size."""
        try:
            message = await asyncio.wait_for(self.inner(), max(0.0, self.until - time.monotonic()))
        except TimeoutError:
            raise Denied(408, "TooSlow", "the upload took too long: try again over a faster line") from None
        if message["type"] == "http.request":
            self.left -= len(message.get("body", b""))
        self.complete = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def too_large(self) -> NoReturn:
        """Refuse. A little more is taken and dropped first: who is cut off while sending never reads the answer."""
        hopeless = self.announced > (1 + DROPPED) * self.most
        while not hopeless and not self.complete and self.left > -DROPPED * self.most:
            await self.next()
        raise Denied(413, "TooLarge", f"the request is larger than the limit of {self.most:,} bytes: send less")


def same(given: str, known: Mapping[str, str]) -> str | None:
    """The owner of a secret; all are compared, each in constant time."""
    found = None
    for secret, owner in known.items():
        if hmac.compare_digest(secret.encode(), given.encode("utf-8", "replace")):
            found = owner
    return found


def cookie_of(token: str) -> str:
    """What stands for a token in a cookie: whoever reads it does not know the token."""
    return hashlib.sha256(b"cookie " + token.encode()).hexdigest()


def cookies(headers: Mapping[str, str]) -> SimpleCookie:
    """The request's cookies."""
    found = SimpleCookie()
    try:
        found.load(headers.get("cookie", ""))
    except CookieError:
        found.clear()
    return found


async def answer(send: Any, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    """A whole response."""
    listed = [(name.encode(), value.encode()) for name, value in headers.items()]
    listed.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": listed})
    await send({"type": "http.response.body", "body": body})
