"""One stack on the disk: its project under its content's hash, and what is told about it.

In a stack's folder lie the project `<sha256>.zip`, perhaps `original.png` (what was uploaded, decoded), `pictures/`
(further uploads, for edits) and `cache/` (pictures and exports that were asked for). Whatever is written gets a
temporary name first, and is on the disk before anybody is told of it.
"""

from __future__ import annotations

import hashlib
import os
import weakref
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unfuse import formats
from unfuse.composite import residual
from unfuse.formats import archive, manifest
from unfuse.formats.kept import digest, fields
from unfuse.formats.names import file_names
from unfuse.layers import Layer, LayerStack, Pixels, State
from unfuse.pixels import quantise, read
from unfuse.render import frame

ORIGINAL = "original.png"
SHORT = 20  # digits of a hash in addresses


@dataclass(frozen=True)
class Saved:
    """A project on the disk: its hash, which is its file's name, its bytes, and what is told about the stack."""

    sha256: str
    size: int
    about: dict[str, Any]


class Encoded:
    """Makes PNGs, and remembers them for as long as their pixels are in memory: an edit encodes what it changed."""

    def __init__(self) -> None:
        self.known: dict[int, bytes] = {}

    def __call__(self, pixels: Pixels, stack: LayerStack) -> bytes:
        """See `manifest.png`."""
        data = self.known.get(id(pixels))
        return self.remember(pixels, manifest.png(pixels, stack)) if data is None else data

    def remember(self, pixels: Pixels, data: bytes) -> bytes:
        """Know the PNG of some pixels from now on."""
        if id(pixels) not in self.known:
            weakref.finalize(pixels, self.known.pop, id(pixels), None)
        self.known[id(pixels)] = data
        return data


def save(stack: LayerStack, folder: Path, original: Pixels | None, encode: manifest.Encode = manifest.png) -> Saved:
    """Write the project into the folder, under its hash. `original` is what the stack is compared with."""
    part = folder / f"new-{os.getpid()}.zip"
    try:
        with zipfile.ZipFile(part, "w") as target:
            for name, data in manifest.pack(stack, "cropped", encode):
                archive.add(target, name, data)
        with part.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        size = part.stat().st_size
        os.replace(part, folder / f"{sha256}.zip")
    finally:
        part.unlink(missing_ok=True)
    sync(folder)
    return Saved(sha256, size, about(stack, original))


def sync(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load(folder: Path, sha256: str, max_pixels: int, encoded: Encoded | None = None) -> LayerStack:
    """The stack in a folder; `encoded` gets to know the PNGs of its layers."""
    path = folder / f"{sha256}.zip"
    stack = formats.read(path, limit_megapixels=max_pixels / 1e6)
    if encoded is not None:
        with zipfile.ZipFile(path) as opened:
            for layer, name in file_names(stack.layers):
                if layer.pixels is not None:
                    encoded.remember(layer.pixels, opened.read(name))
    return stack


def original_of(folder: Path, max_pixels: int) -> Pixels | None:
    """What was uploaded, `h w 4`, where a stack comes from a picture."""
    if not (folder / ORIGINAL).is_file():
        return None
    picture = read(folder / ORIGINAL, limit_megapixels=max_pixels / 1e6)
    return quantise(picture.pixels, picture.depth)


def about(stack: LayerStack, original: Pixels | None) -> dict[str, Any]:
    """What the API tells of a stack, beside what the store knows."""
    width, height = stack.size
    comparable = original is not None and original.shape[:2] == (height, width)
    comparable = comparable and original is not None and original.dtype.itemsize * 8 == stack.depth
    error = residual(stack, original) if comparable and original is not None else None
    return {
        "width": width,
        "height": height,
        "depth": stack.depth,
        "dpi": stack.dpi,
        "count": sum(layer.pixels is not None for layer in stack.walk()),
        "layers": [entry(layer) for layer in stack],
        "notes": list(stack.notes),
        "history": history(stack),
        "position": len(stack.past),
        "recomposition": None if error is None else {"max": float(error.max), "mean": float(error.mean)},
    }


def entry(layer: Layer) -> dict[str, Any]:
    """A layer as the manifest has it, the hash of its pixels, and its place before they were rounded to any."""
    told = fields(layer) | {"frame": [float(x) for x in frame(layer)]}
    if layer.pixels is None:
        return told | {"layers": [entry(inner) for inner in layer.layers]}
    made = layer.original
    if made is not None:
        told |= {"source": list(made.box), "transform": list(made.transform)}
        told |= {"looks": list(made.looks), "effects": list(made.effects)}
    return told | {"hash": digest(layer.pixels)[:SHORT]}


def history(stack: LayerStack) -> list[dict[str, Any]]:
    """Every step there is to undo, then every one to redo: its number from 1, a name to show, and its edits."""
    steps = [*stack.past, *reversed(stack.future)]
    return [{"index": i, "name": name_of(step), "edit": list(step.edits)} for i, step in enumerate(steps, 1)]


def name_of(step: State) -> str:
    """What a step of the history did, in a few words: 'Move', 'Drop shadow and 2 more'."""
    words = [str(edit.get("op", "")).replace("_", " ").capitalize() for edit in step.edits]
    first = next(iter(words), "") or "Edit"
    return first if len(set(words)) < 2 else f"{first} and {len(words) - 1} more"
