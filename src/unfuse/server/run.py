"""Starting the server: a socket, an address to tell, uvicorn."""

from __future__ import annotations

import socket
import sys
import threading
import webbrowser
from dataclasses import replace
from typing import Any

from unfuse.errors import require
from unfuse.server.options import Options, ServerError, private_folder

MOST_CONNECTIONS = 1000
BACKLOG = 512


def run(options: Options, browser: bool, say: Any) -> None:
    """Serve until somebody says that it is enough. `say` is told the address."""
    for module in ("fastapi", "uvicorn", "python_multipart"):
        require(module, "serve", "unfuse serve")
    if options.ray:
        require("ray.serve", "ray", "unfuse serve --ray")
    import uvicorn

    from unfuse.server import observe
    from unfuse.server.app import make

    options = replace(options, data=private_folder(options.data))
    listener = bound(options)
    port = listener.getsockname()[1]
    name = f"[{options.host}]" if ":" in options.host else options.host
    address = f"http://{name}:{port}/"
    observe.to_stderr()
    config = uvicorn.Config(
        make(options, port),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=3,
        timeout_keep_alive=30,
        backlog=BACKLOG,
    )
    say(address)
    if browser and options.loopback and sys.stderr.isatty():
        threading.Timer(1.0, webbrowser.open, [address]).start()
    uvicorn.Server(config).run(sockets=[listener])


def bound(options: Options) -> socket.socket:
    """A socket at the address. Raises ServerError where it is taken, or none of this machine."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named: else asyncio leaves Nagle on
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
        listener.listen(BACKLOG)  # whoever is told the address can come; uvicorn answers when it is up
    except OSError as error:
        listener.close()
        cure = f"--port {options.port + 1}, or --port 0 for any that is free"
        why = error.strerror or error
        raise ServerError(f"{options.host}:{options.port} cannot be listened at ({why}): say {cure}") from error
    listener.set_inheritable(False)
    return listener
