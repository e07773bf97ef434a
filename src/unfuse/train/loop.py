"""The one training loop: the same for every stage, on one device or on several.

The data of step k depends on the seed and k alone, so a run that stops and resumes sees what a straight run sees; a
picture's noise depends on its place in the batch alone, so that it does not matter how a batch is cut. (Where designs
are remixed it does: parts are dealt among the designs of one device.)
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
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save
from torch import Tensor, nn

from unfuse import pixels, saving
from unfuse.errors import UnfuseError, require
from unfuse.train import muon, parallel, weights
from unfuse.train.parallel import Objective, Place
from unfuse.train.stage import Arrays, Stage, Tensors, TrainParams, Want

SLOW = 0.1  # of the rate: for weights that were learnt elsewhere, on more than is at hand here
HERE = {"count", "key", "text"}  # what stays on the CPU: it is read, not computed with
Report = Callable[[dict[str, Any]], None]


def rate_at(step: int, params: TrainParams) -> float:
    """Linear warm-up, then the full rate; over the last `decay` of the steps down to 0 by a line or half a cosine."""
    left = min(1.0, (params.steps - step) / max(1.0, params.decay * params.steps))
    share = {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}[params.schedule]
    return params.rate * min(1.0, (step + 1) / max(1, params.warmup), share)


# --- data ------------------------------------------------------------------------------------------------------------


def wants(params: TrainParams, place: Place, step: int) -> list[Want]:
    """What this process draws of a step's batch, part by part."""
    share = params.batch // (place.count * params.accumulate * params.remix)
    first = place.rank * params.accumulate * share
    return [
        Want(params.data, "train", params.seed, step, first + i * share, share, params.side, params.layers)
        for i in range(params.accumulate)
    ]


def ignore_interrupts() -> None:
    """Ctrl-C goes to all processes of a terminal; the workers wait for what the run decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def batches(stage: Stage, params: TrainParams, place: Place, first: int, last: int) -> Iterator[list[Arrays]]:
    """The batches of steps `first` to `last - 1`, each in its parts, made ahead in worker processes."""
    draw = stage.batch if params.remix == 1 else stage.designs
    assert draw is not None
    with ProcessPoolExecutor(params.workers, initializer=ignore_interrupts) as pool:

        def make(step: int) -> list[Future[Arrays]]:
            if not params.reuse:
                return [pool.submit(draw, want) for want in wants(params, place, step)]
            return [
                pool.submit(again, stage.vary, draw, want, params, step)
                for want in wants(params, place, step % params.reuse)
            ]

        ahead = deque(make(step) for step in range(first, min(first + 4, last)))
        try:
            for step in range(first, last):
                if step + len(ahead) < last:
                    ahead.append(make(step + len(ahead)))
                yield [part.result() for part in ahead.popleft()]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def again(
    vary: Callable[[Arrays, np.random.Generator], Arrays] | None,
    draw: Callable[[Want], Arrays],
    want: Want,
    params: TrainParams,
    step: int,
) -> Arrays:
    """A batch that was drawn for an earlier step, and is kept in the run's folder; drawn now where it is not there."""
    file = params.out / "batches" / f"{want.seed}-{want.side}-{want.step}-{want.first}-{want.count}.safetensors"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with saving.replacing(file) as out:
            out.write(save({name: np.ascontiguousarray(array) for name, array in draw(want).items()}))
    arrays: Arrays = load_file(file)
    return arrays if vary is None else vary(arrays, np.random.default_rng([params.seed, step, want.first, 4]))


def tensors(arrays: Arrays, device: str = "cpu") -> Tensors:
    """A batch as tensors, the large ones on the device."""
    return {k: torch.from_numpy(v).to("cpu" if k in HERE else device) for k, v in arrays.items()}


def held_out(stage: Stage, params: TrainParams, device: str) -> Tensors:
    """The pictures that a stage is judged by, the same for all runs."""
    want = Want(params.data, "valid", 1, 0, 0, params.validation, params.side, params.layers)
    return tensors(stage.batch(want), device)


# --- the run ---------------------------------------------------------------------------------------------------------


class Run:
    """The state of one run: the model, its moving average, the optimizer, the step."""

    def __init__(self, stage: Stage, params: TrainParams, place: Place) -> None:
        """Begin, or take up the checkpoint in the run's folder."""
        torch.manual_seed(params.seed)
        self.stage, self.params, self.place, self.step = stage, params, place, 0
        self.net = (stage.load or stage.build)(params)
        saved: dict[str, Tensor] = {}
        if not (params.out / weights.ABOUT).exists():
            if params.start is not None:
                stage.begin(self.net, weights.weights_of(params.start))
        else:
            saved, about = weights.read(params.out)
            self.step = resumed_at(params, stage, about)
            self.net.load_state_dict(weights.part(saved, "net."), strict=not stage.lean)
        if params.parallel != "fsdp":  # which takes a block at a time, and shards of rows
            self.net.to(place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        parallel.prepare(self.net, compiled=params.compile, recompute=params.recompute)
        self.objective = Objective(self.net)
        self.call = parallel.spread(self.objective, params.parallel)
        learned = {name: p for name, p in self.net.named_parameters() if p.requires_grad}
        self.kept = [name for name in self.net.state_dict() if not stage.lean or name in learned]
        before = weights.part(saved, "ema.")
        now = self.state()
        self.ema = {name: parallel.alike(before[name], t) if saved else t.detach().clone() for name, t in now.items()}
        self.optimizer = optimizer(stage, params, learned)
        self.names: dict[Tensor, str] = {p: name for name, p in learned.items()}
        for name, state in weights.moments(saved).items():
            p = learned[name]
            self.optimizer.state[p] = {k: v if k == "step" else parallel.alike(v, p) for k, v in state.items()}

    def state(self) -> dict[str, Tensor]:
        """The weights that this run keeps."""
        found = self.net.state_dict()
        return {name: found[name] for name in self.kept}

    def autocast(self) -> torch.autocast:
        """What multiplies in the run's precision."""
        enabled = self.params.precision == "bfloat16"
        return torch.autocast(self.place.device.partition(":")[0], torch.bfloat16, enabled=enabled)

    def train_step(self, parts: list[Arrays]) -> dict[str, float]:
        """One step on one batch: the losses and the gradient's norm. A gradient that is not finite is left out."""
        torch.manual_seed(1_000_003 * self.params.seed + self.step)  # what the loss draws depends on the step alone
        self.net.train()
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.step, self.params) * group.get("share", 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        found: list[dict[str, Tensor]] = []
        for i, arrays in enumerate(parts):
            parallel.sync(self.call, self.params.parallel, last=i == len(parts) - 1)
            seen = self.seen(tensors(arrays, self.place.device), i)
            with self.autocast():
                losses = self.call(self.stage.loss, seen)
            (losses["loss"] / len(parts)).backward()
            found.append({name: value.detach() for name, value in losses.items()})
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), self.params.clip)
        norm = weights.same(norm)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.step += 1
        self.average()
        means = {name: torch.stack([losses[name] for losses in found]).mean() for name in found[0]}
        return {**parallel.mean(means), "norm": float(norm)}

    @torch.no_grad()
    def seen(self, drawn: Tensors, part: int) -> Tensors:
        """What the model is to see of what one part of a step drew."""
        if self.params.remix == 1:
            return drawn
        assert self.stage.remix is not None
        key = [self.params.seed, self.step, self.place.rank * self.params.accumulate + part, 3]
        return self.stage.remix(drawn, self.params.remix, np.random.default_rng(key))

    @torch.no_grad()
    def average(self) -> None:
        """Move the averaged weights towards those of now; the first steps weigh more."""
        keep = min(self.params.ema, (1 + self.step) / (10 + self.step))
        for name, now in self.state().items():
            if now.dtype.is_floating_point:
                self.ema[name].lerp_(now, 1 - keep)
            else:
                self.ema[name].copy_(now)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model with its averaged weights, for as long as the block lasts."""
        self.exchange()
        self.net.eval()
        try:
            with torch.no_grad(), self.autocast():
                yield
        finally:
            self.exchange()

    @torch.no_grad()
    def exchange(self) -> None:
        """Weights and averaged weights change places, without room for a third copy."""
        for name, now in self.state().items():
            before = now.clone()
            now.copy_(self.ema[name])
            self.ema[name].copy_(before)

    def judge(self, arrays: Tensors) -> tuple[dict[str, float], dict[str, Any]]:
        """How the averaged weights do on held-out pictures, and what the checkpoint should say beside it."""
        with self.averaged():
            return self.objective(self.stage.validate, arrays), self.objective(self.stage.describe, arrays)

    def draw(self, arrays: Tensors) -> None:
        """A sample sheet of the averaged weights, into the run's folder `sheets`."""
        assert self.stage.sheet is not None
        with self.averaged():
            drawn = self.objective(self.stage.sheet, arrays)
        if self.place.first:
            (self.params.out / "sheets").mkdir(parents=True, exist_ok=True)
            with saving.replacing(self.params.out / f"sheets/{self.step:07}.png") as file:
                pixels.to_image(drawn).save(file, "PNG")

    def save(self, valid: dict[str, float], more: dict[str, Any]) -> None:
        """Write the checkpoint; all processes bring their shards together, the first one writes."""
        flat = {f"net.{name}": weights.same(tensor) for name, tensor in self.state().items()}
        flat |= {f"ema.{name}": weights.same(tensor) for name, tensor in self.ema.items()}
        for p, state in self.optimizer.state.items():
            flat |= {f"optimizer.{self.names[p]}.{k}": weights.same(torch.as_tensor(v)) for k, v in state.items()}
        if self.place.first:
            weights.write(self.params.out, flat, self.about() | {"valid": valid} | more)

    def about(self) -> dict[str, Any]:
        """What the checkpoint's JSON says."""
        told = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self.params).items()}
        sizes = getattr(self.net, "params", None)
        about: dict[str, Any] = {"stage": self.stage.name, "step": self.step, "params": told}
        about |= {"pictures": self.step * self.params.batch, "license": licences(self.params.data)}
        return about | ({"model": asdict(sizes)} if is_dataclass(sizes) and not isinstance(sizes, type) else {})


def optimizer(stage: Stage, params: TrainParams, learned: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW, or Muon for what is a matrix or kernel inside the net; vectors and what learns slowly do not decay."""
    slow = {"params": [p for name, p in learned.items() if name.startswith(stage.slow)], "weight_decay": 0.0}
    own = {name: p for name, p in learned.items() if not name.startswith(stage.slow)}
    matrices = {name: p for name, p in own.items() if p.ndim > 1}
    groups = [{"params": [p for p in own.values() if p.ndim <= 1], "weight_decay": 0.0}, {**slow, "share": SLOW}]
    if params.optimizer == "adamw":
        groups.append({"params": list(matrices.values()), "weight_decay": params.weight_decay})
        return torch.optim.AdamW(groups, lr=params.rate, betas=muon.BETAS)
    inside = [p for name, p in matrices.items() if not name.startswith(stage.ends)]
    ends = [p for name, p in matrices.items() if name.startswith(stage.ends)]
    decayed = {"weight_decay": params.weight_decay}
    groups += [{"params": inside, "matrices": True, **decayed}, {"params": ends, **decayed}]
    return muon.Muon(groups, lr=params.rate)


def resumed_at(params: TrainParams, stage: Stage, about: dict[str, Any]) -> int:
    """The step of a checkpoint. Raises UnfuseError where it is of another stage, or by another optimizer."""
    if about["stage"] != stage.name:
        raise UnfuseError(f"{params.out} is a run of stage {about['stage']}, not {stage.name}: choose another --out")
    before = about.get("params", {}).get("optimizer", "adamw")
    if before != params.optimizer:
        raise UnfuseError(
            f"{params.out} is a run by --optimizer {before}: go on with that, or begin a new run, --start {params.out}"
        )
    return int(about["step"])


def licences(data: Path) -> list[str]:
    """The licences of the parts that pictures were composed of; none are known of records here."""
    pack = data / "pack.json"
    rows = json.loads(pack.read_text("utf-8")).get("parts", []) if pack.is_file() else []
    return sorted({row["license"] for row in rows if row.get("license")})


class Stop:
    """Whether someone asked the run to stop: SIGTERM or Ctrl-C, or its minutes are over. A second Ctrl-C stops it now.

    Made in the main thread; `asked` is the signal, or None.
    """

    def __init__(self, minutes: float | None) -> None:
        self.asked: int | None = None
        self.ends = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self.before = {number: signal.signal(number, self.ask) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(self, number: int, *_: Any) -> None:
        if self.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = number

    def __bool__(self) -> bool:
        """The same in all processes."""
        return bool(parallel.most(int(self.asked is not None or time.monotonic() > self.ends)))

    def forget(self) -> None:
        """What signals did before, they do again."""
        for number, handler in self.before.items():
            signal.signal(number, handler)


@contextmanager
def board(params: TrainParams, first: bool) -> Iterator[Report]:
    """What writes rows to TensorBoard's files in the run's folder; nothing where it is not wanted."""
    if not (params.tensorboard and first):
        yield lambda _row: None
        return
    require("tensorboard", "tensorboard", "--tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(params.out / "tensorboard")) as writer:

        def add(row: dict[str, Any]) -> None:
            valid = {f"valid/{name}": value for name, value in row.get("valid", {}).items()}
            train = {f"train/{k}": v for k, v in row.items() if isinstance(v, float)}
            for name, value in {**train, **valid}.items():
                writer.add_scalar(name, value, row["step"])

        yield add


def check(stage: Stage, params: TrainParams, place: Place) -> None:
    """Raise UnfuseError for what cannot go well."""
    parts = place.count * params.accumulate * params.remix
    if params.batch % parts:
        raise UnfuseError(
            f"batch {params.batch} cannot be cut into {place.count} processes x {params.accumulate} parts"
            f" x {params.remix} pictures of a design: make it a multiple of {parts}"
        )
    if params.remix > 1 and stage.remix is None:
        raise UnfuseError(f"stage {stage.name} does not remix designs: leave --remix out")
    if params.optimizer == "muon" and params.parallel == "fsdp":
        raise UnfuseError("--optimizer muon needs whole matrices, which --parallel fsdp cuts: say ddp, or adamw")
    if params.sheet_every and stage.sheet is None:
        raise UnfuseError(f"stage {stage.name} draws no sample sheets: leave --sheet-every out")
    if params.tensorboard:
        require("tensorboard", "tensorboard", "--tensorboard")


def train(
    stage: Stage,
    params: TrainParams,
    report: Report,
    *,
    minutes: float | None = None,
    until: int | None = None,
) -> int:
    """Train to `params.steps`, from what lies in `params.out` if anything does. Returns the step that was reached.

    Ctrl-C and SIGTERM save, then stop; so does the end of `minutes`, and step `until`. report is given a row of figures
    after each step, in the first process alone.
    """
    place = parallel.join(params.parallel)
    check(stage, params, place)
    stop = Stop(minutes)
    try:
        run = Run(stage, params, place)
        last = params.steps if until is None else min(until, params.steps)
        if run.step < last:
            params.out.mkdir(parents=True, exist_ok=True)
            with (
                open(params.out / "metrics.jsonl" if place.first else os.devnull, "a") as log,
                board(params, place.first) as add,
            ):
                for row in steps(run, stop, last):
                    if place.first:
                        log.write(json.dumps(row) + "\n")
                        log.flush()
                        add(row)
                        report(row)
    finally:
        stop.forget()
    return run.step


def steps(run: Run, stop: Stop, last: int) -> Iterator[dict[str, Any]]:
    """Step after step, with checkpoints and sheets on the way: the row of each."""
    params = run.params
    judged_by = held_out(run.stage, params, run.place.device)
    began, first = time.monotonic(), run.step
    for parts in batches(run.stage, params, run.place, run.step, last):
        row: dict[str, Any] = {"step": run.step + 1, **run.train_step(parts)}
        row["rate"] = rate_at(run.step - 1, params)
        row["seconds"] = time.monotonic() - began
        row["left"] = row["seconds"] / (run.step - first) * (params.steps - run.step)
        ends = bool(stop) or run.step == last
        if ends or run.step % params.save_every == 0:
            row["valid"], more = run.judge(judged_by)
            run.save(row["valid"], more)
        if params.sheet_every and (run.step % params.sheet_every == 0 or run.step == params.steps):
            run.draw(judged_by)
        if not math.isfinite(row["norm"]):
            row["skipped"] = True
        yield row
        if ends:
            return
