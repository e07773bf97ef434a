"""The state of a run made small enough to travel: weights as they are, averages and moments in fewer bits if need be.

bfloat16 keeps 8 bits of precision. In 8 bits, numbers stand in blocks of 256 with one scale each: the first moment
signed, the second as its root, rounded up, so that no step becomes longer by it (the block-wise idea is that of 8-bit
optimizers, arXiv 2110.02861; the code here is linear).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

BLOCK = 256
Bits = Literal["float32", "bfloat16", "8-bit", "none"]


@dataclass(frozen=True)
class Carry:
    """In what form the averages and the moments travel."""

    averages: Bits
    moments: Bits

    @property
    def exact(self) -> bool:
        return self.averages == self.moments == "float32"

    def __str__(self) -> str:
        if self.exact:
            return "all of the state, exactly"
        moments = "no moments of the optimizer" if self.moments == "none" else f"moments in {self.moments}"
        return f"weights in float32, averages in {self.averages}, {moments}"


CARRIES = (
    Carry("float32", "float32"),
    Carry("float32", "bfloat16"),
    Carry("float32", "8-bit"),
    Carry("bfloat16", "8-bit"),
    Carry("bfloat16", "none"),
)


def narrow(tensors: dict[str, Tensor], carry: Carry) -> dict[str, Tensor]:
    """A checkpoint's tensors as they travel."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        how: Bits = "float32"
        if name.startswith("ema."):
            how = carry.averages
        elif name.startswith("optimizer."):
            how = carry.moments
        if how == "none":
            continue
        if not tensor.is_floating_point() or how == "float32" or tensor.numel() == 1:
            out[name] = tensor
        elif how == "bfloat16":
            out[f"{name}:bf16"] = tensor.to(torch.bfloat16)
        else:
            levels, scale = quantised(tensor, root=name.endswith("_sq"))
            out |= {f"{name}:levels": levels, f"{name}:scale": scale}
    return out


def widen(tensors: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """What `narrow` made, back in float32. shapes: of the weights, by name."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        whole, _, kind = name.partition(":")
        if kind == "levels":
            weight = whole.removeprefix("optimizer.").rpartition(".")[0]
            out[whole] = restored(tensor, tensors[f"{whole}:scale"], shapes[weight])
        elif kind != "scale":
            out[whole] = tensor.float() if kind == "bf16" else tensor
    return out


def quantised(tensor: Tensor, root: bool) -> tuple[Tensor, Tensor]:
    """8-bit levels `k 256` and the scale of each block `k`. root: of numbers of at least 0, as their roots."""
    flat = tensor.float().flatten()
    blocks = rearrange(functional.pad(flat, (0, -len(flat) % BLOCK)), "(k n) -> k n", n=BLOCK)
    if root:
        blocks = blocks.clamp_min(0).sqrt()
        scale = blocks.amax(1) / 255
        return torch.ceil(blocks / scale.clamp_min(1e-38)[:, None]).clamp(0, 255).to(torch.uint8), scale
    scale = blocks.abs().amax(1) / 127
    return torch.round(blocks / scale.clamp_min(1e-38)[:, None]).clamp(-127, 127).to(torch.int8), scale


def restored(levels: Tensor, scale: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `quantised`, as nearly as 8 bits allow."""
    values = levels.float() * scale[:, None]
    if levels.dtype == torch.uint8:
        values = values.square()
    count = int(torch.tensor(shape).prod()) if shape else 1
    return values.flatten()[:count].reshape(shape).clone()


def bytes_of(tensors: dict[str, Tensor]) -> int:
    """How much they take on disk, names aside."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
