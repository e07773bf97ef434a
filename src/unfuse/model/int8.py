"""Linear layers with weights in int8: half the memory of bfloat16, for a rounding of each weight.

A row of weights (all that one output sums up) is scaled so that its largest is 127, and rounded. Inputs stay as they
are: int8 numbers are exact in bfloat16, so the product is the rounded weights' own, scaled afterwards.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Int8Linear(nn.Module):
    """`x ... i` to `... o`: weight `o i` int8, scale `o` and bias `o` in the precision of the run."""

    def __init__(self, linear: nn.Linear) -> None:
        """In place of `linear`, whose weights are not taken over; the state comes from `quantised`."""
        super().__init__()
        rows = linear.bias.shape
        self.weight = nn.Parameter(torch.empty(linear.weight.shape, dtype=torch.int8, device="meta"), False)
        self.scale = nn.Parameter(torch.empty(rows, device="meta"), False)
        self.bias = nn.Parameter(torch.empty(rows, device="meta"), False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.to(x.dtype)) * self.scale + self.bias


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight `o i` as int8 of the same shape, and its scale `o` in the weight's dtype."""
    scale = (weight.float().abs().amax(dim=1) / 127).clamp_min(1e-12).to(weight.dtype)
    rounded = (weight.float() / scale.float()[:, None]).round().clamp(-127, 127)
    return rounded.to(torch.int8), scale


def to_int8(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Give a module its state with an `Int8Linear` in place of every linear layer inside; what is not in it stays."""
    state = dict(state)
    found = [(name, inner) for name, inner in module.named_modules() if isinstance(inner, nn.Linear)]
    for name, linear in found:
        module.set_submodule(name, Int8Linear(linear))
        if f"{name}.weight" in state:
            state[f"{name}.weight"], state[f"{name}.scale"] = quantised(state[f"{name}.weight"])
    module.load_state_dict(state, strict=False, assign=True)
