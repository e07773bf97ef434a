"""InkNet: which pixels of an upright line of text are its letters.

A small U-Net (Ronneberger et al. 2015) with one look at the line as a whole: letters share a colour, and what lies
around them may have any.

Axes: b line, c channel, h w grid.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from unfuse.model.slots import Residual, conv, double

STRIDE = 8  # a patch's sides are multiples of it
INKS = ("letters", "outlined")  # the letters themselves; with the outline that they may have


@dataclass(frozen=True)
class InkNetParams:
    """Sizes of an `InkNet`; the defaults ship. channels: at 1/1, 1/2, 1/4 and 1/8 of the patch's side."""

    channels: tuple[int, int, int, int] = (12, 24, 48, 96)


class InkNet(nn.Module):
    """A patch `b 3 h w` in -1..1 (sRGB-encoded) to the logits `b 2 h w` of the letters in its middle: see `INKS`."""

    def __init__(self, params: InkNetParams) -> None:
        super().__init__()
        self.params = params
        fine, *rest = params.channels
        pairs = list(zip(params.channels, rest, strict=False))
        self.first = conv(3, fine)
        self.down = nn.ModuleList(nn.Sequential(conv(a, b, 2), Residual(b)) for a, b in pairs)
        self.whole = nn.Linear(rest[-1], rest[-1])
        self.deep = Residual(rest[-1])
        self.narrow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairs)
        self.up = nn.ModuleList(Residual(a) for a, _ in pairs)
        self.head = nn.Conv2d(fine, len(INKS), 1)

    def forward(self, patch: Tensor) -> Tensor:
        """See the class."""
        x = self.first(patch)
        seen = [x]
        for step in self.down:
            x = step(x)
            seen.append(x)
        x = self.deep(x + self.whole(functional.relu(x).mean((2, 3)))[:, :, None, None])
        for finer, narrow, step in zip(seen[-2::-1], self.narrow[::-1], self.up[::-1], strict=True):
            x = step(finer + double(narrow(x)))
        logits: Tensor = self.head(functional.relu(x))
        return logits
