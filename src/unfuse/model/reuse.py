"""First-block cache: where the first block changes its input as it did before, the other blocks are not asked again.

Between neighbouring steps the transformer's answer changes little, and how much the first block's own contribution has
changed foretells it (TeaCache, arXiv 2411.19108, in the form of ParaAttention's first-block cache). The measure is
relative: mean |change - last change| / mean |last change|, the last one being of the last pass that went through all
blocks. It is off by default: what it costs in quality is not known before it is tried.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


class Reuse:
    """The memory of one row of passes: the guided and the unguided ones need one each.

    passes, reused: how many there were, and in how many the blocks behind the first were skipped. largest: the largest
    relative change that was let through. mean: of a tensor of which this process may hold a part.
    """

    def __init__(self, threshold: float, mean: Callable[[Tensor], float] | None = None) -> None:
        self.threshold, self.mean = threshold, mean or whole_mean
        self.passes = self.reused = 0
        self.largest = 0.0
        self.change: Tensor | None = None
        self.rest: Tensor | None = None

    def rest_for(self, change: Tensor) -> Tensor | None:
        """What the other blocks added last, if the first block's `change` `b n d` is near enough to last time's."""
        self.passes += 1
        if self.change is not None and self.rest is not None and self.change.shape == change.shape:
            relative = self.mean((change - self.change).abs()) / self.mean(self.change.abs())
            if relative < self.threshold:
                self.reused += 1
                self.largest = max(self.largest, relative)
                return self.rest
        self.change = change
        return None

    def keep(self, rest: Tensor) -> None:
        """Remember what the other blocks added in a pass that went through them all."""
        self.rest = rest


def whole_mean(x: Tensor) -> float:
    """The mean of a tensor that is all here."""
    return float(x.mean())
