"""Putting a stack together, as W3C Compositing and Blending Level 1 (https://www.w3.org/TR/compositing-1/) has it.

With colour C and alpha a of backdrop b and source s, and B the source's blend mode (sections 5 and 10):

    Cs' = (1 - ab) Cs + ab B(Cb, Cs)          the source's colour, blended
    ao  = as + (1 - as) ab                    source-over
    co  = as Cs' + (1 - as) ab Cb             the same, premultiplied

`over` says it in these letters. `flatten` says it faster: on premultiplied planes both lines of source-over are one,
`under += as * (source - under)` with source = (Cs', 1); it works strip by strip, so that planes stay in the cache, on
a few threads, and skips what is transparent. Colours are sRGB-encoded values, as browsers and Photoshop compose them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import cv2
import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from unfuse.blend import TINY, Floats, blend_mode
from unfuse.effects import effect, reach
from unfuse.errors import StackError
from unfuse.layers import DEPTHS, Box, Layer, LayerStack, Pixels

STRIP = 1 << 17  # pixels of a strip: few enough that its planes stay in the cache, many enough to outweigh the calls
THREADS = min(4, os.cpu_count() or 1)
_shown: WeakKeyDictionary[Layer, tuple[Box, tuple[Box, Pixels] | None]] = WeakKeyDictionary()
HALF = 0.5 + 1e-4  # rounds half up, where float32 arrives a hair below the half too


class Residual(NamedTuple):
    """The recomposition error in 8-bit levels: the largest and the mean absolute difference."""

    max: float
    mean: float


def over(backdrop: Floats, source: Floats, mode: str = "normal", opacity: float = 1.0) -> Floats:
    """Source over backdrop: `h w 4` floats in 0 to 1, straight alpha, in and out; colour where alpha is 0 comes out 0.

    Raises StackError on an unknown blend mode.
    """
    B = blend_mode(mode)
    Cb, ab = rearrange(backdrop[..., :3], "h w c -> c h w"), backdrop[..., 3]
    Cs, as_ = rearrange(source[..., :3], "h w c -> c h w"), source[..., 3] * opacity
    Cs = (1 - ab) * Cs + ab * B(Cb, Cs)
    ao = as_ + (1 - as_) * ab
    co = as_ * Cs + (1 - as_) * ab * Cb
    return rearrange([*(co / np.maximum(ao, TINY)), ao], "c h w -> h w c")


def flatten(stack: LayerStack) -> Pixels:
    """The whole of a stack: `h w 4`, uint8 or uint16 as its depth, straight alpha; where alpha is 0, all is 0.

    Groups are isolated: composed on their own, then laid down with their opacity and blend mode; one with effects is
    rounded to the stack's depth before. Hidden layers, and
    what lies outside the canvas, leave no trace. Within half a level, plus 1e-3 for the floats inside, of real
    arithmetic.
    """
    canvas = Box(0, 0, *stack.size)
    shape = canvas.height, canvas.width, 4
    pixels: Pixels = np.empty(shape, np.uint8) if stack.depth == 8 else np.empty(shape, np.uint16)
    _paint(stack, pixels, _strips(canvas))
    return pixels


def reflatten(stack: LayerStack, before: LayerStack, flat: Pixels) -> Pixels:
    """`flatten(stack)` to the bit, made from `flat`, which is `flatten(before)`: only what differs is composed anew."""
    if (stack.size, stack.depth) != (before.size, before.depth):
        return flatten(stack)
    boxes = list(_differences(before.layers, stack.layers))
    pixels = flat.copy()
    strips = _strips(Box(0, 0, *stack.size))
    _paint(stack, pixels, (strip for strip in strips if any(strip.intersection(box) for box in boxes)))
    return pixels


def residual(stack: LayerStack, picture: Pixels) -> Residual:
    """How far the flattened stack is from a picture, `h w 4` or opaque `h w 3`, uint8 or uint16, straight alpha.

    Colour does not count where the picture's alpha is 0: it has none. Raises StackError for any other shape or type.
    """
    width, height = stack.size
    if picture.shape not in ((height, width, 3), (height, width, 4)) or picture.dtype not in DEPTHS:
        raise StackError(
            f"the picture is {picture.dtype} {picture.shape}: it must be uint8 or uint16 {(height, width, 4)}"
        )
    flat = flatten(stack)
    largest, total = 0.0, 0.0
    for strip in _strips(Box(0, 0, width, height)):
        rows = slice(strip.top, strip.bottom)
        expected = _levels(picture[rows])
        if expected.shape[-1] == 3:
            expected = np.pad(expected, ((0, 0), (0, 0), (0, 1)), constant_values=255)
        difference = np.abs(_levels(flat[rows]) - expected)
        difference[..., :3] *= expected[..., 3:] > 0
        largest, total = max(largest, float(difference.max())), total + float(difference.sum(dtype=np.float64))
    return Residual(largest, total / flat.size)


def _paint(stack: LayerStack, pixels: Pixels, strips: Iterable[Box]) -> None:
    canvas, full = Box(0, 0, *stack.size), (1 << stack.depth) - 1
    for group in _dressed(stack.layers):
        shown(group, canvas)  # once, before the threads ask for it

    def paint(strip: Box) -> None:
        _round(_compose(stack.layers, strip, full, canvas), full, pixels[strip.within(canvas)])

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(paint, strips))  # the list raises what a thread raised


def _differences(old: tuple[Layer, ...], new: tuple[Layer, ...]) -> Iterator[Box]:
    """Boxes that hold all pixels in which two lists of layers can differ, where layers that are shared do not."""
    before, after = {layer.id: layer for layer in old}, {layer.id: layer for layer in new}
    kept = [layer.id for layer in old if layer.id in after]
    moved = {key for key, other in zip(kept, (x.id for x in new if x.id in before), strict=True) if key != other}
    for key in before.keys() | after.keys():
        one, other = before.get(key), after.get(key)
        if one is other and key not in moved:
            continue
        if one and other and key not in moved and one.layers and other.layers and _laid_alike(one, other):
            yield from _differences(one.layers, other.layers)
        else:
            yield from (layer.box for layer in (one, other) if layer)


def _laid_alike(one: Layer, other: Layer) -> bool:
    if one.effects or other.effects:  # they spread whatever changes inside
        return False
    return all(getattr(one, name) == getattr(other, name) for name in ("opacity", "blend_mode", "visible"))


def _levels(pixels: Pixels) -> NDArray[np.float32]:
    return pixels.astype(np.float32) / np.float32(257 if pixels.dtype == np.uint16 else 1)


def _strips(canvas: Box) -> Iterator[Box]:
    rows = max(1, STRIP // canvas.width)
    for top in range(0, canvas.height, rows):
        yield Box(0, top, canvas.width, min(top + rows, canvas.height))


# What follows works on planes: `c h w` in levels of the depth, 0 to `full` (255 or 65535): red, green, blue, alpha.


def _compose(layers: Iterable[Layer], box: Box, full: int, canvas: Box) -> Floats:
    """Layers over a transparent backdrop, within `box`, a part of `canvas`: premultiplied planes, float32, for 16 bits
    float64.
    """
    under = np.zeros((4, box.height, box.width), np.float32 if full == 255 else np.float64)
    for layer in layers:
        if not layer.visible:
            continue
        place, pixels = (shown(layer, canvas) or (None, None)) if layer.effects else (layer.box, layer.pixels)
        common = place.intersection(box) if place else None
        if place is None or common is None:
            continue
        source = _group(layer, common, full, canvas) if pixels is None else _split(pixels[common.within(place)])
        shows = np.flatnonzero(source[3].max(axis=0))
        if not shows.size:
            continue
        # Only the columns in which something shows, so that a layer that is not cropped costs little more.
        columns = slice(shows[0], shows[-1] + 1)
        source, part = source[..., columns], under[:, *common.within(box)][..., columns]
        if layer.blend_mode == "normal" and layer.opacity == 1 and source[3].min() == full:
            part[:] = source
            continue
        alpha = source[3] * under.dtype.type(layer.opacity / full)
        source[3] = full
        if layer.blend_mode != "normal":
            source = _blended(part, source, layer.blend_mode, full)
        step = source - part
        step *= alpha
        part += step
    return under


def _split(pixels: Pixels) -> NDArray[Any]:
    """`h w 4` pixels as planes; OpenCV takes a fifth of the time of a transposed copy."""
    planes = np.empty((4, *pixels.shape[:2]), pixels.dtype)
    cv2.split(pixels, list(planes))
    return planes


def shown(group: Layer, canvas: Box) -> tuple[Box, Pixels] | None:
    """What a group with its effects shows on a canvas: `h w 4` straight alpha, and its box; None where nothing does.

    Effects reach as far as they like, so it is composed as a whole and not in strips, as far beyond the canvas as they
    reach into it; once for as long as the group lives and the canvas stays.
    """
    known = _shown.get(group)
    if known and known[0] == canvas:
        return known[1]
    room = sum(reach(edit) for edit in group.effects)
    inside = group.replace(effects=()).box.intersection(_grown(canvas, room))
    made = (_grown(inside, room), _with_effects(group, inside)) if inside else None
    _shown[group] = canvas, made
    return made


def _with_effects(group: Layer, inside: Box) -> Pixels:
    full = (1 << group.depth) - 1
    planes = _compose(group.layers, inside, full, inside)
    x = rearrange(planes, "c h w -> h w c").astype(np.float32) / np.float32(full)
    for edit in group.effects:
        x = effect(x, edit)
    planes = np.ascontiguousarray(rearrange(x, "h w c -> c h w")) * np.float32(full)
    np.clip(planes[3], 0, full, out=planes[3])
    pixels: Pixels = np.empty(x.shape, np.uint8) if full == 255 else np.empty(x.shape, np.uint16)
    _round(planes, full, pixels)
    return pixels


def _grown(box: Box, room: int) -> Box:
    return Box(box.left - room, box.top - room, box.right + room, box.bottom + room)


def _dressed(layers: Iterable[Layer]) -> Iterator[Layer]:
    """The groups with effects that are not in others."""
    for layer in layers:
        if layer.effects:
            yield layer
        else:
            yield from _dressed(layer.layers)


def _group(layer: Layer, box: Box, full: int, canvas: Box) -> Floats:
    planes = _compose(layer.layers, box, full, canvas)
    planes[:3] = _straight(planes, full)
    return planes


def _blended(backdrop: Floats, source: NDArray[Any], mode: str, full: int) -> Floats:
    """Cs' of the standard: straight source planes whose colour has met the premultiplied backdrop's."""
    Cb, ab = np.clip(_straight(backdrop, full) / full, 0, 1), backdrop[3] / full
    Cs = source[:3] / backdrop.dtype.type(full)
    blended = np.full_like(backdrop, full)
    blended[:3] = full * ((1 - ab) * Cs + ab * blend_mode(mode)(Cb, Cs))
    return blended


def _straight(planes: Floats, full: int) -> Floats:
    """The colour of premultiplied planes; 0 where alpha is 0, and exactly `full` where all is white."""
    colour: Floats = planes[:3] / np.maximum(planes[3], TINY)
    colour *= full
    return colour


def _round(planes: Floats, full: int, pixels: Pixels) -> None:
    """Write premultiplied planes into `h w 4` pixels, straight, rounded half up."""
    translucent = planes[3].min() < full
    if translucent:
        # Opaque pixels are left alone, so that theirs are the same bits whatever lies beside them.
        np.copyto(planes[:3], _straight(planes, full), where=planes[3] < full)
    planes += HALF
    rounded: NDArray[Any] = planes.astype(pixels.dtype)  # towards 0, so half up
    if translucent:
        rounded[:3] *= rounded[3] > 0
    cv2.merge(list(rounded), pixels)
