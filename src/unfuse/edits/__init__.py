"""Edits: pure functions from stack to stack, in one table. Read this first, then `place`, `look`, `content`, `heal`,
`words`, `repaint`, `order`.

An edit as data is `{"op": name, field: value, ...}`; the fields are the parameters of the function of that name, and
the schema that recipes are checked against is made from their types. What no edit touched stays the same to the bit:
untouched layers are the same objects in the new stack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any

from unfuse.edits import content, heal, look, order, place, repaint, words
from unfuse.edits.op import Op
from unfuse.errors import StackError
from unfuse.layers import Edit, LayerStack, State, nearest

MOST_STATES = 100  # how far back a stack remembers

MODULES = (place, look, content, heal, words, repaint, order)
TABLE: dict[str, Op] = {op.name: op for module in MODULES for op in module.OPS}


def edit(stack: LayerStack, edits: Edit | Iterable[Edit], *, remember: bool = True) -> LayerStack:
    """The stack after edits, one after the other; all of them or none. `undo` takes the whole call back.

    Raises StackError that names the edit by its number where an op, a field or a value is unknown or wrong, a layer is
    not there, or is locked.
    """
    listed: list[Edit] = [edits] if isinstance(edits, Mapping) else list(edits)
    after = stack
    for number, each in enumerate(listed):
        try:
            after = apply(after, each)
        except StackError as error:
            where = f"edit {number + 1} of {len(listed)}: " if len(listed) > 1 else ""
            raise StackError(f"{where}{error}") from error
    if after is stack or not remember:
        return after
    before = State(stack.size, stack.layers, tuple(_as_data(each) for each in listed))
    return after.replace(past=(*stack.past, before)[-MOST_STATES:], future=())


def apply(stack: LayerStack, edit: Edit) -> LayerStack:
    """The stack after one edit, checked; its history stays as it is."""
    op = find(edit)
    values = op.check({name: value for name, value in edit.items() if name != "op"})
    try:
        return op.function(stack, **values)
    except StackError as error:
        raise StackError(f"{op.name}: {error}") from error


def find(edit: Any) -> Op:
    """The op of an edit. Raises StackError with the nearest name where there is none."""
    if not isinstance(edit, dict) or not isinstance(edit.get("op"), str):
        raise StackError(f"{edit!r} is not an edit: it must be like {{'op': 'move', 'layer': 'Badge', 'x': 10}}")
    if edit["op"] not in TABLE:
        raise StackError(
            f"there is no op {edit['op']!r}{nearest(edit['op'], TABLE)}: it must be one of {', '.join(TABLE)}"
        )
    return TABLE[edit["op"]]


def check_step(edit: Any) -> None:
    """Raise StackError unless a look or effect that a file says a layer has is one, with values that it takes."""
    op = find(edit)
    if not op.is_step:
        raise StackError(f"{op.name} is neither a look nor an effect")
    op.check({"layer": "", **{name: value for name, value in edit.items() if name != "op"}})


def method(stack: LayerStack, name: str) -> Callable[..., LayerStack]:
    """The edit of that name as a method of the stack; AttributeError where there is none."""
    if name not in TABLE:
        raise AttributeError(f"a stack has no {name!r}{nearest(name, TABLE)}: its edits are {', '.join(TABLE)}")
    return partial(_call, stack, TABLE[name])


@lru_cache(maxsize=1)
def schema() -> dict[str, Any]:
    """The JSON schema of one edit, made from the table."""
    return {"oneOf": [op.schema() for op in TABLE.values()]}


def _call(stack: LayerStack, op: Op, *positional: Any, **fields: Any) -> LayerStack:
    names = op.positional
    if len(positional) > len(names):
        raise TypeError(f"{op.name} takes {', '.join(names) or 'nothing'} by place, the rest by name")
    return edit(stack, [{"op": op.name, **dict(zip(names, positional, strict=False)), **fields}])


def _as_data(edit: Edit) -> Edit:
    """The edit as the history keeps it: JSON, with a word in place of a picture that is not a file.

    What is made by chance is kept with every field, so that it can be made again after a default has changed.
    """
    plain = (str, int, float, bool, list, tuple, dict)
    fields = find(edit).fields
    filled = {name: default for name, (_, default) in fields.items() if "seed" in fields and isinstance(default, plain)}
    given = {name: value if isinstance(value, (*plain, type(None))) else "(a picture)" for name, value in edit.items()}
    return {"op": edit["op"], **filled, **given}
