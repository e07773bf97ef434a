"""One flat picture of the whole stack; as .webp a film of how it builds up, where a time is given.

A picture that comes without a name is a stack of one layer; one with a name is for `decompose`.
"""

from __future__ import annotations

from typing import Any, BinaryIO

from unfuse.composite import flatten
from unfuse.errors import FormatError, PictureError
from unfuse.formats.foreign import with_background
from unfuse.layers import Box, Layer, LayerStack
from unfuse.pixels import quantise
from unfuse.pixels import read as read_picture
from unfuse.saving import write_flat


def write(stack: LayerStack, file: BinaryIO, suffix: str, **film: Any) -> tuple[str, ...]:
    """Put the stack together and write it as the picture format of the suffix, with profile and resolution.

    `film` are the options of `buildup`.
    """
    if film:
        from unfuse.formats import buildup

        if suffix != ".webp":
            raise FormatError(f"{next(iter(film))} is for films: a {suffix} is one picture; write .webp, .gif or .mp4")
        return buildup.write(stack, file, suffix, **film)
    write_flat(file, flatten(stack), icc=stack.icc, dpi=stack.dpi, suffix=suffix)
    return ()


def read(file: BinaryIO, *, what: str, max_pixels: int) -> LayerStack:
    """A picture as the one layer of a stack. Raises FormatError for a broken or too large one."""
    try:
        picture = read_picture(file.read(), limit_megapixels=max_pixels / 1e6)
    except PictureError as error:
        raise FormatError(f"{what}: {error}") from error
    box = Box(0, 0, *picture.size)
    layer = Layer("Picture", "object", box, quantise(picture.pixels, picture.depth))
    return LayerStack(picture.size, with_background((layer,), box), picture.depth, picture.icc, picture.dpi)
