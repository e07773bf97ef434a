"""EfficientNet-Lite's trunk: what a network that learnt to name the things in photographs sees in a picture.

Its features tell SlotNet what belongs together; the classifier behind them is left out. The normalisations stay as they
were learnt, in training too: batches are small here, and designs are no photographs.

Source: Tan and Le, "EfficientNet" (arXiv 1905.11946), table 1, in the Lite variants: without squeeze-and-excitation,
with ReLU6, the first and last stage as deep in every variant.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

STAGES = (  # expansion, channels, blocks, kernel, stride of the first block
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)
FIRST = 32  # channels of the first convolution, in every variant
ANSWERS = (0, 1, 2, 4, 6)  # the last stages at 1/2, 1/4, 1/8, 1/16 and 1/32 of the side


def channels(stage: int, width: float) -> int:
    """Of a stage: a multiple of 8 near what the width asks for, at most a tenth below it."""
    wanted = STAGES[stage][1] * width
    near = max(8, int(wanted + 4) // 8 * 8)
    return near if near >= 0.9 * wanted else near + 8


def blocks(stage: int, depth: float) -> int:
    """How many blocks a stage has."""
    count = STAGES[stage][2]
    return count if stage in (0, len(STAGES) - 1) else math.ceil(count * depth)


def normed(c_in: int, c_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution and its normalisation. Where it halves the grid, odd sides round up; it pads as TensorFlow does."""
    near, far = kernel // 2 - (stride - 1), kernel // 2 + (stride - 1)
    conv = nn.Conv2d(c_in, c_out, kernel, stride, groups=groups, bias=False)
    return nn.Sequential(nn.ZeroPad2d((near, far, near, far)), conv, nn.BatchNorm2d(c_out, eps=1e-3))


class Block(nn.Module):
    """Inverted bottleneck: wider, a kernel for each channel, narrow again."""

    def __init__(self, c_in: int, c_out: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = c_in * expansion
        self.expand = nn.Sequential(*normed(c_in, wide), nn.ReLU6()) if expansion > 1 else nn.Identity()
        self.depthwise = nn.Sequential(*normed(wide, wide, kernel, stride, groups=wide), nn.ReLU6())
        self.project = normed(wide, c_out)
        self.adds = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.adds else out


class Trunk(nn.Module):
    """Pictures `b 3 h w` in -1..1 (sRGB-encoded) to features at 1/2, 1/4, 1/8, 1/16 and 1/32 of their sides."""

    def __init__(self, width: float, depth: float) -> None:
        super().__init__()
        self.answers = tuple(channels(stage, width) for stage in ANSWERS)  # how many channels each has
        self.first = nn.Sequential(*normed(3, FIRST, 3, 2), nn.ReLU6())
        self.stages = nn.ModuleList()
        c_in = FIRST
        for i, (expansion, _, _, kernel, stride) in enumerate(STAGES):
            c_out = channels(i, width)
            rest = [Block(c_out, c_out, expansion, kernel, 1) for _ in range(blocks(i, depth) - 1)]
            self.stages.append(nn.Sequential(Block(c_in, c_out, expansion, kernel, stride), *rest))
            c_in = c_out

    def train(self, mode: bool = True) -> Trunk:
        """The normalisations never train."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, picture: Tensor) -> list[Tensor]:
        x = self.first(picture)
        seen = []
        for stage in self.stages:
            x = stage(x)
            seen.append(x)
        return [seen[i] for i in ANSWERS]
