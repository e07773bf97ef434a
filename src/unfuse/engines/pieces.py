"""What the embedded network says of one picture, to things: which pixels show them, and which of them are one layer.

Things come from pairs of cells (`cells`), their pixels from the picture's own edges, their kinds from the slots. Too
many things are merged, those first that the network is least sure to be two. A thing that others cover is carried on
below them, as far as the network and its own outline say (`completed`).

Axes: h w the bucket, s slot, r relation, o offset.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from unfuse.cells import RELATIONS, Labels, Plane, between, hidden, partition, sigmoid, stacked
from unfuse.layers import Kind

KINDS: tuple[Kind, ...] = ("background", "decoration", "object", "object", "text")  # of the slots, bottom to top
THINGS, TEXT = (1, 2, 3), 4
INSIDE = 0.3  # a cell of which more than this is some thing belongs to one
CERTAIN = 0.65  # how much of a thing's pixels must be there on average, or it is haze, and the background's
SURE = 0.9  # pixels that lie so far inside a thing's cells are surely of it
RIM = 0.06  # how far a soft rim reaches from its thing, as a share of the longer side
SOLID = 0.2  # alpha from here on holds an island of text together
SPECK = 2e-3  # a thing that covers less of the canvas is no layer of its own
TEXT_SPECK = 1e-3
MOST_ISLANDS = 24
APART = 0.05  # how likely two things that lie far apart are one
REACH = 0.025  # how far a thing surely goes on below what covers it, as a share of the longer side
TOLD = 0.7  # how likely a piece has to go on below others, to be carried on there
FULL = 0.6  # a thing that fills so much of its convex hull, where nothing covers that, is carried on to it


@dataclass(frozen=True, eq=False)
class Piece:
    """What will be one layer, as it is seen. seen: alpha `h w`. votes: how much of it is in each slot. things: its
    numbers among the things, none for text.
    """

    seen: Plane
    votes: NDArray[np.float64]
    things: frozenset[int] = frozenset()

    @cached_property
    def slot(self) -> int:
        return int(self.votes.argmax())

    @cached_property
    def area(self) -> float:
        """The share of the canvas that it covers."""
        return float(self.seen.mean())

    @cached_property
    def centre(self) -> NDArray[np.float64]:
        """Row and column of its middle, as shares of the canvas."""
        h, w = self.seen.shape
        weight = max(float(self.seen.sum()), 1e-6)
        rows, columns = self.seen.sum(1) @ np.arange(h), self.seen.sum(0) @ np.arange(w)
        return np.array([rows / weight / h, columns / weight / w])

    def joined(self, other: Piece) -> Piece:
        """Both as one."""
        seen = 1 - (1 - self.seen) * (1 - other.seen)
        return Piece(seen, self.votes + other.votes, self.things | other.things)


@dataclass(frozen=True, eq=False)
class Ties:
    """What is said of each two things `n n`: how likely they are one (same, a sum over pairs), and how surely a row's
    lies above a column's (wins). cells: whose each is, `h/4 w/4`; below: what goes on below others, see `cells.hidden`.
    """

    same: NDArray[np.float64]
    pairs: NDArray[np.float64]
    wins: NDArray[np.float64]
    cells: Labels
    below: Plane

    def likely(self, a: Piece, b: Piece) -> float:
        """How likely two pieces are one, 0 to 1."""
        where = np.ix_(sorted(a.things), sorted(b.things))
        count = float(self.pairs[where].sum())
        return float(self.same[where].sum()) / count if count else APART

    def order(self, pieces: list[Piece]) -> list[Piece]:
        """Pieces bottom to top."""
        groups = [sorted(piece.things) for piece in pieces]
        wins = np.array([[self.wins[np.ix_(a, b)].sum() for b in groups] for a in groups]).reshape(
            len(pieces), len(pieces)
        )
        return [pieces[i] for i in stacked(wins, [piece.slot for piece in pieces])]


def found(picture: Plane, alpha: Plane, thing: Plane, relations: Plane) -> tuple[list[Piece], Ties]:
    """The things of a picture `h w 3`, text left out.

    alpha: of the slots, `s h w`, and of all things together, thing `h w`. relations: logits `(r o) h/4 w/4`.
    """
    same, above, *below = np.split(relations, len(RELATIONS))
    grid = shrunk(thing, same.shape[1:])
    cells = partition(same, grid > INSIDE)
    likely, pairs = between(cells, sigmoid(same))
    wins, _ = between(cells, above, near=True)
    owner = owners(picture, thing, cells)
    pieces = []
    for number in range(1, int(cells.max()) + 1):
        mine = owner == number
        seen = np.where(mine, thing, 0).astype(np.float32)
        if seen.mean() > SPECK and float(grid[cells == number].mean()) > CERTAIN:
            votes = [float(alpha[slot][mine].sum()) if slot in THINGS else 0.0 for slot in range(len(KINDS))]
            pieces.append(Piece(seen, np.array(votes), frozenset({number})))
    return pieces, Ties(likely + likely.T, pairs + pairs.T, wins - wins.T, cells, np.concatenate(below))


def shrunk(plane: Plane, shape: tuple[int, ...]) -> Plane:
    """Means over cells."""
    import cv2

    return np.asarray(cv2.resize(plane, shape[::-1], interpolation=cv2.INTER_AREA))


def owners(picture: Plane, thing: Plane, cells: Labels) -> Labels:
    """Which thing each pixel belongs to, `h w`: what lies well inside its cells does; from there on, up to edges.

    Soft rims and shadows belong to the nearest thing, as far as `RIM`.
    """
    import cv2

    h, w = thing.shape
    numbers = range(int(cells.max()) + 1)
    inside = np.stack([cv2.resize((cells == i).astype(np.float32), (w, h)) for i in numbers])
    nearest = inside.argmax(0)
    seeds = np.where(inside.max(0) > SURE, nearest + 1, 0).astype(np.int32)
    flooded = cv2.watershed((picture * 255).round().astype(np.uint8), seeds)
    owner: Labels = np.where(flooded > 0, flooded - 1, nearest)
    present = [i for i in numbers if i and (owner == i).any()]
    if not present:
        return owner
    far = np.stack([cv2.distanceTransform((owner != i).astype(np.uint8), cv2.DIST_L2, 3) for i in present])
    near = (owner == 0) & (far.min(0) < RIM * max(h, w))
    owner[near] = np.array(present)[far.argmin(0)][near]
    return owner


def letters(alpha: Plane) -> list[Piece]:
    """The blocks of text in the text slot's alpha `h w`: its islands, joined over the gaps between letters."""
    import cv2

    reach = max(3, round(0.02 * max(alpha.shape)))
    solid = cv2.dilate((alpha > SOLID).astype(np.uint8), np.ones((reach, 2 * reach + 1), np.uint8))
    count, islands = cv2.connectedComponents(solid)
    masses = np.bincount(islands.ravel(), alpha.ravel(), count) / alpha.size
    largest = [i for i in np.argsort(-masses[1:])[:MOST_ISLANDS] + 1 if masses[i] > TEXT_SPECK]
    votes = np.eye(len(KINDS))[TEXT]
    return [Piece(np.where(islands == i, alpha, 0).astype(np.float32), votes * alpha.size * masses[i]) for i in largest]


def merged(pieces: list[Piece], ties: Ties, most: int, cheap: float = 0.0) -> list[Piece]:
    """Merge the cheapest pair until at most `most` are left, and then those that cost less than `cheap`."""
    pieces = list(pieces)
    while len(pieces) > 1:
        at = ((cost(a, b, ties), i, j) for i, a in enumerate(pieces) for j, b in enumerate(pieces) if i < j)
        price, i, j = min(at)
        if len(pieces) <= most and price >= cheap:
            break
        pieces = [*(p for k, p in enumerate(pieces) if k not in (i, j)), pieces[i].joined(pieces[j])]
    return pieces[: max(0, most)]


def cost(a: Piece, b: Piece, ties: Ties) -> float:
    """How much is lost by merging two: distance and size, less where they may be one; text with other things, 20."""
    lost = math.dist(a.centre, b.centre) + math.sqrt(min(a.area, b.area))
    if (a.slot == TEXT) != (b.slot == TEXT):
        return lost + 20
    return lost if a.slot == TEXT else lost * (1 - ties.likely(a, b)) ** 2


def completed(stack: list[Piece], ties: Ties) -> list[Plane]:
    """Alpha `h w` of each piece, also where those above cover it. stack: bottom to top, text last."""
    clear = np.ones_like(stack[0].seen) if stack else np.empty(0, np.float32)
    alphas: list[Plane] = []
    for place in range(len(stack) - 1, -1, -1):
        piece, above = stack[place], stack[place + 1 :]
        beyond = reached(piece, clear, ties, [n for other in above for n in other.things]) if piece.things else 0
        alphas.insert(0, np.maximum(piece.seen, beyond * (1 - clear)).astype(np.float32))
        clear = clear * (1 - piece.seen)
    return alphas


def reached(piece: Piece, clear: Plane, ties: Ties, above: list[int]) -> NDArray[np.bool_]:
    """Where a piece may go on below the things above it, `h w`. clear: how much is seen past those.

    A short way in any case, so that no gap opens when something above moves; to its convex hull, if it fills that where
    nothing covers it; and where the network says so.
    """
    import cv2

    h, w = clear.shape
    solid = (piece.seen > INSIDE).astype(np.uint8)
    reach = 2 * round(REACH * max(h, w)) + 1
    beyond = cv2.dilate(solid, np.ones((reach, reach), np.uint8))
    hull = np.zeros_like(solid)
    if solid.any():
        cv2.fillConvexPoly(hull, cv2.convexHull(cv2.findNonZero(solid)), 1)
    free = (hull > 0) & (clear > 0.5)
    if free.any() and solid[free].mean() > FULL:
        beyond |= hull
    told = cv2.resize(hidden(ties.cells, ties.below, sorted(piece.things), above), (w, h))
    return np.asarray((beyond > 0) | (told > TOLD))
