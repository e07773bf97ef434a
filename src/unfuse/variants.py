"""Variants: one stack and a table, a row a picture.

The first row of a CSV file names what is varied, every other row is a variant:

    name,    canvas, Badge.color, Headline.y, Hero.picture, Sticker.visible
    summer,  story,  #e4002b,     -20,        shoe.png,     no

A column is `Layer.op.field`, such as `Badge.drop_shadow.blur`; `Layer.op` where the op has one field that must be
given, such as `Badge.opacity`; or `Layer.word` with a word of `WORDS`. An empty cell leaves the layer as it is.
`canvas` is a name of `PRESETS` or a size such as 1080x1350; `Layer.anchor` is where a layer is held when the canvas
changes, such as `left bottom`. Pictures are found from the table's folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfuse import composite, edits, formats, recipe, tables
from unfuse.errors import StackError, UnfuseError
from unfuse.layers import Edit, LayerStack, nearest
from unfuse.pixels import quantise, read, resize, to_float
from unfuse.saving import SAVE_OPTIONS, replacing, write_flat

PRESETS = {
    "square": (1080, 1080),
    "portrait": (1080, 1350),
    "story": (1080, 1920),
    "landscape": (1920, 1080),
    "banner": (1200, 628),
    "leaderboard": (728, 90),
}
WORDS = {  # what people call it: the op and its field
    "color": ("recolor", "color"),
    "picture": ("replace_picture", "picture"),
    "text": ("replace_text", "text"),
    "x": ("move", "x"),
    "y": ("move", "y"),
}
YES, NO = ("yes", "true", "1", "on", "show"), ("no", "false", "0", "off", "hide")
LEDGER, SHEET = "variants.jsonl", "contact.png"
THUMB, MOST_THUMBS = 240, 400


@dataclass(frozen=True)
class Variant:
    """A row of the table: its name, which becomes the file's, and its edits, or what is wrong with it."""

    name: str
    edits: tuple[Edit, ...]
    error: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a row: a file, or an error. `digest` is of everything that the file depends on; `notes` say what
    the edits remarked, such as a font, and what the format could not hold as it was.
    """

    name: str
    file: str = ""
    error: str = ""
    digest: str = ""
    notes: tuple[str, ...] = ()


def read_table(path: str | os.PathLike[str], what: str = "") -> list[Variant]:
    """The variants in a CSV file; `what` is what errors call it, by default by its path.

    Raises FormatError where it is no table, StackError for a wrong column; a wrong cell is its row's.
    """
    what = what or f"the table {os.fspath(path)}"
    rows, mark = tables.cells(os.fspath(path), what)
    if len(rows) < 2:
        raise StackError(f"{what} has no rows: the first names columns, each other is a variant")
    columns = [_column(name) for name in rows[0]]
    if len(set(columns)) < len(columns):
        raise StackError(f"{what} has a column twice: {', '.join(rows[0])}")
    folder, digits = Path(path).resolve().parent, len(str(len(rows) - 1))
    found = [_variant(columns, row, f"{number:0{digits}}", folder, mark) for number, row in enumerate(rows[1:], 1)]
    names = [_file_name(variant.name) for variant in found]
    return [
        Variant(one.name, (), f"{names.count(name)} rows are called {one.name!r}: give each its own name")
        if names.count(name) > 1
        else one
        for one, name in zip(found, names, strict=True)
    ]


def variants(
    stack: LayerStack,
    table: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    suffix: str = ".png",
    workers: int | None = None,
    on_row: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Write a file for every row of the table into the folder `out`, and a contact sheet of them all.

    A row that fails says why in its outcome and leaves the others alone. Rows that an earlier run finished with the
    same stack, edits and pictures are not made again. `workers` processes, by default one a core; `on_row` is called as
    each row is finished. Raises StackError or FormatError where the table, the suffix or the folder cannot be used.
    """
    rows = read_table(table)
    if formats.find(f"variant{suffix}") is formats.FOLDER:
        raise StackError("variants are files: name a suffix, such as .png or .psd")
    if workers is not None and workers < 1:
        raise StackError(f"workers={workers}: say 1 or more, or nothing for one a core")
    place = Path(out)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StackError(f"{place} cannot be a folder ({error.strerror}): choose another") from error
    done, base = _ledger(place), recipe.fingerprint(stack)
    work = [(row, _file_name(row.name) + suffix, _digest(base, row, suffix)) for row in rows]
    todo = [job for job in work if not _is_done(done.get(job[0].name), job, place)]
    thumbs: dict[str, NDArray[np.uint8]] = {}
    with open(place / LEDGER, "a", encoding="utf-8") as ledger:
        for outcome, thumb in _made(stack, todo, place, workers):
            done[outcome.name] = outcome
            thumbs |= {outcome.name: thumb} if thumb is not None else {}
            ledger.write(json.dumps(asdict(outcome), ensure_ascii=False) + "\n")
            ledger.flush()
            if on_row:
                on_row(outcome)
    outcomes = [done[row.name] for row in rows]
    _write_sheet(place, outcomes, thumbs)
    return outcomes


# --- the table -------------------------------------------------------------------------------------------------------


def _column(name: str) -> tuple[str, str, str]:
    """(layer, op, field) of a column; `name` and `canvas` are ('', name, '')."""
    if name in ("name", "canvas"):
        return "", name, ""
    layer, _, last = name.rpartition(".")
    if not layer:
        raise StackError(f"the column {name!r} must be 'name', 'canvas' or 'Layer.field', such as 'Badge.color'")
    before, _, op = layer.rpartition(".")
    if before and op in edits.TABLE:
        if last not in edits.TABLE[op].fields:
            fields = edits.TABLE[op].fields
            raise StackError(f"the column {name!r}: {op} has no field {last!r}{nearest(last, fields)}")
        return before, op, last
    if last == "anchor":
        return layer, "anchor", ""
    if last in ("visible", *WORDS):
        op, field = WORDS.get(last, ("", ""))
        if op and op not in edits.TABLE:
            raise StackError(f"the column {name!r}: this unfuse has no {op}")
        return layer, op or "visible", field
    needed = [field for field in edits.TABLE[last].required if field != "layer"] if last in edits.TABLE else []
    if len(needed) != 1:
        known = ["visible", "anchor", *WORDS, *edits.TABLE]
        raise StackError(
            f"the column {name!r}: {last!r} is no field{nearest(last, known)}: say Layer.visible, Layer.color, "
            "Layer.picture, Layer.text, Layer.x, Layer.y, Layer.anchor, or Layer.op.field"
        )
    return layer, last, needed[0]


def _variant(columns: list[tuple[str, str, str]], row: list[str], number: str, folder: Path, mark: str) -> Variant:
    name = number
    made: dict[tuple[str, str], dict[str, Any]] = {}
    try:
        for (layer, op, field), cell in zip(columns, row, strict=False):
            if not cell:
                continue
            if op == "name" and not layer:
                name = cell
            elif op == "canvas" and not layer:
                made.setdefault(("", "canvas"), {"op": "canvas"}).update(_size(cell))
            elif op == "anchor":
                held = made.setdefault(("", "canvas"), {"op": "canvas"})
                held["anchors"] = {**held.get("anchors", {}), layer: cell}
            elif op == "visible":
                made[layer, op] = {"op": "show" if _yes(cell) else "hide", "layer": layer}
            else:
                edit = made.setdefault((layer, op), {"op": op, "layer": layer})
                edit[field] = _value(edits.TABLE[op].fields[field][0], cell)
                if field == "picture":
                    edit[field] = str(folder / cell)
        if extra := [cell for cell in row[len(columns) :] if cell]:
            raise StackError(
                f"its cell {extra[0]!r} is in none of the {len(columns)} columns: put a cell with {mark!r} in it into "
                "double quotes"
            )
        for edit in made.values():
            edits.find(edit).check({key: value for key, value in edit.items() if key != "op"})
    except StackError as error:
        return Variant(name, (), str(error))
    return Variant(name, tuple(made.values()))


def _size(cell: str) -> dict[str, int]:
    if match := re.fullmatch(r"(\d+)\s*[x×]\s*(\d+)", cell):
        return {"width": int(match[1]), "height": int(match[2])}
    if cell not in PRESETS:
        raise StackError(f"the canvas {cell!r} is unknown{nearest(cell, PRESETS)}: 1080x1350, or {', '.join(PRESETS)}")
    return dict(zip(("width", "height"), PRESETS[cell], strict=True))


def _yes(cell: str) -> bool:
    if cell.lower() not in (*YES, *NO):
        raise StackError(f"visible is {cell!r}: say yes or no")
    return cell.lower() in YES


def _value(schema: dict[str, Any], cell: str) -> Any:
    """A cell as the field wants it: a text as it is, anything else as JSON says it."""
    if schema.get("type") == "string":
        return cell
    if schema.get("type") == "boolean":
        return _yes(cell)
    try:
        return json.loads(cell)
    except ValueError:
        return cell  # which the field's check refuses in its own words, or takes where it takes a text too


# --- the work --------------------------------------------------------------------------------------------------------

Job = tuple[Variant, str, str]
Made = tuple[Outcome, "NDArray[np.uint8] | None"]


def _made(stack: LayerStack, jobs: list[Job], place: Path, workers: int | None) -> Iterator[Made]:
    """Each job's outcome and thumbnail, in the order of the table."""
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    if workers <= 1:
        flat = composite.flatten(stack) if jobs else np.zeros((0, 0, 4), np.uint8)
        yield from map(partial(_one, stack, flat, place), jobs)
        return
    fresh = multiprocessing.get_context("spawn")  # a fork would copy the locks of OpenCV's threads, perhaps held
    start = (stack, composite.flatten(stack), place)
    with ProcessPoolExecutor(workers, fresh, initializer=_start, initargs=start) as pool:
        yield from pool.map(_next, jobs, chunksize=1)


_worker: Callable[[Job], Made]  # of this process


def _start(stack: LayerStack, flat: Any, place: Path) -> None:
    import cv2

    global _worker
    composite.THREADS = 1  # the processes are as many as the cores
    cv2.setNumThreads(1)
    _worker = partial(_one, stack, flat, place)


def _next(job: Job) -> Made:
    return _worker(job)


def _one(stack: LayerStack, flat: Any, place: Path, job: Job) -> Made:
    """Make one variant. Whatever is wrong with it is its outcome, not an exception."""
    row, file, digest = job
    try:
        if row.error:
            raise StackError(row.error)
        after = edits.edit(stack, row.edits, remember=False)
        pixels = composite.reflatten(after, stack, flat)
        notes = tuple(note for note in after.notes if note not in stack.notes)
        if file.endswith(".png") and stack.depth == 8:
            with replacing(place / file) as opened:
                opened.write(_png(pixels, stack))
        elif Path(file).suffix in SAVE_OPTIONS:
            write_flat(place / file, pixels, icc=stack.icc, dpi=stack.dpi)
        else:
            notes += formats.write(after, place / file)
    except UnfuseError as error:
        return Outcome(row.name, error=str(error)), None
    return Outcome(row.name, file, digest=digest, notes=notes), _thumb(pixels)


def _png(pixels: Any, stack: LayerStack) -> bytes:
    """`h w 4` uint8 as PNG: runs of bytes of the difference to the left, six times as fast as Pillow and as small."""
    import cv2
    from PIL.PngImagePlugin import putchunk

    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # what older versions do anyway
        options += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB]
    code = cv2.COLOR_RGBA2BGR if pixels[..., 3].min() == 255 else cv2.COLOR_RGBA2BGRA
    encoded = cv2.imencode(".png", cv2.cvtColor(pixels, code), options)[1].tobytes()
    chunks = BytesIO()  # go behind the signature and the header, which OpenCV puts nothing between and the pixels
    if stack.icc:
        putchunk(chunks, b"iCCP", b"ICC Profile\0\0" + zlib.compress(stack.icc))
    putchunk(chunks, b"pHYs", struct.pack(">IIB", round(stack.dpi / 0.0254), round(stack.dpi / 0.0254), 1))
    return bytes(encoded[:33]) + chunks.getvalue() + bytes(encoded[33:])


def _ledger(place: Path) -> dict[str, Outcome]:
    """The outcomes of earlier runs; a line that was cut short counts as none."""
    found: dict[str, Outcome] = {}
    path = place / LEDGER
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            outcome = Outcome(**json.loads(line))
            outcome = replace(outcome, notes=tuple(outcome.notes))
        except (ValueError, TypeError):
            continue
        found[outcome.name] = outcome
    return found


def _is_done(outcome: Outcome | None, job: Job, place: Path) -> bool:
    return outcome is not None and bool(outcome.file) and outcome.digest == job[2] and (place / job[1]).is_file()


def _digest(base: str, row: Variant, suffix: str) -> str:
    """Of the stack, the edits, the format, and the time and size of every picture."""
    pictures = [Path(edit["picture"]) for edit in row.edits if "picture" in edit]
    stats = [(path.stat().st_mtime_ns, path.stat().st_size) for path in pictures if path.is_file()]
    return hashlib.sha256(json.dumps([base, row.edits, suffix, stats]).encode()).hexdigest()


def _file_name(name: str) -> str:
    plain = re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", name).encode()[:180].decode(errors="ignore")
    return plain.strip(" .") or "_"


# --- the contact sheet -----------------------------------------------------------------------------------------------


def _thumb(pixels: Any) -> NDArray[np.uint8]:
    """`h w 4` in a square of `THUMB`."""
    height, width = pixels.shape[:2]
    scale = THUMB / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if pixels.dtype == np.uint8 and pixels[..., 3].min() == 255:
        import cv2

        small: NDArray[np.uint8] = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        return small
    return quantise(resize(to_float(pixels), size), 8)


def _write_sheet(place: Path, outcomes: list[Outcome], thumbs: dict[str, NDArray[np.uint8]]) -> None:
    """All variants side by side on one picture, each with its name; a row that failed with its error."""
    from PIL import Image, ImageDraw

    shown = outcomes[:MOST_THUMBS]
    across = math.ceil(math.sqrt(len(shown)))
    cell, line = THUMB + 16, 20
    sheet = Image.new("RGB", (across * cell, math.ceil(len(shown) / across) * (cell + line)), "#e8e8e8")
    draw = ImageDraw.Draw(sheet)
    for i, outcome in enumerate(shown):
        left, top = i % across * cell + 8, i // across * (cell + line) + 8
        thumb = thumbs.get(outcome.name)
        if thumb is None and outcome.file and Path(outcome.file).suffix in SAVE_OPTIONS:
            thumb = _thumb(quantise(read(place / outcome.file).pixels, 8))
        if thumb is not None:
            image = Image.fromarray(thumb)
            sheet.paste(image, (left + (THUMB - image.width) // 2, top + (THUMB - image.height) // 2), image)
        else:
            draw.multiline_text((left, top + 8), _wrapped(outcome.error or "not shown"), "#b00020")
        draw.text((left, top + THUMB + 4), outcome.name[:38], "#202020")
    with replacing(place / SHEET) as file:
        sheet.save(file, "PNG")


def _wrapped(text: str, columns: int = 36, lines: int = 12) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, columns)[:lines])
