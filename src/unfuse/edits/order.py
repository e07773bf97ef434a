"""Which layer lies over which, and what is shown and locked."""

from __future__ import annotations

from typing import Literal

from unfuse.edits.op import Op
from unfuse.errors import StackError
from unfuse.fields import Selector
from unfuse.layers import Layer, LayerStack
from unfuse.selection import candidates, editable, one, path


def reorder(
    stack: LayerStack,
    layer: Selector,
    *,
    to: int | Literal["top", "bottom"] | None = None,
    above: Selector | None = None,
    below: Selector | None = None,
) -> LayerStack:
    """Put a layer at an index from the bottom among its siblings, at their top or bottom, or above or below another.

    Above or below a layer in a group means into that group.
    """
    if sum(x is not None for x in (to, above, below)) != 1:
        raise StackError("say where with exactly one of 'to', 'above' and 'below'")
    moved = editable(stack, one(stack, layer))
    if to is not None:
        siblings = [x for x in _siblings(stack, moved) if x is not moved]
        at = {"top": len(siblings), "bottom": 0}.get(to) if isinstance(to, str) else to
        if at is None or not 0 <= at <= len(siblings):
            raise StackError(f"'to' is {to!r}: it must be 0 (bottom) to {len(siblings)} (top), 'top' or 'bottom'")
        return _with_siblings(stack, moved, (*siblings[:at], moved, *siblings[at:]))
    target = one(stack, above if above is not None else below)
    if any(target is inner for inner in moved.walk()):
        raise StackError(f"layer {moved.name!r} cannot go above or below itself: name one of {candidates(stack)}")
    for group in path(stack, target)[:-1]:
        if group.locked:
            raise StackError(f"layer {group.name!r}, which layer {target.name!r} is in, is locked: unlock it first")
    rest = stack.replace_layer(moved.id)
    if target.id not in rest:
        raise StackError(f"layer {target.name!r} would be empty: name another")
    target = rest[target.id]
    return rest.replace_layer(target.id, *((target, moved) if above is not None else (moved, target)))


def _siblings(stack: LayerStack, layer: Layer) -> tuple[Layer, ...]:
    above = path(stack, layer)
    return above[-2].layers if len(above) > 1 else stack.layers


def _with_siblings(stack: LayerStack, layer: Layer, layers: tuple[Layer, ...]) -> LayerStack:
    above = path(stack, layer)
    if len(above) == 1:
        return stack.replace(layers=layers)
    return stack.replace_layer(above[-2].id, above[-2].replace(layers=layers))


OPS = (Op.of(reorder),)
