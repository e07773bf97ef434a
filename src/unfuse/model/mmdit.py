"""VLD-MMDiT: the transformer that sees the slots, the condition and the prompt at once and answers with a velocity.

Source: Qwen-Image-Layered (arXiv 2512.15603) section 3.2, on the MMDiT of Stable Diffusion 3. Tokens of the slots and
of the condition share one image stream; text has a stream of its own; both meet in one attention; AdaLN takes the noise
level (sigma, 1 is noise) to every block; Layer3D RoPE tells slots, rows and columns apart, the condition at layer -1.
The model's output is the velocity e - x_0.

One code, rows of parameters: the published model is `MMDiTParams()`. A small image-only model has no text stream
(`text_width=None`), may share one modulation over all blocks (`shared_modulation`, AdaLN-single of PixArt with a
learned offset for each block), and may alternate attention inside a slot with attention across slots at the same place
(`attention="alternate"`), which needs tokens as `b l n d`: slots with equal grids, the condition as one more of them.

Axes: b picture, l slot, n token, d width, e head, c channel of a head, a position axis (layer, row, column).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from unfuse.model.reuse import Reuse
from unfuse.model.sequence import Attention, Share
from unfuse.tokens import text_start

SINUSOIDS = 256  # length of the raw sigma embedding
EPS = 1e-6


@dataclass(frozen=True)
class MMDiTParams:
    """Sizes of an `MMDiT`; the defaults are the published 20-billion-parameter model.

    axes: channels of a head that encode (layer, row, column); they add up to `width / heads`. kinds: rows of a learned
    embedding added to sigma's (the published model has two, and uses row 0); 0 for none.
    """

    width: int = 3072
    heads: int = 24
    depth: int = 60
    in_features: int = 64
    out_features: int = 64
    axes: tuple[int, int, int] = (16, 56, 56)
    text_width: int | None = 3584
    shared_modulation: bool = False
    attention: Literal["joint", "alternate"] = "joint"
    kinds: int = 2

    def __post_init__(self) -> None:
        if sum(self.axes) * self.heads != self.width:
            raise ValueError(f"axes {self.axes} must add up to width / heads = {self.width}/{self.heads}")
        if self.attention == "alternate" and self.text_width is not None:
            raise ValueError("attention 'alternate' has no place for text: use text_width=None, or attention 'joint'")


def sinusoid(sigma: Tensor) -> Tensor:
    """Sigma `b` to `b 256` float32: cosines, then sines, of 1000 sigma at 128 frequencies from 1 down to 1e-4."""
    half = SINUSOIDS // 2
    exponent = torch.arange(half, dtype=torch.float32, device=sigma.device) / half
    angle = 1000 * (sigma.float()[:, None] * torch.exp(-math.log(10000) * exponent))  # this order rounds as published
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def rope(ids: Tensor, axes: tuple[int, ...], theta: float = 10000.0) -> Tensor:
    """Rotations of positions `... a` (integers): cosines and sines `... c/2 2` float32, axis after axis."""
    angles = []
    for axis, channels in enumerate(axes):
        exponent = torch.arange(0, channels, 2, dtype=torch.float32, device=ids.device) / channels
        angles.append(ids[..., axis, None].float() * (1 / torch.pow(theta, exponent)))
    angle = torch.cat(angles, dim=-1)
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def apply_rope(x: Tensor, pe: Tensor) -> Tensor:
    """Rotate `... n e c` by `... n c/2 2`: channels (0, 1), (2, 3), ... are the pairs. Computed in float32."""
    pairs = rearrange(x.float(), "... (c two) -> ... c two", two=2)
    even, odd = pairs[..., 0], pairs[..., 1]
    cos, sin = pe[..., None, :, 0], pe[..., None, :, 1]
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return rearrange(turned, "... c two -> ... (c two)").to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of `b n e c`, answered as `b n (e c)`. mask: `b n` bool, False where a key is padding."""
    q, k, v = (rearrange(x, "b n e c -> b e n c") for x in (q, k, v))
    keys = None if mask is None else mask[:, None, None, :]
    return rearrange(functional.scaled_dot_product_attention(q, k, v, attn_mask=keys), "b e n c -> b n (e c)")


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without weights, then scale and shift."""
    return functional.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale) + shift


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = functional.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), EPS)
        return normed


class Modulation(nn.Module):
    """Six vectors for one stream of one block: (shift, scale, gate) of the attention, then of the MLP.

    Per block: a linear map of the embedded sigma `... d`. Shared: the shared map's answer `... (6 d)` and an offset.
    """

    def __init__(self, width: int, shared: bool) -> None:
        super().__init__()
        self.linear = None if shared else zeroed(nn.Linear(width, 6 * width))
        self.offset = nn.Parameter(torch.randn(6 * width) / width**0.5) if shared else None

    def forward(self, vec: Tensor) -> tuple[Tensor, ...]:
        if self.linear is None:
            assert self.offset is not None
            return (vec + self.offset).chunk(6, dim=-1)
        six: Tensor = self.linear(functional.silu(vec))
        return six.chunk(6, dim=-1)


def zeroed(linear: nn.Linear) -> nn.Linear:
    """A linear layer that starts by answering 0, so that every block starts as the identity (DiT, "adaLN-Zero")."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class Stream(nn.Module):
    """The weights of one stream (image or text) in one block."""

    def __init__(self, params: MMDiTParams) -> None:
        super().__init__()
        d, self.heads = params.width, params.heads
        self.modulation = Modulation(d, params.shared_modulation)
        self.qkv = nn.Linear(d, 3 * d)
        self.q_norm = RMSNorm(d // self.heads)
        self.k_norm = RMSNorm(d // self.heads)
        self.out = nn.Linear(d, d)
        self.mlp_in = nn.Linear(d, 4 * d)
        self.mlp_out = nn.Linear(4 * d, d)

    def before(self, x: Tensor, pe: Tensor, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What goes into the attention: q, k, v `... e c`."""
        qkv = rearrange(self.qkv(modulate(x, shift, scale)), "... (three e c) -> three ... e c", three=3, e=self.heads)
        q, k, v = qkv.unbind(0)
        return apply_rope(self.q_norm(q), pe), apply_rope(self.k_norm(k), pe), v

    def after(
        self, x: Tensor, attended: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, gate_mlp: Tensor
    ) -> Tensor:
        """What comes out of it `... (e c)`, added to `x`, and the MLP."""
        x = x + gate * self.out(attended)
        hidden = functional.gelu(self.mlp_in(modulate(x, shift, scale)), approximate="tanh")  # ... 4d
        mlp: Tensor = self.mlp_out(hidden)
        return x + gate_mlp * mlp


class Block(nn.Module):
    """One block of joint attention: text tokens (if there are any), then image tokens, in one sequence."""

    def __init__(self, params: MMDiTParams) -> None:
        super().__init__()
        self.image = Stream(params)
        self.text = None if params.text_width is None else Stream(params)

    def forward(
        self,
        image: Tensor,  # b n d
        image_pe: Tensor,  # b n c/2 2
        vec: Tensor,  # b 1 d (b 1 6d where shared)
        text: Tensor | None = None,  # b t d
        text_pe: Tensor | None = None,  # b t c/2 2
        mask: Tensor | None = None,  # b (t n) bool
        known: Tensor | None = None,  # 2 6d: the modulations of both streams, where they are computed ahead
        attention: Attention = attend,
    ) -> tuple[Tensor, Tensor | None]:
        shift, scale, *rest = self.image.modulation(vec) if known is None else known[0].chunk(6)
        q, k, v = self.image.before(image, image_pe, shift, scale)  # b n e c
        if self.text is None or text is None or text_pe is None:
            return self.image.after(image, attention(q, k, v, mask), *rest), None
        text_shift, text_scale, *text_rest = self.text.modulation(vec) if known is None else known[1].chunk(6)
        both = zip(self.text.before(text, text_pe, text_shift, text_scale), (q, k, v), strict=True)
        q, k, v = (torch.cat(pair, dim=1) for pair in both)  # b (t n) e c
        joint = attention(q, k, v, mask)  # b (t n) d
        of_text, of_image = joint[:, : text.shape[1]], joint[:, text.shape[1] :]
        return self.image.after(image, of_image, *rest), self.text.after(text, of_text, *text_rest)


class SlotBlock(nn.Module):
    """One block of alternating attention over slots with equal grids: inside each slot, or across them at one place."""

    def __init__(self, params: MMDiTParams, across: bool) -> None:
        super().__init__()
        self.image = Stream(params)
        self.across = across

    def forward(
        self,
        x: Tensor,  # b l n d
        pe: Tensor,  # b l n c/2 2
        vec: Tensor,  # b 1 1 d (b 1 1 6d where shared)
        mask: Tensor | None = None,  # b l bool, False where a slot is padding
    ) -> Tensor:
        b, _, n, _ = x.shape
        shift, scale, *rest = self.image.modulation(vec)
        q, k, v = self.image.before(x, pe, shift, scale)  # b l n e c
        if self.across:
            q, k, v = (rearrange(y, "b l n e c -> (b n) l e c") for y in (q, k, v))
            places = None if mask is None else mask.repeat_interleave(n, dim=0)  # (b n) l
            attended = rearrange(attend(q, k, v, places), "(b n) l d -> b l n d", b=b, n=n)
        else:
            q, k, v = (rearrange(y, "b l n e c -> (b l) n e c") for y in (q, k, v))
            attended = rearrange(attend(q, k, v), "(b l) n d -> b l n d", b=b)
        return self.image.after(x, attended, *rest)


class MMDiT(nn.Module):
    """Tokens of the slots and of the condition, and the prompt, to a velocity for every token."""

    def __init__(self, params: MMDiTParams) -> None:
        super().__init__()
        self.params = params
        d = params.width
        self.image_in = nn.Linear(params.in_features, d)
        if params.text_width is not None:
            self.text_norm = RMSNorm(params.text_width)
            self.text_in = nn.Linear(params.text_width, d)
        self.sigma_in = nn.Linear(SINUSOIDS, d)
        self.sigma_out = nn.Linear(d, d)
        self.kind = nn.Embedding(params.kinds, d) if params.kinds else None
        self.modulation = zeroed(nn.Linear(d, 6 * d)) if params.shared_modulation else None
        self.blocks = nn.ModuleList(
            SlotBlock(params, across=i % 2 == 1) if params.attention == "alternate" else Block(params)
            for i in range(params.depth)
        )
        self.last = zeroed(nn.Linear(d, 2 * d))
        self.image_out = nn.Linear(d, params.out_features)

    def embed(self, sigma: Tensor, kind: int = 0) -> Tensor:
        """Sigma `b` to the vector `b d` that modulates every block."""
        vec: Tensor = self.sigma_out(functional.silu(self.sigma_in(sinusoid(sigma).to(self.sigma_in.weight.dtype))))
        return vec if self.kind is None else vec + self.kind.weight[kind]

    def forward(
        self,
        image: Tensor,  # b n d, or b l n d where attention alternates
        ids: Tensor,  # b n a, or b l n a: int64 (layer, row, column)
        sigma: Tensor,  # b
        text: Tensor | None = None,  # b t d
        text_mask: Tensor | None = None,  # b t bool, False where a token is padding
        *,
        slot_mask: Tensor | None = None,  # b l bool, False where a slot is padding (alternating attention only)
        kind: int = 0,
        known: Tensor | None = None,  # depth 2 6d: what every block's modulations answer to this sigma and kind
        reuse: Reuse | None = None,  # what may stand for all blocks but the first
        share: Share | None = None,  # this process's, where several work on one pass (joint attention only)
    ) -> Tensor:  # image's shape, out_features wide
        vec = self.embed(sigma, kind)  # b d
        vec = vec[:, None, None] if image.ndim == 4 else vec[:, None]  # b 1 d, or b 1 1 d
        shared = vec if self.modulation is None else self.modulation(functional.silu(vec))
        places = ids if share is None else share.part(ids)
        pe = rope(places, self.params.axes)  # b n c/2 2
        x = self.image_in(image if share is None else share.part(image))  # b n d
        if self.params.attention == "alternate":
            for block in self.blocks:
                x = block(x, pe, shared, slot_mask)
        else:
            x = self.joint(x, pe, shared, ids, text, text_mask, known, reuse, share)
        scale, shift = self.last(functional.silu(vec)).chunk(2, dim=-1)
        out: Tensor = self.image_out(modulate(x, shift, scale))
        return out if share is None else share.whole(out, image.shape[1])

    def joint(
        self,
        x: Tensor,
        pe: Tensor,
        vec: Tensor,
        ids: Tensor,
        text: Tensor | None,
        text_mask: Tensor | None,
        known: Tensor | None,
        reuse: Reuse | None,
        share: Share | None,
    ) -> Tensor:
        """All blocks of joint attention: `b n d` to `b n d`. ids and text are those of all processes."""
        text_pe = mask = first = None
        lengths: list[int] = [ids.shape[1]]
        attention: Attention = attend
        if text is not None:
            place = text_start(ids) + torch.arange(text.shape[1], device=ids.device)  # t
            places = place[None, :, None].expand(text.shape[0], -1, 3)
            if text_mask is not None:
                streams = text_mask.bool(), text_mask.new_ones(ids.shape[:2]).bool()
                mask = torch.cat(streams, dim=1) if share is None else share.order(*streams)
            lengths.append(text.shape[1])
            text, places = (text, places) if share is None else (share.part(text), share.part(places))
            text_pe = rope(places, self.params.axes)
            text = self.text_in(self.text_norm(text))  # b t d
        if share is not None:
            attention = share.attention(attend, lengths)
        for i, block in enumerate(self.blocks):
            before = x
            x, text = block(x, pe, vec, text, text_pe, mask, None if known is None else known[i], attention)
            if reuse is not None and first is None:
                first = x
                if (rest := reuse.rest_for(x - before)) is not None:
                    return x + rest
        if reuse is not None and first is not None:
            reuse.keep(x - first)
        return x
