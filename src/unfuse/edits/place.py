"""Where layers lie. Every edit adds to the layer's transform; pixels are resampled once, from the untouched ones.

Layers are held by their frame: the bounds of their pixels after the transform, without effects; a group by that of all
in it. x goes right and y down, in pixels of the canvas.
"""

from __future__ import annotations

from typing import Any, Literal

from unfuse.affine import Corners, about, onto, shift, turn
from unfuse.edits.op import Op, each, outermost
from unfuse.errors import StackError
from unfuse.fields import Factor, How, Pixels, Point, Rectangle, Selector, Selectors, Side, Spot
from unfuse.layers import IDENTITY, Layer, LayerStack
from unfuse.render import frame, remade, transformed
from unfuse.selection import editable, one, select


def move(
    stack: LayerStack, layer: Selectors, *, x: Pixels = 0.0, y: Pixels = 0.0, to: Point | None = None
) -> LayerStack:
    """Move by x and y; with `to`, first to where the frame's left top corner is at that point."""

    def change(found: Layer) -> Layer:
        left, top = frame(found)[:2]
        start = (to[0] - left, to[1] - top) if to else (0.0, 0.0)
        return transformed(found, shift(start[0] + x, start[1] + y))

    return each(stack, layer, change)


def scale(
    stack: LayerStack, layer: Selectors, *, factor: Factor | tuple[Factor, Factor], anchor: Spot | Point = "center"
) -> LayerStack:
    """Scale by a factor, or by one across and one down, about a spot of the frame or a point of the canvas."""
    across, down = factor if isinstance(factor, list | tuple) else (factor, factor)

    def change(found: Layer) -> Layer:
        return transformed(found, about(*_point(frame(found), anchor), (across, 0.0, 0.0, down)))

    return each(stack, layer, change)


def rotate(stack: LayerStack, layer: Selectors, *, degrees: Pixels, anchor: Spot | Point = "center") -> LayerStack:
    """Rotate clockwise about a spot of the frame or a point of the canvas; quarter turns keep every bit."""

    def change(found: Layer) -> Layer:
        return transformed(found, about(*_point(frame(found), anchor), turn(degrees)))

    return each(stack, layer, change)


def flip(stack: LayerStack, layer: Selectors, *, axis: Literal["horizontal", "vertical"] = "horizontal") -> LayerStack:
    """Mirror left and right (horizontal) or top and bottom (vertical), in place; every bit is kept."""
    linear = (-1.0, 0.0, 0.0, 1.0) if axis == "horizontal" else (1.0, 0.0, 0.0, -1.0)
    return each(stack, layer, lambda found: transformed(found, about(*_point(frame(found), "center"), linear)))


def fit(
    stack: LayerStack,
    layer: Selectors,
    *,
    box: Rectangle | None = None,
    how: How = "fit",
    anchor: Spot = "center",
) -> LayerStack:
    """Scale and move the frame into a rectangle of the canvas, the whole canvas where none is given."""
    left, top, right, bottom = box or (0, 0, *stack.size)
    if right <= left or bottom <= top:
        raise StackError(f"the box is {box}: left must be below right, and top below bottom")
    place = Corners(left, top, right, bottom)
    return each(
        stack, layer, lambda found: transformed(found, onto(frame(found), fitted(frame(found), place, how, anchor)))
    )


def align(
    stack: LayerStack,
    layer: Selectors,
    *,
    x: Literal["left", "center", "right"] | None = None,
    y: Literal["top", "middle", "bottom"] | None = None,
    to: Selector = "canvas",
    margin: Pixels = 0.0,
) -> LayerStack:
    """Align frames with the canvas or with another layer, across (x), down (y) or both, `margin` inside its edge."""
    if x is None and y is None:
        raise StackError("say 'x' (left, center, right), 'y' (top, middle, bottom) or both")
    target = Corners(0, 0, *stack.size) if to == "canvas" else frame(one(stack, to))
    share = {"left": 0.0, "top": 0.0, "center": 0.5, "middle": 0.5, "right": 1.0, "bottom": 1.0}

    def step(start: float, size: float, low: float, whole: float, word: str | None) -> float:
        if word is None:
            return 0.0
        at = share[word]
        return low + at * (whole - size) + margin * (1 - 2 * at) - start

    def change(found: Layer) -> Layer:
        own = frame(found)
        right = step(own.left, own.size[0], target.left, target.size[0], x)
        return transformed(found, shift(right, step(own.top, own.size[1], target.top, target.size[1], y)))

    return each(stack, layer, change)


def distribute(
    stack: LayerStack, layer: Selectors, *, axis: Literal["horizontal", "vertical"] = "horizontal"
) -> LayerStack:
    """Make the gaps between three or more layers equal, from left to right or top to bottom; the outer two stay."""
    i = 0 if axis == "horizontal" else 1
    found = sorted(outermost(select(stack, layer)), key=lambda each: frame(each)[i])
    if len(found) < 3:
        raise StackError(f"{layer!r} means {len(found)} layers: distribute needs three or more")
    frames = [frame(each) for each in found]
    gap = (frames[-1][i + 2] - frames[0][i] - sum(each.size[i] for each in frames)) / (len(frames) - 1)
    at = frames[0][i + 2] + gap
    for each_layer, own in zip(found[1:-1], frames[1:-1], strict=True):
        step = at - own[i]
        moved = transformed(editable(stack, each_layer), shift(step, 0) if i == 0 else shift(0, step))
        stack = stack.replace_layer(each_layer.id, moved)
        at += own.size[i] + gap
    return stack


def canvas(
    stack: LayerStack,
    *,
    width: Side,
    height: Side,
    layout: Literal["anchors", "keep"] = "anchors",
    anchors: dict[str, Spot] | None = None,
) -> LayerStack:
    """Give the canvas another size, as for a story or a banner.

    With `anchors`, a layer that covers the whole canvas goes on covering it; all others are scaled alike, so that what
    fitted still fits, and keep their distance from the edges or the middle, whichever third of the canvas they are in;
    `anchors` names other spots for layers. With `keep`, nothing moves and the canvas grows or shrinks at its right and
    bottom.
    """
    new = stack.replace(size=(width, height))
    spots = {one(stack, name).id: spot for name, spot in (anchors or {}).items()}
    if layout == "keep":
        return new
    old, size = Corners(0, 0, *stack.size), Corners(0, 0, width, height)
    for layer in stack:
        own = frame(editable(stack, layer))
        if own.left <= 0 and own.top <= 0 and own.right >= old.right and own.bottom >= old.bottom:
            way = onto(old, fitted(old, size, "fill", spots.get(layer.id, "center")))
        else:
            factor = min(width / stack.size[0], height / stack.size[1])
            spot = spots.get(layer.id) or _third(own, old)
            (x, y), (to_x, to_y) = _point(old, spot), _point(size, spot)
            way = factor, 0.0, to_x - factor * x, 0.0, factor, to_y - factor * y
        new = new.replace_layer(layer.id, transformed(layer, way))
    return new


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

    def change(found: Layer) -> Layer:
        if found.pixels is None:
            kept = () if "effects" in chosen else found.effects
            return found.replace(layers=tuple(change(inner) for inner in found.layers), effects=kept)
        return remade(found, **chosen) if found.original else found

    return each(stack, layer, change)


def fitted(own: Corners, place: Corners, how: How, spot: Spot) -> Corners:
    """The rectangle with the proportions of `own` that fits or fills `place`, held at a spot; or `place` itself."""
    if how == "stretch":
        return place
    (width, height), (across, down) = own.size, place.size
    factor = (min if how == "fit" else max)(across / width, down / height)
    x, y = _share(spot)
    left, top = place.left + x * (across - factor * width), place.top + y * (down - factor * height)
    return Corners(left, top, left + factor * width, top + factor * height)


def _share(spot: str) -> tuple[float, float]:
    """How far across and down a spot is."""
    words = spot.split()
    x = 0.0 if "left" in words else 1.0 if "right" in words else 0.5
    return x, 0.0 if "top" in words else 1.0 if "bottom" in words else 0.5


def _point(own: Corners, anchor: Any) -> tuple[float, float]:
    """The point of the canvas that an anchor means."""
    if not isinstance(anchor, str):
        return anchor[0], anchor[1]
    x, y = _share(anchor)
    return own.left + x * own.size[0], own.top + y * own.size[1]


def _third(own: Corners, canvas: Corners) -> str:
    """The spot of the canvas in whose third the middle of a layer is."""
    x, y = _point(own, "center")
    across = "left" if x < canvas.right / 3 else "right" if x > canvas.right * 2 / 3 else ""
    down = "top" if y < canvas.bottom / 3 else "bottom" if y > canvas.bottom * 2 / 3 else ""
    return f"{across} {down}".strip() or "center"


OPS = tuple(Op.of(function) for function in (move, scale, rotate, flip, fit, align, distribute, canvas, reset))
