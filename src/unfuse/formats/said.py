"""Words as files say them, and where they lie in the picture of their layer: shared by the readers of live text.

A file says where a baseline begins and how large letters are, in units of its own; what the ink of a line covers, which
`TextLine` wants, is measured in the layer's pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfuse import affine, typefaces, typeset
from unfuse.boxes import IDENTITY, Affine, Box
from unfuse.layers import Layer, Pixels
from unfuse.reading import is_ideograph
from unfuse.textblock import Align, TextBlock, TextLine

WIDE, NARROW = 1.0, 0.55  # ems that an ideograph and any other letter take, about
ABOVE, BELOW = 0.75, 0.22  # ems of ink above and below a baseline, about


@dataclass(frozen=True)
class Said:
    """A line: its string, where the flush end of its baseline is, and the size of its em, in units of the file, which
    `way` takes to the canvas.
    """

    string: str
    x: float
    y: float
    size: float
    color: tuple[int, int, int] = (0, 0, 0)
    weight: int = 400
    font: str = ""
    way: Affine = IDENTITY


Bounds = tuple[float, float, float, float]  # left, top, right, bottom


def block(lines: Sequence[Said], align: Align, layer: Layer) -> TextBlock:
    """The text of a layer. Where the layer shows no ink of a line, the line lies where letters usually do."""
    placed = []
    usual = [_usual(line, align) for line in lines]
    for line, expected, ink in zip(lines, usual, _inks(lines, usual, layer), strict=True):
        left, top, right, bottom = ink or expected
        quad = ((left, top), (right, top), (right, bottom), (left, bottom))
        baseline = (line.y - top) / (bottom - top)
        told = TextLine(line.string, quad, line.size, line.color, baseline, line.weight, line.font)
        placed.append(told.transformed(line.way))
    return TextBlock(tuple(placed), align)


def draw(text: TextBlock) -> tuple[Box, Pixels]:
    """Box and pixels `h w 4` uint8 of a text that has none, each line in the typeface that comes nearest to its own.

    Raises StackError where no typeface can write it.
    """
    inks = [_drawn(line, text.align) for line in text.lines]
    box = inks[0][0]
    for area, _ in inks[1:]:
        box = box.union(area)
    pixels: Pixels = np.zeros((box.height, box.width, 4), np.uint8)
    for (area, ink), line in zip(inks, text.lines, strict=True):
        part = pixels[area.within(box)]
        part[ink > 0, :3] = line.color
        part[..., 3] = np.maximum(part[..., 3], np.clip(ink * 255 + 0.5, 0, 255).astype(np.uint8))
    return box, pixels


def _drawn(line: TextLine, align: Align) -> tuple[Box, NDArray[np.float32]]:
    face = typefaces.nearest_to(line.font, line.weight, line.string)
    left, top, right, bottom = (x * line.size for x in typeset.bounds(face, line.weight, line.string))
    start = {"left": 0.0, "center": (line.width - right - left) / 2, "right": line.width - right}[align]
    level = typeset.SetLine(line.string, start, 0.0, line.size, (start + left, top, start + right, bottom))
    area, ink = typeset.draw([level], face, line.weight)
    way = affine.then(affine.about(0, 0, affine.turn(line.angle)), affine.shift(*line.origin))
    box, turned = affine.place(ink[..., None], area, way) or affine.resample(ink[..., None], area, way)
    return box, np.clip(turned[..., 0], 0, 1)


def _usual(line: Said, align: Align) -> Bounds:
    """What a line's ink covers in most typefaces."""
    width = line.size * sum(WIDE if is_ideograph(letter) else NARROW for letter in line.string)
    left = line.x - {"left": 0.0, "center": width / 2, "right": width}[align]
    return left, line.y - ABOVE * line.size, left + width, line.y + BELOW * line.size


def _inks(lines: Sequence[Said], usual: Sequence[Bounds], layer: Layer) -> list[Bounds | None]:
    """What the ink of each line covers, in its own units: each piece of ink is of the line that it is nearest to."""
    import cv2

    if layer.pixels is None or layer.is_empty:
        return [None] * len(lines)
    alpha = layer.pixels[..., 3]
    strong = (alpha > alpha.max() // 2).astype(np.uint8)
    _, labels = cv2.connectedComponents(strong)
    rows, columns = np.nonzero(strong)
    piece = labels[rows, columns]
    x, y = columns + layer.box.left + 0.5, rows + layer.box.top + 0.5
    away, places = [], []
    for line, (left, top, right, bottom) in zip(lines, usual, strict=True):
        a, b, c, d, e, f = affine.inverse(line.way)
        u, v = a * x + b * y + c, d * x + e * y + f
        beside, above = np.maximum(left - u, u - right), np.maximum(top - v, v - bottom)
        distance = (np.maximum(beside, 0) + 4 * np.maximum(above, 0)) / math.sqrt(abs(a * e - b * d))
        away.append(np.bincount(piece, distance))
        places.append((u, v, 0.5 * math.hypot(a, b), 0.5 * math.hypot(d, e)))  # and half a pixel across and down
    nearest = np.argmin(away, axis=0)[piece]
    return [_bounds(nearest == number, *place) for number, place in enumerate(places)]


def _bounds(own: NDArray[np.bool_], u: Any, v: Any, across: float, down: float) -> Bounds | None:
    if not own.any():
        return None
    left, right, top, bottom = (float(edge(values[own])) for values in (u, v) for edge in (np.min, np.max))
    return left - across, top - down, right + across, bottom + down
