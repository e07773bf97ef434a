"""What JPEG leaves of pictures, without the bytes: a batch at once, on the device that trains (ITU-T T.81).

Colour goes to Y'CbCr (ITU-T T.871), chroma to half the size, blocks of 8x8 through the cosine transform; its numbers
are rounded to multiples of the tables of Annex K, scaled by quality as the Independent JPEG Group's library does.
"""

from __future__ import annotations

from functools import cache

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

LUMA = """
16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99
"""
CHROMA = """
17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99
"""
MULTIPLE = 16  # sides are multiples of it: a block of halved chroma


@cache
def constants(device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The tables `8 8` of luma and chroma, the cosine transform `8 8`, the matrix from RGB to Y'CbCr."""
    luma, chroma = (torch.tensor([float(n) for n in table.split()]).view(8, 8) for table in (LUMA, CHROMA))
    k, n = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    cosines = torch.cos((2 * n + 1) * k * torch.pi / 16) / 2
    cosines[0] /= 2**0.5
    to_ycc = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    return luma.to(device), chroma.to(device), cosines.to(device), to_ycc.to(device)


def compressed(pictures: Tensor, quality: Tensor) -> Tensor:
    """Pictures `b 3 h w` in 0..1, sides multiples of 16, as they come out of JPEG files of `quality` (`b`, 1..100)."""
    luma, chroma, cosines, to_ycc = constants(str(pictures.device))
    levels = torch.einsum("oc, b c h w -> b o h w", to_ycc, pictures * 255)
    y = rounded(levels[:, :1] - 128, luma, cosines, quality) + 128
    small = rounded(functional.avg_pool2d(levels[:, 1:], 2), chroma, cosines, quality)
    ycc = torch.cat([y, functional.interpolate(small, scale_factor=2.0, mode="bilinear")], 1)
    rgb = torch.einsum("oc, b c h w -> b o h w", torch.linalg.inv(to_ycc), ycc)
    return (rgb / 255).clamp(0, 1)


def rounded(planes: Tensor, table: Tensor, cosines: Tensor, quality: Tensor) -> Tensor:
    """Planes `b c h w` in levels around 0, their blocks' cosine numbers rounded to multiples of the scaled table."""
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, None, None]
    steps = ((table * scale + 50) / 100).floor().clamp(1, 255)[:, None, None, None]
    blocks = rearrange(planes, "b c (r y) (k x) -> b c r k y x", y=8, x=8)
    numbers = (cosines @ blocks @ cosines.T / steps).round() * steps
    return rearrange(cosines.T @ numbers @ cosines, "b c r k y x -> b c (r y) (k x)")
