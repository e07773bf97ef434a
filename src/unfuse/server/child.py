"""Processes of ours: started fresh, spoken to in lines of JSON, ended when they take too long or when we end.

JSON, because what a process says that has touched somebody's file must not be unpickled.
"""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from unfuse.errors import UnfuseError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # there is no room on the disk, or for a file
NO_ROOM = "the server's disk is full: nothing was changed; delete stacks, or give it room"
Message = dict[str, Any]
Main = Callable[..., None]
SPAWN = multiprocessing.get_context("spawn")
FRESH: Any = multiprocessing.get_context("forkserver") if sys.platform == "linux" else SPAWN
FRESH_MODULES = ["unfuse.server.decoding", "unfuse.composite", "PIL.Image", "PIL.PngImagePlugin"]


class ChildDied(UnfuseError):
    """A process of ours ended, or was ended, before it answered; the message says why."""


class Child:
    """One process that runs `main(line, *args)`; `line` is its end of the pipe."""

    def __init__(self, context: Any, main: Main, *args: Any) -> None:
        ours, theirs = context.Pipe()
        self.line: Connection = ours
        self.process = context.Process(target=_run, args=(theirs, main, args), daemon=True)
        self.process.start()
        theirs.close()

    def send(self, message: Message) -> None:
        """Tell it something. Raises ChildDied where it is not there any more."""
        try:
            self.line.send_bytes(json.dumps(message).encode())
        except OSError as error:
            raise ChildDied(self.reason()) from error

    def receive(self, seconds: float | None = None) -> Message:
        """What it says next. Raises ChildDied where it ends, or says nothing for so long, which ends it."""
        try:
            if not self.line.poll(seconds):
                self.kill()
                raise ChildDied(f"it took longer than {seconds:g} s and was stopped")
            message: Message = json.loads(self.line.recv_bytes())
        except (EOFError, OSError) as error:
            raise ChildDied(self.reason()) from error
        return message

    def reason(self) -> str:
        """Why it ended, as far as the system says."""
        self.process.join(5)
        code = self.process.exitcode
        if code == -signal.SIGXCPU:
            return "it took more processor time than there is for it and was stopped"
        if code == -signal.SIGKILL:
            return "it was killed, as a system does that runs out of memory: try a smaller picture"
        name = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return f"its process ended unexpectedly ({name})"

    def kill(self) -> None:
        """End it, now."""
        self.process.kill()
        self.process.join(5)
        self.line.close()


def _run(line: Connection, main: Main, args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the server ends us itself
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    main(line, *args)


def say(line: Connection, message: Message) -> None:
    """What a process answers with."""
    line.send_bytes(json.dumps(message).encode())


def heard(line: Connection) -> Message:
    """What a process is told next."""
    message: Message = json.loads(line.recv_bytes())
    return message


def limit(megabytes: int, seconds: int | None = None) -> None:
    """Take no more memory, and processor time, than this from now on; systems without such limits have none."""
    try:
        import resource
    except ImportError:
        return
    limits = {resource.RLIMIT_CORE: (0, 0), resource.RLIMIT_AS: (megabytes << 20, megabytes << 20)}
    if seconds is not None:
        limits[resource.RLIMIT_CPU] = (seconds, seconds + 1)
    for which, values in limits.items():
        with contextlib.suppress(ValueError, OSError):  # macOS takes no limit on memory
            resource.setrlimit(which, values)


def complaint(error: BaseException) -> Message:
    """An exception as an answer. Only our own errors are for users to read; a full disk is told from its cause."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in FULL:
            return {"error": {"type": "DiskFull", "message": NO_ROOM}}
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, MemoryError):
        return {"error": {"type": "MemoryError", "message": "this needs more memory than there is for it: use less"}}
    if isinstance(error, OSError):
        return {"error": {"type": "OSError", "message": error.strerror or type(error).__name__}}
    if isinstance(error, UnfuseError):
        return {"error": {"type": type(error).__name__, "message": str(error)}}
    return {"error": {"type": "ServerFault", "message": f"a mistake in unfuse: {type(error).__name__}: {error}"}}
