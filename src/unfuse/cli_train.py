"""The verbs of training: a stage, a run in pieces on a borrowed machine, and what becomes of a run."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from unfuse.errors import UnfuseError, require
from unfuse.terminal import err, progress


class Otherwise(TyperGroup):
    """A group of which one verb need not be said: whatever is none of its verbs is that one's first argument."""

    verb = ""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        known = args[0] in self.commands or args[0].startswith("-")
        return super().resolve_command(ctx, args if known else [self.verb, *args])


class AnyStage(Otherwise):
    """`train vae` is `train STAGE vae`."""

    verb = "STAGE"


train = typer.Typer(
    cls=AnyStage, help="Train a stage, at once or in pieces; see docs/training.md.", no_args_is_help=True
)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a training run.")]
MinutesOption = Annotated[float | None, typer.Option(help="Stop, with a checkpoint, after so many minutes.")]


@train.command("STAGE")
def run_stage(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="What to train, such as vae; 'list' lists them all.")],
    run: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="The run's folder; one that is there goes on.")
    ] = None,
    pack: Annotated[Path | None, typer.Option(metavar="DIR", help="What 'unfuse corpus build' made.")] = None,
    records: Annotated[Path | None, typer.Option(metavar="DIR", help="What 'unfuse corpus psd' made.")] = None,
    size: Annotated[str | None, typer.Option(help="Of the model: tiny, small or full.")] = None,
    start: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="To begin from: a run, an .onnx, a published folder, the trunk's wheel."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A published checkpoint: to tune, or for its text encoder.")
    ] = None,
    lora: Annotated[
        int | None, typer.Option(metavar="RANK", help="Tune a LoRA of this rank; else all weights.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the whole run.")] = None,
    batch: Annotated[int | None, typer.Option(help="Pictures in a step, over all GPUs.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Parts in which a GPU takes its share of a step.")] = None,
    side: Annotated[int | None, typer.Option(help="Side of a square training picture, in pixels.")] = None,
    layers: Annotated[int | None, typer.Option(help="Layers that a picture has at most.")] = None,
    rate: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    schedule: Annotated[str | None, typer.Option(help="Of the rate: constant, linear or cosine.")] = None,
    warmup: Annotated[int | None, typer.Option(help="Steps until the rate is full.")] = None,
    decay: Annotated[float | None, typer.Option(help="The last share of steps, in which the rate falls.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw, or muon for what is inside the net.")] = None,
    ema: Annotated[float | None, typer.Option(help="How much of the averaged weights stays at each step.")] = None,
    clip: Annotated[float | None, typer.Option(help="The gradient's length at most.")] = None,
    precision: Annotated[str | None, typer.Option(help="What multiplies: bfloat16 or float32.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same run.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that draw training pictures, for each GPU.")] = None,
    remix: Annotated[int | None, typer.Option(help="Pictures that the GPU makes of each drawn design.")] = None,
    reuse: Annotated[int | None, typer.Option(help="Steps whose batches are kept and gone through again.")] = None,
    validation: Annotated[int | None, typer.Option(help="Held-out pictures that a checkpoint is judged by.")] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    sheet_every: Annotated[int | None, typer.Option(help="Steps between sample sheets; 0 for none.")] = None,
    parallel: Annotated[str | None, typer.Option(help="Under torchrun: ddp or fsdp.")] = None,
    minutes: MinutesOption = None,
    compiled: Annotated[bool, typer.Option("--compile", help="torch.compile the repeated blocks.")] = False,
    recompute: Annotated[bool, typer.Option("--recompute", help="Less memory, a third more time.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard's files too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the memory estimate, and train nothing.")] = False,
) -> None:
    """Train a stage. A run that was stopped goes on where its last checkpoint was; Ctrl-C saves first."""
    for module in ("torch", "safetensors"):
        require(module, "train", "training")
    from unfuse.train import stages
    from unfuse.train.stage import TrainParams

    if stage == "list":
        print("\n".join(f"{row.name:<16}{row.about}" for row in stages.STAGES.values()))
        return
    chosen = stages.stage(stage)
    if run is None:
        raise UnfuseError("--out is missing: name the run's folder, such as --out runs/vae")
    given = {"steps": steps, "batch": batch, "side": side, "rate": rate, "seed": seed, "start": start, "size": size}
    given |= {"workers": workers, "save_every": save_every, "sheet_every": sheet_every, "validation": validation}
    given |= {"accumulate": accumulate, "layers": layers, "schedule": schedule, "warmup": warmup, "decay": decay}
    given |= {"ema": ema, "clip": clip, "precision": precision, "parallel": parallel, "model": model, "lora": lora}
    given |= {"optimizer": optimizer, "remix": remix, "reuse": reuse, "tensorboard": tensorboard}
    given |= {"compile": compiled, "recompute": recompute}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    go(chosen, TrainParams(data=folder_of(pack, records), out=run, **options), minutes, dry_run)


def folder_of(pack: Path | None, records: Path | None) -> Path:
    """The folder of the data, checked."""
    from unfuse.train.data import checked

    if (pack is None) == (records is None):
        raise UnfuseError("say either --pack DIR (parts, see 'unfuse corpus build') or --records DIR (your own files)")
    found = records if pack is None else pack
    assert found is not None
    return checked(found)


def go(stage: Any, params: Any, minutes: float | None, dry_run: bool) -> None:
    """Say what memory it needs, train, and say where the run is. Exit code 130 where it was stopped before its end."""
    from unfuse.train import loop, memory
    from unfuse.train.parallel import join, leave

    place = join(params.parallel)
    loop.check(stage, params, place)
    needed = memory.estimate(stage, params, place)
    if place.first:
        for line in memory.lines(needed, place):
            err.print(escape(line), soft_wrap=True)
    if dry_run:
        return
    memory.check(needed, params, place)
    with progress() as shown:
        task = shown.add_task(f"Training {stage.name}", total=params.steps)

        def report(row: dict[str, Any]) -> None:
            shown.update(task, completed=row["step"], description=f"Training {stage.name}, loss {row['loss']:.4f}")
            if "valid" in row:
                measured = ", ".join(f"{name} {value:.4f}" for name, value in row["valid"].items())
                err.print(f"step {row['step']} of {params.steps}: {measured}", soft_wrap=True)

        reached = loop.train(stage, params, report, minutes=minutes)
    leave()
    if not place.first:
        return
    print(params.out)
    if reached < params.steps and minutes is None:
        err.print(f"stopped at step {reached} of {params.steps}, saved: the same command goes on", soft_wrap=True)
        sys.exit(128 + signal.SIGINT)


@train.command()
def pack(
    run: RunArgument,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="JOB", help="The folder to take to the other machine.")],
    pack: Annotated[Path | None, typer.Option(metavar="DIR", help="What 'unfuse corpus build' made.")] = None,
    records: Annotated[Path | None, typer.Option(metavar="DIR", help="What 'unfuse corpus psd' made.")] = None,
) -> None:
    """Pack a run, its code and its data into files of at most 16 MiB, 64 MiB in all, for a machine that is lent."""
    pieces = needed()
    print(pieces.pack(run, folder_of(pack, records), out, say))


@train.command()
def piece(
    job: Annotated[Path, typer.Argument(metavar="JOB", help="The folder that 'unfuse train pack' made.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="RESULT", help="The folder to bring back.")],
    minutes: MinutesOption = None,
    until: Annotated[int | None, typer.Option(metavar="STEP", help="Stop at this step of the run.")] = None,
) -> None:
    """Run one piece of a packed run; 'python JOB/piece.py -o RESULT' does it where unfuse is not installed."""
    print(needed().piece(job, out, minutes, until, say))


@train.command()
def take(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="The folder that 'unfuse train piece' made.")],
    run: RunArgument,
) -> None:
    """Take the result of a piece into its run, checked by hash."""
    print(needed().take(result, run, say))


def export(
    run: RunArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="An .onnx file, a .safetensors file (LoRA), or a folder.")],
    model: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The published checkpoint that was tuned, for a folder of it.")
    ] = None,
) -> None:
    """Turn a training run into what an engine takes: embedded, trained:OUT, or qwen:OUT."""
    for module in ("torch", "safetensors"):
        require(module, "train", "export")
    from unfuse.train.publish import publish

    print(publish(run, out, model))


def needed() -> Any:
    """The module of pieces, with what it needs."""
    for module in ("torch", "safetensors"):
        require(module, "train", "training")
    from unfuse.train import pieces

    return pieces


def say(line: str) -> None:
    """A line for people."""
    err.print(escape(line), soft_wrap=True)
