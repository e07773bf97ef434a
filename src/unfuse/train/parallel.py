"""Several processes, one for each GPU, started by torchrun: who is who, and how the model is spread over them.

DDP keeps the whole model in every process and averages gradients. FSDP2 keeps a shard of every weight, gradient and
moment in each and brings a block's weights together while it works. Each process takes its share of every batch, and
what a picture is and what noise it gets depends on its place in the batch alone: so all of them together do what one
process would do, up to the order in which floats are added (batch norm aside, which sees a process's own share).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unfuse.errors import UnfuseError
from unfuse.model.mmdit import Block, SlotBlock
from unfuse.model.slots import Residual
from unfuse.model.vae import Middle, ResBlock
from unfuse.train.stage import Tensors

UNITS = (Block, SlotBlock, ResBlock, Middle, Residual)  # what is compiled, recomputed and sharded as one


@dataclass(frozen=True)
class Place:
    """One process among all: its number, how many there are, and its device."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0


def join(parallel: str) -> Place:
    """Meet the other processes, as torchrun's environment says. Raises UnfuseError where there are none to meet."""
    on_gpu = torch.cuda.is_available()
    if parallel == "none":
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UnfuseError("torchrun started several processes: say --parallel ddp or --parallel fsdp")
        return Place(device="cuda" if on_gpu else "cpu")
    if "RANK" not in os.environ:
        raise UnfuseError(
            f"--parallel {parallel} needs torchrun: torchrun --nproc-per-node GPUS -m unfuse.cli train STAGE ..."
        )
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if on_gpu else "cpu"
    if on_gpu:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(minutes=30))
    return Place(dist.get_rank(), dist.get_world_size(), device)


def leave() -> None:
    """Say goodbye to the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def most(number: int) -> int:
    """The largest of the numbers of all processes."""
    if not dist.is_initialized():
        return number
    told = torch.tensor(number, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return int(told)


def mean(figures: dict[str, Tensor]) -> dict[str, float]:
    """Figures as numbers, the mean over all processes."""
    together = torch.stack([value.detach().float() for value in figures.values()])
    if dist.is_initialized():
        dist.all_reduce(together)
        together /= dist.get_world_size()
    return dict(zip(figures, together.tolist(), strict=True))


class Objective(nn.Module):
    """A model with what is asked of it as its call, so that whoever watches a module's call sees all of it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, ask: Callable[[Any, Tensors], Any], arrays: Tensors) -> Any:
        return ask(self.net, arrays)


def prepare(net: nn.Module, *, compiled: bool, recompute: bool) -> None:
    """Compile the repeated parts, and make them forget what they can compute again; names stay as they are."""
    for module in net.modules():
        if isinstance(module, UNITS):
            if recompute:
                module.forward = partial(checkpoint, module.forward, use_reentrant=False)  # type: ignore[method-assign]
            if compiled:
                module.compile()


def spread(objective: Objective, parallel: str) -> nn.Module:
    """What a training step calls: the objective itself, its shards, or the objective in DDP."""
    if parallel == "ddp":
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(objective, find_unused_parameters=True)  # the last block's text goes nowhere
    if parallel == "fsdp":
        from torch.distributed.fsdp import fully_shard

        for module in reversed(list(objective.modules())):
            if isinstance(module, UNITS):
                fully_shard(module)
        fully_shard(objective)
    return objective


def sync(call: nn.Module, parallel: str, last: bool) -> None:
    """Let gradients of all but the last part of a step stay where they are."""
    if parallel == "ddp":
        call.require_backward_grad_sync = last  # type: ignore[assignment]
    elif parallel == "fsdp":
        call.set_requires_gradient_sync(last)  # type: ignore[operator]


def alike(whole: Tensor, like: Tensor) -> Tensor:
    """A whole tensor on the device, and in the shards, of another."""
    moved = whole.to(like.device, like.dtype)
    if hasattr(like, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(moved, like.device_mesh, like.placements)  # type: ignore[attr-defined]
    return moved
