"""Typesetting: a text into a box, broken into lines and made as small as it must be, and its ink."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfuse.boxes import Box
from unfuse.errors import StackError
from unfuse.reading import is_ideograph
from unfuse.textblock import Align
from unfuse.typefaces import Typeface

STEP = 0.97  # how a size that is too large is made smaller
SMALLEST = 0.25  # of the size asked for; what does not fit then is an error
FINE = 150  # pixels: letters that are larger are drawn at twice their size, smaller ones at four times
BEARING = 0.12  # ems of a line's length that are no ink, at its ends
EM = 200  # pixels at which lengths are measured


@dataclass(frozen=True)
class Style:
    """What a text is set in. size: of the em, in pixels. pitch: from baseline to baseline, in ems."""

    face: Typeface
    weight: int
    size: float
    pitch: float = 1.2
    align: Align = "left"


@dataclass(frozen=True)
class Place:
    """Where a text may be: left and right in pixels, how high it may be from the top of capitals to the last baseline,
    and the middle of that.
    """

    left: float
    right: float
    height: float
    middle: float


@dataclass(frozen=True)
class SetLine:
    """A line as it is set: its string, where its baseline begins, its size, and what its ink covers."""

    string: str
    x: float
    y: float
    size: float
    ink: tuple[float, float, float, float]  # left, top, right, bottom


def measure(face: Typeface, weight: int) -> Callable[[str], float]:
    """How long a string is, in ems."""
    font = face.at(EM, weight)
    return lambda string: font.getlength(string) / EM


def bounds(face: Typeface, weight: int, string: str) -> tuple[float, float, float, float]:
    """What the ink of a string covers around the start of its baseline, in ems: left, top, right, bottom."""
    font = face.at(EM, weight)
    mask, (x, y) = font.getmask2(string, "L", anchor="ls")
    solid = np.asarray(mask, np.uint8).reshape(mask.size[::-1]) > 127
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    if not rows.size:
        return 0.0, -0.01, 0.01, 0.0
    edges = x + columns[0], y + rows[0], x + columns[-1] + 1, y + rows[-1] + 1
    left, top, right, bottom = (float(edge) / EM for edge in edges)
    return left, top, right, bottom


def fit(text: str, style: Style, place: Place) -> list[SetLine]:
    """A text in a place: as large as the style says, or as much smaller as it must be, on as many lines as fit.

    Breaks in the text are kept, other lines are broken between words, or at any ideograph, to be of like length.
    Raises StackError where it would be too small.
    """
    length = measure(style.face, style.weight)
    width = place.right - place.left
    cap = -bounds(style.face, style.weight, "H" if not style.face.missing("H") else text[:1])[1]
    size = style.size
    while size >= SMALLEST * style.size:
        lines = broken(text, length, width / size + BEARING)
        high = ((len(lines) - 1) * style.pitch + cap) * size
        if all(length(line) <= width / size + BEARING for line in lines) and high <= place.height * 1.02:
            return _placed(balanced(text, lines, length), style, size, cap, place)
        size *= STEP
    raise StackError(
        f"{' '.join(text.split())!r} does not fit into {width:.0f} x {place.height:.0f} pixels at a quarter of the "
        "old text's size: give a shorter text, or scale the layer first"
    )


def broken(text: str, length: Callable[[str], float], width: float) -> list[str]:
    """Lines of at most `width`, in ems, as full as they can be; a piece that is longer stays whole."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for piece in pieces(paragraph):
            if line.strip() and length((line + piece).strip()) > width:
                lines.append(line.strip())
                line = ""
            line += piece
        if line.strip():
            lines.append(line.strip())
    return lines


def balanced(text: str, lines: list[str], length: Callable[[str], float]) -> list[str]:
    """As many lines, with the longest as short as it can be."""
    low, high = 0.0, max(length(line) for line in lines)
    for _ in range(12):
        middle = (low + high) / 2
        tried = broken(text, length, middle)
        if len(tried) == len(lines) and max(map(length, tried)) <= max(map(length, lines)):
            lines, high = tried, middle
        else:
            low = middle
    return lines


def pieces(line: str) -> list[str]:
    """What a line may be broken into: words with the space after them, and ideographs, punctuation kept with them."""
    found: list[str] = []
    for word in re.findall(r"\S+\s*", line):
        part = ""
        for character in word:
            closes = not character.isalnum()
            if part and not closes and (is_ideograph(character) or is_ideograph(part[-1]) or part.endswith("-")):
                found.append(part)
                part = ""
            part += character
        found.append(part)
    return found


def draw(lines: Sequence[SetLine], face: Typeface, weight: int) -> tuple[Box, NDArray[np.float32]]:
    """The ink of lines, `h w` in 0 to 1, and the box that it covers."""
    from PIL import Image, ImageDraw

    left, top = (int(np.floor(min(line.ink[i] for line in lines))) - 1 for i in (0, 1))
    right, bottom = (int(np.ceil(max(line.ink[i] for line in lines))) + 1 for i in (2, 3))
    finer = 2 if max(line.size for line in lines) > FINE else 4
    image = Image.new("L", ((right - left) * finer, (bottom - top) * finer))
    pen = ImageDraw.Draw(image)
    for line in lines:
        at = (line.x - left) * finer, (line.y - top) * finer
        pen.text(at, line.string, 255, font=face.at(line.size * finer, weight), anchor="ls")
    ink = np.asarray(np.asarray(image.reduce(finer)) / 255, np.float32)
    return Box(left, top, right, bottom), ink


def _placed(lines: list[str], style: Style, size: float, cap: float, place: Place) -> list[SetLine]:
    """Lines around the middle of a place, flush as the style says: by their ink, as designers set them."""
    high = ((len(lines) - 1) * style.pitch + cap) * size
    baseline = place.middle - high / 2 + cap * size
    result = []
    for number, string in enumerate(lines):
        left, top, right, bottom = (value * size for value in bounds(style.face, style.weight, string))
        start = {
            "left": place.left,
            "center": (place.left + place.right - (right - left)) / 2,
            "right": place.right - (right - left),
        }[style.align]
        x, y = start - left, baseline + number * style.pitch * size
        result.append(SetLine(string, x, y, size, (x + left, y + top, x + right, y + bottom)))
    return result


def shade(levels: NDArray[Any], alpha: NDArray[np.float32], box: Box) -> Callable[[Box], NDArray[np.float32]]:
    """How letters are coloured: `h w 3` in 0 to 1 over any box, of one colour or of a gradient along a line.

    levels: `h w 3` in 0 to 1 of the letters over `box`; alpha: `h w`, how much they cover.
    """
    rows, columns = np.nonzero(alpha > 0.9 * float(alpha.max()))
    colors = levels[rows, columns].astype(np.float64)
    flat = np.median(colors, axis=0)
    x, y = columns + box.left + 0.5, rows + box.top + 0.5
    ways = np.stack([np.ones_like(x), x, y], axis=1)
    plane, *_ = np.linalg.lstsq(ways, colors, rcond=None)
    left, rest = np.abs(colors - ways @ plane).mean(), np.abs(colors - flat).mean()
    reach = np.ptp(ways @ plane, axis=0).max() if len(colors) else 0.0
    is_gradient = reach > 0.08 and left < 0.5 * rest
    low, high = (np.percentile(colors, q, axis=0) for q in (1, 99))

    def over(place: Box) -> NDArray[np.float32]:
        if not is_gradient:
            return np.broadcast_to(flat.astype(np.float32), (place.height, place.width, 3))
        across = np.arange(place.left, place.right) + 0.5
        down = np.arange(place.top, place.bottom)[:, None] + 0.5
        values = plane[0] + across[None, :, None] * plane[1] + down[..., None] * plane[2]
        return np.asarray(np.clip(values, low, high), np.float32)

    return over
