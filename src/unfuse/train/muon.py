"""Muon beside AdamW: matrices and kernels inside the net take steps of equal size in every direction.

A step is the momentum's nearest orthogonal matrix, found by five Newton-Schulz iterations, scaled so that its numbers
are as large as AdamW's usual ones: the same rate serves both (Jordan et al., "Muon: An optimizer for hidden layers in
neural networks", 2024; the scale is that of Liu et al., arXiv 2502.16982, eq. 4). What is no matrix, and the layers at
the net's ends, go by AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

A, B, C = 3.4445, -4.7750, 2.0315  # of the quintic: steepest at 0 while singular values end near 1
ITERATIONS = 5
RMS = 0.2  # of an AdamW step's numbers, per rate
MOMENTUM = 0.95
BETAS = (0.9, 0.98)
EPS = 1e-8


def orthogonal(matrix: Tensor) -> Tensor:
    """`o i` to nearly the orthogonal matrix nearest to it, in bfloat16's precision: singular values of 0.7 to 1.2."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = A * x + (B * square + C * square @ square) @ x
    found: Tensor = (x if wide else x.T).to(matrix.dtype)
    return found


class Muon(torch.optim.Optimizer):
    """Groups with `matrices` true take Muon's steps, kernels `o i h w` as matrices `o (i h w)`; the others AdamW's."""

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "matrices": False})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of every parameter that has a gradient."""
        if closure is not None:
            raise NotImplementedError("the loss is computed before the step")
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    change = self.by_muon(weight) if group["matrices"] else self.by_adam(weight)
                    weight.add_(change, alpha=-group["lr"])
        return None

    def by_muon(self, weight: Tensor) -> Tensor:
        """What a matrix or kernel changes by, per rate."""
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].mul_(MOMENTUM).add_(gradient)
        ahead = (gradient + MOMENTUM * state["momentum"]).flatten(1)
        change: Tensor = orthogonal(ahead) * RMS * max(ahead.shape) ** 0.5
        return change.view_as(weight)

    def by_adam(self, weight: Tensor) -> Tensor:
        """What anything else changes by, per rate."""
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if not state:
            state |= {"step": torch.zeros(()), "exp_avg": torch.zeros_like(weight)}
            state["exp_avg_sq"] = torch.zeros_like(weight)
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - BETAS[0])
        state["exp_avg_sq"].lerp_(gradient.square(), 1 - BETAS[1])
        first, second = (1 - beta ** float(state["step"]) for beta in BETAS)
        change: Tensor = state["exp_avg"] / first / ((state["exp_avg_sq"] / second).sqrt() + EPS)
        return change
