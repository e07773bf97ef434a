"""What a stage of training is, what a run of it is asked for, and what a worker is asked to draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from unfuse.errors import UnfuseError

Arrays = dict[str, NDArray[Any]]  # of a batch, as a worker makes it
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Want:
    """Pictures `first` to `first + count - 1` of the batch of a step. What is drawn depends on nothing else.

    side: of a square of the pictures' area, in pixels. layers: how many a picture has at most.
    """

    data: Path
    split: str
    seed: int
    step: int
    first: int
    count: int
    side: int
    layers: int = 8

    def of_step(self) -> np.random.Generator:
        """What all pictures of the step share."""
        return np.random.default_rng([self.seed, self.step])

    def of_place(self, place: int) -> np.random.Generator:
        """What one picture has for itself."""
        return np.random.default_rng([self.seed, self.step, place])

    def places(self) -> Iterator[int]:
        """The pictures' places in the batch."""
        return iter(range(self.first, self.first + self.count))

    def keys(self) -> NDArray[np.int64]:
        """A seed for each picture's noise, so that it is the same however the batch is cut."""
        seeds = [np.random.SeedSequence([self.seed, self.step, place, 1]) for place in self.places()]
        return np.array([int(seed.generate_state(1, np.uint64)[0] >> 1) for seed in seeds], np.int64)


@dataclass(frozen=True)
class TrainParams:
    """How a run goes.

    data: a parts pack or a folder of records. size: of the model, a name that the stage knows. batch: pictures in a
    step, over all processes; accumulate: in how many parts each process takes its share. layers: of a picture, at most.
    schedule, warmup, decay: see `rate_at`. optimizer: see `muon`. weight_decay: of matrices and kernels. ema: how much
    of the averaged weights stays at each step. clip: the gradient's length at most. precision: of what the GPU or CPU
    multiplies; weights and optimizer are float32. remix: pictures that the device makes of each drawn design. reuse:
    the batches of so many steps are drawn, kept in `out`, and gone through again and again; 0 for always new ones.
    start: weights to begin from: a run's folder, an exported .onnx file, a published folder. model: a published one,
    for its text encoder and for tuning. lora: the rank, None for all weights.
    """

    data: Path
    out: Path
    size: str = "small"
    steps: int = 1000
    batch: int = 16
    accumulate: int = 1
    side: int = 192
    layers: int = 8
    rate: float = 1e-3
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup: int = 200
    decay: float = 0.25
    weight_decay: float = 0.02
    optimizer: Literal["adamw", "muon"] = "adamw"
    ema: float = 0.999
    clip: float = 1.0
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    seed: int = 0
    workers: int = 1
    save_every: int = 200
    sheet_every: int = 0
    validation: int = 64
    start: Path | None = None
    model: Path | None = None
    lora: int | None = None
    parallel: Literal["none", "ddp", "fsdp"] = "none"
    compile: bool = False
    recompute: bool = False
    remix: int = 1
    reuse: int = 0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        choices = {"schedule": ("constant", "linear", "cosine"), "precision": ("bfloat16", "float32")}
        choices |= {"parallel": ("none", "ddp", "fsdp"), "optimizer": ("adamw", "muon")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise UnfuseError(f"{name} is {getattr(self, name)!r}: say one of {', '.join(known)}")
        for name in ("steps", "batch", "accumulate", "side", "layers", "workers", "save_every", "validation", "remix"):
            if getattr(self, name) < 1:
                raise UnfuseError(f"{name} is {getattr(self, name)}: say 1 or more")
        if self.reuse < 0:
            raise UnfuseError(f"reuse is {self.reuse}: say 0 to draw every batch, or how many to go through again")
        if self.lora is not None and self.lora < 1:
            raise UnfuseError(f"lora is {self.lora}: say a rank of 1 or more, such as 32")


def nothing_more(_net: Any, _held_out: Tensors) -> dict[str, Any]:
    """A stage whose checkpoint needs no more words."""
    return {}


def load_all(net: nn.Module, weights: dict[str, Tensor]) -> None:
    """Start from weights of the same stage."""
    net.load_state_dict(weights)


@dataclass(frozen=True)
class Stage:
    """What differs between stages: the model, its data, its loss, how it is judged.

    build makes the model without weights, which `load` (or chance) fills; batch runs in worker processes; loss answers
    `loss`, a mean over pictures, and named parts; begin takes over the weights of the run that this one starts from;
    sheet is a picture `h w 3` uint8 for people; describe says what a checkpoint's JSON should have beside its figures.
    ends: the beginnings of the names of weights at the net's ends, which Muon leaves to AdamW.
    slow: of weights that were learnt elsewhere, which take smaller steps, by AdamW.
    vary: the same batch in another look, where a run goes through batches again.
    designs and remix: instead of batch where a run remixes: workers draw designs, the device makes pictures of them.
    lean: weights that do not learn stay in `TrainParams.model`, and checkpoints are without them.
    """

    name: str
    about: str
    build: Callable[[TrainParams], nn.Module]
    batch: Callable[[Want], Arrays]
    loss: Callable[[Any, Tensors], dict[str, Tensor]]
    validate: Callable[[Any, Tensors], dict[str, float]]
    begin: Callable[[Any, dict[str, Tensor]], None] = load_all
    sheet: Callable[[Any, Tensors], NDArray[np.uint8]] | None = None
    describe: Callable[[Any, Tensors], dict[str, Any]] = nothing_more
    load: Callable[[TrainParams], nn.Module] | None = None
    ends: tuple[str, ...] = ()
    slow: tuple[str, ...] = ()
    vary: Callable[[Arrays, np.random.Generator], Arrays] | None = None
    designs: Callable[[Want], Arrays] | None = None
    remix: Callable[[Tensors, int, np.random.Generator], Tensors] | None = None
    lean: bool = False


def size_of(sizes: dict[str, Any], params: TrainParams, stage: str) -> Any:
    """The sizes of a name. Raises UnfuseError that lists the known ones."""
    if params.size not in sizes:
        raise UnfuseError(f"size {params.size!r} is unknown to stage {stage}: say one of {', '.join(sizes)}")
    return sizes[params.size]
