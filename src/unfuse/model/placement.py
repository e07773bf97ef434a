"""Where the transformer's weights are while it works: on the device, whole or lean, or coming block by block.

Modulation is a third of the weights and depends on the noise level alone, so that for a schedule it can be computed
ahead, a block at a time, and its weights need not stay. What is left are 60 equal blocks that work one after the other:
they can wait in RAM, or on disk, and come to the device while the one before works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from unfuse.model.checkpoint import (
    Stored,
    Weights,
    check_names,
    gather,
    shapes_of,
    transformer_names,
    transformer_params,
)
from unfuse.model.int8 import to_int8
from unfuse.model.lora import LoRAs
from unfuse.model.mmdit import Block, MMDiT
from unfuse.model.reuse import Reuse
from unfuse.model.sequence import Share
from unfuse.model.single import Single

Placement = Literal["whole", "precomputed", "int8", "streamed", "disk"]
State = dict[str, Tensor]


class Stock(NamedTuple):
    """What a transformer is made of: its form on the meta device, where its weights are, what is added to them."""

    model: MMDiT
    weights: Stored
    loras: LoRAs


def stock(folder: Path, loras: Sequence[tuple[Path, float]] = (), file: Path | Stored | None = None) -> Stock:
    """Find a transformer's parts, and see that they belong together: reads headers and LoRA files, but no weights.

    Raises EngineError as `checkpoint.load_transformer` does, and for LoRA files that do not fit.
    """
    opened = Weights(folder) if file is None else file
    weights: Stored = Single(opened) if isinstance(opened, Path) else opened
    with torch.device("meta"):
        model = MMDiT(transformer_params(folder / "config.json"))
    shapes = shapes_of(model)
    check_names(weights, shapes, transformer_names)
    added = LoRAs(loras, weights.files)
    for name, (rows, *rest) in shapes.items():
        for published in (names := transformer_names(name)):
            added.check(published, (rows // len(names), *rest))
    return Stock(model, weights, added)


class Transformer:
    """A published transformer in one of the placements; called as `MMDiT` is, after `prepare` for its noise levels.

    file: the weights, instead of those in the folder; a path, or what reads as `Weights` does. compiled: blocks by
    torch.compile, where they do not stream. Raises EngineError as `stock` does.
    """

    def __init__(
        self,
        folder: Path,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        placement: Placement = "whole",
        loras: Sequence[tuple[Path, float]] = (),
        file: Path | Stored | None = None,
        compiled: bool = False,
    ) -> None:
        self.device, self.dtype, self.placement = device, dtype, placement
        self.model, self.weights, self.loras = stock(folder, loras, file)
        self.shapes = shapes_of(self.model)
        self.ahead: dict[float, Tensor] = {}  # noise level -> depth 2 6d
        streams = placement in ("streamed", "disk")
        here = [name for name in self.shapes if not (streams and name.startswith("blocks."))]
        if placement != "whole":
            here = [name for name in here if ".modulation." not in name]
        if placement == "int8":
            for i, block in enumerate(self.model.blocks):  # one at a time is whole
                to_int8(block, {name: tensor.to(device) for name, tensor in self.block(i).items()})
            here = [name for name in here if not name.startswith("blocks.")]
        self.model.load_state_dict(self.read(here, device), strict=False, assign=True)
        if streams:
            self.model.blocks = self.stream(in_ram=placement == "streamed")
        self.model.eval().requires_grad_(False)
        if compiled:
            for block in self.model.blocks if not streams else ():
                block.compile()  # all blocks are alike: one compilation serves them

    def read(self, parameters: Sequence[str], device: str = "cpu") -> State:
        """Parameters by name, LoRAs merged in."""
        shapes = {name: self.shapes[name] for name in parameters}
        return gather(
            self.weights, shapes, names=transformer_names, take=self.loras.merge, device=device, dtype=self.dtype
        )

    def block(self, i: int) -> State:
        """Block `i` without its modulation, in RAM."""
        head = f"blocks.{i}."
        state = self.read([name for name in self.shapes if name.startswith(head) and ".modulation." not in name])
        return {name.removeprefix(head): tensor for name, tensor in state.items()}

    def stream(self, in_ram: bool) -> Streamed:
        """The blocks from RAM, page-locked where the device is a GPU, or from disk."""
        fetch: Callable[[int], State] = self.block
        if in_ram:
            kept = [self.block(i) for i in range(self.model.params.depth)]
            if self.device.startswith("cuda"):
                kept = [{name: tensor.pin_memory() for name, tensor in state.items()} for state in kept]
            fetch = kept.__getitem__
        return Streamed(self.model, fetch, self.device, self.dtype)

    @torch.inference_mode()
    def prepare(self, levels: Tensor) -> None:
        """Compute the modulations of noise levels `n` ahead, where their weights do not stay."""
        if self.placement == "whole" or self.ahead.keys() == set(levels.tolist()):
            return
        vec = functional.silu(self.model.embed(levels.to(self.device)))  # n d
        table = []
        for i in range(self.model.params.depth):
            names = [f"blocks.{i}.{stream}.modulation.linear" for stream in ("image", "text")]
            state = self.read([f"{name}.{leaf}" for name in names for leaf in ("weight", "bias")], self.device)
            six = [functional.linear(vec, state[f"{name}.weight"], state[f"{name}.bias"]) for name in names]
            table.append(torch.stack(six, dim=1))  # n 2 6d
        self.ahead = dict(zip(levels.tolist(), torch.stack(table, dim=1), strict=True))  # depth 2 6d each

    def __call__(
        self,
        tokens: Tensor,
        ids: Tensor,
        level: Tensor,
        text: Tensor,
        text_mask: Tensor | None = None,
        reuse: Reuse | None = None,
        share: Share | None = None,
    ) -> Tensor:
        """The velocity; level: the noise level, one for the whole batch, on the CPU. The rest is as `MMDiT` has it."""
        known = self.ahead[float(level)] if self.ahead else None
        levels = level.to(self.device).expand(len(tokens))
        velocity: Tensor = self.model(tokens, ids, levels, text, text_mask, known=known, reuse=reuse, share=share)
        return velocity


class Place:
    """Room for one block on the device."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.holds: int | None = None
        self.worked: torch.cuda.Event | None = None  # after the last work with what it holds

    def work_ends(self) -> None:
        if next(self.block.parameters()).is_cuda:
            self.worked = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self.worked.record()


class Streamed(nn.ModuleList):
    """Blocks that are somewhere else: iterating brings each to the device, and the next one while it works.

    Two places are enough: one works, one is filled by a thread, on a GPU through a stream of its own. A pass that is
    given up after the first block costs nothing: both places keep what they hold.
    """

    def __init__(self, model: MMDiT, fetch: Callable[[int], State], device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.depth, self.fetch = model.params.depth, fetch
        self.places = [Place(empty_block(model, device, dtype)) for _ in range(2)]
        self.worker = ThreadPoolExecutor(1)
        self.coming: Future[None] | None = None
        on_gpu = device.startswith("cuda")
        self.copies = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return self.depth

    def __iter__(self) -> Iterator[Block]:
        for i in range(self.depth):
            place = self.bring(i)
            self.expect((i + 1) % self.depth, place)
            try:
                yield place.block
            finally:  # given up early too
                place.work_ends()

    def bring(self, i: int) -> Place:
        """The place that holds block `i`, now."""
        if self.coming is not None:
            coming, self.coming = self.coming, None
            coming.result()
        for place in self.places:
            if place.holds == i:
                return place
        self.fill(self.places[0], i)
        return self.places[0]

    def expect(self, i: int, busy: Place) -> None:
        """Let block `i` come to the place that is not busy."""
        free = self.places[self.places[0] is busy]
        if i not in (busy.holds, free.holds):
            self.coming = self.worker.submit(self.fill, free, i)

    @torch.inference_mode()
    def fill(self, place: Place, i: int) -> None:
        """Copy block `i` to a place, and wait until it is there."""
        state = self.fetch(i)
        if place.worked is not None:
            place.worked.synchronize()
        place.holds = None
        with torch.cuda.stream(self.copies):  # nothing without a GPU
            for name, parameter in place.block.named_parameters():
                parameter.copy_(state[name], non_blocking=True)
        if self.copies is not None:
            self.copies.synchronize()
        place.holds = i


def empty_block(model: MMDiT, device: str, dtype: torch.dtype) -> Block:
    """A block without modulation whose weights are yet to come."""
    with torch.device("meta"):
        block = Block(model.params)
    for stream in (block.image, block.text):
        if stream is not None:
            stream.modulation = nn.Identity()  # type: ignore[assignment]  # it is known ahead, and never asked
    return block.to(dtype).to_empty(device=device).requires_grad_(False)
