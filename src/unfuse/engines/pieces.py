"""What the embedded network says of one picture, to things: which pixels show them, and which of them are one layer.

Things come from pairs of cells (`cells`), their pixels from the picture's own edges, their kinds from the slots; text
from its slot. A second network sees each of them from near and says what all of it is (`matte`); of what are fragments
of one thing it says the same, and they become one again. Too many are merged, those first that the network is least
sure to be two.

Axes: h w SlotNet's grid, s slot, r relation, o offset, l piece.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from einops import einsum
from numpy.typing import NDArray

from unfuse.cells import RELATIONS, Labels, Plane, between, partition, sigmoid, stacked
from unfuse.layers import Kind
from unfuse.matte import mattes
from unfuse.refine import resized

KINDS: tuple[Kind, ...] = ("background", "decoration", "object", "object", "text")  # of the slots, bottom to top
THINGS, TEXT = (1, 2, 3), 4
INSIDE = 0.3  # a cell of which more than this is some thing belongs to one
SURE = 0.9  # pixels that lie so far inside a thing's cells are surely of it
RIM = 0.06  # how far a soft rim reaches from its thing, as a share of the longer side
SOLID = 0.2  # alpha from here on holds an island of text together
SPECK = 2e-3  # a thing that covers less of the canvas is no layer of its own
TEXT_SPECK = 1e-3
LEAST = 2e-4  # of the canvas, for a matte
MOST_ISLANDS = 24
APART = 0.05  # how likely two things that lie far apart are one
ON_TOP = 1e3  # how surely text lies above all else
COVERED = 100.0  # what it weighs (logits, over all pairs of cells) that one matte says another piece covers it
USUAL = 13.0  # the same for two whose slots are neighbours
THERE = 0.3  # how much of a piece its matte must confirm, or it is nothing
ONE = 0.5  # how much of what two pieces show both their mattes must cover, to be of one thing


@dataclass(frozen=True, eq=False)
class Search:
    """How things are looked for; training looks in many ways, so that mattes know whatever may come of it.

    hint: what stands out, `h w` of any size, 0..1, where it is known. faint: how surely something must be there to be a
    thing. certain: how surely on average over a thing, or it is haze, and the background's. apart: how much more
    (logits) it takes for two cells to show one thing.
    """

    hint: Plane | None = None
    faint: float = 0.3
    certain: float = 0.65
    apart: float = 0.0


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
        return slot_of([self])

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
    lies above a column's (wins).
    """

    same: NDArray[np.float64]
    pairs: NDArray[np.float64]
    wins: NDArray[np.float64]

    def likely(self, a: Piece, b: Piece) -> float:
        """How likely two pieces are one, 0 to 1."""
        where = np.ix_(sorted(a.things), sorted(b.things))
        count = float(self.pairs[where].sum())
        return float(self.same[where].sum()) / count if count else APART

    def above(self, pieces: list[Piece]) -> NDArray[np.float64]:
        """How surely a row's piece lies above a column's, `l l`: below 0 it is the other way round, 0 is unknown."""

        def wins(a: Piece, b: Piece) -> float:
            if TEXT in (a.slot, b.slot):
                return ON_TOP * ((a.slot == TEXT) - (b.slot == TEXT))
            return float(self.wins[np.ix_(sorted(a.things), sorted(b.things))].sum())

        return np.array([[wins(a, b) for b in pieces] for a in pieces]).reshape(len(pieces), len(pieces))


def found(picture: Plane, alpha: Plane, thing: Plane, relations: Plane, search: Search) -> tuple[list[Piece], Ties]:
    """The things of a picture `h w 3`, text left out.

    alpha: of the slots, `s h w`, and of all things together, thing `h w`. relations: logits `(r o) h/4 w/4`.
    """
    same, above, *_ = np.split(relations, len(RELATIONS))
    grid = shrunk(thing, same.shape[1:])
    cells = partition(same - search.apart, grid > INSIDE)
    likely, pairs = between(cells, sigmoid(same))
    wins, _ = between(cells, above, near=True)
    owner = owners(picture, thing, cells)
    pieces = []
    for number in range(1, int(cells.max()) + 1):
        mine = owner == number
        seen = np.where(mine, thing, 0).astype(np.float32)
        if seen.mean() > SPECK and float(grid[cells == number].mean()) > search.certain:
            votes = [float(alpha[slot][mine].sum()) if slot in THINGS else 0.0 for slot in range(len(KINDS))]
            pieces.append(Piece(seen, np.array(votes), frozenset({number})))
    return pieces, Ties(likely + likely.T, pairs + pairs.T, wins - wins.T)


@dataclass(frozen=True, eq=False)
class Look:
    """What SlotNet finds in a picture: things, blocks of text, what ties the things, how surely there is text, ink
    `h w`, and what it says of each cell, told `c h/4 w/4` in -1..1: its relations, and its slots' alphas.
    """

    things: list[Piece]
    words: list[Piece]
    ties: Ties
    ink: Plane
    told: NDArray[np.float32]

    def rough(self, things: list[Piece]) -> NDArray[np.float32]:
        """Where each of some things is seen, where others are, and which of these lie above it (1) or below (0).

        `l h w 3`; what is unknown lies at 0.5. Text lies above all things.
        """
        out = np.zeros((len(things), *self.ink.shape, 3), np.float32)
        seen, wins = [thing.seen for thing in things], np.sign(self.ties.above(things))
        for i, thing in enumerate(things):
            others, over = self.ink, np.zeros_like(self.ink)
            for j, other in enumerate(seen):
                if j != i:
                    others, over = np.maximum(others, other), over + np.float32(wins[j, i]) * other
            over = self.ink + (1 - self.ink) * over.clip(-1, 1)
            out[i] = np.dstack([thing.seen, others, 0.5 + 0.5 * over])
        return out


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


def wholes(picture: Plane, look: Look) -> tuple[list[Piece], NDArray[np.float32]]:
    """The pieces of a picture `h w 3`, at any size, and all of each, `l h w 2` at that size: see `matte.mattes`.

    Things that their mattes do not confirm are left out; what mattes say to be one becomes one, and is looked at again.
    Text is what is seen of it.
    """
    found = mattes(picture, look.told, look.rough(look.things))
    kept = [i for i, thing in enumerate(look.things) if confirmed(thing, found[i, ..., 0])]
    things, found = [look.things[i] for i in kept], found[kept]
    while len(things) > 1:
        one = agreed(things, found[..., 0])
        i, j = divmod(int(one.argmax()), len(things))
        if one[i, j] < ONE:
            break
        rest = [k for k in range(len(things)) if k not in (i, j)]
        things = [*(things[k] for k in rest), things[i].joined(things[j])]
        found = np.concatenate([found[rest], mattes(picture, look.told, look.rough(things)[-1:])])
    words = np.zeros((len(look.words), *found.shape[1:]), np.float32)
    for plane, piece in zip(words, look.words, strict=True):
        plane[..., 0] = resized(piece.seen, picture.shape[1::-1])
    return [*things, *look.words], np.concatenate([found, words])


def agreed(pieces: list[Piece], alphas: NDArray[np.float32]) -> NDArray[np.float64]:
    """How much each two pieces show of the same thing, `l l`, 0..1: as much of either as the other's matte has.

    What lies below another goes on there, so that one of them alone may have both. alphas: `l h w`, of the mattes.
    """
    has = shares(pieces, alphas)
    mutual = np.minimum(has, has.T)
    np.fill_diagonal(mutual, 0)
    return mutual


def alike(pieces: list[Piece], mattes: NDArray[np.float32]) -> NDArray[np.float64]:
    """How likely each two pieces are one, `l l`, 0..1. mattes: `l h w 2`.

    What both mattes agree on; or as much of one of them as the other's matte has without saying that it is covered.
    """
    uncovered = shares(pieces, mattes[..., 0] * (1 - mattes[..., 1]))
    return np.maximum(agreed(pieces, mattes[..., 0]), np.maximum(uncovered, uncovered.T))


def shares(pieces: list[Piece], planes: NDArray[np.float32]) -> NDArray[np.float64]:
    """How much of each column's piece lies in each row's plane, `l l`, 0..1. planes: `l h w`, of any size."""
    seen = np.stack([piece.seen for piece in pieces])
    small = np.stack([shrunk(plane, seen.shape[1:]) for plane in planes])
    inside = einsum(small, seen, "a h w, b h w -> a b") / np.maximum(seen.sum((1, 2)), 1e-6)
    return np.asarray(inside, np.float64)


def confirmed(piece: Piece, alpha: Plane) -> bool:
    """Whether a matte's alpha `h w`, at any size, shows enough of what a piece has."""
    seen = resized(piece.seen, alpha.shape[::-1])
    return bool(alpha.mean() > LEAST and (alpha * seen).sum() > THERE * seen.sum())


def lying(pieces: list[Piece], ties: Ties, covers: NDArray[np.float32]) -> NDArray[np.float64]:
    """How surely a row's piece lies above a column's, `l l`: what both networks say, and what is usual for their slots.

    covers: `l h w`, of the mattes.
    """
    covered = shares(pieces, covers)
    slot = np.array([piece.slot for piece in pieces], np.float64)
    return ties.above(pieces) + COVERED * (covered.T - covered) + USUAL * (slot[:, None] - slot)


def merged(pieces: list[Piece], ties: Ties, one: NDArray[np.float64], most: int, cheap: float = 0.0) -> list[list[int]]:
    """Which pieces are one layer: places of pieces, group by group.

    The cheapest pair is merged until at most `most` groups are left, and then those that cost less than `cheap`.
    one: see `alike`.
    """
    groups = [([i], piece) for i, piece in enumerate(pieces)] if most > 0 else []
    while len(groups) > 1:
        prices = [
            (cost(a, b, max(ties.likely(a, b), float(one[np.ix_(ours, theirs)].max()))), i, j)
            for (i, (ours, a)), (j, (theirs, b)) in combinations(enumerate(groups), 2)
        ]
        price, i, j = min(prices)
        if len(groups) <= most and price >= cheap:
            break
        (ours, a), (theirs, b) = groups[i], groups[j]
        groups = [*(g for k, g in enumerate(groups) if k not in (i, j)), (ours + theirs, a.joined(b))]
    return [members for members, _ in groups]


def cost(a: Piece, b: Piece, likely: float) -> float:
    """How much is lost by merging two: distance and size, less if they are likely one; text with other things, 20."""
    lost = math.dist(a.centre, b.centre) + math.sqrt(min(a.area, b.area))
    if (a.slot == TEXT) != (b.slot == TEXT):
        return lost + 20
    return lost if a.slot == TEXT else lost * (1 - likely) ** 2


def layered(pieces: list[Piece], mattes: NDArray[np.float32], ties: Ties, most: int, cheap: float) -> list[list[int]]:
    """The pieces of each layer, places bottom to top, layer by layer from the lowest. mattes: `l h w 2`.

    At most `most` layers: see `merged`.
    """
    if not pieces:
        return []
    groups = merged(pieces, ties, alike(pieces, mattes), most, cheap)
    wins = lying(pieces, ties, mattes[..., 1])
    alone = stacked(wins, [piece.slot for piece in pieces])
    between = np.array([[wins[np.ix_(a, b)].sum() for b in groups] for a in groups])
    slots = [slot_of([pieces[i] for i in group]) for group in groups]
    return [sorted(groups[place], key=alone.index) for place in stacked(between, slots)]


def slot_of(parts: list[Piece]) -> int:
    """The slot in which most of several pieces is."""
    return int(np.sum([piece.votes for piece in parts], axis=0).argmax())
