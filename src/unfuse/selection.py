"""Which layers an edit is for.

A selector is a text or a number: an id or a name (`Badge`), an index from the bottom (`0`, `-1` is the top one), `at
120,80` (the topmost layer that shows at that point), `kind:text`, or a pattern (`Badge*`, `[AB]?`). The first three
mean one layer and are refused where they could mean several; the last two mean all that match. A list of selectors
means all of theirs. Names are looked for in groups too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

from unfuse.composite import shown
from unfuse.errors import StackError
from unfuse.layers import KINDS, Box, Layer, LayerStack, nearest, one_of


def one(stack: LayerStack, selector: Any) -> Layer:
    """The layer that a selector means. Raises StackError, with the candidates, where that is not exactly one."""
    found = select(stack, selector)
    if len(found) > 1:
        raise StackError(f"{selector!r} means {len(found)} layers: name one of {candidates(found)}")
    return found[0]


def select(stack: LayerStack, selector: Any) -> tuple[Layer, ...]:
    """The layers that a selector means, each once, bottom to top, at least one. Raises StackError with candidates."""
    if isinstance(selector, list | tuple):
        ids = {layer.id for each in selector for layer in select(stack, each)}
        return tuple(layer for layer in stack.walk() if layer.id in ids)
    layers = list(stack.walk())
    if isinstance(selector, int):
        if not -len(stack) <= selector < len(stack):
            raise StackError(f"there is no layer {selector}: the stack has {candidates(stack)}, the bottom one is 0")
        return (stack.layers[selector],)
    if found := [x for x in layers if x.id == selector] or [x for x in layers if x.name == selector]:
        if len(found) > 1:
            raise StackError(f"{len(found)} layers are called {selector!r}: ask by id, one of {candidates(found)}")
        return tuple(found)
    if re.fullmatch(r"-?\d+", selector):
        return select(stack, int(selector))
    if point := re.fullmatch(r"at\s+(-?\d+)\s*,\s*(-?\d+)", selector):
        return (_at(stack, int(point[1]), int(point[2])),)
    if selector.startswith("kind:"):
        kind = one_of("the kind", selector.removeprefix("kind:"), KINDS)
        return _matching(selector, layers, lambda layer: layer.kind == kind)
    if re.search(r"[*?\[]", selector):
        return _matching(selector, layers, lambda layer: fnmatchcase(layer.name, selector))
    if re.match(r"at\s.*(\d|,)", selector):
        width, height = stack.size
        raise StackError(
            f"{selector!r} is no point: it must be 'at x,y' in whole pixels of the canvas of {width} x {height}, "
            f"such as 'at {width // 2},{height // 2}'"
        )
    names = [layer.name for layer in layers]
    raise StackError(f"no layer is called {selector!r}{nearest(selector, names)}: the stack has {candidates(layers)}")


def candidates(layers: Iterable[Layer]) -> str:
    """Layers as a message lists them: the name, and the id where names repeat."""
    layers = list(layers)
    names = [layer.name for layer in layers]
    listed = (f"{x.name!r}" if names.count(x.name) == 1 else f"{x.name!r} (id {x.id})" for x in layers)
    return ", ".join(listed) or "no layers"


def path(stack: LayerStack, layer: Layer) -> tuple[Layer, ...]:
    """The groups that hold a layer, the outermost first, and the layer itself."""

    def find(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
        for each in layers:
            if each.id == layer.id:
                return (each,)
            if inside := find(each.layers):
                return (each, *inside)
        return ()

    return find(stack.layers)


def editable(stack: LayerStack, layer: Layer) -> Layer:
    """The layer, if neither it, nor a group that holds it, nor a layer in it is locked; else a StackError naming it."""
    for each in (*path(stack, layer), *layer.walk()):
        if each.locked:
            what = "" if each is layer else f", which layer {layer.name!r} {'is in' if each.layers else 'holds'}"
            raise StackError(f"layer {each.name!r}{what} is locked: unlock it first")
    return layer


def _matching(selector: str, layers: list[Layer], wanted: Callable[[Layer], bool]) -> tuple[Layer, ...]:
    if not (found := tuple(layer for layer in layers if wanted(layer))):
        raise StackError(f"no layer matches {selector!r}: the stack has {candidates(layers)}")
    return found


def _at(stack: LayerStack, x: int, y: int) -> Layer:
    """The topmost visible layer whose pixel there has alpha above 0; of layers in a group, not the group, unless it is
    the group's effects that show.
    """

    def hit(layers: Iterable[Layer]) -> Layer | None:
        for layer in reversed(tuple(layers)):
            left, top = x - layer.box.left, y - layer.box.top
            if not layer.visible or not (0 <= left < layer.box.width and 0 <= top < layer.box.height):
                continue
            if layer.pixels is None:
                if found := hit(layer.layers):
                    return found
                if layer.effects and (seen := shown(layer, Box(0, 0, *stack.size))):
                    left, top = x - seen[0].left, y - seen[0].top
                    inside = 0 <= left < seen[0].width and 0 <= top < seen[0].height
                    if inside and seen[1][top, left, 3]:
                        return layer
            elif layer.pixels[top, left, 3]:
                return layer
        return None

    if found := hit(stack.layers):
        return found
    width, height = stack.size
    raise StackError(
        f"no layer shows at {x},{y} on the canvas of {width} x {height}: it has {candidates(stack.walk())}"
    )
