"""One flat picture of the whole stack; as .webp a film of how it builds up, where a time is given."""

from __future__ import annotations

from typing import Any, BinaryIO

from unfuse.composite import flatten
from unfuse.errors import FormatError
from unfuse.layers import LayerStack
from unfuse.pixels import write_flat


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
