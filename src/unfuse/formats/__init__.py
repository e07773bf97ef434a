"""Files of layer stacks: one module a format, one table.

A path's suffix names the format; a path without one, or a folder that is there, is the folder format. Whatever is
written goes to a temporary name beside its target first, so that a target is replaced whole or stays as it was.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from unfuse.errors import FormatError
from unfuse.layers import LayerStack
from unfuse.pixels import READABLE
from unfuse.saving import SAVE_OPTIONS, replacing

Notes = tuple[str, ...]


@dataclass(frozen=True)
class Format:
    """A row of the table: `suffixes`, and the module that has `write` and, if it `reads`, `read`.

    `write(stack, file, suffix, **options)` returns, a line each, what the format could not hold as it was.
    `read(file, *, what, max_pixels)` returns a stack that has what could not be read as it was in its notes.
    `keeps` says what of a stack survives, beside the layers' pixels, names and places where it has layers at all.
    """

    name: str
    suffixes: tuple[str, ...]
    module: str
    reads: bool
    keeps: str
    options: tuple[str, ...] = ()
    read_options: tuple[str, ...] = ()
    bakes: bool = True  # has layers, but no effects of groups: they become pixels first

    def write(self, stack: LayerStack, file: BinaryIO | Path, suffix: str, options: Mapping[str, Any]) -> Notes:
        """Write with options, which must be among this format's own; returns notes. Raises FormatError."""
        self.check(options, self.options)
        flat: Notes = ()
        if self.bakes:
            from unfuse.formats.baked import baked

            stack, flat = baked(stack)
        notes: Notes = self.load().write(stack, file, suffix, **options)
        return (*flat, *notes)

    def read(self, file: BinaryIO, what: str, max_pixels: int, options: Mapping[str, Any]) -> LayerStack:
        """Read with options, which must be among this format's own. Raises FormatError."""
        self.check(options, self.read_options)
        stack: LayerStack = self.load().read(file, what=what, max_pixels=max_pixels, **options)
        return stack

    def check(self, options: Mapping[str, Any], known: tuple[str, ...]) -> None:
        """Raise FormatError for an option that is none."""
        if unknown := next(iter(options.keys() - set(known)), None):
            there = ", ".join(known) or "none"
            raise FormatError(f"{unknown!r} is not an option of {self.name} files: they have {there}")

    def load(self) -> ModuleType:
        """The format's module, imported when it is first needed: psd-tools and python-pptx take a while."""
        return importlib.import_module(f"unfuse.formats.{self.module}")


PSD_KEEPS = "groups, opacity in 255 steps, blend modes, visible, locked, text, profile, resolution, 8 or 16 bits"
ORA_KEEPS = "groups, opacity, blend modes, visible, locked, profile, resolution in whole numbers, 8 or 16 bits"
SVG_KEEPS = "groups, opacity, blend modes, visible, locked, profile, 8 bits; text as text"
HTML_KEEPS = "groups, opacity, blend modes, visible, profile, 8 bits"
PDF_KEEPS = (
    "groups, opacity, blend modes, visible, locked, profile, resolution, 8 or 16 bits; text that can be searched"
)
FILM_KEEPS = "the whole as it builds up, layer by layer, flat"
FILM = ("seconds", "longest")
PPTX_KEEPS = "groups, opacity, visible, locked, profile, 8 bits; what lies under a blend mode is merged with it"

TIFF = (".tif", ".tiff")

FOLDER = Format("folder", (), "folder", True, "everything, as full-canvas PNGs", bakes=False)
FORMATS: tuple[Format, ...] = (
    FOLDER,
    Format("project", (".zip",), "project", True, "everything, as cropped PNGs", bakes=False),
    Format("Photoshop", (".psd", ".psb"), "psd", True, PSD_KEEPS, ("text",)),
    Format("OpenRaster", (".ora",), "ora", True, ORA_KEEPS),
    Format("SVG", (".svg",), "svg", True, SVG_KEEPS, ("text",)),
    Format("HTML", (".html",), "html", False, HTML_KEEPS),
    Format("PowerPoint", (".pptx",), "pptx", True, PPTX_KEEPS, ("text",), ("slide",)),
    Format("PDF", (".pdf",), "pdf", False, PDF_KEEPS, ("text",)),
    Format("film", (".gif", ".mp4"), "buildup", False, FILM_KEEPS, FILM, bakes=False),
    Format("TIFF", TIFF, "tiff", True, PSD_KEEPS, ("text",)),
    Format(
        "picture",
        tuple(suffix for suffix in SAVE_OPTIONS if suffix not in TIFF),
        "flat",
        False,
        "the whole, flat, with profile and resolution",
        FILM,
        bakes=False,
    ),
)


def write(stack: LayerStack, path: str | os.PathLike[str], **options: Any) -> Notes:
    """Write `stack` in the format that the suffix of `path` names; returns notes on what that cannot hold as it was.

    `options` are the format's own, such as `text="picture"` of SVG.
    Raises FormatError where no format has that suffix, PictureError or FormatError where the place cannot be written.
    """
    row = find(path)
    if row is FOLDER:
        return row.write(stack, Path(path), "", options)
    with replacing(path) as file:
        return row.write(stack, file, Path(path).suffix.lower(), options)


def read(path: str | os.PathLike[str], *, limit_megapixels: float = 200, **options: Any) -> LayerStack:
    """Read a stack; what a format has that a stack has not is said in its `notes`.

    `options` are the format's own, such as `slide=2` of PowerPoint.
    The canvas may have up to `limit_megapixels`, all layers together four times as many; both are looked up before
    anything is decoded. Raises FormatError, one line, for a file that is not there, unknown, broken or too large.
    """
    path = Path(path)
    row = find(path)
    max_pixels = int(limit_megapixels * 1e6)
    if not row.reads:
        known = ", ".join(suffix for row in FORMATS if row.reads for suffix in row.suffixes)
        apart = "; 'unfuse decompose' takes a picture apart" if row.name == "picture" else ""
        raise FormatError(f"{path}: {row.name} files cannot be read as layers: give a folder or one of {known}{apart}")
    if not os.path.exists(path):  # False too where the name is longer than names may be
        raise FormatError(f"{path}: there is no such {'folder' if row is FOLDER else 'file'}; check the path")
    if row is FOLDER:
        row.check(options, ())
        stack: LayerStack = row.load().read(path, max_pixels=max_pixels)
        return stack
    try:
        with path.open("rb") as file:
            _check_full(os.fstat(file.fileno()).st_size, str(path))
            return row.read(file, str(path), max_pixels, options)
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error.strerror or error})") from error
    except FormatError as error:
        raise FormatError(f"{error}{_rather(path.read_bytes(), row)}") from error


def read_bytes(data: bytes, *, what: str, limit_megapixels: float = 200, **options: Any) -> LayerStack:
    """Read a stack that comes without a name, by what it holds; a flat picture is a stack of one layer.

    `what` names it in errors. Raises FormatError that lists what can be read where it is nothing of that.
    """
    from unfuse.formats.sniff import PICTURE, sniff

    _check_full(len(data), what)
    kind = sniff(data)
    if kind is None:
        known = ", ".join(suffix for row in FORMATS if row.reads for suffix in row.suffixes)
        raise FormatError(f"{what} begins with {data[:8]!r}: it must be {known}, or a picture ({', '.join(READABLE)})")
    row = find(f"a{'.png' if kind == PICTURE else kind}")
    return row.read(BytesIO(data), what, int(limit_megapixels * 1e6), options)


def _check_full(size: int, what: str) -> None:
    if not size:
        raise FormatError(f"{what} is empty (0 bytes): save or download it again")


def _rather(data: bytes, row: Format) -> str:
    """What an error adds where a file that cannot be read in a format holds another, by how it begins."""
    from unfuse.formats.sniff import PICTURE, sniff

    kind = sniff(data)
    if kind == PICTURE:
        return "; what it holds is a flat picture: decompose it"
    if kind is None or kind in row.suffixes or (kind == ".zip" and row.suffixes[0] in (".ora", ".pptx")):
        return ""
    return f"; what it holds is a {kind}: give it that suffix"


def find(path: str | os.PathLike[str]) -> Format:
    """The format of a path. Raises FormatError that lists the suffixes there are."""
    suffix = Path(path).suffix.lower()
    if not suffix or os.path.isdir(path) or os.fspath(path).endswith(("/", os.sep)):
        return FOLDER
    for row in FORMATS:
        if suffix in row.suffixes:
            return row
    known = ", ".join(suffix for row in FORMATS for suffix in row.suffixes)
    raise FormatError(f"{os.fspath(path)}: {suffix!r} is not a known format: use one of {known}, or none for a folder")
