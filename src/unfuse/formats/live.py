"""Text that stays text: which layers can be written as live text, and when their picture is the better answer."""

from __future__ import annotations

from typing import Literal, get_args

from unfuse.errors import FormatError
from unfuse.layers import Layer
from unfuse.textblock import TextBlock

Text = Literal["live", "picture"]
TEXT: tuple[str, ...] = get_args(Text)


def check(text: str) -> None:
    """Raise FormatError unless `text` is a choice there is."""
    if text not in TEXT:
        raise FormatError(f"text is {text!r}: it must be one of {', '.join(TEXT)}")


def live(layer: Layer, text: Text, notes: list[str]) -> TextBlock | None:
    """The text to write in place of a layer's picture, or None where the picture is wanted or looks better."""
    if layer.text is None or text == "picture":
        return None
    why = ""
    if any(line.is_mirrored for line in layer.text.lines):
        why = "is mirrored"
    elif layer.original and layer.original.effects:
        why = "has effects"
    if why:
        notes.append(f"the text of {layer.name!r} {why}: it stays a picture")
    return None if why else layer.text
