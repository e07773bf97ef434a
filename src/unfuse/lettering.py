"""Lettering: text that was read becomes layers of its own, one a paragraph, clean enough to be set anew.

An engine works at a bucket where strokes are thinner than a pixel; what it takes for text leaves ghosts in the layers
below. Here, at native size, the ink of lines that were read is known to the pixel: below it every layer is continued
from around it, alpha and colour, and what the picture then shows more is the text's alpha, by unmixing `c = a F + (1 -
a) B` with F the ink's colour, B what lies below. `recompose` makes it exact again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfuse import reading
from unfuse.ink import inks
from unfuse.layers import Kind
from unfuse.pixels import Levels, quantise, to_float
from unfuse.recompose import recompose, weights
from unfuse.refine import spread
from unfuse.textblock import TextBlock, TextLine

SURE = 0.8  # confidence of a line that becomes a layer
CONTRAST = 0.12  # between ink and what lies below it
WRONG = 0.12  # mean error of unmixing around the letters above which they are more than ink of a colour
SOFT = 0.06  # alphas nearer to 0 or 1 are 0 or 1
LARGE, FEW = 0.12, 2  # of the picture's side, an em; characters: letters that an engine sees as well as a reader
AGREED = 0.2  # of their ink must be an engine's text
HALF = 0.5  # how surely a pixel must be ink
GHOST = 2 / 192  # of the picture's side: how far around letters an engine at its bucket may have seen them
GONE = 5e-4  # of the canvas: a layer that covers less has gone with its letters
LEFT = 0.3  # of a text layer's alpha: what is less is dust when its letters have gone into their own layer


@dataclass(frozen=True, eq=False)
class Lettering:
    """A paragraph taken off the layers: where it is, its own pixels there, and the layers below it without it."""

    text: TextBlock
    rows: slice
    columns: slice
    pixels: NDArray[np.float32]  # h w 4
    below: NDArray[np.float32]  # l h w 4


def lifted(
    layers: Levels, kinds: Sequence[Kind], picture: NDArray[np.float32], found: Sequence[TextLine], most: int
) -> tuple[Levels, list[Kind], list[TextBlock | None]]:
    """Layers `l h w 4` with each paragraph on top as a layer of its own, their kinds, and what they say.

    picture: `h w 4` float32 in 0..1. found: the lines read in it. At most `most` layers: where paragraphs must share
    one, those do that are nearest to each other. What cannot be taken off cleanly stays where the engine has it, and is
    said there if that has it alone. The layers flatten to the picture as before.
    """
    work, taken = layers.copy(), list[Lettering]()
    depth: Any = layers.dtype.itemsize * 8
    sure = [line for line in found if line.confidence >= SURE]
    for paragraph in reading.block(sure, picture.shape[1]).paragraphs if sure and len(layers) > 1 else ():
        if (letters := lettering(work, kinds, picture, paragraph)) is not None:
            work[:, letters.rows, letters.columns] = quantise(letters.below, depth)
            taken.append(letters)
    before, after = (x[..., 3].sum(axis=(1, 2), dtype=np.float64) for x in (layers, work))
    nothing = GONE * picture[..., 0].size * np.iinfo(layers.dtype).max
    dust = [LEFT * b if kind == "text" else 0.0 for kind, b in zip(kinds, before, strict=True)]
    gone = [after[i] <= max(dust[i], nothing) and before[i] > nothing for i in range(len(layers))]
    kept = [i for i in range(len(layers)) if i == 0 or not gone[i]]
    parts = grouped(taken, most - len(kept))
    if not parts:
        said = reading.texts(found, layers, kinds, picture)
        return layers, [_kind(text, kind) for text, kind in zip(said, kinds, strict=True)], said
    whole = np.stack([*work[kept], *(_canvas(part, layers[0]) for part in parts)])
    regions = [(letters.rows, letters.columns) for letters in taken]
    regions += [_shown(layers[i, ..., 3]) for i in range(len(layers)) if i not in kept]
    for rows, columns in regions:
        exact = quantise(picture[rows, columns], depth)
        whole[:, rows, columns] = recompose(exact, to_float(whole[:, rows, columns]))
    read = {line for letters in taken for line in letters.text.lines}
    new = [reading.block([line for x in part for line in x.text.lines], picture.shape[1]) for part in parts]
    unread = [line for line in found if line not in read]
    rest = reading.texts(unread, whole[: len(kept)], [kinds[i] for i in kept], picture)
    named = [_kind(text, kinds[i]) for i, text in zip(kept, rest, strict=True)]
    return whole, [*named, *(_kind(text, "text") for text in new)], [*rest, *new]


def grouped(taken: Sequence[Lettering], most: int) -> list[list[Lettering]]:
    """At most `most` groups of paragraphs, the nearest ones together; none where there is room for none."""
    groups = [[letters] for letters in taken] if most > 0 else []
    while len(groups) > most:
        pairs = [(i, j) for j in range(len(groups)) for i in range(j)]
        i, j = min(pairs, key=lambda pair: min(gap(a, b) for a in groups[pair[0]] for b in groups[pair[1]]))
        groups[i] += groups.pop(j)
    return groups


def gap(a: Lettering, b: Lettering) -> float:
    """How far two paragraphs' boxes lie apart, in pixels."""
    ours, theirs = a.text.bounds, b.text.bounds
    across, down = (max(0, theirs[k] - ours[k + 2], ours[k] - theirs[k + 2]) for k in (0, 1))
    return math.hypot(across, down)


def _kind(text: TextBlock | None, kind: Kind) -> Kind:
    return "text" if text else kind


def _shown(alpha: NDArray[Any]) -> tuple[slice, slice]:
    """Rows and columns of the box of what shows."""
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    if not rows.size:
        return slice(0, 1), slice(0, 1)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def lettering(layers: Levels, kinds: Sequence[Kind], picture: NDArray[np.float32], text: TextBlock) -> Lettering | None:
    """A paragraph taken off layers `l h w 4`; None where its letters are not ink of a colour on something else.

    Nor where only the reader takes for letters what an engine would see to be some: few and large ones.
    """
    import cv2

    room = round(max(line.size for line in text.lines))
    left, top, right, bottom = text.bounds
    rows = slice(max(0, int(top) - room), int(bottom) + room + 1)
    columns = slice(max(0, int(left) - room), int(right) + room + 1)
    rgb = picture[rows, columns, :3]
    ink = np.zeros(rgb.shape[:2], np.uint8)
    for line in text.lines:
        ink |= _ink(rgb, line.shifted(-columns.start, -rows.start))
    clear = room > LARGE * math.sqrt(picture[..., 0].size) or len(text.string) <= FEW
    if clear and _agreed(to_float(layers[:, rows, columns, 3]), kinds, ink) < AGREED:
        return None
    near = _around(ink, max(3, round(0.06 * room)))
    far = _around(ink, round(max(0.1 * room, GHOST * math.sqrt(picture[..., 0].size))))
    if far.all() or picture[rows, columns, 3].min() < 1:
        return None
    beneath = _filled(rgb, near)
    core = cv2.erode(ink, np.ones((3, 3), np.uint8)).astype(bool)
    core = core if core.sum() > 0.2 * ink.sum() else ink.astype(bool)
    colour = spread(rgb, core.astype(np.float32))
    across = colour - beneath
    alpha = ((rgb - beneath) * across).sum(-1) / ((across**2).sum(-1) + 1e-4)
    alpha = np.where(near, np.clip(alpha, 0, 1), 0)
    alpha = np.where(core | (alpha > 1 - SOFT), 1, np.where(alpha < SOFT, 0, alpha))
    error = np.abs(rgb - beneath - alpha[..., None] * across).max(-1)
    if not core.any() or np.median(np.abs(across)[core].max(-1)) < CONTRAST or error[near & ~core].mean() > WRONG:
        return None
    colour = np.where(alpha[..., None] == 1, rgb, colour)
    pixels = np.concatenate([colour, alpha[..., None]], -1).astype(np.float32)
    return Lettering(text, rows, columns, pixels, _without(to_float(layers[:, rows, columns]), beneath, far))


def _ink(rgb: NDArray[np.float32], line: TextLine) -> NDArray[np.uint8]:
    """Which pixels `h w` of a picture `h w 3` are a line's letters, and the outline that they may have."""
    import cv2

    corners = reading.roomy(np.array(line.quad))
    patch = reading.upright(np.floor(rgb * 255 + 0.5).clip(0, 255).astype(np.uint8), corners)
    height, width = patch.shape[:2]
    to = np.array([(0, 0), (width, 0), (0, height)], np.float32) - 0.5
    way = cv2.getAffineTransform(to, corners[[0, 1, 3]].astype(np.float32) - 0.5)
    sure = cv2.warpAffine(inks(patch)[1], way, rgb.shape[1::-1], flags=cv2.INTER_LINEAR)
    return np.asarray(sure > HALF, np.uint8)


def _agreed(alpha: NDArray[np.float32], kinds: Sequence[Kind], ink: NDArray[np.uint8]) -> float:
    """How much of ink `h w` shows layers of text, of layers with alphas `l h w`."""
    shown = sum(share for share, kind in zip(weights(alpha), kinds, strict=True) if kind == "text")
    return float((shown * ink).sum() / max(1, ink.sum()))


def _around(ink: NDArray[np.uint8], reach: int) -> NDArray[np.bool_]:
    """What is within so many pixels of ink."""
    import cv2

    return np.asarray(cv2.dilate(ink, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)).astype(bool))


def _filled(rgb: NDArray[np.float32], near: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A picture `h w 3` without letters, continued from what is around them (Telea 2004)."""
    import cv2

    levels = np.floor(rgb * 255 + 0.5).clip(0, 255).astype(np.uint8)
    filled = cv2.inpaint(levels, near.astype(np.uint8), 4, cv2.INPAINT_TELEA)
    return np.where(near[..., None], filled / np.float32(255), rgb).astype(np.float32)


def _without(layers: NDArray[np.float32], beneath: NDArray[np.float32], far: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Layers `l h w 4` without letters, as far around these as an engine may have seen them: each as it is at the
    nearest place beyond, the one that is seen most in the colours `h w 3` of what lies beneath the letters.
    """
    import cv2

    _, label = cv2.distanceTransformWithLabels(far.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    place = np.zeros(label.max() + 1, np.intp)
    place[label[~far]] = np.flatnonzero(~far)
    clean = layers.reshape(len(layers), -1, 4)[:, place[label]]
    clean[0, ..., 3] = 1
    seen = weights(clean[..., 3]) > 0.5
    clean[..., :3] = np.where(seen[..., None] & far[..., None], beneath, clean[..., :3])
    return clean


def _canvas(part: Sequence[Lettering], like: Levels) -> Levels:
    """Paragraphs as one full-canvas layer `h w 4` of the type of another."""
    canvas, depth = np.zeros_like(like), like.dtype.itemsize * 8
    for letters in part:
        there, new = canvas[letters.rows, letters.columns], quantise(letters.pixels, 8 if depth == 8 else 16)
        there[...] = np.where(new[..., 3:] > there[..., 3:], new, there)
    return canvas
