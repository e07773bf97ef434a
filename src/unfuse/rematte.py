"""A layer from a picture of it that was painted anew: alpha and colour, where what lies below is known.

A model that changes pictures answers with a flat one: the layer over its surroundings, all of it redrawn, a little
moved and tinted even where nothing was asked for. The surroundings are known, so they say by how much: the answer is
brought back in place (Evangelidis and Psarakis 2008) and in tint, and its noise is measured. Then, with B what lies
below and F the layer's new colour, `answer = a F + (1 - a) B` is solved near the old alpha: it stays where the answer
does not speak against it, goes to 0 where B came to light, comes where something was added. What the model left as it
was keeps its own pixels, which have been through no model.

No green screen: an edge pixel is unmixed from what really lies below it, so no foreign colour is left in it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unfuse.refine import DUST, NOISE_FLOOR, Colour, Plane, box, dot, least, most, resized, spread, unmix

Mask = NDArray[np.bool_]

ESTIMATED = 512  # pixels of the longest side at which the answer's place is estimated
FAR = 0.05  # of the longest side: an answer that seems to have moved further was redrawn, not moved
BETTER = 0.9  # the surroundings must fit so much better, else nothing is moved
LEVEL = 1 / 255
KNOWN = 0.01  # surroundings that are less of the picture say nothing
SOFT = 0.02  # how far a thin layer's colour may follow the answer: 0 to any colour, 1 hardly


class Rematted(NamedTuple):
    """The new layer, `h w 4` float32 straight alpha in 0..1, and where it differs from the old one, `h w`."""

    pixels: NDArray[np.float32]
    changed: Mask


def rematte(answer: Colour, below: Colour, old: NDArray[np.float32], reach: float, keep_shape: bool) -> Rematted:
    """The layer `old` (`h w 4` float32, straight alpha) as it is in `answer`, over `below` (both `h w 3` in 0..1).

    Only pixels within `reach` of the old footprint change. keep_shape: alpha stays, and only colour is taken.
    """
    alpha = old[..., 3]
    shown = mixed(old[..., :3], alpha, below)
    footprint = near(alpha > 0, reach)
    answer, noise = settled(answer, shown, ~footprint)
    solid = float(np.quantile(alpha[alpha > 0], 0.9))
    guess = alpha if keep_shape else shape(answer, below, shown, alpha, footprint, noise, solid)
    prior = own_colour(answer, below, guess, solid)
    if not keep_shape:
        guess = matted(answer, below, prior, guess, noise) * footprint
    colour = coloured(answer, below, prior, guess)
    differs = most(box(np.abs(answer - shown).max(-1)), 2)
    share = (((differs - 3 * noise) / (3 * noise + LEVEL)).clip(0, 1) * footprint)[..., None]
    mix = share * guess[..., None] + (1 - share) * old[..., 3:]
    weighed = share * guess[..., None] * colour + (1 - share) * old[..., 3:] * old[..., :3]
    colour = np.where(mix > 1e-6, weighed / np.maximum(mix, 1e-6), colour)
    pixels = np.concatenate((colour, mix), -1).astype(np.float32)
    return Rematted(pixels, (share[..., 0] > 0) & ((alpha > 0) | (mix[..., 0] > 0)))


# --- the answer, brought back to where its surroundings are ----------------------------------------------------------


def settled(answer: Colour, shown: Colour, outside: Mask) -> tuple[Colour, float]:
    """The answer in place and in tint, and the deviation of its noise; as it is, and 0, without surroundings."""
    if outside.mean() < KNOWN:
        return answer, 0.0
    if np.abs(answer - shown)[outside].max() <= LEVEL / 2:
        return answer, 0.0
    answer = in_place(answer, shown, outside)
    tint = np.median((shown - answer)[outside], axis=0)
    answer = (answer + tint).clip(0, 1).astype(np.float32)
    rest = np.abs(answer - shown)[outside].max(-1)
    return answer, float(np.quantile(rest, 0.8)) / 1.28  # of a normal distribution; what was redrawn counts little


def in_place(answer: Colour, shown: Colour, outside: Mask) -> Colour:
    """The answer moved, turned and scaled so that its surroundings lie where they are; as it is where that fails."""
    import cv2

    height, width = outside.shape
    scale = min(1.0, ESTIMATED / max(height, width))
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    target, moving = (resized(picture.mean(-1), size, shrink=True) for picture in (shown, answer))
    clear = (resized(outside.astype(np.float32), size, shrink=True) > 0.99).astype(np.uint8)
    criteria = cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-6
    start = np.eye(2, 3, dtype=np.float32)
    try:
        _, found = cv2.findTransformECC(target, moving, start, cv2.MOTION_AFFINE, criteria, clear, 5)
    except cv2.error:  # it does not converge: there is no texture around
        return answer
    ratio = np.array(size) / (width, height)
    way = np.asarray(found, np.float64)
    way[:, 2] = (way[:, 2] + way[:, :2] @ (0.5 * ratio - 0.5) + 0.5) / ratio - 0.5  # pixels have middles
    corners = np.array([(x, y, 1) for x in (0, width) for y in (0, height)], np.float64)
    if np.abs(corners @ way.T - corners[:, :2]).max() > FAR * max(height, width):
        return answer
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(answer, way, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    moved = np.asarray(moved, np.float32).clip(0, 1)
    before, after = (np.abs(picture - shown)[outside].mean() for picture in (answer, moved))
    return moved if after < BETTER * before else answer


# --- alpha and colour ------------------------------------------------------------------------------------------------


def shape(
    answer: Colour, below: Colour, shown: Colour, alpha: Plane, footprint: Mask, noise: float, solid: float
) -> Plane:
    """A first guess of the new alpha: the old one, 0 where what lies below came to light, `solid` where more came."""
    import cv2

    differs, differed = np.abs(answer - below).max(-1), np.abs(shown - below).max(-1)
    faint = 3 * noise + 4 * LEVEL
    gone = (most(differs, 2) < faint) & (most(differed, 2) > 2 * faint)
    come = (least(differs) > 2 * faint) & (alpha < 0.05) & footprint
    come = most(come.astype(np.float32)) > 0  # back to where the difference begins
    guess = np.where(gone, 0, np.where(come & (alpha < solid), solid, alpha)).astype(np.float32)
    count, label = cv2.connectedComponents((guess > solid / 2).astype(np.uint8))
    rooted = np.zeros(count, bool)
    rooted[label[(alpha > solid / 2) & ~gone]] = True  # what came must touch what was there
    return np.where(come & (alpha < solid / 2) & ~rooted[label], alpha, guess).astype(np.float32)


def own_colour(answer: Colour, below: Colour, alpha: Plane, solid: float) -> Colour:
    """The layer's colour where it is sure of it, deep inside, carried on to its edges."""
    over = alpha[..., None]
    raw = ((answer - (1 - over) * below) / np.maximum(over, 0.05)).clip(0, 1)
    inside = (least(alpha, 2) / solid).clip(0, 1)
    return spread(raw, (alpha**2 * (1e-4 + inside**4)).clip(0, 1))


def matted(answer: Colour, below: Colour, prior: Colour, guess: Plane, noise: float) -> Plane:
    """Alpha: the guess, corrected near edges by unmixing, and never too thin for the answer's colour."""
    edge, across = most(guess, 2) - least(guess, 2), prior - below
    length = dot(across, across)
    misfit = dot(answer - mixed(prior, guess, below), across) / (length + 1e-3)
    strife = float(np.sqrt((edge * length * misfit**2).sum() / max(float((edge * length).sum()), 1e-6)))
    doubt = (0.5 * min(4 * strife, 1) * edge) ** 2  # edges that the guess explains stay sharp
    alpha = unmix(answer, below, across, guess, doubt, np.full_like(guess, 3 * noise**2 + NOISE_FLOOR))
    lack = np.abs(answer - below) - 2 * noise - LEVEL
    room = np.where(answer > below, 1 - below, below)
    needed = (lack / np.maximum(room, 0.02)).max(-1).clip(0, 1)
    alpha = np.where(alpha > DUST, np.maximum(alpha, needed), 0)
    return np.where(alpha > 1 - DUST, 1, alpha).astype(np.float32)


def coloured(answer: Colour, below: Colour, prior: Colour, alpha: Plane) -> Colour:
    """The layer's colour: the answer's own where it is opaque, the more the prior the thinner it is."""
    over = alpha[..., None]
    follow = over / np.maximum(over**2 + SOFT * (1 - over), 1e-6)
    return (prior + follow * (answer - mixed(prior, alpha, below))).clip(0, 1)


def mixed(colour: Colour, alpha: Plane, below: Colour) -> Colour:
    """A colour over what lies below."""
    over = alpha[..., None]
    laid: Colour = over * colour + (1 - over) * below
    return laid


def near(mask: Mask, reach: float) -> Mask:
    """Where a mask is within `reach` pixels."""
    import cv2

    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5) <= reach)
