"""Effects of groups, for formats that have none: pictures that look the same.

What lies below a group, its shadow or its outline, becomes a layer of its own at the bottom of the group, so that
everything in the group stays as it is. Where that would look different, the group becomes one picture.
"""

from __future__ import annotations

import numpy as np

from unfuse.composite import shown
from unfuse.effects import effect, reach
from unfuse.layers import Box, Edit, Layer, LayerStack
from unfuse.pixels import quantise, to_float

NOTHING = Box(0, 0, 1, 1), np.zeros((1, 1, 4), np.uint8)  # of a group that is not on the canvas
BELOW = ("drop_shadow", "outline")  # effects that add something under a group and leave the rest as it is


def baked(stack: LayerStack) -> tuple[LayerStack, tuple[str, ...]]:
    """The stack without effects of groups, and what became of them, a line each."""
    if not any(layer.effects for layer in stack.walk()):
        return stack, ()
    notes: list[str] = []
    canvas = Box(0, 0, *stack.size)
    return stack.replace(layers=tuple(_baked(layer, canvas, notes) for layer in stack)), tuple(notes)


def _baked(layer: Layer, canvas: Box, notes: list[str]) -> Layer:
    if layer.pixels is not None:
        return layer
    inside = tuple(_baked(inner, canvas, notes) for inner in layer.layers)
    if not layer.effects:
        return layer.replace(layers=inside)
    names = " and ".join(edit["op"].replace("_", " ") for edit in layer.effects)
    if not all(edit["op"] in BELOW for edit in layer.effects) or _blends(layer):
        notes.append(f"effects of groups become pixels: {layer.name!r} became one picture, with its {names}")
        kept = {key: getattr(layer, key) for key in ("id", "opacity", "blend_mode", "visible", "locked")}
        box, pixels = shown(layer, canvas) or NOTHING
        return Layer(
            layer.name, "object", box, pixels if layer.depth == 8 else pixels.astype(np.uint16), **kept
        ).crop_to_content()
    notes.append(
        f"effects of groups become pixels: {layer.name!r} has its {names} in layers of their own, at its bottom"
    )
    plain = layer.replace(effects=())
    below = []
    for number, edit in enumerate(layer.effects):
        whole = plain.replace(effects=layer.effects[:number])
        below.append(_under(whole, edit, canvas))
    return plain.replace(layers=(*reversed(below), *inside))


def _blends(group: Layer) -> bool:
    """Whether a layer in a group would blend with what is put below it."""
    return any(layer.visible and layer.blend_mode != "normal" for layer in group.layers)


def _under(group: Layer, edit: Edit, canvas: Box) -> Layer:
    """What an effect adds below a group that shows what it does before that effect."""
    room = reach(edit)
    around = Box(canvas.left - room, canvas.top - room, canvas.right + room, canvas.bottom + room)
    place, pixels = shown(group, around) or NOTHING
    x = to_float(pixels)
    x[..., :3] *= x[..., 3:]
    after = effect(x, edit)
    before = np.pad(x, ((room, room), (room, room), (0, 0)))
    rest = 1 - before[..., 3:]  # after = before + rest * added; where nothing is left to see, nothing has to be added
    added = np.divide(after - before, rest, out=np.zeros_like(after), where=rest > 1e-3)
    np.divide(added[..., :3], added[..., 3:], out=added[..., :3], where=added[..., 3:] > 1e-6)
    box = Box(place.left - room, place.top - room, place.right + room, place.bottom + room)
    levels = quantise(np.clip(added, 0, 1), 16 if group.depth == 16 else 8)
    return Layer(f"{group.name} {edit['op'].replace('_', ' ')}", "decoration", box, levels).crop_to_content()
