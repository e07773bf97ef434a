"""One flat picture of the whole stack."""

from __future__ import annotations

from typing import BinaryIO

from unfuse.composite import flatten
from unfuse.layers import LayerStack
from unfuse.pixels import write_flat


def write(stack: LayerStack, file: BinaryIO, suffix: str) -> tuple[str, ...]:
    """Put the stack together and write it as the picture format of the suffix, with profile and resolution."""
    write_flat(file, flatten(stack), icc=stack.icc, dpi=stack.dpi, suffix=suffix)
    return ()
