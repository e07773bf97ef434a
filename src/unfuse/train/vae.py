"""The stage `vae`: one latent space for pictures (RGB, alpha 1) and layers (RGBA), trained on both together.

Qwen-Image-Layered section 3.1 names three terms. Reconstruction: of alpha, and of colour where there is any, and of
their edges. Perceptual: no network's weights are shipped, so it is structural similarity (SSIM) at three scales, of the
frames laid over colours that each draws for itself. Regularisation: KL of the posterior. The published weights of the
terms are not known; ours are below.

Started from an RGB VAE, the two ends that touch pixels become 4-channel ones that first ignore alpha and answer 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from unfuse.model.layerflow import described
from unfuse.model.vae import VAE, VAEParams, rgba_from_rgb
from unfuse.train import data, sheets
from unfuse.train.stage import Arrays, Stage, Tensors, TrainParams, Want, size_of

KL, PERCEPTUAL = 1e-4, 0.1
SCALES = 3
WINDOW, SPREAD = 11, 1.5  # of SSIM's Gaussian
C1, C2 = 0.01**2, 0.03**2


def own(base: int, multipliers: tuple[int, ...], stem: int) -> VAEParams:
    """A VAE whose latents' statistics are not known before it is trained."""
    nothing, one = (0.0,) * 16, (1.0,) * 16
    return VAEParams(base, multipliers, res_blocks=1, stem=stem, latent_mean=nothing, latent_std=one)


SIZES = {"tiny": own(8, (1, 2, 2), 2), "small": own(32, (1, 2, 4), 2), "full": VAEParams()}


def params_of(about: dict[str, Any]) -> VAEParams:
    """The params in a run's JSON; of a run from before they stood there, the small ones."""
    if "model" not in about:
        return SIZES["small"]
    return described(VAEParams, about["model"])


def build(params: TrainParams) -> VAE:
    """A VAE of a size, untrained."""
    return VAE(size_of(SIZES, params, "vae"))


def begin(net: VAE, weights: dict[str, Tensor]) -> None:
    """Take over the weights of an RGBA-VAE, or those of an RGB one."""
    stem = net.params.stem
    if weights["encoder.conv_in.weight"].shape[1] == 3 * stem**2:
        weights = rgba_from_rgb(weights, stem)
    net.load_state_dict(weights)


def batch(want: Want) -> Arrays:
    """Frames `b h w 4` uint8, straight alpha: every third one a whole picture, the others single layers."""
    frames = []
    for place, design in zip(want.places(), data.designs(want, want.layers), strict=True):
        above = design.layers[1:]
        i = int(want.of_place(place).integers(len(above))) if above else 0
        frames.append(above[i] if place % 3 and above else data.opaque(design.picture))
    return {"frames": data.levels(np.stack(frames)), "key": want.keys()}


def over(frames: Tensor, colours: Tensor) -> Tensor:
    """Frames `b 4 h w` in 0..1 laid over one colour `b 3` each: `b 3 h w`."""
    alpha = frames[:, 3:]
    return frames[:, :3] * alpha + colours[:, :, None, None] * (1 - alpha)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) of `b c h w` in 0..1, Gaussian window of 11: the mean of each `b`."""
    side = min(WINDOW, *a.shape[-2:])
    x = torch.arange(side, device=a.device, dtype=a.dtype) - (side - 1) / 2
    line = torch.exp(-(x**2) / (2 * SPREAD**2))
    line = line / line.sum()
    channels = a.shape[1]
    across = line[None, None, None, :].expand(channels, 1, 1, side)
    down = line[None, None, :, None].expand(channels, 1, side, 1)

    def blur(y: Tensor) -> Tensor:
        return functional.conv2d(functional.conv2d(y, across, groups=channels), down, groups=channels)

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, both = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    structure = (2 * both + C2) / (var_a + var_b + C2)
    return (luminance * structure).flatten(1).mean(1)


def perceptual(out: Tensor, frames: Tensor, colours: Tensor) -> Tensor:
    """1 - SSIM at three scales, of frames in -1..1 over colours `b 3`: `b`."""
    a, b = over((out + 1) / 2, colours), over((frames + 1) / 2, colours)
    found = []
    device = "cpu" if out.is_meta else out.device.type
    with torch.autocast(device, enabled=False):  # variances are differences of large numbers
        for _ in range(SCALES):
            found.append(1 - ssim(a, b))
            if min(a.shape[-2:]) >= 2 * WINDOW:
                a, b = functional.avg_pool2d(a, 2), functional.avg_pool2d(b, 2)
    return torch.stack(found).mean(0)


def loss(net: VAE, arrays: Tensors) -> dict[str, Tensor]:
    """`loss` and its parts, on frames in -1..1; in training, of a latent drawn from the posterior."""
    frames = rearrange(arrays["frames"].float() / 127.5 - 1, "b h w c -> b c h w")
    mean, logvar = (half.float() for half in net.encode(frames))
    generators = [torch.Generator().manual_seed(key) for key in arrays["key"].tolist()]
    noise = torch.stack([torch.randn(mean.shape[1:], generator=g) for g in generators]).to(mean.device)
    colours = torch.stack([torch.rand(3, generator=g) for g in generators]).to(mean.device)
    out = net.decode(mean + torch.exp(0.5 * logvar) * noise * net.training).float()
    cover = (frames[:, 3:] + 1) / 2
    error = (out - frames) * torch.cat([cover.expand(-1, 3, -1, -1), torch.ones_like(cover)], 1)
    reconstruction = error.abs().mean()
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    alike = perceptual(out, frames, colours).mean()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    total = reconstruction + edges + PERCEPTUAL * alike + KL * kl
    return {"loss": total, "reconstruction": reconstruction, "edges": edges, "perceptual": alike, "kl": kl}


def rebuilt(net: VAE, frames: Tensor) -> Tensor:
    """Frames `b h w 4` uint8 through the posterior's mean and back: `b 4 h w` in 0..1."""
    pixels = rearrange(frames.float() / 127.5 - 1, "b h w c -> b c h w")
    return (net.decode(net.encode(pixels).mean).float().clamp(-1, 1) + 1) / 2


def validate(net: VAE, arrays: Tensors) -> dict[str, float]:
    """PSNR in dB of alpha, and of colour weighed by alpha, from the posterior's mean; and the losses."""
    frames = rearrange(arrays["frames"].float() / 255, "b h w c -> b c h w")
    square, cover = (rebuilt(net, arrays["frames"]) - frames).square(), frames[:, 3:]
    colour = (square[:, :3] * cover).sum() / (3 * cover.sum())
    decibel = {"psnr alpha": square[:, 3].mean(), "psnr colour": colour}
    losses = {k: float(v) for k, v in loss(net, arrays).items()}
    return {**{k: float(-10 * torch.log10(v.clamp_min(1e-10))) for k, v in decibel.items()}, **losses}


def describe(net: VAE, arrays: Tensors) -> dict[str, Any]:
    """Mean and deviation of the latent channels, which the next stage normalises by; of held-out frames."""
    frames = rearrange(arrays["frames"].float() / 127.5 - 1, "b h w c -> b c h w")
    latents = rearrange(net.encode(frames).mean.float(), "b c h w -> c (b h w)")
    return {"latent_mean": latents.mean(1).tolist(), "latent_std": latents.std(1).clamp_min(1e-3).tolist()}


def sheet(net: VAE, arrays: Tensors) -> NDArray[np.uint8]:
    """Held-out frames above what comes back of them."""
    frames = arrays["frames"][: 2 * sheets.FEW]
    back = rearrange(rebuilt(net, frames), "b c h w -> b h w c").cpu().numpy()
    return sheets.sheet([list((frames.cpu().numpy() / 255).astype(np.float32)), list(back)])


STAGE = Stage(
    "vae",
    "one latent space for pictures and RGBA layers",
    build,
    batch,
    loss,
    validate,
    begin,
    sheet,
    describe,
    ends=(
        "encoder.conv_in",
        "encoder.conv_out",
        "quant_conv",
        "post_quant_conv",
        "decoder.conv_in",
        "decoder.conv_out",
    ),
)
