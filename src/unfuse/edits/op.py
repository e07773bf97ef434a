"""One row of the table of edits: a function with typed parameters, and the JSON schema that its types say."""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from unfuse.errors import StackError
from unfuse.fields import Selectors
from unfuse.layers import Layer, LayerStack, nearest
from unfuse.selection import editable, select

Function = Callable[..., LayerStack]
PLAIN: dict[Any, dict[str, Any]] = {
    float: {"type": "number"},
    int: {"type": "integer"},
    bool: {"type": "boolean"},
    str: {"type": "string"},
    type(None): {"type": "null"},
    Any: {},
}


@dataclass(frozen=True)
class Op:
    """`function(stack, **values)` makes the new stack; the parameters and types are those of `signature`."""

    name: str
    function: Function
    signature: Callable[..., Any]  # its first parameter is what is edited
    is_step: bool = False  # a look or effect: the signature is of pixels, and the field `layer` is added to it

    @classmethod
    def of(cls, function: Function) -> Op:
        """An op on a stack."""
        return cls(function.__name__.rstrip("_"), function, function)

    @property
    def about(self) -> str:
        """What it does, in one line."""
        return (inspect.getdoc(self.signature) or "").partition("\n")[0]

    @cached_property
    def fields(self) -> dict[str, tuple[dict[str, Any], Any]]:
        """Each field's schema and default; `inspect.Parameter.empty` where it must be given."""
        hints = get_type_hints(self.signature, include_extras=True)
        parameters = list(inspect.signature(self.signature).parameters.values())[1:]
        own = {p.name: (of_type(hints[p.name]), p.default) for p in parameters}
        return ({"layer": (of_type(Selectors), inspect.Parameter.empty)} if self.is_step else {}) | own

    @property
    def positional(self) -> tuple[str, ...]:
        """The fields that a method takes by place."""
        if self.is_step:
            return ("layer",)
        parameters = list(inspect.signature(self.signature).parameters.values())[1:]
        return tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)

    @property
    def required(self) -> list[str]:
        """The fields that must be given."""
        return [name for name, (_, default) in self.fields.items() if default is inspect.Parameter.empty]

    def schema(self) -> dict[str, Any]:
        """The JSON schema of an edit with this op."""
        properties = {name: schema | default_of(default) for name, (schema, default) in self.fields.items()}
        return {
            "title": self.name,
            "description": self.about,
            "type": "object",
            "properties": {"op": {"const": self.name}, **properties},
            "required": ["op", *self.required],
            "additionalProperties": False,
        }

    def check(self, values: dict[str, Any]) -> dict[str, Any]:
        """The values, as JSON has them. Raises StackError where a field is unknown, missing or of the wrong type."""
        for name in values:
            if name not in self.fields:
                known = ", ".join(self.fields) or "nothing else"
                raise StackError(f"{self.name} has no field {name!r}{nearest(name, self.fields)}: it takes {known}")
        if missing := [name for name in self.required if name not in values]:
            raise StackError(f"{self.name} needs {' and '.join(map(repr, missing))}")
        values = {name: _listed(value) for name, value in values.items()}
        for name, value in values.items():
            if not _is_finite(value):
                raise StackError(f"{self.name}: the field {name!r} is {value!r}: numbers must be finite")
            if problem := _problem(self._validators[name], value):
                raise StackError(f"{self.name}: the field {name!r} is {value!r}: {problem}")
        return values

    @cached_property
    def _validators(self) -> dict[str, Any]:
        from jsonschema import Draft202012Validator

        return {name: Draft202012Validator(schema) for name, (schema, _) in self.fields.items()}


def of_type(hint: Any) -> dict[str, Any]:
    """The JSON schema of a type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        schema: dict[str, Any] = of_type(inner[0]) | inner[1]
        return schema
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is list:
        return {"type": "array", "items": of_type(inner[0])}
    if origin is tuple:
        items = [of_type(each) for each in inner]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if origin is dict:
        return {"type": "object", "additionalProperties": of_type(inner[1])}
    if origin in (Union, types.UnionType):
        return {"anyOf": [of_type(each) for each in inner]}
    return dict(PLAIN[hint])


def default_of(default: Any) -> dict[str, Any]:
    """The default as schemas say it; None stands for not given."""
    return {} if default is inspect.Parameter.empty or default is None else {"default": _listed(default)}


def each(stack: LayerStack, selector: Any, change: Callable[[Layer], Layer]) -> LayerStack:
    """The stack with every layer that a selector means changed. Raises StackError where one of them is locked.

    A layer in a group that is changed too is left to the group's change.
    """
    for layer in outermost(select(stack, selector)):
        new = change(editable(stack, layer))
        if new is not layer:
            stack = stack.replace_layer(layer.id, new)
    return stack


def outermost(layers: tuple[Layer, ...]) -> Iterator[Layer]:
    """Those layers that are in none of the others."""
    inside = {inner.id for layer in layers for inner in layer.walk() if inner is not layer}
    return (layer for layer in layers if layer.id not in inside)


def leaves(layer: Layer, change: Callable[[Layer], Layer]) -> Layer:
    """The layer, or all layers with pixels in a group, changed."""
    if layer.pixels is not None:
        return change(layer)
    return layer.replace(layers=tuple(leaves(inner, change) for inner in layer.layers))


def _listed(value: Any) -> Any:
    """Tuples as the lists that JSON has."""
    if isinstance(value, list | tuple):
        return [_listed(inner) for inner in value]
    return {key: _listed(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def _is_finite(value: Any) -> bool:
    """Whether all numbers in a value are; JSON has no others, Python and YAML do."""
    if isinstance(value, list | dict):
        return all(_is_finite(inner) for inner in (value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _problem(validator: Any, value: Any) -> str:
    """What is wrong with a value, in one line; nothing where it is right."""
    from jsonschema.exceptions import best_match

    found = best_match(validator.iter_errors(value))
    if found is None:
        return ""
    about = validator.schema.get("description")
    line = " ".join(str(found.message).split())
    if found.validator == "pattern":  # people read the description, not the expression
        line = "not of this kind" if found.instance.strip() else "there is nothing to read"
    return (line if len(line) <= 200 else f"{line[:100]} ... {line[-100:]}") + (f" ({about})" if about else "")
