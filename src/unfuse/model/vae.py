"""RGBA-VAE: one RGBA frame to a latent with an eighth of its side and 16 channels, and back.

Source: Qwen-Image-Layered (arXiv 2512.15603) section 3.1. The picture and its layers share one latent space, so alpha
is a fourth channel in the range [-1, 1] of the colours (straight alpha, sRGB-encoded), and RGB enters with alpha 1.

The published weights are a causal 3D VAE for video. A still picture is one frame after two empty ones, so only the last
temporal slice of each 3D kernel ever meets it, and the layers that resample time are skipped: what is left, exactly, is
the 2D network below. It keeps the published names, and `fold` takes the published shapes to its own.

Axes: b frame, c channel, h w place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class VAEParams:
    """Sizes of a `VAE`; the defaults are the published model (f = 8: three halvings between four widths).

    stem: side of the pixel blocks that become channels before the first convolution; 1 for none. latent_mean and
    latent_std: what normalises each latent channel for the transformer.
    """

    base: int = 96
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    res_blocks: int = 2
    channels: int = 4
    latent: int = 16
    stem: int = 1
    latent_mean: tuple[float, ...] = (
        *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
        *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
    )
    latent_std: tuple[float, ...] = (
        *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
        *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
    )

    def __post_init__(self) -> None:
        if not len(self.latent_mean) == len(self.latent_std) == self.latent:
            raise ValueError(f"latent_mean and latent_std need {self.latent} numbers, one for each latent channel")

    @property
    def factor(self) -> int:
        """How many pixels of the side one latent place covers."""
        return int(self.stem * 2 ** (len(self.multipliers) - 1))


class Posterior(NamedTuple):
    """What the encoder knows about a latent: mean and log variance, both `b c h w`."""

    mean: Tensor
    logvar: Tensor


class RMSNorm(nn.Module):
    """Root-mean-square norm over the channels of `b c h w`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        unit: Tensor = functional.normalize(x, dim=1)
        result: Tensor = unit * len(self.gamma) ** 0.5 * self.gamma[:, None, None]
        return result


class ResBlock(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm1 = RMSNorm(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.norm2 = RMSNorm(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.conv_shortcut = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(functional.silu(self.norm1(x)))
        y = self.conv2(functional.silu(self.norm2(y)))
        result: Tensor = self.conv_shortcut(x) + y
        return result


class Attention(nn.Module):
    """Attention of every place with every other, one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = rearrange(self.to_qkv(self.norm(x)), "b (three c) h w -> three b 1 (h w) c", three=3)
        y = functional.scaled_dot_product_attention(*qkv.unbind(0))  # b 1 (h w) c
        result: Tensor = x + self.proj(rearrange(y, "b 1 (h w) c -> b c h w", h=x.shape[2]))
        return result


class Middle(nn.Module):
    """The narrowest part: two residual blocks around an attention."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResBlock(channels, channels), ResBlock(channels, channels)])
        self.attentions = nn.ModuleList([Attention(channels)])

    def forward(self, x: Tensor) -> Tensor:
        before, after = self.resnets
        result: Tensor = after(self.attentions[0](before(x)))
        return result


class Down(nn.Module):
    """Halve the side: a strided convolution, padded at the right and at the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.resample(x)
        return result


class Up(nn.Module):
    """Double the side by repeating, then a convolution to half the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(channels, channels // 2, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.resample(x)
        return result


class UpBlock(nn.Module):
    """The decoder's blocks at one size, and the way to the next."""

    def __init__(self, channels: int, out: int, res_blocks: int, last: bool) -> None:
        super().__init__()
        widths = [channels] + [out] * (res_blocks + 1)
        self.resnets = nn.Sequential(*(ResBlock(i, o) for i, o in pairwise(widths)))
        self.upsamplers = nn.Sequential(*([] if last else [Up(out)]))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.upsamplers(self.resnets(x))
        return result


class Encoder(nn.Module):
    """Pixels `b c h w` to the two halves of the posterior `b 2c h/8 w/8`, before `quant_conv`."""

    def __init__(self, params: VAEParams) -> None:
        super().__init__()
        widths = [params.base * m for m in (1, *params.multipliers)]
        self.stem = nn.PixelUnshuffle(params.stem)
        self.conv_in = nn.Conv2d(params.channels * params.stem**2, widths[0], 3, padding=1)
        self.down_blocks = nn.Sequential(*self.blocks(widths, params.res_blocks))
        self.mid_block = Middle(widths[-1])
        self.norm_out = RMSNorm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 2 * params.latent, 3, padding=1)

    @staticmethod
    def blocks(widths: list[int], res_blocks: int) -> Iterator[nn.Module]:
        """One flat row, as published: residual blocks of a size, then the way down, and so on."""
        for i, (channels, out) in enumerate(pairwise(widths)):
            yield ResBlock(channels, out)
            yield from (ResBlock(out, out) for _ in range(res_blocks - 1))
            if i < len(widths) - 2:
                yield Down(out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.down_blocks(self.conv_in(self.stem(x))))
        result: Tensor = self.conv_out(functional.silu(self.norm_out(x)))
        return result


class Decoder(nn.Module):
    """Latents `b c h/8 w/8` after `post_quant_conv` to pixels `b c h w`, not yet clamped."""

    def __init__(self, params: VAEParams) -> None:
        super().__init__()
        widths = [params.base * m for m in reversed(params.multipliers)]
        entries = [widths[0], *(w // 2 for w in widths[:-1])]  # every way up halves the channels
        self.res_blocks, self.sizes = params.res_blocks, len(widths)
        self.conv_in = nn.Conv2d(params.latent, widths[0], 3, padding=1)
        self.mid_block = Middle(widths[0])
        self.up_blocks = nn.Sequential(
            *(
                UpBlock(entry, width, params.res_blocks, last=i == len(widths) - 1)
                for i, (entry, width) in enumerate(zip(entries, widths, strict=True))
            )
        )
        self.norm_out = RMSNorm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], params.channels * params.stem**2, 3, padding=1)
        self.stem = nn.PixelShuffle(params.stem)

    def forward(self, z: Tensor) -> Tensor:
        return self.fine(self.coarse(z))

    def coarse(self, z: Tensor) -> Tensor:
        """The attention, which sees all places, and the up blocks before the last two: little memory."""
        x: Tensor = self.up_blocks[:-2](self.mid_block(self.conv_in(z)))
        return x

    def fine(self, x: Tensor) -> Tensor:
        """The rest: most of the memory, and nothing that looks farther than `reach`."""
        x = self.up_blocks[-2:](x)
        result: Tensor = self.stem(self.conv_out(functional.silu(self.norm_out(x))))
        return result

    def reach(self) -> int:
        """How many places of its input around a place its answer in `fine` depends on.

        One for each 3x3 convolution, counted at its own size: the last block's places are half of the one before.
        """
        in_a_block = 2 * (self.res_blocks + 1)
        if self.sizes == 1:
            return in_a_block + 1
        return in_a_block + math.ceil((1 + in_a_block + 1) / 2)

    def scale(self) -> int:
        """How many pixels of the side a place of the input of `fine` becomes."""
        return int(self.stem.upscale_factor * 2 ** (min(2, self.sizes) - 1))


class VAE(nn.Module):
    """RGBA frames `b 4 h w` in [-1, 1] to latents `b 16 h/8 w/8` and back; h and w are multiples of 8."""

    def __init__(self, params: VAEParams) -> None:
        super().__init__()
        self.params = params
        self.encoder = Encoder(params)
        self.quant_conv = nn.Conv2d(2 * params.latent, 2 * params.latent, 1)
        self.post_quant_conv = nn.Conv2d(params.latent, params.latent, 1)
        self.decoder = Decoder(params)

    def encode(self, pixels: Tensor) -> Posterior:
        """The posterior of the raw latents."""
        mean, logvar = self.quant_conv(self.encoder(pixels)).chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(-30, 20))

    def decode(self, latents: Tensor, tile: int | None = None) -> Tensor:
        """Raw latents to pixels, not clamped.

        tile: a side in pixels; larger pictures are finished tile by tile, each with as much around it as its pixels
        depend on, so that nothing changes but the memory.
        """
        x = self.decoder.coarse(self.post_quant_conv(latents))
        side = None if tile is None else max(1, tile // self.decoder.scale())
        if side is None or max(x.shape[-2:]) <= side:
            return self.decoder.fine(x)
        rows = [self.decode_row(x, top, side) for top in range(0, x.shape[2], side)]
        return torch.cat(rows, dim=2)

    def decode_row(self, x: Tensor, top: int, side: int) -> Tensor:
        """One row of tiles: `b c h w` before `fine` to `b 4 h w` pixels, all columns of rows from `top`."""
        reach, scale = self.decoder.reach(), self.decoder.scale()
        first = max(0, top - reach)
        tiles = []
        for left in range(0, x.shape[3], side):
            start = max(0, left - reach)
            pixels = self.decoder.fine(x[:, :, first : top + side + reach, start : left + side + reach])
            above, before, size = (top - first) * scale, (left - start) * scale, side * scale
            tiles.append(pixels[:, :, above : above + size, before : before + size])
        return torch.cat(tiles, dim=3)

    def normalise(self, latents: Tensor) -> Tensor:
        """Raw latents to what the transformer works on: mean 0 and deviation 1 in every channel."""
        mean, std = self.statistics(latents)
        return (latents - mean) / std

    def denormalise(self, latents: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        mean, std = self.statistics(latents)
        return latents * std + mean

    def statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the latent channels, each `c 1 1`."""
        mean, std = like.new_tensor((self.params.latent_mean, self.params.latent_std))[..., None, None]
        return mean, std


def with_alpha(pixels: Tensor) -> Tensor:
    """RGB `b 3 h w` in [-1, 1] as opaque RGBA: alpha 1 is +1 in this range."""
    return torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1)


VIDEO_ONLY = ".time_conv."  # in the name of every published tensor that no still picture meets


def fold(name: str, published: Tensor) -> Tensor:
    """A published tensor in the shape that the 2D network has."""
    if name.endswith(".gamma"):  # c 1 1 1, or c 1 1
        return published.flatten()
    return published[:, :, -1] if published.ndim == 5 else published  # o i t h w: the last slice


def rgba_from_rgb(rgb: Mapping[str, Tensor], stem: int = 1) -> dict[str, Tensor]:
    """The first RGBA-VAE out of an RGB one: alpha is not read yet, and comes out as 1 everywhere (section 3.1).

    Works on folded weights and on published 3D ones alike.
    """
    rgba = dict(rgb)
    block = stem**2  # channels that the stem makes of one
    weight = rgb["encoder.conv_in.weight"]  # o (3 block) ...
    rgba["encoder.conv_in.weight"] = torch.cat([weight, torch.zeros_like(weight[:, :block])], dim=1)
    weight, bias = rgb["decoder.conv_out.weight"], rgb["decoder.conv_out.bias"]  # (3 block) i ...
    rgba["decoder.conv_out.weight"] = torch.cat([weight, torch.zeros_like(weight[:block])], dim=0)
    rgba["decoder.conv_out.bias"] = torch.cat([bias, torch.ones_like(bias[:block])])
    return rgba
