"""What layers are: their names, their pictures, and whether they are there at all."""

from __future__ import annotations

from unfuse.edits.op import Op, outermost
from unfuse.fields import Name, Selector, Selectors
from unfuse.layers import LayerStack
from unfuse.selection import editable, one, select


def remove(stack: LayerStack, layer: Selectors) -> LayerStack:
    """Take layers away; a group that loses its last layer goes with it."""
    for each in [editable(stack, found) for found in outermost(select(stack, layer))]:
        stack = stack.replace_layer(each.id)
    return stack


def rename(stack: LayerStack, layer: Selector, *, name: Name) -> LayerStack:
    """Give a layer another name."""
    old = editable(stack, one(stack, layer))
    return stack.replace_layer(old.id, old.replace(name=name))


OPS = (Op.of(remove), Op.of(rename))
