"""Server-sent events (HTML Living Standard, section 9.2): a job's state, again whenever it changes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

HEARTBEAT = 15.0  # seconds after which something is said, so that no proxy takes the silence for an end


async def lines(states: AsyncIterator[dict[str, Any] | None]) -> AsyncIterator[bytes]:
    """The body: an event `job` for every state, a comment where there is nothing to say."""
    number = 0
    async for state in states:
        if state is None:
            yield b": still here\n\n"
            continue
        number += 1
        yield f"id: {number}\nevent: job\ndata: {json.dumps(state, ensure_ascii=False)}\n\n".encode()
