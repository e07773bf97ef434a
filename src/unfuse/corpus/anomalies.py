"""Layers that would teach a model something wrong, found by rules that can be read; no weights.

Each function takes plain layers (see `plain`). What they look for, and where they fail, is in docs/corpus.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from unfuse.layers import Box, Layer

EMPTY = 1 / 2000  # of the canvas; what covers less is empty, as in `refine`
ALIKE = 3.0  # levels of mean premultiplied difference under which two layers are one
SPREAD = 0.8  # of the canvas in both directions, that a watermark's box covers
FAINT = 0.6  # alpha that 95 of 100 pixels of a watermark stay under
DETAIL = 1.5  # levels, the standard deviation of what is not smooth in an alpha that has any
REPEATS = 0.45  # autocorrelation of alpha at a shift, from which it counts as tiled
MARKS = re.compile(r"water\s*mark|\bsample\b|\bpreview\b|\bcopyright\b|\bproof\b|©|水印|样稿|透かし", re.IGNORECASE)

SIDE = 512  # pixels at which blur is looked for
SOFT = 0.18  # of the layer's usual ratio of fine to coarse detail; a blurred patch has less
COARSE = 0.02  # mean step of coarse detail, below which a region is simply flat
BLURRED = (0.003, 0.2)  # of the layer, that a blurred face covers
PHOTO = 0.002  # median step of fine detail of a photograph; drawings are flat or smooth for the most part
VARIED = 0.03  # of brightness, its standard deviation inside; what has less is flat, next to something that is not
RING = 4.0  # times as much fine detail as inside has what surrounds it

Plane = NDArray[np.float32]  # h w


def pixels_of(layer: Layer) -> NDArray[np.uint8]:
    """`h w 4` of a plain layer."""
    assert layer.pixels is not None
    return layer.pixels.astype(np.uint8, copy=False)


def nearly_empty(layer: Layer, size: tuple[int, int]) -> bool:
    """Whether alpha adds up to less than one in 2000 of the canvas."""
    return float(pixels_of(layer)[..., 3].sum(dtype=np.float64)) / 255 < EMPTY * size[0] * size[1]


def duplicates(layers: Sequence[Layer]) -> set[int]:
    """Indices of layers that look like one above them, at the same place."""
    return {i for i, layer in enumerate(layers) if any(_alike(layer, other) for other in layers[i + 1 :])}


def _alike(one: Layer, other: Layer) -> bool:
    common = one.box.intersection(other.box)
    whole = one.box.union(other.box)
    if common is None or common.width * common.height < 0.9 * whole.width * whole.height:
        return False
    planes = [np.zeros((whole.height, whole.width, 4), np.float32) for _ in range(2)]
    for layer, plane in zip((one, other), planes, strict=True):
        levels = pixels_of(layer).astype(np.float32)
        levels[..., :3] *= levels[..., 3:] / 255
        plane[layer.box.within(whole)] = levels
    shown = np.maximum(planes[0][..., 3], planes[1][..., 3]) > 0
    return float(np.abs(planes[0] - planes[1])[shown].mean()) < ALIKE


def watermarks(layers: Sequence[Layer], size: tuple[int, int]) -> set[int]:
    """Indices of faint overlays that span the canvas: above at least two layers and under at most one other.

    Their name says so, or their alpha repeats itself, as tiled marks do and vignettes and veils do not.
    """
    found = set()
    for i, layer in enumerate(layers):
        box = layer.box
        spans = box.width >= SPREAD * size[0] and box.height >= SPREAD * size[1]
        if i < 2 or i < len(layers) - 2 or not spans:
            continue
        alpha = pixels_of(layer)[..., 3]
        shown = alpha[alpha > 0]
        faint = np.percentile(shown, 95) <= FAINT * 255
        if faint and (MARKS.search(layer.name) or repeats(alpha)):
            found.add(i)
    return found


def repeats(alpha: NDArray[np.uint8]) -> bool:
    """Whether alpha `h w` is tiled: it correlates with itself at a shift of more than a twelfth of a side.

    Wiener-Khinchin: the autocorrelation is the transform of the power spectrum. What is smooth is taken out first; what
    the window takes from larger shifts is given back.
    """
    small = cv2.resize(alpha.astype(np.float32), (256, 256), interpolation=cv2.INTER_AREA)
    detail = small - cv2.GaussianBlur(small, (0, 0), 4)
    if detail.std() < DETAIL:
        return False
    window = np.outer(np.hanning(258)[1:-1], np.hanning(258)[1:-1])
    correlation = _autocorrelation(detail * window) / np.maximum(_autocorrelation(window), 1e-3)
    y, x = np.minimum(np.indices((512, 512)), 512 - np.indices((512, 512)))
    inside = (np.hypot(y, x) > 256 / 12) & (y < 128) & (x < 128)
    return float(correlation[inside].max()) > REPEATS


def _autocorrelation(x: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Of `h w`, up to 256, at shifts up to 256 both ways; 1 at none."""
    correlation: NDArray[np.float64] = np.fft.irfft2(np.abs(np.fft.rfft2(x, s=(512, 512))) ** 2)
    return np.asarray(correlation / correlation[0, 0])


def blurred_faces(layer: Layer) -> Box | None:
    """The box of the largest blurred patch in a sharp layer, in the layer's own pixels, or None.

    Someone's face made unrecognisable: a compact patch (its outline's hull is full of it, neither side more than twice
    the other), 0.3 to 20 % of the layer, with far less fine detail than its coarse detail calls for, in sharp
    surroundings, of a layer that is detailed for the most part. Backgrounds out of focus surround something and are not
    compact; skies have no coarse detail.
    """
    levels = pixels_of(layer)
    scale = min(1.0, SIDE / max(levels.shape[:2]))
    h, w = (max(1, round(n * scale)) for n in levels.shape[:2])
    if min(h, w) < 64:
        return None
    small = cv2.resize(levels.astype(np.float32) / 255, (w, h), interpolation=cv2.INTER_AREA)
    grey = small[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
    solid = cv2.erode((small[..., 3] > 0.95).astype(np.uint8), np.ones((9, 9), np.uint8))
    fine, coarse = _steps(grey, 0.6, 4), _steps(grey, 4, 8) + _steps(grey, 10, 12)
    sharpness = fine / np.maximum(coarse, 1e-4)
    busy = (coarse > COARSE) & (solid > 0)
    if not busy.any() or float(np.median(fine[solid > 0])) < PHOTO:
        return None
    soft = (busy & (sharpness < SOFT * float(np.median(sharpness[busy])))).astype(np.uint8)
    soft = cv2.morphologyEx(soft, cv2.MORPH_CLOSE, np.ones((13, 13), np.uint8))
    soft = cv2.morphologyEx(soft, cv2.MORPH_OPEN, np.ones((9, 9), np.uint8))
    box = _compact(soft, fine, grey)
    return None if box is None else Box(*(round(n / scale) for n in box))


def _steps(grey: Plane, sigma: float, around: float) -> Plane:
    """Mean size of the differences between grey at one scale and at twice that scale, around each pixel."""
    band = cv2.GaussianBlur(grey, (0, 0), sigma) - cv2.GaussianBlur(grey, (0, 0), 2 * sigma)
    steps: Plane = cv2.GaussianBlur(np.abs(band), (0, 0), around)
    return steps


def _compact(soft: NDArray[np.uint8], fine: Plane, grey: Plane) -> Box | None:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(soft)
    for i in sorted(range(1, count), key=lambda i: -stats[i, cv2.CC_STAT_AREA]):
        left, top, width, height, area = (int(n) for n in stats[i])
        if not BLURRED[0] <= area / soft.size <= BLURRED[1] or max(width, height) > 2 * min(width, height):
            continue
        patch = (labels == i).astype(np.uint8)
        ((outline, *_), _) = cv2.findContours(patch, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        if cv2.contourArea(outline) < 0.85 * cv2.contourArea(cv2.convexHull(outline)):
            continue
        reach = np.ones((2 * (min(width, height) // 3) + 3,) * 2, np.uint8)
        ring = (cv2.dilate(patch, reach) > 0) & (cv2.dilate(patch, np.ones((13, 13), np.uint8)) == 0)
        inside = cv2.erode(patch, np.ones((5, 5), np.uint8)) > 0
        varied = inside.any() and float(grey[inside].std()) > VARIED
        if varied and ring.sum() > 2 * area / 3 and np.median(fine[ring]) > RING * np.median(fine[inside]):
            return Box(left, top, left + width, top + height)
    return None
