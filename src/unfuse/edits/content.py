"""What layers are: their pictures, what holds them together, and whether they are there at all."""

from __future__ import annotations

import uuid
from typing import Any, Literal

import numpy as np

from unfuse import affine
from unfuse.affine import Corners
from unfuse.composite import flatten
from unfuse.edits.op import Op, each, leaves, outermost
from unfuse.edits.order import siblings, with_siblings
from unfuse.edits.place import fitted
from unfuse.errors import PictureError, StackError
from unfuse.fields import How, Name, Picture, Rectangle, Selector, Selectors, Spot
from unfuse.layers import Box, Layer, LayerStack, Original
from unfuse.oklab import Floats
from unfuse.pixels import quantise, read, to_float
from unfuse.render import original, remade, render, transformed
from unfuse.selection import candidates, editable, one, select


def remove(stack: LayerStack, layer: Selectors) -> LayerStack:
    """Take layers away; a group that loses its last layer goes with it."""
    for found in [editable(stack, found) for found in outermost(select(stack, layer))]:
        if found.id in stack:
            stack = stack.replace_layer(found.id)
    return stack


def rename(stack: LayerStack, layer: Selector, *, name: Name) -> LayerStack:
    """Give a layer another name."""
    old = editable(stack, one(stack, layer))
    return stack.replace_layer(old.id, old.replace(name=name))


def duplicate(stack: LayerStack, layer: Selector, *, name: Name | None = None) -> LayerStack:
    """Put a copy of a layer, with an id of its own, above it."""
    old = editable(stack, one(stack, layer))
    return stack.replace_layer(old.id, old, _renewed(old).replace(name=name or f"{old.name} copy"))


def replace_picture(
    stack: LayerStack,
    layer: Selector,
    *,
    picture: Picture,
    how: How = "fit",
    alpha: Literal["own", "matte"] = "own",
    anchor: Spot = "center",
) -> LayerStack:
    """Put another picture in a layer's place: same frame, rotation, effects such as its shadow, opacity and blend mode.

    Where it does not fill the frame it stands at its `anchor`. It keeps its own alpha; with `matte` it is also cut with
    the layer's old one. Looks, which were for the old picture, go.
    """
    old = editable(stack, one(stack, layer))
    if old.pixels is None:
        raise StackError(f"layer {old.name!r} is a group: replace one of {candidates(old.layers)}")
    source, levels = original(old), quantise(_picture(picture), stack.depth)
    if how == "fill":
        levels = _cut_to(levels, source.box.width / source.box.height)
    box = Box(0, 0, levels.shape[1], levels.shape[0])
    start, place = _corners(box), _corners(source.box)
    new = Original(box, levels, affine.onto(start, fitted(start, place, how, anchor)))
    if alpha == "matte":
        new = _matted(Layer(old.name, old.kind, *render(new)), source)
    transform = affine.then(new.transform, source.transform)
    return stack.replace_layer(old.id, remade(old, box=new.box, pixels=new.pixels, transform=transform, looks=()))


def crop(stack: LayerStack, layer: Selectors, *, box: Rectangle) -> LayerStack:
    """Keep of a layer only what lies in a rectangle of the canvas."""
    if box[2] <= box[0] or box[3] <= box[1]:
        raise StackError(f"the box is {box}: left must be below right, and top below bottom")
    area = Box(*box)
    whole = np.ones((area.height, area.width, 1), np.float32)
    return each(stack, layer, lambda found: leaves(found, lambda leaf: _covered(leaf, whole, area)))


def mask(
    stack: LayerStack,
    layer: Selectors,
    *,
    picture: Picture,
    over: Literal["layer", "canvas"] = "layer",
    invert: bool = False,
) -> LayerStack:
    """Make a layer transparent where a picture is black or transparent, stretched over the layer or the canvas."""
    shown = _picture(picture)
    cover = (shown[..., :3] @ np.array([0.3, 0.59, 0.11], np.float32) * shown[..., 3])[..., None]
    cover = 1 - cover if invert else cover
    box = Box(0, 0, cover.shape[1], cover.shape[0])

    def change(found: Layer) -> Layer:
        target = _corners(found.box if over == "layer" else Box(0, 0, *stack.size))
        way = affine.onto(_corners(box), target)
        area, stretched = affine.place(cover, box, way) or affine.resample(cover, box, way)
        return leaves(found, lambda leaf: _covered(leaf, np.clip(stretched, 0, 1), area))

    return each(stack, layer, change)


def merge(stack: LayerStack, layer: Selectors) -> LayerStack:
    """Make one layer of a group."""

    def change(found: Layer) -> Layer:
        if found.pixels is not None:
            raise StackError(f"layer {found.name!r} is no group: use merge_down, or group layers first")
        return _raster(found, "object", flatten(on_canvas(stack, found.alone, found.box)), found.box)

    return each(stack, layer, change)


def merge_down(stack: LayerStack, layer: Selector) -> LayerStack:
    """Make one of a layer and the one below it, which keeps its name; it must look the same, or it is refused."""
    upper = editable(stack, one(stack, layer))
    level = siblings(stack, upper)
    at = level.index(upper)
    if at == 0:
        raise StackError(f"layer {upper.name!r} has nothing below it to merge with")
    lower = editable(stack, level[at - 1])
    for each_layer in (upper, lower):
        if not each_layer.visible:
            raise StackError(f"layer {each_layer.name!r} is hidden: show it, or remove it")
        if each_layer.blend_mode != "normal" and not (each_layer is upper and _hides(lower, upper.box)):
            raise StackError(
                f"layer {each_layer.name!r} blends as {each_layer.blend_mode!r} with what is below both, and one layer "
                "cannot: set it to 'normal' first, or use merge_all"
            )
    box = lower.box.union(upper.box)
    merged = _raster(lower, lower.kind, flatten(on_canvas(stack, (lower, upper), box)), box)
    layers = (*level[: at - 1], merged.replace(opacity=1.0), *level[at + 1 :])
    return with_siblings(stack, upper, layers)


def merge_all(stack: LayerStack, *, name: Name = "Merged") -> LayerStack:
    """Make one layer of all that is visible; hidden layers stay, above it."""
    hidden = [layer for layer in stack if not layer.visible]
    if not (shown := [editable(stack, layer) for layer in stack if layer.visible]):
        raise StackError("nothing is visible: show a layer first")
    return stack.replace(layers=(Layer.from_canvas(name, shown[0].kind, flatten(stack)), *hidden))


def group(stack: LayerStack, layer: Selectors, *, name: Name = "Group") -> LayerStack:
    """Put layers of one level into a group, at the place of the topmost."""
    found = [editable(stack, each_layer) for each_layer in outermost(select(stack, layer))]
    level = siblings(stack, found[-1])
    if any(each_layer not in level for each_layer in found):
        raise StackError(f"{candidates(found)} are not all in one group: reorder them first")
    made = Layer.group(name, found)
    layers = [made if each_layer is found[-1] else each_layer for each_layer in level]
    return with_siblings(stack, found[-1], tuple(x for x in layers if x is made or x not in found))


def ungroup(stack: LayerStack, layer: Selector) -> LayerStack:
    """Put what is in a group in its place."""
    old = editable(stack, one(stack, layer))
    if not old.layers:
        raise StackError(f"layer {old.name!r} is no group")
    if old.opacity < 1 or old.blend_mode != "normal" or old.effects:
        raise StackError(
            f"group {old.name!r} has an opacity, a blend mode or effects that its layers cannot take over: merge it"
        )
    return stack.replace_layer(old.id, *(x.replace(visible=x.visible and old.visible) for x in old.layers))


def split(
    stack: LayerStack,
    layer: Selector,
    *,
    layers: int | Literal["auto"] = "auto",
    engine: Name = "embedded",
    prompt: str = "",
    seed: int = 0,
) -> LayerStack:
    """Decompose a layer again: it becomes a group that shows the same."""
    found = editable(stack, one(stack, layer))
    return stack.split(found.id, layers, engine=engine, prompt=prompt, seed=seed)


def extract(stack: LayerStack, layer: Selector, *, trim: bool = False) -> LayerStack:
    """Keep one layer alone; with `trim` the canvas is cut to it. Save the result as its own file."""
    found = one(stack, layer).replace(visible=True, locked=False)
    if not trim:
        return stack.replace(layers=(found,))
    return stack.replace(
        size=found.box.size, layers=(transformed(found, affine.shift(-found.box.left, -found.box.top)),)
    )


def _renewed(layer: Layer) -> Layer:
    """The layer and all in it with new ids."""
    return layer.replace(id=uuid.uuid4().hex, layers=tuple(_renewed(inner) for inner in layer.layers))


def _picture(picture: Any) -> Floats:
    try:
        return read(picture).pixels
    except PictureError as error:
        raise StackError(f"the picture: {error}") from error


def _corners(box: Box) -> Corners:
    return Corners(*(float(x) for x in box))


def _cut_to(levels: Any, proportion: float) -> Any:
    """The middle of a picture, cut to a proportion of width to height."""
    height, width = levels.shape[:2]
    across, down = max(1, min(width, round(height * proportion))), max(1, min(height, round(width / proportion)))
    left, top = (width - across) // 2, (height - down) // 2
    return levels[top : top + down, left : left + across]


def _matted(picture: Layer, source: Original) -> Original:
    """A picture laid over an original, cut with the original's alpha."""
    assert picture.pixels is not None
    levels = np.zeros_like(source.pixels)
    if common := picture.box.intersection(source.box):
        levels[common.within(source.box)] = picture.pixels[common.within(picture.box)]
    levels[..., 3] = _times(levels[..., 3], to_float(source.pixels[..., 3]))
    return Original(source.box, levels)


def _covered(layer: Layer, cover: Floats, area: Box) -> Layer:
    """The layer with its alpha multiplied by what covers it: `h w 1` in 0 to 1 over `area` of the canvas, 0 beside it.

    This goes into the untouched pixels, so that later edits still resample once. Looks do too, because a mean colour
    must stay that of the whole.
    """
    source = original(layer)
    if source.looks:
        source = Original(*render(Original(source.box, source.pixels, looks=source.looks)), source.transform)
    back = affine.inverse(affine.settled(source.box, source.transform) or source.transform)
    area, cover = affine.place(cover, area, back) or affine.resample(cover, area, back)
    if not (common := area.intersection(source.box)):
        raise StackError(f"nothing would be left of layer {layer.name!r}: remove it, or choose another place")
    levels = source.pixels[common.within(source.box)].copy()
    levels[..., 3] = _times(levels[..., 3], np.clip(cover[common.within(area)][..., 0], 0, 1))
    new = remade(layer, box=common, pixels=levels, looks=())
    return new.replace(text=layer.text) if layer.text and _same_alpha(levels, common, source) else new


def _same_alpha(levels: Any, box: Box, source: Original) -> bool:
    """Whether what was cut away showed nothing, so that a text is still all there."""
    before = source.pixels[..., 3]
    kept = before[box.within(source.box)]
    return bool((kept == levels[..., 3]).all()) and np.count_nonzero(kept) == np.count_nonzero(before)


def _times(levels: Any, share: Floats) -> Any:
    return np.floor(levels * share.astype(np.float64) + 0.5).astype(levels.dtype)


def on_canvas(stack: LayerStack, layers: tuple[Layer, ...], box: Box) -> LayerStack:
    """Layers on a canvas that is `box`, as they show there; it may lie beyond the stack's own."""
    moved = (_shifted(layer, -box.left, -box.top) for layer in layers)
    return LayerStack(box.size, tuple(moved), depth=stack.depth)


def _shifted(layer: Layer, x: int, y: int) -> Layer:
    """The layer as it shows, elsewhere; only to be flattened."""
    if layer.pixels is None:
        return layer.replace(layers=tuple(_shifted(inner, x, y) for inner in layer.layers))
    return layer.replace(box=layer.box.moved(x, y))


def _raster(old: Layer, kind: Any, levels: Any, box: Box) -> Layer:
    new = Layer(old.name, kind, box, levels, opacity=old.opacity, blend_mode=old.blend_mode, visible=old.visible)
    return new.replace(id=old.id).crop_to_content()


def _hides(lower: Layer, box: Box) -> bool:
    """Whether a layer is opaque all over a box."""
    if lower.pixels is None or lower.opacity < 1 or lower.box.intersection(box) != box:
        return False
    return bool((lower.pixels[box.within(lower.box)][..., 3] == np.iinfo(lower.pixels.dtype).max).all())


OPS = tuple(
    Op.of(function)
    for function in (
        *(remove, rename, duplicate, replace_picture, crop, mask, extract, split),
        *(group, ungroup, merge, merge_down, merge_all),
    )
)
