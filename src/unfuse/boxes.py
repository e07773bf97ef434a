"""Places on the canvas: boxes of whole pixels, and the transforms that take points elsewhere."""

from __future__ import annotations

from typing import NamedTuple

Affine = tuple[float, float, float, float, float, float]  # a b c d e f: (x, y) goes to (a x + b y + c, d x + e y + f)
IDENTITY: Affine = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


class Box(NamedTuple):
    """A place on the canvas in pixels: left and top inclusive, right and bottom exclusive. May leave the canvas."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height

    def moved(self, right: int, down: int) -> Box:
        """The box of the same size, so many pixels further right and down."""
        return Box(self.left + right, self.top + down, self.right + right, self.bottom + down)

    def intersection(self, other: Box) -> Box | None:
        """What both cover, or None where they do not meet."""
        left, top = max(self.left, other.left), max(self.top, other.top)
        right, bottom = min(self.right, other.right), min(self.bottom, other.bottom)
        return Box(left, top, right, bottom) if left < right and top < bottom else None

    def union(self, other: Box) -> Box:
        """The smallest box that holds both."""
        left, top = min(self.left, other.left), min(self.top, other.top)
        return Box(left, top, max(self.right, other.right), max(self.bottom, other.bottom))

    def within(self, outer: Box) -> tuple[slice, slice]:
        """Rows and columns of this box in an array that covers `outer`."""
        return slice(self.top - outer.top, self.bottom - outer.top), slice(
            self.left - outer.left, self.right - outer.left
        )
