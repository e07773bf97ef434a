"""Pairs of cells: what a network says of them to things.

The picture is cut into cells of `CELL` x `CELL` pixels. Of each cell and the one at each of `OFFSETS` from it the
network says how surely they show the same thing; if not, how surely this cell's thing lies above that one's; and
whether the lower one of both goes on below the other, as far as that cell.

Axes: r relation, o offset, h w grid of cells, n thing. Things are numbered from 1; 0 is the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Labels = NDArray[np.int64]

CELL = 4  # pixels across
OFFSETS = tuple((step * down, step * right) for step in (1, 3, 8) for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)))
RELATIONS = ("same", "above", "onward", "backward")  # this cell's thing goes on there (onward), that one's goes on here
NEAR = 8  # of the offsets, the first: those over which two things touch


def sigmoid(logits: Plane) -> Plane:
    """Logits to shares, 0..1."""
    shares: Plane = 1 / (1 + np.exp(-logits.clip(-30, 30)))
    return shares


def pairs(grid: Any, offset: tuple[int, int]) -> tuple[Any, Any]:
    """`... h w` (array or tensor) twice: each cell, and the cell at an offset from it, where both lie in the grid."""
    down, right = offset
    h, w = grid.shape[-2:]
    first, last = max(0, -right), w - max(0, right)
    return grid[..., : max(0, h - down), first:last], grid[..., down:, first + right : last + right]


@lru_cache(maxsize=8)  # pictures of one bucket come together
def ends(h: int, w: int) -> tuple[Labels, Labels, Labels]:
    """All pairs of a grid: the offset's number, and the cells at both ends, counted row by row."""
    cells = np.arange(h * w).reshape(h, w)
    found = [pairs(cells, offset) for offset in OFFSETS]
    which = np.concatenate([np.full(here.size, o) for o, (here, _) in enumerate(found)])
    here, there = (np.concatenate([pair[i].ravel() for pair in found]) for i in (0, 1))
    return which, here, there


def said(logits: Plane) -> tuple[Labels, Labels, Labels, Plane]:
    """Logits `o h w` of a grid as a list: the pairs of `ends`, and what is said of each."""
    which, here, there = ends(*logits.shape[1:])
    return which, here, there, logits.reshape(len(OFFSETS), -1)[which, here]


def partition(same: Plane, inside: NDArray[np.bool_]) -> Labels:
    """Cells to things, `h w`. same: logits `o h w`. inside: `h w`; cells outside are 0.

    The mutex watershed (Wolf et al., ECCV 2018): what is said most surely is believed first, be it that two cells
    belong together or that they never may; what contradicts it comes too late.
    """
    _, here, there, logit = said(same)
    known = inside.ravel()[here] & inside.ravel()[there]
    order = np.flatnonzero(known)[np.argsort(-np.abs(logit[known]), kind="stable")]
    parent = list(range(inside.size))
    foes: list[set[int]] = [set() for _ in parent]

    def root(cell: int) -> int:
        while parent[cell] != cell:
            parent[cell] = cell = parent[parent[cell]]
        return cell

    for a, b, together in zip(here[order].tolist(), there[order].tolist(), (logit[order] > 0).tolist(), strict=True):
        a, b = root(a), root(b)
        if a == b or b in foes[a]:
            continue
        if not together:
            foes[a].add(b)
            foes[b].add(a)
            continue
        if len(foes[a]) < len(foes[b]):
            a, b = b, a
        parent[b] = a
        for foe in foes[b]:
            foes[foe].remove(b)
            foes[foe].add(a)
        foes[a] |= foes[b]
    roots = np.array([root(cell) if within else -1 for cell, within in enumerate(inside.ravel().tolist())])
    _, labels = np.unique(np.append(roots, -1), return_inverse=True)
    return labels[:-1].reshape(inside.shape)


def between(labels: Labels, logits: Plane, near: bool = False) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sum of what is said `o h w` of the pairs of each two things, `n n`, from row to column, and their number.

    near: only over short distances.
    """
    which, here, there, value = said(logits)
    a, b = labels.ravel()[here], labels.ravel()[there]
    taken = (a != b) & ((which < NEAR) | (not near))
    n = int(labels.max()) + 1
    pair = a[taken] * n + b[taken]
    total, count = np.bincount(pair, value[taken], n * n), np.bincount(pair, minlength=n * n)
    return total.reshape(n, n).astype(np.float64), count.reshape(n, n).astype(np.float64)


def stacked(wins: NDArray[np.float64], floor: Sequence[float]) -> list[int]:
    """An order, bottom to top. wins: `n n`, how surely a row's thing lies above a column's. floor: breaks ties."""
    left, order = list(range(len(floor))), []
    beaten = wins.clip(min=0)
    while left:
        lowest = min(left, key=lambda i: (beaten[i, left].sum(), floor[i]))
        order.append(lowest)
        left.remove(lowest)
    return order
