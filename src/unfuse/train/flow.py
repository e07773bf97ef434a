"""The stage `layers`: image to layers by rectified flow, in the latents of a trained VAE.

The whole and its layers are denoised jointly, the picture's clean latent is the condition; velocity v = e - x_0, sigma
logit-normal (Qwen-Image-Layered section 3.2). Slots stand as in the stage `slots`. Starts from a run of stage `vae`.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from unfuse.flow import add_noise, euler, logit_normal, schedule
from unfuse.model.mmdit import MMDiT, MMDiTParams
from unfuse.model.vae import VAE, with_alpha
from unfuse.tokens import pack, position_ids, unpack
from unfuse.train.vae import SMALL

SIZES = MMDiTParams(
    width=192, heads=6, depth=6, in_features=64, out_features=64, axes=(8, 12, 12), text_width=None,
    shared_modulation=True, attention="alternate", kinds=0,
)  # fmt: skip


class LayerFlow(nn.Module):
    """A frozen VAE and the transformer that learns in its latents."""

    def __init__(self, params: MMDiTParams = SIZES) -> None:
        super().__init__()
        self.vae = VAE(SMALL).requires_grad_(False)
        self.mmdit = MMDiT(params)

    def encode(self, frames: Tensor) -> Tensor:
        """RGBA frames `b l 4 h w` in -1..1 to latents `b l c h/8 w/8`."""
        b = frames.shape[0]
        with torch.no_grad():
            z = self.vae.normalise(self.vae.encode(rearrange(frames, "b l c h w -> (b l) c h w")).mean)
        latents: Tensor = rearrange(z, "(b l) c h w -> b l c h w", b=b)
        return latents

    def velocity(self, noisy: Tensor, condition: Tensor, sigma: Tensor) -> Tensor:
        """Velocity of slots `b l c h w` at noise levels `b`, given the clean condition `b 1 c h w`."""
        b, count, _, h, w = noisy.shape
        rows, columns = h // 2, w // 2
        tokens = rearrange(pack(torch.cat([noisy, condition], 1)), "b (l n) d -> b l n d", l=count + 1)
        ids = torch.from_numpy(position_ids(count, rows, columns)).to(noisy.device)
        places = repeat(ids, "(l n) a -> b l n a", b=b, l=count + 1)
        answer = self.mmdit(tokens, places, sigma)[:, :-1]
        v: Tensor = unpack(rearrange(answer, "b l n d -> b (l n) d"), rows, columns)
        return v

    @torch.inference_mode()
    def sample(self, picture: Tensor, slots: int, steps: int, seed: int) -> Tensor:
        """Pictures `b 3 h w` in -1..1 to frames `b l 4 h w`: slot 0 the whole, then `slots` layers."""
        condition = self.encode(with_alpha(picture)[:, None])
        b, _, c, h, w = condition.shape
        noise = torch.randn((b, slots + 1, c, h, w), generator=torch.Generator().manual_seed(seed)).to(picture.device)
        sigmas = schedule(steps, tokens=h * w // 4).tolist()
        latents = euler(lambda x, s: self.velocity(x, condition, x.new_full((b,), s)), noise, sigmas)
        frames = self.vae.decode(self.vae.denormalise(rearrange(latents, "b l c h w -> (b l) c h w")))
        return rearrange(frames.clamp(-1, 1), "(b l) c h w -> b l c h w", b=b)


def model() -> LayerFlow:
    """VAE and transformer, untrained."""
    return LayerFlow()


def begin(net: nn.Module, weights: dict[str, Tensor]) -> None:
    """Take over a VAE run's weights, or those of an earlier run of this stage."""
    assert isinstance(net, LayerFlow)
    target = net if any(k.startswith("mmdit.") for k in weights) else net.vae
    target.load_state_dict(weights)


def inputs(net: LayerFlow, arrays: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Latents of the whole and the slots `b l+1 c h w`, and of the condition `b 1 c h w`."""
    picture = with_alpha(rearrange(arrays["picture"].float() / 127.5 - 1, "b h w c -> b c h w"))[:, None]
    slots = rearrange(arrays["slots"].float() / 127.5 - 1, "b l h w c -> b l c h w")
    condition = net.encode(picture)
    return torch.cat([condition, net.encode(slots)], 1), condition


def loss(net: nn.Module, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mean square error of the velocity."""
    assert isinstance(net, LayerFlow)
    clean, condition = inputs(net, arrays)
    noise = torch.randn_like(clean)
    sigma = logit_normal(torch.randn(len(clean), device=clean.device))
    guess = net.velocity(add_noise(clean, noise, sigma), condition, sigma)
    return {"loss": (guess - (noise - clean)).square().mean()}


@torch.inference_mode()
def validate(net: nn.Module, arrays: dict[str, Tensor]) -> dict[str, float]:
    """The velocity's error at five noise levels, with the same noise each time."""
    assert isinstance(net, LayerFlow)
    clean, condition = inputs(net, arrays)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean.device)
    errors = {}
    for level in (0.1, 0.3, 0.5, 0.7, 0.9):
        sigma = clean.new_full((len(clean),), level)
        guess = net.velocity(add_noise(clean, noise, sigma), condition, sigma)
        errors[f"error at {level}"] = float((guess - (noise - clean)).square().mean())
    return {"error": sum(errors.values()) / len(errors), **errors}
