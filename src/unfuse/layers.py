"""The layer model: what a decomposed picture is made of.

A `Layer` is straight-alpha RGBA with a place on the canvas, cropped to what it shows; a `LayerStack` is layers bottom
to top on one canvas. Both are frozen: an edit makes a new stack that shares the pixels it did not touch.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from unfuse.errors import StackError

if TYPE_CHECKING:
    from PIL import Image

Kind = Literal["background", "object", "text", "decoration", "group"]
KINDS: tuple[str, ...] = get_args(Kind)

Pixels = NDArray[np.uint8] | NDArray[np.uint16]  # h w 4, straight alpha, full range of the type


class Box(NamedTuple):
    """A place on the canvas in pixels: left and top inclusive, right and bottom exclusive. May leave the canvas."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer, or a group of layers.

    pixels: `h w 4`, uint8 or uint16, straight alpha, the size of `box`. A group has `layers` instead, bottom to top, and
    its box is the union of theirs. `opacity` is 0 to 1. `blend_mode` is one of the 16 names of W3C Compositing and
    Blending Level 1. `id` stays the same through edits.
    """

    name: str
    kind: Kind
    box: Box
    pixels: Pixels | None = None
    layers: tuple[Layer, ...] = ()
    opacity: float = 1.0
    blend_mode: str = "normal"
    visible: bool = True
    locked: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def replace(self, **changes: Any) -> Layer:
        """This layer with some fields changed; everything else, the id too, stays."""
        return replace(self, **changes)

    def to_image(self, size: tuple[int, int]) -> Image.Image:
        """The layer alone on a transparent canvas of `size` (width, height): PIL RGBA, straight alpha."""
        raise StackError("written next")


@dataclass(frozen=True)
class Provenance:
    """Where a stack came from, enough to make it again."""

    source_sha256: str = ""
    engine: str = ""
    weights_sha256: str = ""
    seed: int = 0
    steps: int = 0
    prompt: str = ""
    version: str = ""


@dataclass(frozen=True, eq=False)
class LayerStack:
    """Layers bottom to top on one canvas of `size` (width, height)."""

    size: tuple[int, int]
    layers: tuple[Layer, ...]
    depth: Literal[8, 16] = 8
    icc: bytes | None = None
    dpi: float = 72.0
    provenance: Provenance = Provenance()
    notes: tuple[str, ...] = ()  # what a reader or an engine wants the user to know, a line each

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)
