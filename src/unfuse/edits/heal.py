"""What a layer shows where another one lay on it, made anew from what is around that place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from unfuse import affine
from unfuse.edits.op import Op, each, leaves
from unfuse.errors import StackError
from unfuse.fields import Radius, Selectors
from unfuse.layers import DEPTHS, Box, Layer, LayerStack, Original
from unfuse.pixels import quantise, to_float
from unfuse.render import original, remade, render
from unfuse.selection import select

SAME = 1e-3  # what two pixels of a rim may differ by, squared, and still say the same
FAR = 1 << 20  # where there is no rim


def heal(stack: LayerStack, layer: Selectors, *, under: Selectors, reach: Radius = 16.0) -> LayerStack:
    """Fill layers where others lie on them, and `reach` pixels around, with what is around there: a ghost goes.

    What is farther than `reach` from the other layers stays the same to the bit.
    """
    shape = _shape(stack, under, math.ceil(reach))
    canvas = Box(0, 0, *stack.size)
    healed = {found.id for top in select(stack, layer) for found in top.walk()}
    if both := [found.name for found in select(stack, under) if found.id in healed]:
        raise StackError(f"layer {both[0]!r} cannot be healed under itself: name the layer below it, such as 0")
    return each(stack, layer, lambda found: leaves(found, lambda leaf: _healed(leaf, shape, canvas)))


def _shape(stack: LayerStack, under: Selectors, reach: int) -> NDArray[np.float32]:
    """Where layers show, and so many pixels around: 0 or 1, `h w` of the canvas."""
    import cv2

    shape = np.zeros((stack.size[1], stack.size[0]), np.uint8)
    for found in select(stack, under):
        shape |= (found.to_canvas(stack.size)[..., 3] > 0).astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return np.asarray(cv2.dilate(shape, disc), np.float32)


def _healed(layer: Layer, shape: NDArray[np.float32], canvas: Box) -> Layer:
    """The layer without what it shows in `shape`; this goes into its untouched pixels, as far as they reach."""
    source = original(layer)
    if source.looks:  # a mean colour must stay that of the whole
        source = Original(*render(Original(source.box, source.pixels, looks=source.looks)), source.transform)
    back = affine.inverse(affine.settled(source.box, source.transform) or source.transform)
    area, cover = affine.place(shape[..., None], canvas, back) or affine.resample(shape[..., None], canvas, back)
    common = area.intersection(source.box)
    hole = np.zeros(source.pixels.shape[:2], bool)
    if common:
        hole[common.within(source.box)] = cover[common.within(area)][..., 0] > 0.01
    if not hole.any():
        return layer
    if hole.all():
        raise StackError(f"layer {layer.name!r} has nothing around that place to heal it with: choose a smaller reach")
    depth: Any = DEPTHS[source.pixels.dtype]
    levels = source.pixels.copy()
    levels[hole] = quantise(_continued(to_float(levels), hole), depth)[hole]
    return remade(layer, box=source.box, pixels=levels, looks=())


def _continued(pixels: NDArray[np.float32], hole: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Straight-alpha pixels `h w 4` in 0 to 1, premultiplied while a hole is filled.

    A place takes what is between the nearest two pixels left and right of it, and above and below; the pair that agrees
    better, and lies nearer, weighs more. So slopes stay slopes, and a horizon runs through.
    """
    planes = pixels * np.concatenate((pixels[..., 3:].repeat(3, -1), np.ones_like(pixels[..., 3:])), axis=-1)
    level, weight = _across(planes, hole)
    upright, weight_upright = _across(rearrange(planes, "h w c -> w h c"), hole.T)
    share = (weight / (weight + weight_upright.T))[..., None]
    filled = share * level + (1 - share) * rearrange(upright, "w h c -> h w c")
    np.divide(filled[..., :3], filled[..., 3:], out=filled[..., :3], where=filled[..., 3:] > 1e-6)
    return np.clip(filled, 0, 1)


def _across(planes: NDArray[np.float32], hole: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """`h w c` with holes filled along rows, in a straight line from rim to rim, and how much that is worth, `h w`."""
    width = hole.shape[1]
    at = np.arange(width)
    left = np.maximum.accumulate(np.where(hole, -FAR, at), axis=1)
    right = np.minimum.accumulate(np.where(hole, FAR, at)[:, ::-1], axis=1)[:, ::-1]
    one = np.take_along_axis(planes, np.maximum(left, 0)[..., None], axis=1)
    other = np.take_along_axis(planes, np.minimum(right, width - 1)[..., None], axis=1)
    apart = np.maximum(right - left, 1).astype(np.float32)
    share = ((at - left) / apart)[..., None].astype(np.float32)
    off = np.where((left < 0) | (right >= width), 1, ((one - other) ** 2).sum(axis=-1))
    return (1 - share) * one + share * other, 1 / (apart * (off + SAME))


OPS = (Op.of(heal),)
