"""How a layer looks: colours (`looks`), effects around it (`effects`), opacity and blend mode. Each can be taken back.

A look or an effect is set: the same one given again takes the place of the earlier, as opacity does. So recipes can be
replayed, and a slider needs no undo. A group's looks go to all layers in it, each with its own mean; its effects are
laid around the whole of it, as it shows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from unfuse.affine import LARGEST
from unfuse.edits.op import Op, each, leaves
from unfuse.effects import EFFECTS, reach
from unfuse.errors import StackError
from unfuse.fields import Field, Selectors, Share
from unfuse.layers import BLEND_MODES, Edit, Layer, LayerStack
from unfuse.looks import LOOKS
from unfuse.render import original, remade

Mode = Annotated[str, Field(enum=list(BLEND_MODES), description="W3C Compositing and Blending Level 1.")]


def opacity(stack: LayerStack, layer: Selectors, *, value: Share) -> LayerStack:
    """Set the opacity, 0 to 1."""
    return each(stack, layer, lambda one: one.replace(opacity=value))


def blend(stack: LayerStack, layer: Selectors, *, mode: Mode) -> LayerStack:
    """Set the blend mode."""
    return each(stack, layer, lambda one: one.replace(blend_mode=mode))


def _look(name: str, stack: LayerStack, layer: Selectors, **values: Any) -> LayerStack:
    def change(one: Layer) -> Layer:
        return remade(one, looks=_put(original(one).looks, {"op": name, **values}))

    return each(stack, layer, lambda one: leaves(one, change))


def _effect(name: str, stack: LayerStack, layer: Selectors, **values: Any) -> LayerStack:
    def change(one: Layer) -> Layer:
        if one.pixels is None:
            new = one.replace(effects=_put(one.effects, {"op": name, **values}))
            room = sum(reach(edit) for edit in new.effects)
            if (stack.size[0] + 2 * room) * (stack.size[1] + 2 * room) > LARGEST:
                raise StackError(f"{name} would reach over more than {LARGEST:,} pixels: make it smaller")
            return new
        return remade(one, effects=_put(original(one).effects, {"op": name, **values}))

    return each(stack, layer, change)


def _put(edits: tuple[Edit, ...], new: Edit) -> tuple[Edit, ...]:
    """The edits with a new one, in the place of the earlier one of its name."""
    if any(old["op"] == new["op"] for old in edits):
        return tuple(new if old["op"] == new["op"] else old for old in edits)
    return (*edits, new)


def _ops(apply: Callable[..., LayerStack], functions: dict[str, Callable[..., Any]]) -> tuple[Op, ...]:
    return tuple(Op(name, partial(apply, name), function, is_step=True) for name, function in functions.items())


OPS = (*_ops(_look, LOOKS), *_ops(_effect, EFFECTS), Op.of(opacity), Op.of(blend))
