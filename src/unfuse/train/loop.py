"""The one training loop: the same for every stage.

The data of step k depends on the seed and k alone, so a run that stops and resumes sees what a straight run sees. A
checkpoint is one safetensors file (weights, their moving average, optimizer) and one JSON file that explains it.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Arrays = dict[str, NDArray[np.uint8]]


def load_all(net: nn.Module, weights: dict[str, Tensor]) -> None:
    """Start from weights of the same stage."""
    net.load_state_dict(weights)


@dataclass(frozen=True)
class Stage:
    """What differs between stages: the model, its data, its loss, how it is judged.

    batch(root, split, seed, step, count, side) runs in worker processes; loss answers `loss` and named parts; begin
    takes over the weights of the run that this one starts from.
    """

    name: str
    model: Callable[[], nn.Module]
    batch: Callable[[Path, str, int, int, int, int], Arrays]
    loss: Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]]
    validate: Callable[[nn.Module, dict[str, Tensor]], dict[str, float]]
    begin: Callable[[nn.Module, dict[str, Tensor]], None] = load_all


@dataclass(frozen=True)
class TrainParams:
    """How a run goes.

    side: of a square of the pictures' area, in pixels. decay: the last share of steps, in which the rate falls to 0.
    start: weights to begin from, a checkpoint folder or an exported .onnx file.
    """

    pack: Path
    out: Path
    steps: int = 1000
    batch: int = 16
    side: int = 192
    rate: float = 1e-3
    warmup: int = 200
    decay: float = 0.25
    weight_decay: float = 0.02
    ema: float = 0.999
    clip: float = 1.0
    seed: int = 0
    workers: int = 1
    save_every: int = 200
    validation: int = 64
    start: Path | None = None


def rate_at(step: int, params: TrainParams) -> float:
    """Linear warm-up, constant, then linear decay to 0 over the last `decay` of the steps."""
    left = (params.steps - step) / max(1.0, params.decay * params.steps)
    return params.rate * min(1.0, (step + 1) / max(1, params.warmup), max(0.0, left))


def batches(stage: Stage, params: TrainParams, first: int) -> Iterator[Arrays]:
    """The batches of steps first, first + 1, ... made ahead in worker processes."""
    with ProcessPoolExecutor(params.workers) as pool:

        def make(step: int) -> Future[Arrays]:
            return pool.submit(stage.batch, params.pack, "train", params.seed, step, params.batch, params.side)

        ahead = deque(make(step) for step in range(first, min(first + 4, params.steps)))
        for step in range(first, params.steps):
            if step + len(ahead) < params.steps:
                ahead.append(make(step + len(ahead)))
            yield ahead.popleft().result()


def tensors(arrays: Arrays, device: str = "cpu") -> dict[str, Tensor]:
    """A batch as tensors."""
    return {k: torch.from_numpy(v).to(device) for k, v in arrays.items()}


class Run:
    """The state of one run: the model, its moving average, the optimizer, the step."""

    def __init__(self, stage: Stage, params: TrainParams) -> None:
        torch.manual_seed(params.seed)
        self.stage, self.params, self.step = stage, params, 0
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.net = stage.model().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = stage.model().to(self.device).eval()
        if params.start is not None:
            stage.begin(self.net, weights_of(params.start))
        self.ema.load_state_dict(self.net.state_dict())
        decayed = [p for p in self.net.parameters() if p.ndim > 1]
        others = [p for p in self.net.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": params.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=params.rate, betas=(0.9, 0.98))

    def train_step(self, arrays: Arrays) -> dict[str, float]:
        """One step on one batch: the losses and the gradient's norm. A gradient that is not finite is left out."""
        torch.manual_seed(1_000_003 * self.params.seed + self.step)  # what the loss draws depends on the step alone
        self.net.train()
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.step, self.params)
        losses = self.stage.loss(self.net, tensors(arrays, self.device))
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), self.params.clip)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.step += 1
        self.average()
        return {**{k: float(v.detach()) for k, v in losses.items()}, "norm": float(norm)}

    @torch.no_grad()
    def average(self) -> None:
        """Move the averaged weights towards those of now; the first steps weigh more."""
        keep = min(self.params.ema, (1 + self.step) / (10 + self.step))
        for mean, now in zip(self.ema.state_dict().values(), self.net.state_dict().values(), strict=True):
            if mean.dtype.is_floating_point:
                mean.lerp_(now.to(mean.dtype), 1 - keep)
            else:
                mean.copy_(now)

    def save(self) -> None:
        """Write the checkpoint to a temporary name, then rename it."""
        out = self.params.out
        out.mkdir(parents=True, exist_ok=True)
        flat = {f"net.{k}": v.contiguous() for k, v in self.net.state_dict().items()}
        flat |= {f"ema.{k}": v.contiguous() for k, v in self.ema.state_dict().items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            flat |= {f"optimizer.{i}.{k}": torch.as_tensor(v).contiguous() for k, v in state.items()}
        save_file(flat, out / "checkpoint.safetensors.part")
        os.replace(out / "checkpoint.safetensors.part", out / "checkpoint.safetensors")
        about = {
            "stage": self.stage.name,
            "step": self.step,
            "params": {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self.params).items()},
        }
        (out / "checkpoint.json.part").write_text(json.dumps(about, indent=1))
        os.replace(out / "checkpoint.json.part", out / "checkpoint.json")

    def resume(self) -> None:
        """Take up the checkpoint in the run's folder."""
        flat = load_file(self.params.out / "checkpoint.safetensors")
        self.step = json.loads((self.params.out / "checkpoint.json").read_text())["step"]

        def part(name: str) -> dict[str, Tensor]:
            return {k.removeprefix(name): v for k, v in flat.items() if k.startswith(name)}

        self.net.load_state_dict(part("net."))
        self.ema.load_state_dict(part("ema."))
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in part("optimizer.").items():
            index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})


def weights_of(start: Path, which: str = "ema.") -> dict[str, Tensor]:
    """The averaged weights in a checkpoint folder, or those of an exported .onnx file."""
    if start.suffix == ".onnx":
        from unfuse.train.export import state_of

        return state_of(start)
    flat = load_file(start / "checkpoint.safetensors")
    return {k.removeprefix(which): v for k, v in flat.items() if k.startswith(which)}


def train(stage: Stage, params: TrainParams, report: Callable[[dict[str, Any]], None]) -> Path:
    """Train to `params.steps`, from what lies in `params.out` if anything does. SIGTERM saves, then stops.

    report is given a row of figures after each step. Returns the checkpoint's folder.
    """
    run = Run(stage, params)
    if (params.out / "checkpoint.json").exists():
        run.resume()
    stop = False

    def ask_to_stop(*_: Any) -> None:
        nonlocal stop
        stop = True

    before = signal.signal(signal.SIGTERM, ask_to_stop)
    held_out = tensors(stage.batch(params.pack, "valid", 1, 0, params.validation, params.side), run.device)
    params.out.mkdir(parents=True, exist_ok=True)
    began, first = time.monotonic(), run.step
    with (params.out / "metrics.jsonl").open("a") as log:
        for arrays in batches(stage, params, run.step):
            row: dict[str, Any] = {"step": run.step + 1, **run.train_step(arrays)}
            row["seconds"] = time.monotonic() - began
            row["left"] = row["seconds"] / (run.step - first) * (params.steps - run.step)
            last = stop or run.step == params.steps
            if last or run.step % params.save_every == 0:
                row["valid"] = stage.validate(run.ema, held_out)
                run.save()
            if not math.isfinite(row["loss"]):
                row["skipped"] = True
            log.write(json.dumps(row) + "\n")
            log.flush()
            report(row)
            if stop:
                break
    signal.signal(signal.SIGTERM, before)
    return params.out
