"""What the server tells whoever runs it: a line of JSON for every request, and figures for Prometheus.

The text format of Prometheus is a dozen lines to write, so there is no dependency for it. Neither lines nor figures
hold tokens, query strings, file names or prompts.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

BUCKETS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0)
ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

log = logging.getLogger("unfuse.server")


class Lines(logging.Formatter):
    """A log record as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": when, "level": record.levelname.lower(), "message": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def to_stderr(level: int = logging.INFO) -> None:
    """Have the server's lines, and uvicorn's, on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    for name in ("unfuse.server", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level if name == "unfuse.server" else logging.WARNING)


class Figures:
    """Counts of requests, by method, route and status, and how long they took."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.buckets: Counter[float] = Counter()
        self.seconds = 0.0

    def add(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one."""
        self.requests[method, route, status] += 1
        self.seconds += seconds
        for bucket in BUCKETS:
            self.buckets[bucket] += seconds <= bucket

    def text(self, gauges: Iterable[tuple[str, str, dict[str, str], float]]) -> str:
        """All figures in Prometheus' text format 0.0.4; gauges: name, help, labels, value, those of a name together."""
        total = sum(self.requests.values())
        lines = ["# HELP unfuse_requests_total Requests answered.", "# TYPE unfuse_requests_total counter"]
        for (method, route, status), count in sorted(self.requests.items()):
            lines.append(
                sample("unfuse_requests_total", {"method": method, "route": route, "status": str(status)}, count)
            )
        lines += ["# HELP unfuse_request_seconds Time to answer.", "# TYPE unfuse_request_seconds histogram"]
        for bucket in BUCKETS:
            lines.append(sample("unfuse_request_seconds_bucket", {"le": str(bucket)}, self.buckets[bucket]))
        lines.append(sample("unfuse_request_seconds_bucket", {"le": "+Inf"}, total))
        lines.append(sample("unfuse_request_seconds_sum", {}, round(self.seconds, 6)))
        lines.append(sample("unfuse_request_seconds_count", {}, total))
        known = ""
        for name, about, labels, value in gauges:
            if name != known:
                kind = "counter" if name.endswith("_total") else "gauge"
                lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
                known = name
            lines.append(sample(name, labels, value))
        return "\n".join(lines) + "\n"


def sample(name: str, labels: dict[str, str], value: float) -> str:
    """One line."""
    inside = ",".join(f"{key}={json.dumps(text)}" for key, text in labels.items())
    return f"{name}{{{inside}}} {value}" if inside else f"{name} {value}"


class Watch:
    """ASGI middleware, the outermost: gives every request an id, logs it and counts it."""

    def __init__(self, app: Any, figures: Figures) -> None:
        self.app, self.figures = app, figures

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See the ASGI specification, version 3."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        number = given.decode() if ID.fullmatch(given) else secrets.token_hex(8)
        scope["request_id"], began, status = number, time.monotonic(), 500

        async def seen(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", number.encode())]
            await send(message)

        try:
            await self.app(scope, receive, seen)
        finally:
            seconds = time.monotonic() - began
            route = getattr(scope.get("route"), "path", "other")
            self.figures.add(scope["method"], route, status, seconds)
            fields = {"request": number, "method": scope["method"], "path": scope["path"][:200], "status": status}
            fields |= {"ms": round(1000 * seconds, 1), "owner": scope.get("owner", "")}
            log.info("request", extra={"fields": fields})
