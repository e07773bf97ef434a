"""Stacks that take no skill. Whatever is reported stands beside them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from unfuse.evaluate.metric import Rgba

PIXELS = 20_000  # the k-means looks at


def picture_as_background(picture: NDArray[np.uint8], layers: int) -> list[Rgba]:
    """The picture `h w 3` at the bottom, the other layers empty. Edits cannot be made: it is the unedited picture."""
    height, width = picture.shape[:2]
    bottom = np.dstack((picture, np.full((height, width), 255, np.uint8)))
    return [bottom, *(np.zeros_like(bottom) for _ in range(layers - 1))]


def colours(picture: NDArray[np.uint8], layers: int, seed: int) -> list[Rgba]:
    """The picture `h w 3` cut up by k-means colour, hard edges, the colour of most pixels at the bottom.

    The bottom is opaque, of its mean colour where others lie on it.
    """
    chosen = np.random.default_rng(seed).choice(picture[..., 0].size, min(PIXELS, picture[..., 0].size), replace=False)
    cv2.setRNGSeed(seed)
    points = picture.reshape(-1, 3)[chosen].astype(np.float32)
    layers = min(layers, len(points))
    until = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 1.0)
    means = np.asarray(cv2.kmeans(points, layers, None, until, 2, cv2.KMEANS_PP_CENTERS)[2])
    planes = picture.astype(np.float32)
    nearest = np.argmin([np.square(planes - mean).sum(-1) for mean in means], axis=0)
    order = np.argsort(-np.bincount(nearest.ravel(), minlength=layers))
    stack = [np.dstack((picture, np.full(nearest.shape, 255, np.uint8))) * (nearest == k)[..., None] for k in order]
    rest = nearest != order[0]
    stack[0][rest] = (*np.floor(means[order[0]] + 0.5).astype(np.uint8), 255)
    return stack
