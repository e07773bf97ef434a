"""What an edited layer shows: its original through looks, transform and effects, rounded once."""

from __future__ import annotations

from typing import Any

import numpy as np

from unfuse import affine, reading
from unfuse.effects import effect, reach
from unfuse.errors import StackError
from unfuse.layers import DEPTHS, IDENTITY, Affine, Box, Layer, Original
from unfuse.looks import look
from unfuse.oklab import Floats
from unfuse.pixels import quantise, to_float


def original(layer: Layer) -> Original:
    """What the layer is made from; of a layer that was never edited, itself. Not for groups."""
    assert layer.pixels is not None
    return layer.original or Original(layer.box, layer.pixels)


def frame(layer: Layer) -> affine.Corners:
    """The exact bounds of a layer without its effects; of a group, of all in it. Edits hold on to this."""
    if layer.pixels is None:
        frames = [frame(inner) for inner in layer.layers]
        lows, highs = ([min(f[i] for f in frames) for i in (0, 1)], [max(f[i] for f in frames) for i in (2, 3)])
        return affine.Corners(*lows, *highs)
    source = original(layer)
    return affine.bounds(source.box, source.transform)


def transformed(layer: Layer, transform: Affine) -> Layer:
    """The layer, or all layers of a group, after one more transform."""
    if layer.pixels is None:
        return layer.replace(layers=tuple(transformed(inner, transform) for inner in layer.layers))
    source = original(layer)
    return remade(layer, transform=affine.then(source.transform, transform))


def remade(layer: Layer, **changes: Any) -> Layer:
    """The layer with changes of its original, its pixels made anew; with nothing left of them, the original itself."""
    old = original(layer)
    now = Original(**{**vars(old), **changes})
    moved = affine.then(affine.inverse(old.transform), now.transform)
    text = layer.text.transformed(moved) if layer.text and now.pixels is old.pixels else None
    if now.transform == IDENTITY and not now.looks and not now.effects:
        text = reading.colored(text, now.pixels, now.box) if text and old.looks else text
        return layer.replace(box=now.box, pixels=now.pixels, original=None, text=text)
    same = now.pixels is old.pixels and (now.looks, now.effects) == (old.looks, old.effects)
    if same and layer.original and _is_whole(moved):
        return layer.replace(box=layer.box.moved(round(moved[2]), round(moved[5])), original=now, text=text)
    box, pixels = render(now)
    if text and now.looks != old.looks:
        text = reading.colored(text, pixels, box)
    return layer.replace(box=box, pixels=pixels, original=now, text=text)


def _is_whole(transform: Affine) -> bool:
    """Whether it is a move by whole pixels: then nothing has to be made anew."""
    whole = 1, 0, round(transform[2]), 0, 1, round(transform[5])
    return all(abs(x - y) < 1e-9 for x, y in zip(transform, whole, strict=True))


def render(source: Original) -> tuple[Box, Any]:
    """Box and pixels, `h w 4` straight alpha at the original's depth. Without looks and effects, and where the
    transform keeps every bit, these are the original's own.
    """
    if (
        not source.looks
        and not source.effects
        and (placed := affine.place(source.pixels, source.box, source.transform))
    ):
        return placed
    x = to_float(source.pixels)
    for edit in source.looks:
        x = look(x, edit)
    x[..., :3] = np.clip(x[..., :3], 0, 1)
    box = source.box
    placed = affine.place(x, box, source.transform)
    if placed and not source.effects:
        return placed[0], quantise(placed[1], _depth(source))
    alpha = x[..., 3:].copy()
    x *= alpha
    x[..., 3:] = alpha
    box, x = affine.place(x, box, source.transform) or affine.resample(x, box, source.transform)
    x = _valid(x)
    for edit in source.effects:
        room = reach(edit)
        if (box.width + 2 * room) * (box.height + 2 * room) > affine.LARGEST:
            raise StackError(f"{edit['op']} would make a layer of more than {affine.LARGEST:,} pixels: make it smaller")
        x, box = effect(x, edit), Box(box.left - room, box.top - room, box.right + room, box.bottom + room)
    x = _valid(x)
    np.divide(x[..., :3], x[..., 3:], out=x[..., :3], where=x[..., 3:] > 1e-6)
    return _cropped(box, quantise(x, _depth(source)))


def _valid(x: Floats) -> Floats:
    """Premultiplied pixels back in range: the cubic overshoots."""
    x[..., 3:] = np.clip(x[..., 3:], 0, 1)
    x[..., :3] = np.clip(x[..., :3], 0, x[..., 3:])
    return x


def _cropped(box: Box, pixels: Any) -> tuple[Box, Any]:
    layer = Layer("rendered", "object", box, pixels).crop_to_content()
    return layer.box, layer.pixels


def _depth(source: Original) -> Any:
    return DEPTHS[source.pixels.dtype]
