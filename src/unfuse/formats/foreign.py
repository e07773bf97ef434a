"""What readers of other programs' files share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from unfuse.errors import FormatError, PictureError
from unfuse.formats.manifest import LAYERS_TO_CANVAS, short
from unfuse.layers import Box, Layer, Pixels
from unfuse.pixels import measure, quantise
from unfuse.pixels import read as read_picture


@dataclass
class Pictures:
    """Reads the pictures of one file, all of them together up to what a stack may have; a profile is kept."""

    what: str
    max_pixels: int
    taken: int = 0
    seen: int = 0
    icc: bytes | None = None

    def check(self, name: str, data: bytes) -> tuple[int, int]:
        """(width, height) of a picture that something else will decode, from its header; all count together."""
        try:
            size = measure(data, f"{name!r} in {self.what}")
        except PictureError as error:
            raise FormatError(short(error)) from error
        self.seen += size[0] * size[1]
        if self.seen > (limit := 2 * LAYERS_TO_CANVAS * self.max_pixels):  # each may be looked at twice
            raise FormatError(f"{self.what} has pictures of more than {limit:,} pixels in it, the limit")
        return size

    def read(self, name: str, data: bytes) -> Pixels:
        """One picture, `h w 4` straight alpha at its own depth; its size is looked up before it is decoded."""
        left = LAYERS_TO_CANVAS * self.max_pixels - self.taken
        try:
            picture = read_picture(data, limit_megapixels=left / 1e6)
        except PictureError as error:
            raise FormatError(f"{name!r} in {self.what}: {short(error)}") from error
        self.taken += picture.size[0] * picture.size[1]
        self.icc = self.icc or picture.icc
        return quantise(picture.pixels, picture.depth)


def check_canvas(size: tuple[int, int], *, what: str, max_pixels: int) -> None:
    """Raise FormatError for a canvas that is nothing or too large."""
    width, height = size
    if width < 1 or height < 1:
        raise FormatError(f"{what} has a canvas of {width}x{height} pixels: save it again with at least 1x1")
    if width * height > max_pixels:
        raise FormatError(f"{what} has a canvas of {width}x{height} pixels, the limit is {max_pixels:,}")


def at_one_depth(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """The layers, all with 16 bits where one has them: a file may hold pictures of both depths."""
    tops = tuple(layers)
    if all(layer.pixels is None or layer.depth == 8 for top in tops for layer in top.walk()):
        return tops
    return tuple(_deep(layer) for layer in tops)


def _deep(layer: Layer) -> Layer:
    if layer.pixels is None:
        return layer.replace(layers=tuple(_deep(inner) for inner in layer.layers))
    return layer if layer.depth == 16 else layer.replace(pixels=layer.pixels.astype(np.uint16) * np.uint16(257))


def with_background(layers: tuple[Layer, ...], canvas: Box) -> tuple[Layer, ...]:
    """The layers, the lowest one a background where nothing can show beneath it."""
    if not layers or not _covers(layers[0], canvas):
        return layers
    return layers[0].replace(kind="background"), *layers[1:]


def _covers(layer: Layer, canvas: Box) -> bool:
    if layer.pixels is None or layer.box.intersection(canvas) != canvas:
        return False
    return bool((layer.pixels[..., 3][canvas.within(layer.box)] == np.iinfo(layer.pixels.dtype).max).all())


def passing(group: Layer, notes: list[str]) -> list[Layer]:
    """A group that lets blend modes through to what lies below it, which ours do not: taken apart where that looks
    the same, and noted.
    """
    if all(layer.blend_mode == "normal" for layer in group.layers):
        return [group]
    if group.opacity == 1 and group.visible:
        notes.append(f"group {group.name!r} lets blend modes through to what lies below it: it was taken apart")
        return list(group.layers)
    notes.append(f"group {group.name!r} lets blend modes through to what lies below it: it may look different")
    return [group]
