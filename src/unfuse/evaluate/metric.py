"""How alike two layer stacks are, in their order: the protocol of the Crello tables.

LayerD's evaluation (CyberAgentAILab/LayerD @6b95bc5, `LayersEditDist` with `max_edits=5, gt_editable=True`), which
Qwen-Image-Layered's Table 1 uses as well (arXiv 2512.15603, section 4):

1. In each stack, layers that nothing above them overlaps (alpha > 0) become one group, from the top down.
2. The two sequences are aligned by dynamic time warping; the cost of a pair is (RGB L1 + 1 - alpha soft IoU) / 2.
3. A score is the mean over the pairs of the path. Then up to five times: the merge of two neighbours, on either side,
   that gains most is made, and the sequences are aligned anew.

Everything is 8 bit and exact: sums are whole numbers, merging is Pillow's `alpha_composite`. Stacks are sequences of
uint8 `h w 4`, straight alpha, bottom to top, all of one size; nothing is resized here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

MERGES = 5
FEWEST = 2  # a sequence is not merged below two layers (LayerD, `min_layers`)

Rgba = NDArray[np.uint8]  # h w 4, straight alpha
Path = list[tuple[int, int]]  # aligned pairs: place in the first sequence, place in the second


class Score(NamedTuple):
    """rgb_l1: mean difference in 0..1 where the truth's alpha > 0. alpha_iou: sum of minima over sum of maxima."""

    rgb_l1: float
    alpha_iou: float

    @property
    def cost(self) -> float:
        """0 for the same, 1 for nothing in common."""
        return (self.rgb_l1 + 1 - self.alpha_iou) / 2


WORST = Score(1.0, 0.0)


@dataclass(frozen=True, eq=False)
class Sheet:
    """A layer, or several merged, with what the pair score asks of it again and again."""

    rgba: Rgba

    @cached_property
    def rgb(self) -> NDArray[np.uint8]:
        return np.ascontiguousarray(self.rgba[..., :3])

    @cached_property
    def alpha(self) -> NDArray[np.uint8]:
        return np.ascontiguousarray(self.rgba[..., 3])

    @cached_property
    def mask(self) -> NDArray[np.uint8]:
        """1 where alpha > 0."""
        return (self.alpha > 0).view(np.uint8)

    @cached_property
    def mass(self) -> int:
        return int(self.alpha.sum(dtype=np.int64))


def compare(pred: Sequence[Rgba], truth: Sequence[Rgba], merges: int = MERGES) -> list[Score]:
    """Scores after 0, 1, ... `merges` merges; where no merge helps any more, the last one again.

    Both stacks hold at least one layer.
    """
    score, over = cache(pair_score), cache(merge)
    p, t = regroup([Sheet(x) for x in pred]), regroup([Sheet(x) for x in truth])
    levels: list[Score] = []
    while True:
        path = align(np.array([[score(x, y).cost for y in t] for x in p]))
        pairs = [score(p[i], t[j]) for i, j in path]
        levels.append(Score(float(np.mean([x.rgb_l1 for x in pairs])), float(np.mean([x.alpha_iou for x in pairs]))))
        if len(levels) > merges:
            return levels
        in_p, fewer_p = best_merge(p, t, path, score, over)
        in_t, fewer_t = best_merge(t, p, [(j, i) for i, j in path], score, over)
        if max(in_p, in_t) <= 0:
            return levels + levels[-1:] * (merges + 1 - len(levels))
        p, t = (fewer_p, t) if in_p > in_t else (p, fewer_t)


def pair_score(pred: Sheet, truth: Sheet) -> Score:
    """Two layers. The IoU of two empty ones is 0 (LayerD)."""
    difference = cv2.norm(pred.rgb, truth.rgb, cv2.NORM_L1, truth.mask)
    covered = int(truth.mask.sum(dtype=np.int64))
    common = shared(pred.alpha, truth.alpha)
    union = pred.mass + truth.mass - common
    return Score(difference / 3 / 255 / (covered + 1e-8), common / union if union else 0.0)


def shared(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    """Sum of the minima of two alphas `h w`, in levels."""
    return int(cv2.sumElems(cv2.min(a, b))[0])


def merge(lower: Sheet, upper: Sheet) -> Sheet:
    """One layer that shows what both show."""
    return Sheet(np.asarray(Image.alpha_composite(Image.fromarray(lower.rgba), Image.fromarray(upper.rgba))))


def regroup(stack: list[Sheet]) -> list[Sheet]:
    """Peel from the top: all layers that nothing still above them overlaps are merged into one group."""
    rest, groups = stack, list[Sheet]()
    while rest:
        free, covered = list[Sheet](), list[Sheet]()
        for i, sheet in enumerate(rest):
            overlapped = any(cv2.countNonZero(cv2.bitwise_and(sheet.mask, x.mask)) for x in rest[i + 1 :])
            (covered if overlapped else free).append(sheet)
        group = free[0]
        for sheet in free[1:]:
            group = merge(group, sheet)
        groups.insert(0, group)
        rest = covered
    return groups


def align(cost: NDArray[np.float64]) -> Path:
    """Dynamic time warping over a `n m` matrix of costs: the path from (0, 0) to (n - 1, m - 1) of the least sum.

    Of equal ways back, the diagonal is taken, then the one along the first sequence.
    """
    n, m = cost.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0
    for i, j in np.ndindex(n, m):
        total[i + 1, j + 1] = cost[i, j] + min(total[i, j], total[i, j + 1], total[i + 1, j])
    path, here = Path(), (n, m)
    while here != (0, 0):
        i, j = here
        path.append((i - 1, j - 1))
        back = ((i - 1, j - 1), (i - 1, j), (i, j - 1))
        here = min(back, key=lambda place: total[place])  # the first of equals
    return path[::-1]


def best_merge(
    side: list[Sheet],
    other: list[Sheet],
    path: Path,
    score: Callable[[Sheet, Sheet], Score],
    over: Callable[[Sheet, Sheet], Sheet],
) -> tuple[float, list[Sheet]]:
    """The neighbours of `side` whose merging gains most, judged on the present path: the gain, and `side` with it.

    As in LayerD: the merged layer takes the partners of the lower one; the partners of the upper one go to it as well,
    or the layer above takes over either's, whichever is most. `other` counts as the truth, also where `side` is the
    truth itself: then RGB is looked at where the prediction's alpha > 0. The gain is 0 where nothing helps.
    """
    best, fewer = 0.0, side
    if len(side) <= FEWEST:
        return best, fewer
    partners = [[other[j] for i, j in path if i == place] for place in range(len(side))]

    def sum_of(sheet: Sheet, others: list[Sheet]) -> float:
        return sum(1 - score(sheet, x).cost for x in others)

    for i in range(len(side) - 1):
        merged = over(side[i], side[i + 1])
        moved = [sum_of(merged, partners[i + 1])]
        if i + 2 < len(side):
            moved += [sum_of(side[i + 2], partners[i]), sum_of(side[i + 2], partners[i + 1])]
        before = sum_of(side[i], partners[i]) + sum_of(side[i + 1], partners[i + 1])
        gain = sum_of(merged, partners[i]) + max(moved) - before
        if gain > best:
            best, fewer = gain, [*side[:i], merged, *side[i + 2 :]]
    return best, fewer
