"""One stack in many languages, from a table: a row a text, a column a language."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unfuse import formats, tables
from unfuse.edits import edit
from unfuse.errors import FormatError, StackError, UnfuseError, nearest
from unfuse.layers import Edit, LayerStack
from unfuse.selection import select


@dataclass(frozen=True)
class Row:
    """What is said, or the layer that says it, and what it is in each language; None where the cell is empty."""

    text: str
    said: dict[str, str | None]


@dataclass(frozen=True)
class Translated:
    """What became of a language: its files, and why there are no more. `notes` say in which font each text was set, and
    what a format could not hold as it was.
    """

    language: str
    files: tuple[str, ...]
    error: str = ""
    notes: tuple[str, ...] = ()


def translate(
    stack: LayerStack,
    table: str | Path | Sequence[Row],
    to: str | Path,
    *,
    suffixes: Sequence[str] = (".png",),
    keep: bool = False,
    font: str | None = None,
    folder: str | None = None,
    on_language: Callable[[Translated], None] | None = None,
) -> list[Translated]:
    """Write the stack in every language of a table into the folder `to`, `de.png` and so on; no network.

    table: a CSV file whose first column has texts as they read, whole layers or whole lines, or selectors of layers;
    each further column is a language, named at its top. A language that lacks a translation is not written, unless
    `keep`: then what is not translated stays. `font` and `folder` as in the edit `replace_text`. A language that fails
    leaves the others alone. Raises FormatError for a table or suffix that cannot be, StackError for a text that is not
    there.
    """
    rows = read(table) if isinstance(table, str | Path) else list(table)
    for suffix in suffixes:
        if formats.find(f"x{suffix}") is formats.FOLDER:
            raise FormatError("languages are files: name a suffix, such as .png or .psd")
    places = [find(stack, row.text) for row in rows]
    parts = [(layer, _key(part or "")) for layer, part in places]
    if twice := [row.text for row, part in zip(rows, parts, strict=True) if parts.count(part) > 1]:
        raise StackError(f"the table says twice what becomes of {' and '.join(map(repr, twice))}: leave one row")
    options = {name: value for name, value in (("font", font), ("folder", folder)) if value is not None}
    try:
        Path(to).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FormatError(f"{to} cannot be a folder ({error.strerror}): choose another") from error
    result = []
    for language in rows[0].said:
        files: list[str] = []
        try:
            edits = list(_edits(rows, places, language, keep, options))
            done = edit(stack, edits) if edits else stack
            notes = [note for note in done.notes if note not in stack.notes]
            for name in (f"{language}{suffix}" for suffix in suffixes):
                notes += [f"{name}: {note}" for note in formats.write(done, Path(to) / name)]
                files.append(name)
            result.append(Translated(language, tuple(files), notes=tuple(notes)))
        except UnfuseError as error:
            result.append(Translated(language, tuple(files), str(error)))
        if on_language:
            on_language(result[-1])
    return result


def read(path: str | Path) -> list[Row]:
    """The rows of a CSV file, as `tables` reads it. Raises FormatError where it is not such a table."""
    cells, mark = tables.cells(path)
    languages = cells[0][1:] if cells else []
    if len(cells) < 2 or not languages:
        raise FormatError(f"{path} needs a column of texts, a column for each language, and a row for each text")
    for name in languages:
        if not re.fullmatch(r"\w[\w -]*", name) or languages.count(name) > 1:
            raise FormatError(
                f"{path}: a language is called {name!r}: it must be a word, such as de or pt-BR, and once"
            )
    for number, row in enumerate(cells[1:], 2):
        if len(row) != len(cells[0]) or not row[0]:
            many = len(row) > len(cells[0])
            cure = f"put a cell with {mark!r} in it into double quotes" if many else f"part its cells by {mark!r}"
            raise FormatError(
                f"{path}, row {number}: it needs a text and {len(languages)} translations, it has {row!r}: {cure}"
            )
    return [
        Row(row[0], {name: cell or None for name, cell in zip(languages, row[1:], strict=True)}) for row in cells[1:]
    ]


def find(stack: LayerStack, text: str) -> tuple[str, str | None]:
    """The id of the layer that says a text, and the text where it is only a part; or of the layer it selects."""
    whole = [layer.id for layer in stack.walk() if layer.text and _key(layer.text.string) == _key(text)]
    lines = [
        layer.id
        for layer in stack.walk()
        for each in (layer.text.paragraphs if layer.text else ())
        for i in range(len(each.lines))
        for j in range(i + 1, len(each.lines) + 1)
        if _key("".join(line.string for line in each.lines[i:j])) == _key(text)
    ]
    if len(whole) == 1:
        return whole[0], None
    if not whole and len(lines) == 1:
        return lines[0], text
    if whole or lines:
        raise StackError(f"{text!r} is said {len(whole or lines)} times: name the layers by their ids")
    try:
        (layer,) = select(stack, text)
    except (StackError, ValueError):
        known = [" ".join(layer.text.string.split()) for layer in stack.walk() if layer.text]
        listed = ", ".join(map(repr, known)) or "nothing that was read"
        raise StackError(
            f"no layer says or is called {text!r}{nearest(text, known)}: the stack says {listed}"
        ) from None
    return layer.id, None


def _edits(
    rows: Sequence[Row], places: Sequence[tuple[str, str | None]], language: str, keep: bool, options: dict[str, Any]
) -> Iterator[Edit]:
    for row, (layer, part) in zip(rows, places, strict=True):
        text = row.said[language]
        if text is None:
            if keep:
                continue
            raise StackError(f"{language} lacks {row.text!r}: fill it in, or keep what is not translated with --keep")
        yield {"op": "replace_text", "layer": layer, "text": text, **({"part": part} if part else {}), **options}


def _key(string: str) -> str:
    return "".join(string.split()).casefold()
