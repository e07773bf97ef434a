"""What is said of pairs of cells, to things: from true things to what would be said of them, and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from unfuse import cells
from unfuse.cells import OFFSETS, RELATIONS
from unfuse.engines import pieces
from unfuse.engines.pieces import Piece, Ties
from unfuse.train import slots

H, W = 20, 26
SURE = 8.0
Labels = NDArray[np.int64]


def scene(seed: int, count: int = 5) -> tuple[Labels, list[NDArray[np.bool_]]]:
    """Rectangles on each other, numbered from the lowest: what is seen, and each of them whole."""
    rng = np.random.default_rng(seed)
    seen, whole = np.zeros((H, W), np.int64), []
    for number in range(1, count + 1):
        top, left = rng.integers(0, H - 6), rng.integers(0, W - 6)
        mine = np.zeros((H, W), bool)
        mine[top : top + rng.integers(5, 10), left : left + rng.integers(5, 12)] = True
        seen[mine] = number
        whole.append(mine)
    return seen, whole


def told(seen: Labels, whole: list[NDArray[np.bool_]]) -> NDArray[np.float32]:
    """Logits `(r o) h w` of one who knows."""
    out = np.zeros((len(RELATIONS), len(OFFSETS), H, W), np.float32)
    there = np.stack([np.ones((H, W), bool), *whole])
    for i, offset in enumerate(OFFSETS):
        a, b = cells.pairs(seen, offset)
        rows, columns = (x.reshape(a.shape) for x in np.indices(a.shape))
        up, left = 0, max(0, -offset[1])
        in_a = there[:, : a.shape[0], left : left + a.shape[1]]
        in_b = there[:, offset[0] : offset[0] + a.shape[0], left + offset[1] : left + offset[1] + a.shape[1]]
        facts = (a == b, a > b, in_b[a, rows, columns], in_a[b, rows, columns])
        for relation, fact in enumerate(facts):
            out[relation, i, up : a.shape[0], left : left + a.shape[1]] = np.where(fact, SURE, -SURE)
    return out.reshape(-1, H, W)


def same_parts(a: Labels, b: Labels) -> bool:
    """Whether two numberings are of the same parts."""
    found = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return bool(len(np.unique(a)) == len(np.unique(b)) == found.shape[1])


@pytest.mark.parametrize("offset", OFFSETS)
def test_pairs_are_cells_an_offset_apart(offset: tuple[int, int]) -> None:
    grid = np.array(np.indices((H, W)))
    here, there = cells.pairs(grid, offset)
    assert (there - here == np.array(offset)[:, None, None]).all()
    assert here[0].size == (H - offset[0]) * (W - abs(offset[1]))
    for ours, theirs in zip((here, there), cells.pairs(torch.from_numpy(grid), offset), strict=True):
        assert (theirs.numpy() == ours).all()
    assert cells.pairs(np.zeros((2, 2)), (8, 8))[0].size == 0


@pytest.mark.parametrize("seed", range(6))
def test_true_things_come_back(seed: int) -> None:
    seen, whole = scene(seed)
    same = told(seen, whole)[: len(OFFSETS)]
    found = cells.partition(same, seen > 0)
    assert (found[seen == 0] == 0).all()
    for offset in OFFSETS:
        (a, b), (c, d) = cells.pairs(seen, offset), cells.pairs(found, offset)
        assert ((a == b) == (c == d))[(a > 0) & (b > 0)].all()


def test_what_is_sure_is_believed_first() -> None:
    same = np.zeros((len(OFFSETS), 1, 4), np.float32)
    same[OFFSETS.index((0, 1))] = 1.0  # neighbours belong together, perhaps
    same[OFFSETS.index((0, 3))] = -5.0  # the ends never do
    same[OFFSETS.index((0, 1)), 0, 2] = 0.5
    everywhere = np.ones((1, 4), bool)
    assert cells.partition(same, everywhere).tolist() == [[1, 1, 1, 2]]
    same[OFFSETS.index((0, 3))] = -0.1  # said too softly
    assert cells.partition(same, everywhere).tolist() == [[1, 1, 1, 1]]
    assert cells.partition(same, np.array([[True, False, True, True]])).tolist() == [[1, 0, 2, 2]]
    assert cells.partition(same, np.zeros((1, 4), bool)).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("seed", range(6))
def test_who_lies_on_whom_gives_the_order(seed: int) -> None:
    seen, whole = scene(seed)
    above = told(seen, whole)[len(OFFSETS) : 2 * len(OFFSETS)]
    wins, count = cells.between(seen, above, near=True)
    wins, count = wins - wins.T, count + count.T
    n = int(seen.max()) + 1
    assert all(wins[a, b] > 0 for a in range(1, n) for b in range(a) if count[a, b])
    order = cells.stacked(wins, [0.0] * n)
    assert all(order.index(a) > order.index(b) for a in range(n) for b in range(a) if count[a, b])


@pytest.mark.parametrize("seed", range(6))
def test_what_goes_on_below_is_what_is_hidden(seed: int) -> None:
    seen, whole = scene(seed)
    below = told(seen, whole)[2 * len(OFFSETS) :]
    for number in range(1, len(whole)):
        if not (seen == number).any():
            continue
        upper = list(range(number + 1, len(whole) + 1))
        found = cells.hidden(seen, below, [number], upper)
        assert (found[~np.isin(seen, upper)] == 0).all()
        sure = found > 0
        assert ((found > 0.5) == whole[number - 1])[sure].all()
        beside = np.isin(seen[:, 1:], upper) & (seen[:, :-1] == number)
        assert sure.any() or not beside.any()


def piece(row: int, column: int, side: int, slot: int, *things: int) -> Piece:
    seen = np.zeros((40, 40), np.float32)
    seen[row : row + side, column : column + side] = 1
    return Piece(seen, np.eye(5)[slot] * seen.sum(), frozenset(things))


def ties(n: int, likely: dict[tuple[int, int], float]) -> Ties:
    same, pairs = np.zeros((n, n)), np.zeros((n, n))
    for (a, b), share in likely.items():
        same[a, b] = same[b, a] = share
        pairs[a, b] = pairs[b, a] = 1
    nobody = np.zeros((10, 10), np.int64)
    return Ties(same, pairs, np.zeros((n, n)), nobody, np.zeros((2 * len(OFFSETS), 10, 10), np.float32))


def test_merging_takes_what_is_likely_one_before_what_is_near_and_text_last() -> None:
    head, body, neighbour, text = piece(0, 0, 8, 3, 1), piece(20, 0, 8, 3, 2), piece(0, 9, 8, 3, 3), piece(30, 30, 4, 4)
    known = ties(4, {(1, 2): 0.9, (1, 3): 0.02})
    three = pieces.merged([head, body, neighbour, text], known, 3)
    assert sorted((sorted(p.things), p.slot) for p in three) == [([], 4), ([1, 2], 3), ([3], 3)]
    two = pieces.merged([head, body, neighbour, text], known, 2)
    assert sorted(p.slot for p in two) == [3, 4]
    assert len(pieces.merged([head, text], known, 1)) == 1
    assert pieces.merged([head, text], known, 0) == []


def test_a_covered_thing_goes_on_to_its_outline_and_a_little_way_in_any_case() -> None:
    panel = piece(4, 4, 32, 1, 1)
    hole = np.zeros((40, 40), bool)
    hole[12:28, 12:28] = True
    panel.seen[hole] = 0
    disc = piece(12, 12, 16, 3, 2)
    low, high = pieces.completed([panel, disc], ties(3, {}))
    assert (low[4:36, 4:36] == 1).all()
    assert (high == disc.seen).all()
    corner, cover = piece(0, 0, 12, 3, 1), piece(0, 12, 20, 3, 2)
    low, _ = pieces.completed([corner, cover], ties(3, {}))
    assert (low[:12, 12] == 1).all()
    assert low[:, 16:].sum() == 0
    assert (low[12:20, :11] == 0).all(), "nothing covers it there"
    assert pieces.completed([], ties(1, {})) == []


def test_pixels_go_to_the_thing_whose_edge_they_lie_within() -> None:
    picture = np.full((48, 48, 3), 0.9, np.float32)
    picture[10:38, 6:23] = (0.8, 0.1, 0.1)
    picture[10:38, 23:41] = (0.1, 0.1, 0.7)
    thing = (picture[..., 1] < 0.5).astype(np.float32)
    labels = np.zeros((12, 12), np.int64)
    labels[3:9, 2:6], labels[3:9, 6:10] = 1, 2  # the cells' border lies at 24, the edge at 23
    owner = pieces.owners(picture, thing, labels)
    assert (owner[12:36, 8:22] == 1).all()
    assert (owner[12:36, 24:39] == 2).all()
    assert (owner[:4] == 0).all()


def test_the_loss_is_nothing_for_one_who_knows() -> None:
    """Slots of two things on each other: the lower one in slot 2, the upper one in 3."""
    alpha = torch.zeros(1, 5, 4 * H, 4 * W)
    alpha[:, 0] = 1
    lower, upper = (slice(8, 60), slice(8, 60)), (slice(24, 76), slice(24, 92))
    owner = torch.zeros(alpha.shape, dtype=torch.uint8)
    for slot, (rows, columns), number in ((2, lower, 1), (3, upper, 2)):
        alpha[:, slot, rows, columns] = 1
        owner[:, slot, rows, columns] = number
    top, there_are = slots.seen(alpha, owner)
    seen = torch.zeros(H, W, dtype=torch.int64)
    masks = []
    for number, (rows, columns) in ((1, lower), (2, upper)):
        mask = np.zeros((H, W), bool)
        mask[rows.start // 4 : rows.stop // 4, columns.start // 4 : columns.stop // 4] = True
        seen[torch.from_numpy(mask)] = number
        masks.append(mask)
    assert same_parts(top[0].numpy(), seen.numpy())
    logits = 2 * torch.from_numpy(told(seen.numpy(), masks))[None]
    right = slots.relation_loss(logits, top, there_are)
    assert all(float(value) < 1e-5 for value in right.values())
    wrong = slots.relation_loss(-logits, top, there_are)
    assert all(float(value) > 0.5 for value in wrong.values())
