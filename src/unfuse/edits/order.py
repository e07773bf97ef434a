"""Which layer lies over which, and what is shown and locked."""

from __future__ import annotations

from typing import Annotated, Literal

from unfuse.edits.op import Op
from unfuse.errors import StackError
from unfuse.fields import Field, Selector, Selectors
from unfuse.layers import Layer, LayerStack
from unfuse.selection import candidates, editable, one, path, select

Steps = Annotated[int, Field(minimum=1)]


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
        others = [x for x in siblings(stack, moved) if x is not moved]
        at = {"top": len(others), "bottom": 0}[to] if isinstance(to, str) else to
        if not 0 <= at <= len(others):
            raise StackError(f"'to' is {to!r}: it must be 0 (bottom) to {len(others)} (top), 'top' or 'bottom'")
        return with_siblings(stack, moved, (*others[:at], moved, *others[at:]))
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


def bring_forward(stack: LayerStack, layer: Selector, *, steps: Steps = 1) -> LayerStack:
    """Raise a layer among its siblings, at most to their top."""
    return _stepped(stack, layer, steps)


def send_backward(stack: LayerStack, layer: Selector, *, steps: Steps = 1) -> LayerStack:
    """Lower a layer among its siblings, at most to their bottom."""
    return _stepped(stack, layer, -steps)


def show(stack: LayerStack, layer: Selectors) -> LayerStack:
    """Show layers. Locked ones too: a lock is for what a layer is, not for whether it is looked at."""
    return _with(stack, layer, visible=True)


def hide(stack: LayerStack, layer: Selectors) -> LayerStack:
    """Hide layers, locked ones too."""
    return _with(stack, layer, visible=False)


def solo(stack: LayerStack, layer: Selectors) -> LayerStack:
    """Show these layers and hide all others, locked ones too."""
    found = select(stack, layer)
    inside = {inner.id for each in found for inner in each.walk()}
    holding = {group.id for each in found for group in path(stack, each)}

    def change(each: Layer) -> Layer:
        if each.id in inside and each.id not in holding:  # what is in a group that is shown stays as it is
            return each
        layers = tuple(change(inner) for inner in each.layers)
        same = layers == each.layers and each.visible == (each.id in holding)
        return each if same else each.replace(layers=layers, visible=each.id in holding)

    return stack.replace(layers=tuple(change(each) for each in stack))


def lock(stack: LayerStack, layer: Selectors) -> LayerStack:
    """Lock layers: an edit of one, or of what is in it, is refused until it is unlocked."""
    return _with(stack, layer, locked=True)


def unlock(stack: LayerStack, layer: Selectors) -> LayerStack:
    """Unlock layers."""
    return _with(stack, layer, locked=False)


def _with(stack: LayerStack, selector: Selectors, **changes: bool) -> LayerStack:
    for layer in select(stack, selector):
        if any(getattr(layer, name) != value for name, value in changes.items()):
            stack = stack.replace_layer(layer.id, stack[layer.id].replace(**changes))
    return stack


def _stepped(stack: LayerStack, selector: Selector, steps: int) -> LayerStack:
    layer = one(stack, selector)
    level = siblings(stack, layer)
    return reorder(stack, layer.id, to=max(0, min(len(level) - 1, level.index(layer) + steps)))


def siblings(stack: LayerStack, layer: Layer) -> tuple[Layer, ...]:
    """The layers of the level that a layer is in, bottom to top."""
    above = path(stack, layer)
    return above[-2].layers if len(above) > 1 else stack.layers


def with_siblings(stack: LayerStack, layer: Layer, layers: tuple[Layer, ...]) -> LayerStack:
    """The stack with other layers in the level that a layer is in."""
    above = path(stack, layer)
    if len(above) == 1:
        return stack.replace(layers=layers)
    return stack.replace_layer(above[-2].id, above[-2].replace(layers=layers))


OPS = tuple(Op.of(function) for function in (reorder, bring_forward, send_backward, show, hide, solo, lock, unlock))
