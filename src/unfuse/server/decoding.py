"""What happens to a file that somebody sent, in a process of its own with limits on memory and time.

A picture comes out as a PNG that we wrote ourselves, a project or PSD as our own project: nothing else ever opens the
bytes that were sent.
"""

from __future__ import annotations

import os
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from unfuse import formats, pixels, saving
from unfuse.errors import FormatError, PictureError, UnfuseError
from unfuse.formats.sniff import layered
from unfuse.server import shelf
from unfuse.server.child import complaint, limit, say

PK, PSD = b"PK\x03\x04", b"8BPS"


def picture(line: Connection, source: str, target: str, max_pixels: int, memory: int, seconds: int) -> None:
    """Decode a picture to a PNG at `target`; say its size, depth, resolution and hash, or what is wrong with it."""
    _answer(line, memory, seconds, lambda: _picture(Path(source), Path(target), max_pixels))


def project(line: Connection, source: str, target: str, name: str, max_pixels: int, memory: int, seconds: int) -> None:
    """Read a file of layers and save it as a project in the folder `target`; say what the store has to know."""
    _answer(line, memory, seconds, lambda: _project(Path(source), Path(target), name, max_pixels))


def _answer(line: Connection, memory: int, seconds: int, work: Any) -> None:
    limit(memory, seconds)
    try:
        answer = work()
    except Exception as error:
        answer = complaint(error)
    say(line, answer)


def _picture(source: Path, target: Path, max_pixels: int) -> dict[str, Any]:
    data = source.read_bytes()
    try:
        found = pixels.read(data, limit_megapixels=max_pixels / 1e6)
    except PictureError as error:
        if kind := layered(data):
            raise PictureError(f"what was sent is no picture but layers, a {kind}: send it to /v1/stacks") from error
        raise
    levels = pixels.quantise(found.pixels, found.depth)
    saving.write_flat(target, levels, icc=found.icc, dpi=found.dpi)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    width, height = found.size
    return {"width": width, "height": height, "depth": found.depth, "dpi": found.dpi, "sha256": found.sha256}


def _project(source: Path, target: Path, name: str, max_pixels: int) -> dict[str, Any]:
    with source.open("rb") as file:
        head = file.read(16)
    suffix = _suffix(head, name)
    named = source.with_name(source.name + suffix)
    os.rename(source, named)
    try:
        stack = formats.read(named, limit_megapixels=max_pixels / 1e6)
    except UnfuseError as error:
        raise type(error)(str(error).replace(str(named), repr(name))) from error
    saved = shelf.save(stack, target, None)
    return {"sha256": saved.sha256, "size": saved.size, "about": saved.about}


def _suffix(head: bytes, name: str) -> str:
    """The format of a file of layers: by its first bytes, or else by its name."""
    if head.startswith(PSD):
        return ".psd"
    suffix = Path(name).suffix.lower()
    known = [suffix for row in formats.FORMATS if row.reads for suffix in row.suffixes]
    if suffix in known and suffix not in (".psd", ".psb"):
        return suffix
    if head.startswith(PK):
        return ".zip"
    raise FormatError(
        f"{name!r} holds no layers that can be read: send one of {', '.join(known)}; "
        "a flat picture goes to /v1/decompositions"
    )
