"""Names that every file system, XML and UTF-16 take."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

from unfuse.layers import Layer

NOT_IN_FILES = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f\ufffe\uffff]')
SPACES = re.compile(r"\r\n|[\t-\r\x1c-\x1f\x85]")  # the control characters that are white space
LONGEST = 180  # bytes of UTF-8; file systems take 255 with number and suffix


def clean(name: str) -> str:
    """`name` on one line, without what XML 1.0 and UTF-16 cannot hold.

    Tabs and line breaks become spaces; other control characters and halves of surrogate pairs U+FFFD.
    """
    line = SPACES.sub(" ", name)
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") or c in "\ufffe\uffff" else c for c in line)


def file_names(layers: Iterable[Layer], folder: str = "") -> Iterator[tuple[Layer, str]]:
    """Each layer that has pixels with its file: `00 Sky.png`, and `01 Hero/00 Hair.png` in a group.

    The number is the place among its siblings from the bottom, so files sort as layers do and names stay unique
    where capitals do not count.
    """
    siblings = tuple(layers)
    digits = max(2, len(str(len(siblings) - 1)))
    for index, layer in enumerate(siblings):
        path = f"{folder}{index:0{digits}d} {_file_name(layer.name)}".rstrip()
        if layer.pixels is None:
            yield from file_names(layer.layers, f"{path}/")
        else:
            yield layer, f"{path}.png"


def _file_name(name: str) -> str:
    plain = NOT_IN_FILES.sub("_", unicodedata.normalize("NFC", clean(name)))
    return plain.encode()[:LONGEST].decode(errors="ignore").strip(" .")
