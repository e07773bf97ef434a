"""Text or a picture to layers by rectified flow, in the latents of an RGBA-VAE: what is trained from nothing or tuned.

Source: Qwen-Image-Layered (arXiv 2512.15603) section 3. One transformer for all of its stages: slots alone for text to
layers (one slot: text to a picture), slots and the picture's clean latent, the condition, for picture to layers.
x_s = (1 - s) x_0 + s e, velocity v = e - x_0, s = 1 is noise.

A caption becomes states in one of two ways: its UTF-8 bytes by an embedding that learns with the model ("bytes"), or
the published text encoder, frozen, which comes from a checkpoint's folder ("qwen").

Axes: b picture, l slot, c channel, h w grid, t text token, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from unfuse.flow import euler, guide, schedule
from unfuse.model.mmdit import MMDiT, MMDiTParams
from unfuse.model.text import TextEncoder, together
from unfuse.model.vae import VAE, VAEParams, with_alpha
from unfuse.tokens import PATCH, pack, position_ids, unpack

BYTES = 256
LONGEST = 192  # bytes of a caption that are read

Params = TypeVar("Params")
Read = Callable[[Sequence[str]], tuple[Tensor, Tensor]]  # captions to states `b t d` and their mask `b t`


@dataclass(frozen=True)
class LayerFlowParams:
    """Sizes of a `LayerFlow`; the defaults are the published model. reader: who turns captions into states."""

    vae: VAEParams = field(default_factory=VAEParams)
    mmdit: MMDiTParams = field(default_factory=MMDiTParams)
    reader: Literal["bytes", "qwen"] = "qwen"

    def __post_init__(self) -> None:
        if self.mmdit.text_width is None or self.mmdit.attention != "joint":
            raise ValueError("a LayerFlow reads captions: its mmdit needs a text_width and attention 'joint'")
        if self.mmdit.in_features != self.vae.latent * PATCH**2 or self.mmdit.out_features != self.mmdit.in_features:
            raise ValueError(
                f"a token of this VAE has {self.vae.latent * PATCH**2} features: in and out must have them"
            )

    @classmethod
    def read(cls, about: dict[str, Any]) -> LayerFlowParams:
        """The params out of what `dataclasses.asdict` and JSON made of them."""
        return cls(described(VAEParams, about["vae"]), described(MMDiTParams, about["mmdit"]), about["reader"])


def described(kind: type[Params], about: dict[str, Any]) -> Params:
    """A params dataclass out of what JSON made of its fields: lists are tuples."""
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in about.items()})


class Bytes(nn.Module):
    """Captions as the embeddings of their UTF-8 bytes; a 0 ends each, so that even an empty one is one token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(BYTES, width)

    def forward(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        device = self.embedding.weight.device
        codes = [torch.tensor([*caption.encode()[:LONGEST], 0], device=device) for caption in captions]
        states, mask = together(codes)  # b t
        embedded: Tensor = self.embedding(states)  # b t d
        return embedded, mask


class QwenReader:
    """Captions read by the published text encoder, each once; the encoder comes from disk at the first caption."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.encoder: TextEncoder | None = None
        self.known: dict[str, Tensor] = {}

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        for caption in set(captions) - self.known.keys():
            self.encoder = self.encoder or TextEncoder(self.checkpoint, *where())
            self.known[caption] = (
                self.encoder.encode([caption])[0][0].float().clone()
            )  # to learn with: no longer inference
        return together([self.known[caption] for caption in captions])


def where() -> tuple[str, torch.dtype]:
    """Device and precision of a frozen part."""
    return ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)


class LayerFlow(nn.Module):
    """A frozen VAE, the transformer that works in its latents, and what reads captions."""

    def __init__(self, params: LayerFlowParams, text: Path | None = None) -> None:
        """text: the published checkpoint that reader "qwen" takes its text encoder from."""
        super().__init__()
        self.params = params
        self.vae = VAE(params.vae).requires_grad_(False)
        self.mmdit = MMDiT(params.mmdit)
        assert params.mmdit.text_width is not None
        self.reader = Bytes(params.mmdit.text_width) if params.reader == "bytes" else None
        self.encoder: Read = QwenReader(text or Path())

    def read(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Captions to states `b t d` and their mask `b t`, False at padding."""
        return self.encoder(captions) if self.reader is None else self.reader(captions)

    @property
    def side(self) -> int:
        """What a picture's sides must be multiples of."""
        return self.params.vae.factor * PATCH

    def encode(self, frames: Tensor) -> Tensor:
        """RGBA frames `b l 4 h w` in -1..1 to normalised latents `b l c h/8 w/8`."""
        b = frames.shape[0]
        with torch.no_grad():
            z = self.vae.normalise(self.vae.encode(rearrange(frames, "b l c h w -> (b l) c h w")).mean.float())
        latents: Tensor = rearrange(z, "(b l) c h w -> b l c h w", b=b)
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents `b l c h w` to frames `b l 4 8h 8w` in -1..1."""
        frames = [self.vae.decode(self.vae.denormalise(slots)).clamp(-1, 1) for slots in latents]
        return torch.stack(frames)

    def velocity(
        self,
        noisy: Tensor,  # b l c h w
        condition: Tensor | None,  # b 1 c h w, clean
        sigma: Tensor,  # b
        text: tuple[Tensor, Tensor],  # b t d, b t
    ) -> Tensor:  # b l c h w
        b, count, _, h, w = noisy.shape
        rows, columns = h // PATCH, w // PATCH
        ids = torch.from_numpy(position_ids(count, rows, columns)).to(noisy.device)
        slots = noisy if condition is None else torch.cat([noisy, condition], 1)
        places = repeat(ids[: slots.shape[1] * rows * columns], "n a -> b n a", b=b)
        states, mask = text
        padded = None if bool(mask.all()) else mask.to(noisy.device)
        v = self.mmdit(pack(slots), places, sigma, states.to(noisy.device), padded)
        out: Tensor = unpack(v[:, : count * rows * columns], rows, columns)
        return out

    @torch.no_grad()
    def sample(
        self,
        captions: Sequence[str],
        slots: int,
        size: tuple[int, int],
        *,
        picture: Tensor | None = None,
        steps: int = 50,
        guidance: float = 1.0,
        seeds: Sequence[int] | None = None,
        on_step: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Frames `b l 4 h w` in -1..1 for captions and, if given, pictures `b 4|3 h w` in -1..1.

        slots: slot 0, the whole, and as many layers as are wanted less one. size: (height, width) in pixels. seeds: of
        each picture's noise, 0, 1, 2... by default. guidance 1 runs the transformer once a step instead of twice.
        """
        b, device = len(captions), self.mmdit.image_in.weight.device
        h, w = (side // self.params.vae.factor for side in size)
        shape = (slots, self.params.vae.latent, h, w)
        generators = [torch.Generator().manual_seed(seed) for seed in (range(b) if seeds is None else seeds)]
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)
        condition = None
        if picture is not None:
            condition = self.encode((picture if picture.shape[1] == 4 else with_alpha(picture))[:, None])
        text, nothing = self.read(captions), self.read([""] * b) if guidance != 1 else None

        def velocity(x: Tensor, sigma: float) -> Tensor:
            level = x.new_full((b,), sigma)
            v = self.velocity(x, condition, level, text)
            if nothing is None:
                return v
            tokens = guide(pack(v), pack(self.velocity(x, condition, level, nothing)), guidance, normalise=True)
            return unpack(tokens, h // PATCH, w // PATCH)

        sigmas = schedule(steps, tokens=h * w // PATCH**2).tolist()
        return self.decode(euler(velocity, noise, sigmas, on_step))
