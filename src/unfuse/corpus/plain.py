"""From a stack with groups, opacities and blend modes to plain RGBA layers that source-over alone puts together.

A group without a look of its own is taken apart: source-over is associative. One with an opacity hands it down where
its layers do not overlap, else it becomes one layer, and so does one with a blend mode. A layer with a blend mode gets
the colour that it shows. Over what is opaque that colour can have any alpha that reaches it; the least is taken, so
that a multiplied shadow becomes black with alpha, and not a copy of what lies below it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from unfuse.blend import TINY, blend_mode
from unfuse.layers import Box, Layer, LayerStack, to_8_bit
from unfuse.pixels import quantise

Floats = NDArray[np.float32]  # h w 4 in 0..1
ROUNDING = 0.02  # levels by which a least alpha may be missed, so that float noise does not become a level of alpha
OPAQUE = 1 - 1e-4


def plain(stack: LayerStack, rules: Collection[str]) -> tuple[list[Layer], Counter[str]]:
    """Layers at 8 bit, bottom to top, cropped, opacity 1, no blend mode; and how often which rule did what.

    rules: "hidden" leaves out what is not visible (else it is shown), "groups" takes groups apart (else each becomes
    one layer). Flattened, the layers are within two levels of the stack for each blend mode or opacity in it.
    """
    maker = _Maker(stack.size, frozenset(rules))
    layers = maker.run(stack.layers)
    return layers, +maker.counts


class _Maker:
    def __init__(self, size: tuple[int, int], rules: frozenset[str]) -> None:
        self.size, self.rules = size, rules
        self.counts: Counter[str] = Counter()

    def run(self, layers: Iterable[Layer]) -> list[Layer]:
        """Plain layers of one group, on a backdrop of its own, which is only made where a blend mode needs it."""
        layers = list(layers)
        blended = any(layer.blend_mode != "normal" for layer in layers)
        width, height = self.size
        under = np.zeros((height, width, 4), np.float32) if blended else None  # premultiplied
        made: list[Layer] = []
        for layer in layers:
            if not layer.visible and "hidden" in self.rules:
                self.counts["hidden"] += sum(not each.layers for each in layer.walk())
                continue
            for each in self.one(layer, under):
                if not each.is_empty:
                    made.append(each)
                    if under is not None:
                        _lay(each, under)
        return made

    def one(self, layer: Layer, under: Floats | None) -> list[Layer]:
        """The plain layers of one layer or group over what lies below it."""
        if layer.layers:
            inner = self.run(layer.layers)
            self.counts["groups"] += 1
            whole = "groups" not in self.rules or layer.blend_mode != "normal"
            if not whole and (layer.opacity == 1 or _apart(inner)):
                self.counts["opacity"] += layer.opacity < 1
                return [faded(each, layer.opacity) for each in inner]
            if not inner:
                return []
            layer = merged(inner, layer.name).replace(opacity=layer.opacity, blend_mode=layer.blend_mode)
        leaf = on_canvas(layer, self.size)
        if leaf is None:
            return []
        self.counts["opacity"] += leaf.opacity < 1
        if leaf.blend_mode == "normal":
            return [faded(leaf, leaf.opacity)]
        self.counts["blend"] += 1
        assert under is not None
        rows = leaf.box.within(Box(0, 0, *self.size))
        return [_with(leaf, rasterised(under[rows], _floats(leaf), leaf.blend_mode, leaf.opacity))]


def rasterised(under: Floats, source: Floats, mode: str, opacity: float) -> NDArray[np.uint8]:
    """The plain layer `h w 4` that does to a backdrop what `source` (straight) does to it in a blend mode.

    under: premultiplied. Where it is not opaque, the layer has the source's alpha and the colour Cs' of W3C Compositing
    section 5; where it is, the least alpha with which `Cb + a (C - Cb)` reaches the blended colour.
    """
    ab, a = under[..., 3:], source[..., 3:] * opacity
    Cb = np.clip(under[..., :3] / np.maximum(ab, TINY), 0, 1)
    planes = (rearrange(x, "h w c -> c h w") for x in (Cb, source[..., :3]))
    B = rearrange(blend_mode(mode)(*planes), "c h w -> h w c")
    Cs = (1 - ab) * source[..., :3] + ab * B
    step = a * (Cs - Cb)
    room = np.where(step > 0, 1 - Cb, Cb)
    least = (np.abs(step) / np.maximum(room, TINY)).max(-1, keepdims=True, where=step != 0, initial=0)
    alpha = np.where(ab >= OPAQUE, np.ceil(np.minimum(least, a) * 255 - ROUNDING) / 255, a)
    colour = np.where(ab >= OPAQUE, Cb + step / np.maximum(alpha, 1 / 255), Cs)
    return quantise(np.concatenate([np.where(alpha > 0, colour, 0), alpha], -1).astype(np.float32), 8)


def merged(layers: list[Layer], name: str) -> Layer:
    """Plain layers put together to one, in 8 bit; it keeps their kind where they have one in common."""
    from unfuse.composite import flatten

    box = layers[0].box
    for layer in layers[1:]:
        box = box.union(layer.box)
    moved = tuple(x.replace(box=x.box.moved(-box.left, -box.top), pixels=x.pixels) for x in layers)
    kinds = {layer.kind for layer in layers}
    kind = kinds.pop() if len(kinds) == 1 else "object"
    return Layer(name, kind, box, flatten(LayerStack(box.size, moved)))


def on_canvas(layer: Layer, size: tuple[int, int]) -> Layer | None:
    """A layer at 8 bit, cropped to what shows on the canvas; None where nothing does."""
    assert layer.pixels is not None
    canvas = Box(0, 0, *size)
    box = layer.box.intersection(canvas)
    if box is None:
        return None
    pixels = to_8_bit(layer.pixels[box.within(layer.box)])
    cropped = layer.replace(box=box, pixels=pixels, text=layer.text).crop_to_content()
    return None if cropped.is_empty else cropped


def faded(layer: Layer, opacity: float) -> Layer:
    """A layer with an opacity put into its alpha, and none left."""
    assert layer.pixels is not None
    if opacity == 1:
        return layer.replace(opacity=1.0, visible=True, original=None)
    pixels = layer.pixels.copy()
    pixels[..., 3] = np.floor(pixels[..., 3] * np.float64(opacity) + 0.5)
    return _with(layer, to_8_bit(pixels))


def overlap(one: Layer, other: Layer) -> bool:
    """Whether some pixel has both."""
    common = one.box.intersection(other.box)
    if common is None:
        return False
    a, b = (x.pixels[..., 3][common.within(x.box)] for x in (one, other) if x.pixels is not None)
    return bool(((a > 0) & (b > 0)).any())


def _apart(layers: list[Layer]) -> bool:
    return not any(overlap(a, b) for i, a in enumerate(layers) for b in layers[i + 1 :])


def _with(layer: Layer, pixels: NDArray[np.uint8]) -> Layer:
    changed = layer.replace(pixels=pixels, opacity=1.0, blend_mode="normal", visible=True, text=layer.text)
    return changed.crop_to_content()


def _floats(layer: Layer) -> Floats:
    assert layer.pixels is not None
    return layer.pixels.astype(np.float32) / np.float32(255)


def _lay(layer: Layer, under: Floats) -> None:
    """A plain layer over premultiplied `under`, in place."""
    source = _floats(layer)
    alpha = source[..., 3:].copy()
    source[..., 3] = 1
    part = under[layer.box.within(Box(0, 0, under.shape[1], under.shape[0]))]
    part += alpha * (source - part)
