"""One layer painted anew after words, by a model that is shown it over its true surroundings."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from unfuse import reading
from unfuse.composite import flatten
from unfuse.edits.content import on_canvas
from unfuse.edits.op import Op
from unfuse.edits.order import Steps
from unfuse.errors import StackError
from unfuse.fields import Field, Name, Selector, Words
from unfuse.layers import IDENTITY, Box, Layer, LayerStack, Original
from unfuse.model import painter
from unfuse.pixels import quantise, resize, to_float
from unfuse.refine import Colour, on_grey
from unfuse.rematte import mixed, rematte
from unfuse.render import original, remade, render
from unfuse.selection import candidates, editable, one, path

Seed = Annotated[int, Field(minimum=0, maximum=2**63 - 1, description="Same seed, same layer on the same machine.")]
Model = Annotated[str, Field(minLength=1, description="The weights: a folder, or a hub name such as Owner/Name.")]

AROUND = 1 / 3, 32  # of the layer's longer side, and pixels at least: how much of its surroundings the model is shown
REACH = 1 / 10, 8  # likewise: how far beyond the layer something may come
STEPS = 40  # the release's own


def repaint(
    stack: LayerStack,
    layer: Selector,
    words: Words,
    *,
    model: Model | None = None,
    engine: Name = "qwen-edit",
    seed: Seed = 0,
    steps: Steps = STEPS,
    keep_shape: bool = False,
) -> LayerStack:
    """Paint one layer anew after words, such as "make the mug red"; alpha is found again, or kept with `keep_shape`.

    The model sees the layer over what lies below it, whole and opaque; what lies above is not shown, so that nothing
    of it gets into the layer. Looks, which were for the old pixels, go; effects, opacity and blend mode stay. A
    background keeps its shape.
    """
    old = editable(stack, one(stack, layer))
    if old.pixels is None:
        raise StackError(f"layer {old.name!r} is a group: repaint one of {candidates(old.layers)}")
    bare = _bare(old)
    view = _view(stack, bare)
    below = on_grey(to_float(flatten(on_canvas(stack, _below(stack, old), view))))
    here = _seen(bare, view)
    pixels = to_float(here)
    shown = mixed(pixels[..., :3], pixels[..., 3], below)
    answer = painter.load(engine, model).paint(shown, words, seed=seed, steps=steps)
    keeps = keep_shape or old.kind == "background"
    found = rematte(_fitted(answer, view), below, pixels, _share(bare.box, REACH), keeps)
    levels = np.where(found.changed[..., None], quantise(found.pixels, stack.depth), here)
    box, levels = _put(bare, levels, view)
    if not levels[..., 3].any():
        raise StackError(f"nothing is left of layer {old.name!r} in what {words!r} gave: remove it, or ask otherwise")
    made = remade(old, box=box, pixels=levels, transform=IDENTITY, looks=())
    if old.text and keeps:
        made = made.replace(text=reading.colored(old.text, levels, box))
    how = f"repainted by {engine} ({model or 'no weights'}, seed {seed}, {steps} steps) for {' '.join(words.split())!r}"
    others = tuple(each for each in stack.notes if not each.startswith(f"{old.name!r}: repainted by "))
    return stack.replace_layer(old.id, made).replace(notes=(*others, f"{old.name!r}: {how}"))


def _bare(layer: Layer) -> Original:
    """What a layer shows without its effects."""
    source = original(layer)
    return Original(*render(Original(source.box, source.pixels, source.transform, source.looks)))


def _share(box: Box, part: tuple[float, int]) -> int:
    """A part of a box's longer side, at least so many pixels."""
    return max(part[1], round(part[0] * max(box.size)))


def _view(stack: LayerStack, bare: Original) -> Box:
    """What of the canvas the model is shown: where the layer is, and around it. Raises StackError where it is not."""
    canvas, around = Box(0, 0, *stack.size), _share(bare.box, AROUND)
    common = bare.box.intersection(canvas)
    if common is None or not bare.pixels[common.within(bare.box)][..., 3].any():
        raise StackError("the layer shows nothing on the canvas: move it there first")
    wide = Box(common.left - around, common.top - around, common.right + around, common.bottom + around)
    view = wide.intersection(canvas)
    assert view
    return view


def _below(stack: LayerStack, layer: Layer) -> tuple[Layer, ...]:
    """What lies below a layer: of every group that it is in, the lower part."""

    def lower(layers: tuple[Layer, ...], way: tuple[Layer, ...]) -> tuple[Layer, ...]:
        under = layers[: layers.index(way[0])]
        inside = lower(way[0].layers, way[1:]) if len(way) > 1 else ()
        return (*under, way[0].replace(layers=inside)) if inside else under

    return lower(stack.layers, path(stack, layer))


def _seen(bare: Original, view: Box) -> Any:
    """The layer's pixels in a view, whole numbers."""
    here = np.zeros((view.height, view.width, 4), bare.pixels.dtype)
    if common := bare.box.intersection(view):
        here[common.within(view)] = bare.pixels[common.within(bare.box)]
    return here


def _fitted(answer: NDArray[np.float32], view: Box) -> Colour:
    """A model's answer `h w 3` at the size of what it was shown."""
    opaque = np.concatenate((answer, np.ones_like(answer[..., :1])), -1)
    return resize(opaque, view.size)[..., :3]


def _put(bare: Original, levels: Any, view: Box) -> tuple[Box, Any]:
    """The layer's pixels, cropped, with those of a view in place of its own; those beyond the view stay."""
    box = bare.box.union(view)
    whole = np.zeros((box.height, box.width, 4), levels.dtype)
    whole[bare.box.within(box)] = bare.pixels
    whole[view.within(box)] = levels
    cropped = Layer("repainted", "object", box, whole).crop_to_content()
    return cropped.box, cropped.pixels


OPS = (Op.of(repaint),)
