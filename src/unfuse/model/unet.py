"""A small U-Net (Ronneberger et al. 2015) with one look at the patch as a whole: the nets for lines and for things.

InkNet says which pixels of an upright line of text are its letters: letters share a colour, and what lies around them
may have any. MatteNet says of a thing that was found roughly what all of it is: its alpha, behind what covers it too,
and what it is that covers it. It is told what SlotNet says of each cell there.

Axes: b patch, c channel, h w grid.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from unfuse.cells import CELL, OFFSETS, RELATIONS
from unfuse.model.slots import SLOTS, Residual, conv, double

INKS = ("letters", "outlined")  # what InkNet answers: the letters themselves; with the outline that they may have
MATTES = ("alpha", "covers")  # what MatteNet answers
TOLD = len(RELATIONS) * len(OFFSETS) + len(SLOTS)  # what SlotNet says of each cell


@dataclass(frozen=True)
class UNetParams:
    """Sizes of a `UNet`. channels: at 1/1, 1/2, 1/4, ... of the grid's side.

    fold: pixels of the patch across one of the grid; the finest features cost a quarter with 2. told: channels of what
    is told of each cell of 4 x 4 pixels, or 0.
    """

    inputs: int
    outputs: int
    channels: tuple[int, ...]
    fold: int = 1
    told: int = 0

    @property
    def stride(self) -> int:
        """A patch's sides are multiples of it."""
        return int(self.fold * 2 ** (len(self.channels) - 1))


INKNET = UNetParams(3, len(INKS), (12, 24, 48, 96))
MATTENET = UNetParams(6, len(MATTES), (24, 48, 96, 160, 224), fold=2, told=TOLD)


class UNet(nn.Module):
    """A patch `b inputs h w` in -1..1, and what is told of its cells `b told h/4 w/4`, to logits `b outputs h w`."""

    def __init__(self, params: UNetParams) -> None:
        super().__init__()
        self.params = params
        fine, *rest = params.channels
        pairs = list(zip(params.channels, rest, strict=False))
        self.unfold, self.fold = nn.PixelUnshuffle(params.fold), nn.PixelShuffle(params.fold)
        self.first = conv(params.inputs * params.fold**2, fine)
        self.down = nn.ModuleList(nn.Sequential(conv(a, b, 2), Residual(b)) for a, b in pairs)
        self.level = (CELL // params.fold).bit_length() - 1  # the grid on which cells are pixels
        self.told = nn.Conv2d(params.told, params.channels[self.level], 1) if params.told else None
        self.whole = nn.Linear(rest[-1], rest[-1])
        self.deep = Residual(rest[-1])
        self.narrow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairs)
        self.up = nn.ModuleList(Residual(a) for a, _ in pairs)
        self.head = nn.Conv2d(fine, params.outputs * params.fold**2, 1)

    def forward(self, patch: Tensor, told: Tensor | None = None) -> Tensor:
        """See the class."""
        x = self.first(self.unfold(patch))
        seen = [x]
        for step in self.down:
            x = step(x)
            if self.told is not None and len(seen) == self.level:
                assert told is not None
                x = x + self.told(told)
            seen.append(x)
        x = self.deep(x + self.whole(functional.relu(x).mean((2, 3)))[:, :, None, None])
        for finer, narrow, step in zip(seen[-2::-1], self.narrow[::-1], self.up[::-1], strict=True):
            x = step(finer + double(narrow(x)))
        logits: Tensor = self.fold(self.head(functional.relu(x)))
        return logits
