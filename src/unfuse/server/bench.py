"""What edits, draws and exports stacks: a process that keeps the stacks it worked on last.

It touches only what the server wrote. Each request names a stack's folder and project, never a path from outside.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from unfuse import formats, recipe
from unfuse.composite import flatten
from unfuse.errors import StackError, UnfuseError
from unfuse.layers import Box, Layer, LayerStack, Pixels
from unfuse.pixels import quantise, read, resize, to_float
from unfuse.saving import replacing, write_flat
from unfuse.server import shelf
from unfuse.server.child import Message, complaint, heard, limit, say

KEPT = 4  # stacks in memory
PICTURES = "pictures"


class Bench:
    """The requests, a method each; every one answers with JSON."""

    def __init__(self, max_pixels: int) -> None:
        self.max_pixels = max_pixels
        self.stacks: OrderedDict[str, LayerStack] = OrderedDict()
        self.encoded = shelf.Encoded()
        self.originals: OrderedDict[str, Pixels | None] = OrderedDict()

    def edit(self, folder: str, project: str, data: Any) -> Message:
        """Run a recipe on a stack and save the result."""
        before = self.stack(folder, project)
        run = recipe.checked(data)
        with inside(Path(folder) / PICTURES):
            after = recipe.run(before, run)
        return self.saved(folder, after)

    def travel(self, folder: str, project: str, position: int) -> Message:
        """Go to a place in a stack's history and save the result."""
        stack = self.stack(folder, project)
        last = len(stack.past) + len(stack.future)
        if not 0 <= position <= last:
            raise StackError(f"position {position} is not in the history: say 0 to {last}")
        while len(stack.past) != position:
            stack = stack.undo() if len(stack.past) > position else stack.redo()
        return self.saved(folder, stack)

    def picture(self, folder: str, project: str, what: str, size: int | None, target: str) -> Message:
        """Draw a layer by its id, or 'flat' or 'difference', at most `size` pixels on the longer side."""
        stack = self.stack(folder, project)
        if what == "flat":
            pixels = flatten(stack)
        elif what == "difference":
            pixels = self.difference(folder, stack)
        elif what == "original":
            pixels = self.required(folder)
        else:
            pixels = cropped(stack[what], stack.size)
        shown = shrunk(pixels, size)
        if target.endswith(".png"):  # a layer at its own size is encoded already
            with replacing(target) as file:
                file.write(self.encoded(shown, stack))
        else:
            write_flat(target, shown, icc=stack.icc, dpi=stack.dpi)
        return {}

    def export(self, folder: str, project: str, target: str) -> Message:
        """Write a stack in the format of the target's suffix."""
        formats.write(self.stack(folder, project), target)
        return {}

    def thumbnail(self, source: str, target: str, size: int) -> Message:
        """Draw a picture of ours smaller."""
        picture = read(source)
        write_flat(target, shrunk(quantise(picture.pixels, 8), size))
        return {}

    def stack(self, folder: str, project: str) -> LayerStack:
        """A stack of the shelf; those used last are in memory."""
        if project not in self.stacks:
            self.keep(self.stacks, project, shelf.load(Path(folder), project, self.max_pixels, self.encoded))
        self.stacks.move_to_end(project)
        return self.stacks[project]

    def original(self, folder: str) -> Pixels | None:
        """What was uploaded."""
        if folder not in self.originals:
            self.keep(self.originals, folder, shelf.original_of(Path(folder), self.max_pixels))
        return self.originals[folder]

    def required(self, folder: str) -> Pixels:
        """What was uploaded, for a stack that comes from a picture."""
        if (original := self.original(folder)) is None:
            raise StackError("the stack was uploaded with its layers: there is no original picture")
        return original

    def difference(self, folder: str, stack: LayerStack) -> Pixels:
        """How far the flattened stack is from the original, each channel, opaque: black where it is not."""
        original = self.required(folder)
        flat = flatten(stack)
        if flat.shape != original.shape:
            raise StackError("the canvas was given another size: there is no difference to show")
        far = np.abs(to_float(flat) - to_float(original))
        far[..., :3] = np.maximum(far[..., :3], far[..., 3:])
        far[..., 3] = 1
        return quantise(far, 8)

    def saved(self, folder: str, stack: LayerStack) -> Message:
        """Save a stack, and keep it."""
        width, height = stack.size
        if width * height > self.max_pixels:
            raise StackError(f"a canvas of {width} x {height} is larger than the limit of {self.max_pixels:,} pixels")
        area = sum(layer.box.width * layer.box.height for layer in stack.walk() if layer.pixels is not None)
        if area > 4 * self.max_pixels:
            raise StackError(f"the layers have {area:,} pixels together, the limit is {4 * self.max_pixels:,}")
        saved = shelf.save(stack, Path(folder), self.original(folder), self.encoded)
        self.keep(self.stacks, saved.sha256, stack)
        return {"sha256": saved.sha256, "size": saved.size, "about": saved.about}

    def keep(self, memory: OrderedDict[str, Any], key: str, value: Any) -> None:
        """Remember something in place of what was used longest ago."""
        memory[key] = value
        while len(memory) > KEPT:
            memory.popitem(last=False)


def main(line: Connection, max_pixels: int, memory: int) -> None:
    """Answer requests until the server ends."""
    limit(memory)
    os.nice(5)  # engines go first
    bench = Bench(max_pixels)
    requests: dict[str, Callable[..., Message]] = {
        "hello": dict,
        "edit": bench.edit,
        "travel": bench.travel,
        "picture": bench.picture,
        "export": bench.export,
        "thumbnail": bench.thumbnail,
    }
    while True:
        message = heard(line)
        try:
            answer = requests[message.pop("do")](**message)
        except Exception as error:
            if not isinstance(error, UnfuseError):
                bench.stacks.clear()  # there may be no memory left
                bench.originals.clear()
            answer = complaint(error)
        say(line, answer)


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder: a recipe's pictures are names in it, and its history keeps names, not paths of this disk."""
    before = os.getcwd()
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def cropped(layer: Layer, size: tuple[int, int]) -> Pixels:
    """The pixels of a layer; of a group, what its box has on the canvas, one clear pixel where that is nothing."""
    if layer.pixels is not None:
        return layer.pixels
    canvas = Box(0, 0, *size)
    part = layer.box.intersection(canvas)
    return layer.to_canvas(size)[part.within(canvas)].copy() if part else np.zeros((1, 1, 4), np.uint8)


def shrunk(pixels: Pixels, size: int | None) -> Pixels:
    """Pixels with at most `size` on the longer side, at 8 bits; never enlarged, and as they are without a size."""
    height, width = pixels.shape[:2]
    if size is None:
        return pixels
    factor = min(1.0, size / max(width, height))
    small = resize(to_float(pixels), (max(1, round(width * factor)), max(1, round(height * factor))))
    return quantise(small, 8) if factor < 1 or pixels.dtype == np.uint16 else pixels
