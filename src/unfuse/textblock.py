"""What a layer says: lines of text with their places, as data. `reading` finds them, formats write them as live text.

Places are points of the canvas (x to the right, y down, pixel (0, 0) covers 0 to 1), of the text as it shows: when a
layer is moved, scaled or turned, its text goes along.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from unfuse.boxes import Affine
from unfuse.errors import StackError, one_of

Point = tuple[float, float]
Quad = tuple[Point, Point, Point, Point]
Align = Literal["left", "center", "right"]
ALIGNS: tuple[Align, ...] = get_args(Align)


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

    def shifted(self, x: float, y: float) -> TextLine:
        """The line so many pixels further right and down."""
        return self.transformed((1.0, 0.0, x, 0.0, 1.0, y))

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

    @property
    def paragraphs(self) -> tuple[TextBlock, ...]:
        """The text in blocks of lines that stand below each other, turned alike and of like size; each its own."""
        blocks: list[list[TextLine]] = []
        for line in self.lines:
            for block in blocks:
                if _follows(block[-1], line):
                    block.append(line)
                    break
            else:
                blocks.append([line])
        if len(blocks) == 1:
            return (self,)
        return tuple(TextBlock(tuple(block), aligned(block) or self.align) for block in blocks)

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


def aligned(lines: Sequence[TextLine]) -> Align | None:
    """At which edge lines are flush; None for a single line, which does not say."""
    if len(lines) < 2:
        return None
    edges = [_along(line, lines[0]) for line in lines]
    spread = {
        "left": _spread([low for low, _ in edges]),
        "center": _spread([(low + high) / 2 for low, high in edges]),
        "right": _spread([high for _, high in edges]),
    }
    return min(ALIGNS, key=lambda name: spread[name])


def _along(line: TextLine, first: TextLine) -> tuple[float, float]:
    """Where a line begins and ends, along the first line's direction."""
    angle = math.radians(first.angle)
    places = [x * math.cos(angle) + y * math.sin(angle) for x, y in line.quad]
    return min(places), max(places)


def _follows(above: TextLine, line: TextLine) -> bool:
    """Whether a line goes on below another."""
    turn = abs((line.angle - above.angle + 180) % 360 - 180)
    low, high = sorted((above.size, line.size))
    if turn > 5 or high > 1.8 * low:
        return False
    angle = math.radians(above.angle)
    down = [y * math.cos(angle) - x * math.sin(angle) for x, y in (above.quad[3], line.quad[0])]
    gap = down[1] - down[0]
    (left, right), (begin, end) = _along(above, above), _along(line, above)
    shared = min(right, end) - max(left, begin)
    return -0.5 * high < gap < 1.1 * high and shared > 0.3 * min(right - left, end - begin)


def _spread(values: list[float]) -> float:
    return max(values) - min(values)
