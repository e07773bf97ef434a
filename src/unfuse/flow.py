"""Rectified flow: the noise schedule, Euler's method and guidance.

x_s = (1 - s) x_0 + s e, velocity v = e - x_0, sigma s = 1 is noise and 0 is the clean latent (Qwen-Image-Layered
section 3.2, whose t is 1 - s). Everything works on numpy arrays and torch tensors alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", NDArray[np.floating[Any]], "torch.Tensor")

BASE_TOKENS = 256  # a condition of this many tokens has an unshifted schedule


def shift(sigmas: Array, mu: float) -> Array:
    """Move noise levels up: sigma' = mu / (mu + 1 / sigma - 1); an exact 0 stays 0."""
    return mu * sigmas / (1 + (mu - 1) * sigmas)


def natural_shift(tokens: int) -> float:
    """How far noise levels move for a condition of so many tokens: sqrt(tokens / 256), more for larger pictures.

    Of the condition alone, so that the number of layers does not matter ("linear" dynamic shifting of the published
    scheduler).
    """
    return math.sqrt(tokens / BASE_TOKENS)


def schedule(steps: int, tokens: int, mu: float | None = None) -> NDArray[np.float32]:
    """The `steps + 1` noise levels from 1 down to 0 for a condition of so many tokens.

    mu: a shift to use instead of the natural one, as models distilled to few steps want it.
    """
    moved = shift(np.linspace(1, 0, steps + 1), natural_shift(tokens) if mu is None else mu)
    return moved.astype(np.float32)


def logit_normal(normal: Array, mean: float = 0.0, std: float = 1.0) -> Array:
    """Noise levels to train on, from standard normal samples: most near the middle (Stable Diffusion 3 section 3.1)."""
    return 1 / (1 + math.e ** -(mean + std * normal))


def add_noise(x: Array, noise: Array, sigmas: Array) -> Array:
    """x_s of clean latents `b ...` at noise levels `b`; the velocity to learn there is `noise - x`."""
    s = sigmas.reshape((-1,) + (1,) * (x.ndim - 1))
    return (1 - s) * x + s * noise


def guide(cond: Array, uncond: Array, scale: float, normalise: bool) -> Array:
    """Classifier-free guidance; normalised, every token keeps the length that it has in `cond` `... n c`."""
    v = uncond + scale * (cond - uncond)
    return v * (length(cond) / length(v)) if normalise else v


def length(x: Array) -> Array:
    """The Euclidean length of each token: `... n c` to `... n 1`."""
    squares: Array = (x * x).sum(-1)[..., None]
    roots: Array = squares**0.5
    return roots


def euler(
    velocity: Callable[[Array, float], Array],
    x: Array,
    sigmas: Iterable[float],
    on_step: Callable[[int, Array], None] | None = None,
) -> Array:
    """Follow the velocity from noise to a clean latent.

    on_step: told the number of steps done and the estimate of x_0 `x - sigma v`; what it raises stops the work.
    """
    for step, (sigma, following) in enumerate(pairwise(sigmas), start=1):
        v = velocity(x, sigma)
        if on_step is not None:
            on_step(step, x - sigma * v)
        x = x + (following - sigma) * v
    return x
