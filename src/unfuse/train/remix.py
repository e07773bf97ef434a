"""More designs from drawn ones, on the device that trains: processes that draw cannot keep a large GPU busy.

A new design takes each of its parts (background, decoration, objects, text) from some drawn design of the batch, moves,
turns, scales and mirrors it, exchanges its colour channels, and puts the parts together. Objects stay with the objects
behind them, so that slots keep their meaning; text changes its tone where it could not be read on its new ground.
The first copies are the drawn designs as they are.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from unfuse.corpus.compose import BLUR, JPEG, NOISE, READABLE
from unfuse.corpus.draw import LUMA
from unfuse.saliency import MEAN, STD, shipped
from unfuse.train import jpeg

if TYPE_CHECKING:
    from unfuse.train.onnx_graph import Graph

PARTS = ((0,), (1,), (2, 3), (4,))  # slots that stay together; see `model.slots.SLOTS`
BACKGROUND, TEXT = 0, 3  # of them


def remixed(drawn: Tensor, owner: Tensor, copies: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Slots `b l h w 4` uint8, straight, and whose is seen in them, `b l h w` uint8, to designs, `n` = copies x b.

    Answers pictures `n 3 h w` and slots `n l 4 h w` in 0..1, and whose is seen, `n l h w`. What comes of it depends on
    the drawn designs and rng alone, up to rounding on any device.
    """
    slots = rearrange(drawn, "b l h w c -> b l c h w").float() / 255
    h, w = slots.shape[3:]
    straight, owners = [slots], [owner]
    for _ in range(copies - 1):
        dealt = [taken(slots[:, part], owner[:, part], i, rng, h / w) for i, part in enumerate(PARTS)]
        parts = [part for part, _ in dealt]
        parts[TEXT] = readable(parts[TEXT], flat(torch.cat(parts[:TEXT], 1)))
        straight.append(torch.cat(parts, 1))
        owners.append(torch.cat([whose for _, whose in dealt], 1))
    together = torch.cat(straight)
    return flat(together), together, torch.cat(owners)


def taken(part: Tensor, owner: Tensor, which: int, rng: np.random.Generator, ratio: float) -> tuple[Tensor, Tensor]:
    """The slots `b s 4 h w` of one part and whose they show, dealt anew to the designs, moved and coloured."""
    b, s = part.shape[:2]
    who = torch.from_numpy(rng.permutation(b)).to(part.device)
    orders = torch.from_numpy(np.stack([rng.permutation(3) for _ in range(b)])).to(part.device)
    part, owner = part[who], owner[who]
    colour = part[:, :, :3].gather(2, orders[:, None, :, None, None].expand(b, s, 3, *part.shape[3:]))
    there = torch.cat([colour * part[:, :, 3:], part[:, :, 3:]], 2)
    where = moves(b, which, rng, ratio).to(part)
    grid = functional.affine_grid(where, [b, 1, *part.shape[3:]], align_corners=False)
    padding = "reflection" if which == BACKGROUND else "zeros"
    moved = functional.grid_sample(there.flatten(1, 2), grid, padding_mode=padding, align_corners=False)
    moved = rearrange(moved, "b (s c) h w -> b s c h w", c=4)
    alpha = moved[:, :, 3:]
    whose = functional.grid_sample(owner.float(), grid, mode="nearest", padding_mode=padding, align_corners=False)
    return torch.cat([moved[:, :, :3] / alpha.clamp_min(1e-4) * (alpha > 1e-4), alpha], 2), whose.byte()


def moves(b: int, which: int, rng: np.random.Generator, ratio: float) -> Tensor:
    """Where each new picture looks, `b 2 3` in torch's -1..1. ratio: height to width, so that turns stay turns."""
    zoom = np.exp(rng.normal(0, 0.2, b))
    angle = np.deg2rad(rng.normal(0, 6, b)) * (which not in (BACKGROUND, TEXT))
    shift = rng.normal(0, 0.2, (b, 2))
    mirror = np.where((rng.random(b) < 0.5) & (which != TEXT), -1.0, 1.0)
    if which == BACKGROUND:
        zoom, shift = np.minimum(zoom, 1), shift * 0.5
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    rows = np.stack([mirror * cos, -sin * ratio, shift[:, 0], mirror * sin / ratio, cos, shift[:, 1]], 1)
    return torch.from_numpy(rows.reshape(b, 2, 3)).float()


def readable(text: Tensor, ground: Tensor) -> Tensor:
    """Text `b 1 4 h w` on ground `b 3 h w`: inverted where its tone is too near, or white or black where that is."""
    weights = torch.tensor(LUMA, device=text.device)[:, None, None]
    alpha = text[:, 0, 3:]
    mass = alpha.sum((1, 2, 3)).clamp_min(1e-6)

    def tone(colour: Tensor) -> Tensor:
        return (colour * weights * alpha).sum((1, 2, 3)) / mass

    ink, below = tone(text[:, 0, :3]), tone(ground)
    contrast = torch.where(below < 0.5, 1.0, 0.0)[:, None, None, None, None]
    near, still = (ink - below).abs() < READABLE, (1 - ink - below).abs() < READABLE
    changed = torch.where(still[:, None, None, None, None], contrast, 1 - text[:, :, :3])
    colour = torch.where(near[:, None, None, None, None], changed, text[:, :, :3])
    return torch.cat([colour, text[:, :, 3:]], 2)


def flat(slots: Tensor) -> Tensor:
    """Slots `b l 4 h w`, straight, put together: `b 3 h w`."""
    out = torch.zeros_like(slots[:, 0, :3])
    for layer in slots.unbind(1):
        out = layer[:, :3] * layer[:, 3:] + out * (1 - layer[:, 3:])
    return out


def weathered(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """What pictures `b 3 h w` collect on their way, as `corpus.compose.weather` has it: blur, noise, JPEG."""
    b, _, h, w = pictures.shape
    sigma = np.where(rng.random(b) < BLUR[0], rng.uniform(*BLUR[1], b), 1e-3)
    x = np.arange(-2, 3)
    kernel = np.exp(-(x**2) / (2 * sigma[:, None] ** 2))
    kernel = torch.from_numpy(kernel / kernel.sum(1, keepdims=True)).to(pictures).repeat_interleave(3, 0)
    out = functional.pad(pictures.reshape(1, b * 3, h, w), (2, 2, 2, 2), mode="replicate")
    out = functional.conv2d(out, kernel[:, None, None, :], groups=b * 3)
    out = functional.conv2d(out, kernel[:, None, :, None], groups=b * 3).view(b, 3, h, w)
    spread = np.where(rng.random(b) < NOISE[0], rng.uniform(*NOISE[1], b), 0)
    noise = torch.from_numpy(spread).to(pictures)
    grain = torch.from_numpy(rng.standard_normal(pictures.shape, np.float32)).to(pictures)
    out = (out + grain * noise[:, None, None, None]).clamp(0, 1)
    squeezed = jpeg.compressed(out, torch.from_numpy(rng.integers(*JPEG[1], b)).to(out))
    keep = torch.from_numpy(rng.random(b) < 1 - JPEG[0]).to(out.device)
    return torch.where(keep[:, None, None, None], out, squeezed)


@cache
def looker(device: str) -> Graph:
    """The hint's network on a device, read once. Runs that do not remix need no package `onnx`."""
    from unfuse.train.onnx_graph import Graph

    return Graph(shipped("saliency.onnx"), device)


def salient(pictures: Tensor, side: int) -> Tensor:
    """The hint `b h w` in 0..1 of pictures `b 3 h w`, as `saliency.Saliency` gives it."""
    how = "area" if min(pictures.shape[-2:]) > side else "bilinear"
    squares = functional.interpolate(pictures, size=(side, side), mode=how)
    brightest = squares.amax((1, 2, 3), keepdim=True).clamp_min(1e-6)
    mean, std = (torch.from_numpy(x).to(pictures)[:, None, None] for x in (MEAN, STD))
    maps = looker(str(pictures.device))((squares / brightest - mean) / std)
    return functional.interpolate(maps, size=pictures.shape[-2:], mode="bilinear")[:, 0].clamp(0, 1)
