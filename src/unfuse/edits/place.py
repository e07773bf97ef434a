"""Where layers lie. Every edit adds to the layer's transform; pixels are resampled once, from the untouched ones.

Layers are held by their frame: the bounds of their pixels after the transform, without effects. x goes right and y
down, in pixels of the canvas.
"""

from __future__ import annotations

from typing import Any, Literal

from unfuse.affine import shift
from unfuse.edits.op import Op, each, leaves
from unfuse.fields import Pixels, Selectors
from unfuse.layers import IDENTITY, Layer, LayerStack
from unfuse.render import frame, remade, transformed

Point = tuple[Pixels, Pixels]


def move(
    stack: LayerStack, layer: Selectors, *, x: Pixels = 0.0, y: Pixels = 0.0, to: Point | None = None
) -> LayerStack:
    """Move by x and y; with `to`, first to where the frame's left top corner is at that point."""

    def change(one: Layer) -> Layer:
        left, top = frame(one)[:2]
        start = (to[0] - left, to[1] - top) if to else (0.0, 0.0)
        return transformed(one, shift(start[0] + x, start[1] + y))

    return each(stack, layer, change)


def reset(
    stack: LayerStack, layer: Selectors, *, what: Literal["all", "place", "looks", "effects"] = "all"
) -> LayerStack:
    """Take back every edit of a layer's place, looks or effects, or all of them."""
    changes: dict[str, dict[str, Any]] = {
        "place": {"transform": IDENTITY},
        "looks": {"looks": ()},
        "effects": {"effects": ()},
    }
    chosen = {name: value for key, change in changes.items() if what in (key, "all") for name, value in change.items()}

    def change(one: Layer) -> Layer:
        return remade(one, **chosen) if one.original else one

    return each(stack, layer, lambda one: leaves(one, change))


OPS = (Op.of(move), Op.of(reset))
