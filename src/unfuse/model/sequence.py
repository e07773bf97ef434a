"""Several processes share one pass of the transformer, each with a part of the tokens.

All but attention works on each token alone. For attention, processes trade tokens for heads, and back afterwards, so
that each sees all tokens of some heads (all-to-all, DeepSpeed-Ulysses, arXiv 2309.14509). It was taken rather than a
ring, because attention stays one call of the usual kernel over all keys, with its mask, whatever the parts' lengths;
because what a process sends falls with the number of them (a ring's does not); and because 24 heads part evenly among
2, 3, 4, 6 or 8. Tokens and heads that do not part evenly are parted as evenly as they can be.

How processes stand: where a step is guided and their number is even, one half of them runs the prompt's pass, the other
half the negative prompt's; the processes of a half share that pass. Else all share every pass.

Axes: b picture, n token, e head, c channel of a head.
"""

from __future__ import annotations

import atexit
import math
import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, distributed

from unfuse.errors import EngineError

Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class Share:
    """What is this process's of what the `size` processes of a group do together."""

    def __init__(self, group: Any, rank: int, size: int) -> None:
        self.group, self.rank, self.size = group, rank, size

    def lengths(self, count: int) -> list[int]:
        """How many of `count` tokens or heads each process has."""
        return [len(part) for part in torch.arange(count).tensor_split(self.size)]

    def part(self, x: Tensor) -> Tensor:
        """The tokens of this process, of all of them, `b n ...`."""
        return x.tensor_split(self.size, dim=1)[self.rank]

    def order(self, *streams: Tensor) -> Tensor:
        """Streams `b n ...` as one sequence in the order in which all processes' tokens stand in attention."""
        parts = zip(*(stream.tensor_split(self.size, dim=1) for stream in streams), strict=True)
        return torch.cat([part for each in parts for part in each], dim=1)

    def whole(self, x: Tensor, count: int) -> Tensor:
        """All `count` tokens, of the parts `b n ...` of each process."""
        shapes = [(x.shape[0], length, *x.shape[2:]) for length in self.lengths(count)]
        return torch.cat(self.exchange([x] * self.size, shapes), dim=1)

    def attention(self, attend: Attention, counts: Sequence[int]) -> Attention:
        """`attend` for tokens that are parted, of streams with these counts of tokens, one sequence together."""
        lengths = [sum(parts) for parts in zip(*map(self.lengths, counts), strict=True)]

        def shared(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            heads = q.shape[2]
            q, k, v = self.to_heads(torch.stack([q, k, v]), lengths).unbind(0)
            answer = rearrange(attend(q, k, v, mask), "b n (e c) -> b n e c", e=q.shape[2])
            return rearrange(self.to_tokens(answer, lengths, heads), "b n e c -> b n (e c)")

        return shared

    def to_heads(self, qkv: Tensor, lengths: Sequence[int]) -> Tensor:
        """`qkv b n e c` of this process's tokens and all heads to all tokens and its heads; lengths: of all parts."""
        parts = qkv.tensor_split(self.size, dim=3)
        three, b, _, mine, c = parts[self.rank].shape
        return torch.cat(self.exchange(parts, [(three, b, n, mine, c) for n in lengths]), dim=2)

    def to_tokens(self, x: Tensor, lengths: Sequence[int], heads: int) -> Tensor:
        """The way back: `b n e c` of all tokens and this process's heads to its tokens and all heads."""
        parts = torch.split(x, list(lengths), dim=1)
        b, mine, _, c = parts[self.rank].shape
        return torch.cat(self.exchange(parts, [(b, mine, e, c) for e in self.lengths(heads)]), dim=2)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def exchange(self, parts: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Send the first part to the first process, and so on; what comes from each has the shape that is given."""
        sent = torch.cat([part.reshape(-1) for part in parts])
        sizes = [math.prod(shape) for shape in shapes]
        come = sent.new_empty(sum(sizes))
        distributed.all_to_all_single(come, sent, sizes, [part.numel() for part in parts], group=self.group)
        return [piece.reshape(shape) for piece, shape in zip(torch.split(come, sizes), shapes, strict=True)]

    def mean(self, x: Tensor) -> float:
        """The mean of all processes' parts `x`."""
        total = torch.stack([x.sum(dtype=torch.float32), x.new_tensor(x.numel(), dtype=torch.float32)])
        distributed.all_reduce(total, group=self.group)
        return float(total[0] / total[1])


class Team:
    """All processes of a run under torchrun: which pass of a guided step this one has, and what part of it.

    halves: 2 where the prompt's pass and the negative prompt's are run side by side. half: 0 the prompt's, 1 the other.
    """

    def __init__(self, guided: bool) -> None:
        world, rank = distributed.get_world_size(), distributed.get_rank()
        self.halves = 2 if guided and world % 2 == 0 else 1
        size = world // self.halves
        self.half = rank // size
        self.share = Share(group(world, size, self.half), rank % size, size) if size > 1 else None

    def share_of(self, heads: int) -> Share | None:
        """The share of this process in a pass with so many heads; None where it has a pass for itself.

        Raises EngineError where there are more processes than heads.
        """
        if self.share is not None and self.share.size > heads:
            raise EngineError(
                f"{self.share.size} processes share a pass, and the model has {heads} heads: start fewer with torchrun"
            )
        return self.share

    def both(self, mine: Tensor) -> list[Tensor]:
        """The answers of both halves."""
        every = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
        distributed.all_gather(every, mine.contiguous())
        return [every[0], every[len(every) // 2]]

    def from_first(self, mine: Tensor) -> Tensor:
        """The first half's answer, for both: their step caches remember different passes."""
        answer = mine.contiguous()
        distributed.broadcast(answer, src=0)
        return answer


def team(guided: bool) -> Team | None:
    """The processes that work together, where there are several; else None."""
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return None
    return Team(guided)


def join(device: str) -> str:
    """Where torchrun started this process, meet the others, each on a GPU of its own; the device that is this one's."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        return device
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        atexit.register(distributed.destroy_process_group)
    return device


def largest(number: int) -> int:
    """The largest of what the processes of a run say, so that all do the same."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return number
    said = [number] * distributed.get_world_size()
    distributed.all_gather_object(said, number)
    return max(said)


@cache
def group(world: int, size: int, half: int) -> Any:
    """The group of the processes of a half; all processes must ask, as torch wants every group made by all."""
    if size == world:
        return None  # all of them
    made = [distributed.new_group(list(range(first, first + size))) for first in range(0, world, size)]
    return made[half]
