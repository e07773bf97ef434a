"""What is said of pairs of cells, to things: from true things to what would be said of them, and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from unfuse import cells
from unfuse.cells import OFFSETS, RELATIONS
from unfuse.engines import pieces
from unfuse.engines.pieces import Look, Piece, Ties
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


def piece(row: int, column: int, side: int, slot: int, *things: int) -> Piece:
    seen = np.zeros((40, 40), np.float32)
    seen[row : row + side, column : column + side] = 1
    return Piece(seen, np.eye(5)[slot] * seen.sum(), frozenset(things))


def ties(n: int, likely: dict[tuple[int, int], float]) -> Ties:
    same, pairs = np.zeros((n, n)), np.zeros((n, n))
    for (a, b), share in likely.items():
        same[a, b] = same[b, a] = share
        pairs[a, b] = pairs[b, a] = 1
    return Ties(same, pairs, np.zeros((n, n)))


def test_merging_takes_what_is_likely_one_before_what_is_near_and_text_last() -> None:
    head, body, neighbour, text = piece(0, 0, 8, 3, 1), piece(20, 0, 8, 3, 2), piece(0, 9, 8, 3, 3), piece(30, 30, 4, 4)
    known = ties(4, {(1, 2): 0.9, (1, 3): 0.02})
    three = pieces.merged([head, body, neighbour, text], known, np.zeros((4, 4)), 3)
    assert sorted(map(sorted, three)) == [[0, 1], [2], [3]]
    two = pieces.merged([head, body, neighbour, text], known, np.zeros((4, 4)), 2)
    assert sorted(map(sorted, two)) == [[0, 1, 2], [3]]
    assert len(pieces.merged([head, text], known, np.zeros((2, 2)), 1)) == 1
    assert pieces.merged([head, text], known, np.zeros((2, 2)), 0) == []


def test_what_is_rough_says_who_lies_on_whom() -> None:
    low, high, apart, words = piece(4, 4, 20, 1, 1), piece(10, 10, 8, 3, 2), piece(30, 30, 6, 3, 3), piece(12, 5, 3, 4)
    known = ties(4, {})
    known.wins[2, 1], known.wins[1, 2] = 5.0, -5.0
    things = [low, high, apart]
    rough = Look(things, [words], known, words.seen, np.zeros((0, 10, 10), np.float32)).rough(things)
    assert rough.shape == (3, 40, 40, 3)
    for i, one in enumerate(things):
        assert np.array_equal(rough[i, ..., 0], one.seen)
        others = np.max([other.seen for other in (*things, words) if other is not one], axis=0)
        assert np.array_equal(rough[i, ..., 1], others)
    assert rough[0, 15, 15, 2] == 1  # the disc lies on the panel
    assert rough[1, 5, 5, 2] == 0  # the panel below the disc
    assert rough[0, 32, 32, 2] == 0.5  # nobody knows of what lies apart
    assert rough[0, 13, 6, 2] == rough[1, 13, 6, 2] == 1  # text lies on all else
    assert Look([], [], known, words.seen, rough).rough([]).shape == (0, 40, 40, 3)


def matte_of(alpha: NDArray[np.float32], covers: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.dstack([alpha, covers]).astype(np.float32)


def test_pieces_whose_mattes_have_both_are_one_and_what_goes_on_below_another_is_not() -> None:
    head, body, panel = piece(0, 0, 10, 3, 1), piece(10, 0, 10, 3, 2), piece(20, 20, 16, 1, 3)
    both, nothing = np.maximum(head.seen, body.seen), np.zeros((40, 40), np.float32)
    everything = np.ones((40, 40), np.float32)
    for bodys in (both, body.seen):  # it is enough that one of them knows, where nothing covers it
        # the panel goes on below all, and nobody's matte has the panel
        mattes = np.stack([matte_of(both, nothing), matte_of(bodys, nothing), matte_of(everything, both)])
        alike = pieces.alike([head, body, panel], mattes)
        assert alike[0, 1] == alike[1, 0] == 1
        assert alike[0, 2] == alike[2, 1] == 0
        agreed = pieces.agreed([head, body, panel], mattes[..., 0])
        assert agreed[0, 1] == agreed[1, 0] == (bodys is both)
        assert (np.diag(agreed) == 0).all()
        groups = pieces.layered([head, body, panel], mattes, ties(4, {}), 2, 0.0)
        assert sorted(map(sorted, groups)) == [[0, 1], [2]]


def test_layers_lie_as_their_mattes_say() -> None:
    left, right, words = piece(5, 5, 12, 3, 1), piece(5, 14, 12, 3, 2), piece(30, 5, 6, 4)
    nothing = np.zeros((40, 40), np.float32)
    for upper, lower in ((0, 1), (1, 0)):
        both = [left, right]
        covers = [nothing, nothing]
        covers[lower] = both[upper].seen
        mattes = [matte_of(p.seen, c) for p, c in zip([*both, words], [*covers, nothing], strict=True)]
        groups = pieces.layered([*both, words], np.stack(mattes), ties(3, {}), 3, 0.0)
        assert groups == [[lower], [upper], [2]]
    assert pieces.layered([], np.empty((0, 40, 40, 2), np.float32), ties(1, {}), 3, 0.0) == []


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
