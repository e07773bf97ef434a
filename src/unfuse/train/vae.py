"""The stage `vae`: one latent space for pictures (RGB, alpha 1) and layers (RGBA).

Loss: reconstruction of alpha and of colour where there is any, of their edges, and a little KL (Qwen-Image-Layered
section 3.1 names reconstruction, perceptual and regularisation terms; a perceptual network is not at hand).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unfuse.corpus.compose import compose, flat
from unfuse.model.slots import STRIDE
from unfuse.model.vae import VAE, VAEParams
from unfuse.train.slots import opened

SMALL = VAEParams(base=32, multipliers=(1, 2, 4), res_blocks=1, stem=2, latent_mean=(0.0,) * 16, latent_std=(1.0,) * 16)
KL = 1e-4


def model() -> VAE:
    """The small VAE, untrained."""
    return VAE(SMALL)


def batch(root: Path, split: str, seed: int, step: int, count: int, side: int) -> dict[str, NDArray[np.uint8]]:
    """Frames `b h w 4` uint8, straight alpha: a third of them whole pictures, the rest single layers."""
    pack, rng = opened(root, split), np.random.default_rng([seed, step])
    side = side // STRIDE * STRIDE
    frames: list[NDArray[np.float32]] = []
    while len(frames) < count:
        layers = compose(pack, rng, (side, side))
        some = [layers[i].rgba for i in rng.permutation(range(1, len(layers)))[:2]]
        frames += [np.dstack([flat(layers), np.ones((side, side), np.float32)]), *some]
    return {"frames": (np.stack(frames[:count]) * 255 + 0.5).astype(np.uint8)}


def loss(net: nn.Module, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """`loss` and its parts, on frames in -1..1."""
    assert isinstance(net, VAE)
    frames = arrays["frames"].permute(0, 3, 1, 2).float() / 127.5 - 1
    posterior = net.encode(frames)
    noise = torch.randn_like(posterior.mean) if net.training else torch.zeros_like(posterior.mean)
    out = net.decode(posterior.mean + torch.exp(0.5 * posterior.logvar) * noise)
    cover = (frames[:, 3:] + 1) / 2
    weight = torch.cat([cover.expand(-1, 3, -1, -1), torch.ones_like(cover)], 1)
    error = (out - frames) * weight
    reconstruction = error.abs().mean()
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    mean, logvar = posterior
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return {"loss": reconstruction + edges + KL * kl, "reconstruction": reconstruction, "edges": edges, "kl": kl}


@torch.inference_mode()
def validate(net: nn.Module, arrays: dict[str, Tensor]) -> dict[str, float]:
    """PSNR in dB of alpha, and of colour weighed by alpha, from the posterior's mean; and the losses."""
    assert isinstance(net, VAE)
    frames = arrays["frames"].permute(0, 3, 1, 2).float() / 255
    out = (net.decode(net.encode(frames * 2 - 1).mean).clamp(-1, 1) + 1) / 2
    square, cover = (out - frames).square(), frames[:, 3:]
    colour = (square[:, :3] * cover).sum() / (3 * cover.sum())
    decibel = {"psnr alpha": square[:, 3].mean(), "psnr colour": colour}
    losses = {k: float(v) for k, v in loss(net, arrays).items()}
    return {**{k: float(-10 * torch.log10(v.clamp_min(1e-10))) for k, v in decibel.items()}, **losses}
