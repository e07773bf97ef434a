"""A recipe: edits as a file, in YAML or JSON, that can be run on any stack that has the layers it names.

    # summer sale
    version: 1
    edits:
      - {op: recolor, layer: Badge, color: "#e4002b"}
      - {op: move, layer: Headline, y: -12}

`input` may hold the fingerprint of the stack it was made for; on another it runs all the same, by its selectors, and
says so. A recipe file is only ever read, so its comments stay. The published schema is `recipe.schema.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unfuse import edits
from unfuse.errors import StackError
from unfuse.layers import Edit, Layer, LayerStack, nearest

VERSION = 1
LARGEST = 16 << 20  # bytes of a recipe file
FIELDS = ("version", "input", "edits")
EXAMPLE = "[{op: move, layer: Badge, x: 10}]"


@dataclass(frozen=True)
class Recipe:
    """Edits, and the fingerprint of the stack they were made for; empty where they are for any."""

    edits: tuple[Edit, ...]
    input: str = ""


def read(path: str | os.PathLike[str]) -> Recipe:
    """The recipe in a .yaml, .yml or .json file; pictures are found from its folder.

    Raises StackError that names the line or the edit that is wrong.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        why = error.strerror or error
        raise StackError(f"the recipe {os.fspath(path)} cannot be read ({why}): check the path") from error
    if len(data) > LARGEST:
        raise StackError(f"the recipe {os.fspath(path)} has {len(data):,} bytes, the limit is {LARGEST:,}")
    try:
        found = parse(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise StackError(
            f"the recipe {os.fspath(path)} is no text in UTF-8 ({error}): give a .yaml or .json file, saved as UTF-8"
        ) from error
    except StackError as error:
        raise StackError(f"the recipe {os.fspath(path)}: {error}") from error
    folder = Path(path).resolve().parent
    here = (
        {**x, "picture": str(folder / x["picture"])} if isinstance(x.get("picture"), str) else x for x in found.edits
    )
    return Recipe(tuple(here), found.input)


def parse(text: str) -> Recipe:
    """The recipe in a text, YAML or JSON, which is YAML too; a bare list of edits will do. Raises StackError."""
    import yaml

    try:
        data = yaml.load(text, Loader=_loader())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise StackError(f"{where}{getattr(error, 'problem', None) or error}") from error
    return checked(data)


def checked(data: Any) -> Recipe:
    """The recipe in JSON-like data, every edit checked for its op, fields and values. Raises StackError."""
    if not isinstance(data, dict) or "op" in data:
        data = {"edits": data}
    for name in data:
        if name not in FIELDS:
            raise StackError(f"a recipe has no field {name!r}{nearest(name, FIELDS)}: it takes {', '.join(FIELDS)}")
    if data.get("version", VERSION) != VERSION:
        raise StackError(f"it has version {data['version']!r}, and this unfuse reads {VERSION}: install a newer unfuse")
    listed = _listed(data.get("edits"))
    if not isinstance(data.get("input", ""), str):
        raise StackError(f"'input' is {data['input']!r}: it must be the fingerprint of a stack")
    for number, edit in enumerate(listed):
        try:
            edits.find(edit).check({name: value for name, value in edit.items() if name != "op"})
        except StackError as error:
            raise StackError(f"edit {number + 1} of {len(listed)}: {error}") from error
    return Recipe(tuple(listed), data.get("input", ""))


def _listed(found: Any) -> list[Any]:
    """The edits of a recipe, which must be a list; an empty one changes nothing."""
    if isinstance(found, list):
        return found
    if isinstance(found, dict) and "op" in found:
        raise StackError(f"its edits are the single {reprlib.repr(found)}: put it into a list, as in {EXAMPLE}")
    said = reprlib.repr(found) if found else "missing"
    raise StackError(f"its edits are {said}: they must be a list, such as {EXAMPLE}")


def run(stack: LayerStack, recipe: Recipe) -> LayerStack:
    """The stack after a recipe; a note says where it was made for another. Raises StackError, all or nothing."""
    after = edits.edit(stack, recipe.edits)
    if recipe.input and recipe.input != fingerprint(stack):
        after = after.replace(notes=(*after.notes, "the recipe was made for another stack: look at the result"))
    return after


def fingerprint(stack: LayerStack) -> str:
    """What a stack is, in 64 hexadecimal digits: its size, and every layer with its fields and pixels but its id."""
    digest = hashlib.sha256()

    def add(layers: tuple[Layer, ...]) -> None:
        digest.update(b"(")
        for layer in layers:
            fields = (layer.name, layer.kind, layer.box, layer.opacity, layer.blend_mode, layer.visible, layer.locked)
            digest.update(json.dumps((*fields, layer.effects) if layer.effects else fields).encode())
            if layer.pixels is not None:
                digest.update(layer.pixels.data)
            add(layer.layers)
        digest.update(b")")

    digest.update(json.dumps((stack.size, stack.depth)).encode())
    add(stack.layers)
    return digest.hexdigest()


def differences(before: LayerStack, after: LayerStack) -> list[str]:
    """What would change, a line each: layers that are new or gone, and every field that differs."""
    lines = [f"canvas: {before.size} becomes {after.size}"] if before.size != after.size else []
    old, new = ({layer.id: layer for layer in stack.walk()} for stack in (before, after))
    lines += [f"{layer.name}: removed" for key, layer in old.items() if key not in new]
    for key, layer in new.items():
        if key not in old:
            lines.append(f"{layer.name}: new")
            continue
        was = old[key]
        names = ("name", "kind", "box", "opacity", "blend_mode", "visible", "locked", "effects")
        for name in names:
            if (one := getattr(was, name)) != (other := getattr(layer, name)):
                one, other = (tuple(x) if name == "box" else x for x in (one, other))
                lines.append(f"{was.name}: {name} {one} becomes {other}")
        if was.pixels is not layer.pixels:
            lines.append(f"{was.name}: pixels")
    stays = [key for key in old if key in new]
    if stays != [key for key in new if key in old]:
        lines.append(f"order: {', '.join(layer.name for layer in after)}")
    return lines


def schema() -> dict[str, Any]:
    """The JSON schema of a recipe, made from the table of edits; `recipe.schema.json` is this."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:unfuse:recipe:{VERSION}",
        "title": f"unfuse recipe, version {VERSION}",
        "type": "object",
        "required": ["edits"],
        "additionalProperties": False,
        "properties": {
            "version": {"const": VERSION},
            "input": {"type": "string", "description": "Fingerprint of the stack that the recipe was made for."},
            "edits": {"type": "array", "items": edits.schema()},
        },
    }


def _loader() -> type[Any]:
    """YAML's safe loader, which refuses a key that is given twice where PyYAML would take the last."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                name = self.construct_object(key, deep=True)
                if not isinstance(name, str):
                    why = f"{name!r} is no name: names are texts, in quotes where they read as something else"
                    raise yaml.constructor.ConstructorError(None, None, why, key.start_mark)
                if name in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{name!r} is given twice", key.start_mark)
                seen.add(name)
            return super().construct_mapping(node, deep)

    return Loader
