"""What a layer says: lines of text with their places, as data. `reading` finds them, formats write them as live text.

Places are points of the canvas (x to the right, y down, pixel (0, 0) covers 0 to 1), of the text as it shows: when a
layer is moved, scaled or turned, its text goes along.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from unfuse.boxes import Affine
from unfuse.errors import StackError, one_of

Point = tuple[float, float]
Quad = tuple[Point, Point, Point, Point]
Align = Literal["left", "center", "right"]
ALIGNS: tuple[str, ...] = get_args(Align)


@dataclass(frozen=True)
class TextLine:
    """One line of text.

    string: what it says, in reading order. quad: what its ink covers, the corners left top, right top, right bottom,
    left bottom as the letters stand. size: of the em, in pixels of the canvas. baseline: where the letters stand, 0 at
    the quad's top edge and 1 at its bottom. color: sRGB, 0 to 255. weight: 100 to 900, regular 400, bold 700. font: the
    family that was used or that comes near; "" where nothing is known. confidence: 0 to 1.

    Raises StackError where a field is wrong.
    """

    string: str
    quad: Quad
    size: float
    color: tuple[int, int, int] = (0, 0, 0)
    baseline: float = 1.0
    weight: int = 400
    font: str = ""
    confidence: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.string, str) or not self.string.strip() or len(self.string.splitlines()) > 1:
            raise StackError(f"a line of text is {self.string!r}: it must be one line that is not empty")
        quad = tuple((float(x), float(y)) for x, y in self.quad)
        if len(quad) != 4 or not all(math.isfinite(x) for point in quad for x in point):
            raise StackError(f"the quad of {self.string!r} is {self.quad!r}: it must be four points (x, y)")
        color = tuple(int(level) for level in self.color)
        if len(color) != 3 or not all(0 <= level <= 255 for level in color):
            raise StackError(f"the color of {self.string!r} is {self.color!r}: it must be three numbers from 0 to 255")
        if not 0 < self.size < math.inf or not math.isfinite(self.baseline):
            raise StackError(f"the size of {self.string!r} is {self.size!r}: it must be above 0")
        if not 1 <= self.weight <= 1000 or not 0 <= self.confidence <= 1:
            raise StackError(
                f"{self.string!r} has weight {self.weight!r} and confidence {self.confidence!r}: "
                "they must be 1 to 1000 and 0 to 1"
            )
        object.__setattr__(self, "quad", quad)
        object.__setattr__(self, "color", color)

    @property
    def angle(self) -> float:
        """How far the line is turned, in degrees, clockwise as one sees it."""
        (left, top), (right, bottom) = self.quad[:2]
        return math.degrees(math.atan2(bottom - top, right - left))

    @property
    def origin(self) -> Point:
        """Where the baseline begins, at the left end of the line as the letters stand."""
        (x, y), (u, v) = self.quad[0], self.quad[3]
        return x + self.baseline * (u - x), y + self.baseline * (v - y)

    @property
    def width(self) -> float:
        """How long the line is, along its baseline."""
        return math.dist(self.quad[0], self.quad[1])

    @property
    def height(self) -> float:
        """How high the ink is, across its baseline."""
        return math.dist(self.quad[0], self.quad[3])

    @property
    def is_mirrored(self) -> bool:
        """Whether the letters stand as in a mirror: then no live text can look the same."""
        (x, y), (right, down), _, (u, v) = self.quad
        return (right - x) * (v - y) - (down - y) * (u - x) < 0

    def transformed(self, transform: Affine) -> TextLine:
        """The line after a transform of the canvas."""
        a, b, c, d, e, f = transform
        left_top, right_top, right_bottom, left_bottom = ((a * x + b * y + c, d * x + e * y + f) for x, y in self.quad)
        size = self.size * math.sqrt(abs(a * e - b * d))
        return replace(self, quad=(left_top, right_top, right_bottom, left_bottom), size=size)


@dataclass(frozen=True)
class TextBlock:
    """The lines of one layer, top to bottom, set in one way: `align` says at which edge they are flush."""

    lines: tuple[TextLine, ...]
    align: Align = "left"

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", tuple(self.lines))
        if not self.lines or not all(isinstance(line, TextLine) for line in self.lines):
            raise StackError(f"the lines of a text are {self.lines!r}: they must be at least one TextLine")
        one_of("the alignment of a text", self.align, ALIGNS)

    @property
    def string(self) -> str:
        """All lines, one below the other."""
        return "\n".join(line.string for line in self.lines)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of all quads."""
        xs, ys = zip(*(point for line in self.lines for point in line.quad), strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def transformed(self, transform: Affine) -> TextBlock:
        """The text after a transform of the canvas."""
        return replace(self, lines=tuple(line.transformed(transform) for line in self.lines))

    def shifted(self, x: float, y: float) -> TextBlock:
        """The text so many pixels further right and down."""
        return self.transformed((1.0, 0.0, x, 0.0, 1.0, y))

    def to_json(self) -> dict[str, Any]:
        """The text in the words of the manifest."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TextBlock:
        """The way back, of data that follow the manifest's schema."""
        return cls(tuple(TextLine(**line) for line in data["lines"]), data["align"])
