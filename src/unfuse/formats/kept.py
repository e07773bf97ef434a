"""What a project keeps beside what it shows: the originals of edited layers, and the states of undo and redo.

Their pictures lie in `kept/`, cropped, each once however many layers and states share it; where a layer's own file is
that picture, it serves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from unfuse.layers import Box, Layer, LayerStack, Pixels, State

FOLDER = "kept/"
FIELDS = ("id", "name", "kind", "box", "opacity", "blend_mode", "visible", "locked")
HISTORY_TO_CANVAS = 16  # the oldest states are left out where all would take so many times the canvas' pixels


class Kept:
    """Collects pictures while a manifest is made. `shared` are pictures that have a file of their own already."""

    def __init__(self, stack: LayerStack, shared: dict[str, Pixels]) -> None:
        self.files = {id(pixels): (name, pixels) for name, pixels in shared.items()}
        self.room = HISTORY_TO_CANVAS * stack.size[0] * stack.size[1]

    def pictures(self) -> Iterator[tuple[str, Pixels]]:
        """The files to write, beside those that are shared."""
        return (row for row in self.files.values() if row[0].startswith(FOLDER))

    def states(self, states: tuple[State, ...]) -> list[dict[str, Any]]:
        """The entries of as many states as there is room for, the nearest to now first of all."""
        entries: list[dict[str, Any]] = []
        for state in reversed(states):
            new = {id(x.pixels): x.pixels.size // 4 for top in state.layers for x in top.walk() if x.pixels is not None}
            self.room -= sum(area for key, area in new.items() if key not in self.files)
            if self.room < 0:
                break
            layers = [self._layer(layer) for layer in state.layers]
            entries.append({"size": state.size, "edits": state.edits, "layers": layers})
        return entries[::-1]

    def original(self, layer: Layer, shown: Pixels) -> dict[str, Any]:
        """What an edited layer was made from, and the digest of what its file shows, so that painting is seen."""
        if layer.original is None:
            return {}
        made = layer.original
        steps = {"box": made.box, "transform": made.transform, "looks": made.looks, "effects": made.effects}
        return {"original": {"file": self._keep(made.pixels), "made": digest(shown), **steps}}

    def _layer(self, layer: Layer) -> dict[str, Any]:
        if layer.pixels is None:
            return fields(layer) | {"layers": [self._layer(inner) for inner in layer.layers]}
        return fields(layer) | {"file": self._keep(layer.pixels)} | self.original(layer, layer.pixels)

    def _keep(self, pixels: Pixels) -> str:
        return self.files.setdefault(id(pixels), (f"{FOLDER}{len(self.files):04}.png", pixels))[0]


def fields(layer: Layer) -> dict[str, Any]:
    """A layer's fields that JSON says as they are, its text, and a group's effects."""
    said: dict[str, Any] = {"text": layer.text.to_json()} if layer.text else {}
    said |= {"effects": layer.effects} if layer.effects else {}
    return {name: getattr(layer, name) for name in FIELDS} | said


def digest(pixels: Pixels) -> str:
    """The SHA-256 of pixels, row by row, little-endian."""
    return hashlib.sha256(np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<")).data).hexdigest()


def area(entries: Iterable[dict[str, Any]]) -> int:
    """How many pixels there are in layers that a manifest lists, and in what they were made from; each file once."""
    boxes: dict[str, Box] = {}

    def look(listed: Iterable[dict[str, Any]]) -> None:
        for entry in listed:
            look(entry.get("layers", ()))
            for picture in (entry, entry.get("original", {})):
                if "file" in picture:
                    boxes[picture["file"]] = Box(*picture["box"])

    look(entries)
    return sum(max(0, box.width) * max(0, box.height) for box in boxes.values())
