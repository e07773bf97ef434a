"""The fake engine: a whole engine in one page. Used by tests, and the tutorial for writing your own.

It cuts the picture into bands of brightness: the background is the mean colour, layer k shows what is brighter than the
k-th quantile. Nobody would want these layers; everything around an engine can be tried with them, on any machine, in
no time, with the same answer every time.

To write an engine: a class with the fields and the two methods of `engines.Engine`, and a row in `engines.TABLE`.
Work at the size you are given (`bucket` names it), answer with straight alpha, bottom to top, hidden colour included.
Native size, exact recomposition, names and empties are taken care of by `refine` and `decomposition`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unfuse.engines import Count, EngineLayers, OnStep, Step
from unfuse.layers import Kind


class Fake:
    """`Engine` without weights."""

    name = "fake"
    weights_sha256 = ""
    default_steps = 4
    max_layers = 16

    def bucket(self, size: tuple[int, int]) -> tuple[int, int]:
        """64 pixels on the longer side."""
        k = 64 / max(size)
        return max(1, round(size[0] * k)), max(1, round(size[1] * k))

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
        """See `Engine.decompose`."""
        for step in range(steps):  # a real engine denoises here
            if on_step is not None:
                on_step(Step(step + 1, steps, pictures[0]))
        return [bands(p, 3 if count == "auto" else count) for p, count in zip(pictures, layers, strict=True)]


def bands(picture: NDArray[np.float32], count: int) -> EngineLayers:
    """`h w 4` to `count` layers: the mean colour, and what is brighter than each of count - 1 quantiles."""
    brightness = picture[..., :3].mean(-1)
    stack = [
        np.concatenate([np.broadcast_to(picture[..., :3].mean((0, 1)), picture[..., :3].shape), picture[..., 3:]], -1)
    ]
    for k in range(1, count):
        shows = (brightness > np.quantile(brightness, k / count)).astype(np.float32)
        stack.append(np.concatenate([picture[..., :3], (shows * picture[..., 3])[..., None]], -1))
    bright: list[Kind] = ["object"] * (count - 1)
    return EngineLayers(np.stack(stack).astype(np.float32), ("background", *bright))
