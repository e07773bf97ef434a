"""What turns a picture at the bucket into layers: one Protocol, one table.

An engine is given pictures that are already at its bucket, and answers for each with `EngineLayers` at that size. Native
size, exact recomposition, names and cropping are not its business: `refine` and `decompose` see to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from unfuse.layers import Kind

Count = int | Literal["auto"]


@dataclass(frozen=True)
class Step:
    """What `on_step` is told: `step` of `steps` is done; `preview` is `h w 4` float32 or None."""

    step: int
    steps: int
    preview: NDArray[np.float32] | None = None


OnStep = Callable[[Step], None]


@dataclass(frozen=True, eq=False)
class EngineLayers:
    """An engine's answer for one picture.

    pixels: `l h w 4` float32 in 0..1, straight alpha, sRGB-encoded, bottom to top, at the bucket. Colour under what
    covers it is the engine's guess (hidden colour). kinds: one for each layer, or None where the engine cannot say.
    """

    pixels: NDArray[np.float32]
    kinds: tuple[Kind | None, ...]


class Engine(Protocol):
    """Implement this, and put a factory into the table below, to add an engine (`fake.py` is the tutorial)."""

    name: str
    weights_sha256: str
    default_steps: int
    max_layers: int

    def bucket(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (width, height) at which the engine works on a picture of this native size."""
        ...

    def decompose(
        self,
        pictures: NDArray[np.float32],
        layers: Sequence[Count],
        *,
        prompts: Sequence[str],
        steps: int,
        seeds: Sequence[int],
        on_step: OnStep | None = None,
    ) -> list[EngineLayers]:
        """Layers of a batch: pictures `b h w 4` float32 in 0..1, straight alpha, all at one bucket.

        An `on_step` that raises stops the work: the exception passes through (see `errors.Cancelled`).
        """
        ...
