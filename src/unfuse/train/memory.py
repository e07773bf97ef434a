"""What a run will need, before it begins: bytes of weights, gradients, moments, averages, and what is kept to go back.

The first step's pictures go through the model on torch's meta device, which has shapes and no numbers, and every tensor
that autograd would keep is counted. Attention counts as the fused kernels do it, which keep no matrix of all pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from unfuse.errors import UnfuseError
from unfuse.model.layerflow import LayerFlow
from unfuse.model.plan import find
from unfuse.train import loop, parallel
from unfuse.train.parallel import Place
from unfuse.train.stage import Stage, Tensors, TrainParams

GB = 1e9
CAPTION = 128  # tokens of a caption, assumed


class Memory(NamedTuple):
    """Bytes that one process needs."""

    weights: int
    gradients: int
    optimizer: int
    averages: int
    kept: int  # for the way back, of one part of a step

    @property
    def total(self) -> int:
        return sum(self)


class FusedAttention(torch.autograd.Function):
    """What a fused attention keeps: its inputs and its output."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, ...]:  # pragma: no cover - nothing goes back on meta
        raise NotImplementedError


class Fused(TorchFunctionMode):
    """Attention as `FusedAttention`, for as long as the mode lasts."""

    def __torch_function__(self, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            return FusedAttention.apply(*args[:3])  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


def estimate(stage: Stage, params: TrainParams, place: Place) -> Memory:
    """What this process needs for its share of a step."""
    with torch.device("meta"):
        net = stage.build(params)
    shards = place.count if params.parallel == "fsdp" else 1
    learned = [p for p in net.parameters() if p.requires_grad]
    frozen = [p for p in net.parameters() if not p.requires_grad]
    here = sum(p.numel() for p in learned) * 4 // shards
    narrow = 2 if stage.lean and params.lora is not None and params.precision == "bfloat16" else 4
    kept = kept_bytes(stage, params, net, place)
    lean = here if stage.lean else here + sum(p.numel() for p in frozen) * 4 // shards
    return Memory(here + sum(p.numel() for p in frozen) * narrow // shards, here, 2 * here, lean, kept)


def kept_bytes(stage: Stage, params: TrainParams, net: nn.Module, place: Place) -> int:
    """What autograd keeps of one part of the first step; half of it where bfloat16 multiplies, and weights in it."""
    if isinstance(net, LayerFlow):
        width = net.params.mmdit.text_width or 0
        net.read = lambda captions: (  # type: ignore[method-assign]
            torch.empty(len(captions), CAPTION, width, device="meta"),
            torch.ones(len(captions), CAPTION, dtype=torch.bool),
        )
    parallel.prepare(net, compiled=False, recompute=params.recompute)
    arrays = loop.tensors(stage.batch(loop.wants(params, place, 0)[0]), "meta")
    kept = saved(stage, net.train(), arrays, params.recompute)
    if params.precision == "float32":
        return kept
    units = params.parallel == "fsdp"  # then a block's weights at a time, else all of them
    copies = 0 if units else 2 * sum(p.numel() for p in net.parameters() if p.ndim > 1)
    return kept // 2 + copies


def saved(stage: Stage, net: nn.Module, arrays: Tensors, recompute: bool = False) -> int:
    """Bytes of all tensors that autograd saves for the way back, each storage once, weights left out."""
    seen = {parameter.untyped_storage()._cdata for parameter in net.parameters()}
    kept: list[Tensor] = []  # so that no storage is freed and its name used again
    total = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        name = tensor.untyped_storage()._cdata
        if name not in seen:
            seen.add(name)
            kept.append(tensor)
            total += tensor.untyped_storage().nbytes()
        return tensor

    def enters(_: nn.Module, given: tuple[Any, ...]) -> None:
        for tensor in given:
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                count(tensor)

    if recompute:  # then a unit keeps what it is given, and nothing of what it makes of it
        for module in net.modules():
            if isinstance(module, parallel.UNITS):
                module.register_forward_pre_hook(enters)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor), Fused():
        stage.loss(net, arrays)
    return total


def lines(memory: Memory, place: Place) -> list[str]:
    """The reckoning for people."""
    parts = ", ".join(f"{name} {size(value)}" for name, value in memory._asdict().items())
    each = f"each of {place.count} processes" if place.count > 1 else "this run"
    return [f"{each} needs about {size(memory.total)}: {parts} (kept for the way back: estimated)"]


def size(count: int) -> str:
    """Bytes as people say them."""
    return f"{count / GB:.1f} GB" if count >= GB else f"{count / 1e6:.1f} MB"


def check(memory: Memory, params: TrainParams, place: Place) -> None:
    """Raise UnfuseError, with what would help, where a run cannot fit into what is free."""
    found = find(place.device)
    free = found.gpu if place.device.startswith("cuda") else found.ram // place.count
    if memory.total <= free:
        return
    cures = []
    if memory.kept > memory.total - memory.kept:
        cures += [] if params.recompute else ["--recompute"]
        cures += ["a smaller --side, --batch or --layers, or more --accumulate"]
    else:
        cures += [] if params.lora is not None or params.model is None else ["--lora 32"]
        cures += ["--parallel fsdp on more GPUs", "a smaller --size"]
    where = "GPU memory" if place.device.startswith("cuda") else "RAM"
    raise UnfuseError(
        f"this run needs about {size(memory.total)} in each process, and {size(free)} of {where} are free: "
        f"take {', or '.join(cures)}"
    )
