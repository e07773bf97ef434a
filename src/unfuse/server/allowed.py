"""Which recipes the server runs: those that read nothing from its disk but pictures sent to the same stack, and fonts
that are installed.

In the library a recipe's picture is a path. Here it is the name that POST /v1/stacks/{id}/pictures gave.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from unfuse import edits, variants
from unfuse.errors import StackError

ELSEWHERE = {  # ops that take too long for an edit: what to use
    "split": "POST /v1/stacks/{id}/layers/{layer}/split",
    "repaint": "the library or the command line, which find the model on your own disk",
}
FAMILY = re.compile(r"[\w &'+,-]{1,100}")  # no dots and no slashes
BOUNDS = ("type", "enum", "const", "anyOf", "prefixItems", "items", "additionalProperties", "pattern")


@cache
def open_fields(op: str) -> frozenset[str]:
    """The fields of an op that take anything at all, which is what pictures are."""
    row = edits.TABLE.get(op)
    return frozenset(
        name for name, (schema, _) in (row.fields if row else {}).items() if not schema.keys() & set(BOUNDS)
    )


def pictures(listed: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """Every picture in edits, with the number of its edit."""
    for number, edit in enumerate(listed, 1):
        if isinstance(edit, Mapping):
            for name in open_fields(str(edit.get("op"))) | {"picture"}:
                if name in edit:
                    yield number, edit[name]


def check_fonts(edit: Mapping[str, Any], where: str) -> None:
    """Raise StackError where an edit names a font's file, or a folder of them."""
    if edit.get("folder") is not None:
        raise StackError(f"{where}: 'folder' is for fonts on your own disk: leave it out here")
    font = edit.get("font")
    if isinstance(font, str) and not FAMILY.fullmatch(font):
        raise StackError(f"{where}: the font {font!r} is no family such as 'Inter': files of fonts are not read here")


def check(listed: list[Any], names: set[str]) -> None:
    """Raise StackError unless all pictures are among `names`, and no edit is one that the server does elsewhere."""
    for number, edit in enumerate(listed, 1):
        if isinstance(edit, Mapping) and (other := ELSEWHERE.get(str(edit.get("op")))):
            raise StackError(f"edit {number} of {len(listed)}: {edit['op']} takes a while here: use {other}")
    for number, edit in enumerate(listed, 1):
        if isinstance(edit, Mapping):
            check_fonts(edit, f"edit {number} of {len(listed)}")
    for number, value in pictures(listed):
        if not isinstance(value, str) or value not in names:
            raise StackError(
                f"edit {number} of {len(listed)}: the picture {value!r} was not sent to this stack: send it to "
                "POST /v1/stacks/{id}/pictures, and use the name that it answers with"
            )


def check_table(path: Path, names: set[str], most: int) -> int:
    """How many rows a table of variants has. Raises StackError as `check` does, and where there are too many."""
    rows, folder = variants.read_table(path, "the table"), path.parent.resolve()
    if len(rows) > most:
        raise StackError(f"the table has {len(rows)} rows, the limit is {most}: send it in parts")
    for row in rows:
        inside = [dict(edit) for edit in row.edits]
        for edit in inside:
            for name in (open_fields(edit["op"]) | {"picture"}) & edit.keys():
                value = Path(str(edit[name]))  # as the cell says it: nobody else's business is where our files lie
                edit[name] = str(value.relative_to(folder) if value.is_relative_to(folder) else value)
        try:
            check(inside, names)
        except StackError as error:
            raise StackError(f"row {row.name!r}: {error}") from error
    return len(rows)
