"""SlotNet: the embedded model. One look at a picture answers with the alpha and the colour of every slot.

A convolutional stem reads the picture; a VLD-MMDiT with alternating attention sees the stem's coarsest features as the
clean condition (layer -1) and one copy of them for each slot (layers 1..N); convolutional decoders bring the slots'
tokens back to the picture's grid. It is the one-step case of the sampler: sigma is 1, there is no noise, and the
answer is x_0. Slots have fixed meanings (`SLOTS`), so that which thing goes into which slot can be seen in the picture;
a network that must guess the order answers with every object faintly in every slot.

The alpha of slot l at a pixel is a dot product of that pixel's features, shared by all slots, with the slot's kernel
there: fine edges are computed once, who owns them is decided slot by slot on a grid four times coarser.

Axes: b picture, l slot, c channel, h w grid, n tokens, d width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional

from unfuse.cells import OFFSETS, RELATIONS
from unfuse.model.mmdit import MMDiT, MMDiTParams
from unfuse.model.trunk import Trunk

SLOTS = ("background", "decoration", "object behind", "object", "text")  # layers 1..5, bottom to top
STRIDE = 16  # a picture's sides are multiples of it


@dataclass(frozen=True)
class SlotNetParams:
    """Sizes of a `SlotNet`; the defaults ship.

    channels: at 1/2, 1/4, 1/8 and 1/16 of the picture's side. trunk: how much wider and deeper it is than Lite0.
    """

    channels: tuple[int, int, int, int] = (32, 64, 128, 192)
    slot_channels: tuple[int, int, int] = (96, 64, 32)  # of a slot at 1/16, 1/8, 1/4
    kernel: int = 8  # features of a pixel that a slot's kernel weighs
    slots: int = len(SLOTS)
    width: int = 192
    heads: int = 6
    depth: int = 4
    axes: tuple[int, int, int] = (8, 12, 12)
    trunk: tuple[float, float] = (1.1, 1.2)

    @property
    def mmdit(self) -> MMDiTParams:
        return MMDiTParams(
            width=self.width,
            heads=self.heads,
            depth=self.depth,
            in_features=self.channels[3],
            out_features=self.slot_channels[0],
            axes=self.axes,
            text_width=None,
            shared_modulation=True,
            attention="alternate",
            kinds=0,
        )


def conv(c_in: int, c_out: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution."""
    return nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1)


def double(x: Tensor) -> Tensor:
    """`b c h w` to twice the side, bilinear."""
    return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), conv(channels, channels)
        self.norm2, self.conv2 = nn.BatchNorm2d(channels), conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(functional.relu(self.norm1(x)))
        out: Tensor = x + self.conv2(functional.relu(self.norm2(inner)))
        return out


class Lateral(nn.Module):
    """What the trunk sees at one scale, brought to the stem's channels; it says nothing until it has learnt to."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.norm, self.mix = nn.BatchNorm2d(c_in), nn.Conv2d(c_in, c_out, 1)
        for weight in self.mix.parameters():
            nn.init.zeros_(weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mix(self.norm(x))
        return out


class Stem(nn.Module):
    """The picture and what stands out in it, `b 4 h w`, to features at 1/2, 1/4, 1/8 and 1/16 of its side.

    It sees fine edges itself, and is told by the trunk what they belong to.
    """

    def __init__(self, params: SlotNetParams) -> None:
        super().__init__()
        c2, c4, c8, c16 = params.channels
        self.trunk = Trunk(*params.trunk)
        self.to2 = nn.Sequential(nn.PixelUnshuffle(2), conv(16, c2), Residual(c2))
        self.to4 = nn.Sequential(conv(c2, c4, 2), Residual(c4), Residual(c4))
        self.to8 = nn.Sequential(conv(c4, c8, 2), Residual(c8), Residual(c8), Residual(c8))
        self.to16 = nn.Sequential(conv(c8, c16, 2), Residual(c16), Residual(c16))
        answers = zip(self.trunk.answers, (*params.channels, c16), strict=True)
        self.laterals = nn.ModuleList(Lateral(there, here) for there, here in answers)

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        told = [lateral(x) for lateral, x in zip(self.laterals, self.trunk(seen[:, :3]), strict=True)]
        half = self.to2(seen) + told[0]  # b c2 h/2 w/2
        quarter = self.to4(half) + told[1]  # b c4 h/4 w/4
        eighth = self.to8(quarter) + told[2]  # b c8 h/8 w/8
        coarse = self.to16(eighth) + told[3]  # b c16 h/16 w/16
        h, w = coarse.shape[-2:]
        return half, quarter, eighth, coarse + double(told[4])[..., :h, :w]


class SlotDecoder(nn.Module):
    """A slot's tokens to its kernel, its bias and its colour at 1/4 of the picture's side."""

    def __init__(self, params: SlotNetParams) -> None:
        super().__init__()
        _, c4, c8, _ = params.channels
        s16, s8, s4 = params.slot_channels
        self.up8, self.skip8, self.mix8 = conv(s16, s8), nn.Conv2d(c8, s8, 1), Residual(s8)
        self.up4, self.skip4, self.mix4 = conv(s8, s4), nn.Conv2d(c4, s4, 1), Residual(s4)
        self.head = conv(s4, params.kernel + 1 + 3)

    def forward(self, x: Tensor, quarter: Tensor, eighth: Tensor) -> tuple[Tensor, Tensor]:  # x: b l c h/16 w/16
        b, count = x.shape[:2]
        x = self.up8(double(rearrange(x, "b l c h w -> (b l) c h w")))  # (b l) s8 h/8 w/8
        x = self.mix8(x + repeat(self.skip8(eighth), "b c h w -> (b l) c h w", l=count))
        x = self.up4(double(x))  # (b l) s4 h/4 w/4
        x = self.mix4(x + repeat(self.skip4(quarter), "b c h w -> (b l) c h w", l=count))
        x = functional.relu(x)
        return rearrange(self.head(x), "(b l) c h w -> b l c h w", b=b), rearrange(x, "(b l) c h w -> b l c h w", b=b)


class PixelDecoder(nn.Module):
    """The stem's fine features to `kernel` features for each pixel of the picture."""

    def __init__(self, params: SlotNetParams) -> None:
        super().__init__()
        c2, c4, c8, _ = params.channels
        self.from8, self.from4 = nn.Conv2d(c8, c4, 1), nn.Conv2d(c4, c2, 1)
        self.mix4, self.mix2 = Residual(c4), conv(c2, c2)
        self.unfold = nn.Sequential(nn.ReLU(), conv(c2, 4 * params.kernel), nn.PixelShuffle(2))
        self.edges = conv(3, params.kernel)
        self.last = nn.Sequential(nn.ReLU(), conv(params.kernel, params.kernel))

    def forward(self, picture: Tensor, half: Tensor, quarter: Tensor, eighth: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.mix4(quarter + double(self.from8(eighth)))  # b c4 h/4 w/4
        x = self.mix2(functional.relu(half + double(self.from4(fine))))  # b c2 h/2 w/2
        return self.last(self.unfold(x) + self.edges(picture)), fine  # b k h w


class Relations(nn.Module):
    """What is said of each cell and the one at each of `OFFSETS`: logits `b (r o) h/4 w/4`, r of `cells.RELATIONS`."""

    def __init__(self, params: SlotNetParams) -> None:
        super().__init__()
        c4, s4 = params.channels[1], params.slot_channels[2]
        self.slots, self.fine = nn.Conv2d(s4, c4, 1), nn.Conv2d(c4, c4, 1)
        self.mix = nn.Sequential(Residual(c4), Residual(c4), nn.ReLU(), nn.Conv2d(c4, len(RELATIONS) * len(OFFSETS), 1))

    def forward(self, slots: Tensor, fine: Tensor) -> Tensor:  # slots: b l s4 h/4 w/4, fine: b c4 h/4 w/4
        out: Tensor = self.mix(self.slots(slots.mean(1)) + self.fine(fine))
        return out


class SlotNet(nn.Module):
    """Pictures `b 3 h w` in -1..1 (sRGB-encoded) to slots: alpha logits `b l h w`, colour `b l 3 h/4 w/4` in 0..1.

    And what is said of pairs of cells: see `Relations`.

    salient: `b 1 h w` in -1..1, what stands out in them (`unfuse.saliency`), a hint.
    ids: `b l+1 n 3` int64 positions (layer, row, column) of the slots' tokens, then of the condition's (layer -1), as
    `tokens.position_ids` makes them; a slot's meaning is its layer, 1 to `slots`.
    """

    def __init__(self, params: SlotNetParams) -> None:
        super().__init__()
        self.params = params
        self.stem = Stem(params)
        self.meaning = nn.Embedding(params.slots + 1, params.channels[3])
        self.mmdit = MMDiT(params.mmdit)
        self.slot_decoder = SlotDecoder(params)
        self.pixel_decoder = PixelDecoder(params)
        self.relations = Relations(params)

    def forward(self, picture: Tensor, salient: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        half, quarter, eighth, coarse = self.stem(torch.cat([picture, salient], dim=1))
        h, w = coarse.shape[-2:]
        condition = rearrange(coarse, "b c h w -> b 1 (h w) c")
        slots = condition + self.meaning(ids[:, :-1, :, 0])  # b l n c
        sigma = torch.ones_like(picture[:, 0, 0, 0])  # b: one step, from noise level 1
        answer = self.mmdit(torch.cat([slots, condition], dim=1), ids, sigma)[:, :-1]  # b l n s16
        decoded, slots = self.slot_decoder(rearrange(answer, "b l (h w) c -> b l c h w", h=h, w=w), quarter, eighth)
        weights, colour = decoded[:, :, :-3], decoded[:, :, -3:]  # b l k+1 h/4 w/4, b l 3 h/4 w/4
        features, fine = self.pixel_decoder(picture, half, quarter, eighth)  # b k h w, b c4 h/4 w/4
        return self.alpha(features, weights), torch.sigmoid(colour), self.relations(slots, fine)

    @staticmethod
    def alpha(features: Tensor, weights: Tensor) -> Tensor:
        """Logits `b l h w`: features `b k h w` weighed by kernels `b l k+1 h/4 w/4`, the last one being the bias."""
        count = weights.shape[1]
        grown = functional.interpolate(
            rearrange(weights, "b l k h w -> b (l k) h w"), scale_factor=4.0, mode="bilinear", align_corners=False
        )
        grown = rearrange(grown, "b (l k) h w -> b l k h w", l=count)
        kernel, bias = grown[:, :, :-1], grown[:, :, -1]
        return (kernel * features[:, None]).sum(2) + bias
