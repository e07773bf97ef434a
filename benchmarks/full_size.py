"""The published model's size on one GPU, with random weights: every lever alone and together, beside diffusers.

    pip install 'unfuse[qwen]' diffusers==0.42.1
    python benchmarks/full_size.py --list                       # the levers, and a guess of the minutes of each
    python benchmarks/full_size.py --levers diffusers,eager,compiled --json some.json
    python benchmarks/full_size.py                              # all of them; docs/qwen.md has calls of ten minutes
    python benchmarks/full_size.py --tiny                       # on a CPU: it proves the script only

640 x 640, 4 layers, bfloat16, 50 guided steps. Each row is printed when it is measured, in Markdown; one that fails
says why, and the others go on. A row whose steps all cost the same runs a few of them, and a denoise is computed from
that; `(run)` marks one that was really run. The floor is the FLOPs of the denoise at `--peak`. Memory is what the
allocator held at its peak while steps ran; in rows of a small card from before the weights came until a picture was
encoded, denoised and decoded, in an allocator held to `--card` GB. The text encoder, which those plans free first, is
not in it. The difference is mean |row - eager| / mean |eager| of the estimate of the clean latents after the same steps
(for `interval` and the cache, of the latents themselves). Random weights cost what trained ones do and say nothing
about pictures, nor about how often the step cache finds a pass that it may leave out. Under `torchrun
--nproc-per-node N`, passes of ours are shared as the engine shares them.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from full_size_ways import LEVERS, Bench, Lever, Model, Sample, build, sampler, vaes
from torch import Tensor

from unfuse.model import sequence
from unfuse.model.checkpoint import transformer_params, vae_params
from unfuse.model.mmdit import MMDiTParams
from unfuse.model.vae import VAEParams

TINY = Path(__file__).parents[1] / "tests/data/qwen_layered_tiny/checkpoint"
GB = 1e9
OF_FLOOR, OF_DIFFUSERS = 1.2, 1.3  # the aims of bfloat16
HEAD = "| lever | s a step | s a denoise | of floor | peak GB | difference | aims | notes |"


@dataclass
class Row:
    """What was measured of a lever. aims: each with whether it is met, None where this run cannot tell."""

    lever: str
    about: str
    step: float | None = None
    denoise: float | None = None
    really_run: bool = False
    of_floor: float | None = None
    peak: float | None = None
    difference: float | None = None
    passes: int = 0
    reused: int = 0
    aims: dict[str, bool | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    error: str | None = None

    def markdown(self) -> str:
        """A line of the table."""
        aims = ", ".join(f"{aim}: {MET[met]}" for aim, met in self.aims.items())
        notes = "; ".join([self.about, *self.notes, *([f"**failed**: {self.error}"] if self.error else [])])
        run = " (run)" if self.really_run else ""
        cells = [shown(self.step, "{:.4f}"), shown(self.denoise, "{:.2f}") + run, shown(self.of_floor, "{:.2f}")]
        cells += [shown(self.peak, "{:.1f}"), shown(self.difference, "{:.1e}"), aims or "-", notes]
        return f"| {self.lever} | {' | '.join(cells)} |"


MET = {True: "met", False: "not met", None: "not known"}


def shown(value: float | None, form: str) -> str:
    """A figure, or a dash."""
    return "-" if value is None else form.format(value)


class Enough(Exception):
    """As many steps as were wanted."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levers", type=named, default=list(LEVERS.values()), help="names with commas between; or vae")
    parser.add_argument("--list", action="store_true", help="say the levers and stop")
    parser.add_argument("--json", type=Path, help="a file for the figures, written after every row")
    parser.add_argument("--side", type=int, default=640, help="of the picture; a multiple of 16")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=50, help="of a denoise")
    parser.add_argument("--measured", type=int, default=3, help="steps that are run where all cost the same")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--reuse", type=float, default=0.1, help="the step cache's threshold, as in the engine")
    parser.add_argument("--peak", type=float, default=790, help="TFLOP/s that large matrix products reach")
    parser.add_argument("--card", type=float, default=24, help="GB of the small card")
    parser.add_argument("--tiny", action="store_true", help="the tests' sizes on a CPU, float32")
    options = parser.parse_args(argv)
    if options.list:
        for lever in LEVERS.values():
            print(f"{lever.name:<20} {lever.minutes:4.1f} min  {lever.about}")
        return
    model = sized(options)
    report = Report(model, options)
    report.say(f"about {sum(lever.minutes for lever in options.levers) + 1:.0f} minutes on an H200, a guess")
    report.head()
    measure_all(options.levers, model, options, report)
    report.vae(model)


def named(names: str) -> list[Lever]:
    """Levers by name, in the table's order; `vae` is always measured and may stand alone."""
    wanted = set(names.split(",")) - {"vae"}
    if unknown := wanted - LEVERS.keys():
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; known: vae, {', '.join(LEVERS)}")
    return [lever for name, lever in LEVERS.items() if name in wanted]


def sized(options: argparse.Namespace) -> Model:
    """Sizes and inputs: the published ones on a GPU, or the tests' on a CPU."""
    more = {"layers": options.layers, "steps": options.steps, "reuse": options.reuse}
    if options.tiny:
        params, vae = transformer_params(TINY / "transformer/config.json"), vae_params(TINY / "vae/config.json")
        return Model.of(params, vae, sequence.join("cpu"), side=64, **more)
    if not torch.cuda.is_available():
        sys.exit("no GPU is here: the full size needs one; --tiny proves the script on a CPU")
    return Model.of(MMDiTParams(), VAEParams(), sequence.join("cuda"), side=options.side, **more)


def measure_all(levers: Sequence[Lever], model: Model, options: argparse.Namespace, report: Report) -> None:
    """Every row, rows with the same model one after the other; what fails is a row too."""
    expected = references(levers, model, options, report) if levers else {}
    bench: Bench | None = None
    built: tuple[Any, ...] | None = None
    for lever in levers:
        row = Row(lever.name, lever.about, really_run=lever.whole)
        try:
            if lever.build != built:
                bench = built = None
                forget(model)
                hold(options.card if lever.cap else None, model)
                bench, built = build(lever, model), lever.build
            assert bench is not None
            answer = measure(lever, model, bench, options, row)
            if (reference := expected.get(kind(lever, model, options))) is not None:
                row.difference = float((answer - reference).abs().mean() / reference.abs().mean())
        except Exception as error:
            row.error = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"[:200]
            row.really_run, bench, built = False, None, None
        report.add(lever, row)
    bench = None
    forget(model)
    hold(None, model)


def kind(lever: Lever, model: Model, options: argparse.Namespace) -> tuple[Any, ...]:
    """What rows agree in that are compared with the same run of eager."""
    steps = lever.steps or model.steps
    return steps, lever.guidance, lever.shift, steps if lever.whole else min(options.measured, steps)


def references(
    levers: Sequence[Lever], model: Model, options: argparse.Namespace, report: Report
) -> dict[tuple[Any, ...], Tensor]:
    """What eager answers, for each kind of row; none where it does not fit."""
    found: dict[tuple[Any, ...], Tensor] = {}
    eager = LEVERS["eager"]
    try:
        bench = build(eager, model)
        for lever in levers:
            if (key := kind(lever, model, options)) not in found:
                plain = Lever("", "", 0, steps=lever.steps, guidance=lever.guidance, shift=lever.shift)
                found[key] = run(sampler(plain, model, bench), key[-1])
    except Exception as error:
        report.say(f"nothing to compare with, eager fails: {error}")
    return found


def measure(lever: Lever, model: Model, bench: Bench, options: argparse.Namespace, row: Row) -> Tensor:
    """Fill in a row's figures; the latents `1 l c h w` that it ends with, on the CPU."""
    sample, steps = sampler(lever, model, bench), lever.steps or model.steps
    count = kind(lever, model, options)[-1]
    on_gpu = model.device.startswith("cuda")
    run(sample, count if lever.compiled else min(2, count))  # what compiles meets all lengths; modulation comes ahead
    if on_gpu and not lever.cap:
        torch.cuda.reset_peak_memory_stats()
    spent = []
    for _ in range(1 if lever.whole else options.repeats):
        seconds, answer = timed(lambda: run(sample, count), on_gpu)
        spent.append(seconds)
    row.step = statistics.median(spent) / count
    row.denoise = row.step * steps
    row.of_floor = row.denoise / (model.flops(lever) / options.peak / 1e12)
    if lever.cap:
        bench.encode(torch.rand(1, model.side, model.side, 4))
        bench.decode(answer[0].to(model.device))
    row.peak = torch.cuda.max_memory_allocated() / GB if on_gpu else None
    row.passes, row.reused = (sum(getattr(cache, what) for cache in bench.reused) for what in ("passes", "reused"))
    if bench.reused:
        row.notes.append(f"{row.reused} of {row.passes} passes reused")
    return answer


@torch.inference_mode()
def run(sample: Sample, count: int) -> Tensor:
    """The estimate of the clean latents after `count` steps, which after the last is the answer, float32 on the CPU."""
    kept: list[Tensor] = []

    def told(step: int, estimate: Tensor) -> None:
        if step == count:
            kept.append(estimate)
            raise Enough

    with suppress(Enough):
        sample(told)
    return kept[0].float().cpu()


def timed(call: Callable[[], Tensor], on_gpu: bool) -> tuple[float, Tensor]:
    """Seconds, and the answer."""
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    answer = call()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start, answer


def forget(model: Model) -> None:
    """Give memory back before the next model comes."""
    gc.collect()
    torch.compiler.reset()
    if model.device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def hold(card: float | None, model: Model) -> None:
    """Hold the allocator to a card of so many GB, or let it have all."""
    if model.device.startswith("cuda"):
        there = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(1.0 if card is None else min(1.0, card * GB / there))


class Report:
    """Rows so far: told one by one, kept as JSON. Aims are those of the full size, and judged only there."""

    def __init__(self, model: Model, options: argparse.Namespace) -> None:
        self.model, self.options = model, options
        self.rows: dict[str, Row] = {}
        self.full = not options.tiny and (options.side, options.layers, options.steps) == (640, 4, 50)
        self.about: dict[str, Any] = {
            "device": torch.cuda.get_device_name() if model.device.startswith("cuda") else "cpu",
            "torch": torch.__version__,
            "parameters": model.parameters,
            "tokens": (model.slots + 1) * model.grid**2,
            "floor": model.flops(LEVERS["eager"]) / options.peak / 1e12,
            **{name: getattr(options, name) for name in ("side", "layers", "steps", "reuse", "peak", "card", "tiny")},
        }
        self.frames: list[dict[str, Any]] = []

    def say(self, line: str) -> None:
        """Beside the tables."""
        print(line, file=sys.stderr, flush=True)

    def tell(self, line: str) -> None:
        """A line of the tables, from the first of several processes."""
        if os.environ.get("RANK", "0") == "0":
            print(line, flush=True)

    def head(self) -> None:
        """What all rows share."""
        about = self.about
        self.tell(
            f"{about['device']}, torch {about['torch']}: {about['parameters'] / 1e9:.4g} B parameters, "
            f"{about['tokens']} image tokens, floor of {about['steps']} guided steps {about['floor']:.3g} s at "
            f"{about['peak']:g} TFLOP/s\n\n{HEAD}\n|{'---|' * HEAD.count(' | ')}---|"
        )

    def add(self, lever: Lever, row: Row) -> None:
        """Judge a row, tell it and keep it."""
        row.aims = aims(lever, row, self.rows, self.options.card)
        if not self.full:
            row.aims = dict.fromkeys(row.aims)
        elif (needed := bound(row, self.rows.get("eager"))) is not None:
            row.notes.append(f"{LEVERS['cached'].under:g} s need {needed} of {row.passes} passes reused")
        self.rows[lever.name] = row
        self.tell(row.markdown())
        self.keep()

    def vae(self, model: Model) -> None:
        """The second table: one frame, folded and not."""
        self.tell("\n| VAE, one frame | s encode | s decode | difference encode | difference decode |")
        self.tell("|---|---|---|---|---|")
        first: list[Tensor] = []
        on_gpu = model.device.startswith("cuda")
        for name, calls in vaes(model).items():
            seconds, answers = [], []
            for call in map(torch.inference_mode(), calls):
                call()
                runs = [timed(call, on_gpu) for _ in range(self.options.repeats)]
                seconds.append(statistics.median(spent for spent, _ in runs))
                answers.append(runs[0][1].float().cpu())
            first = first or answers
            apart = [float((a - b).abs().mean() / b.abs().mean()) for a, b in zip(answers, first, strict=True)]
            self.tell(f"| {name} | {seconds[0]:.4f} | {seconds[1]:.4f} | {apart[0]:.1e} | {apart[1]:.1e} |")
            self.frames.append({"name": name, "seconds": seconds, "difference": apart})
        self.keep()

    def keep(self) -> None:
        """Write the JSON file, if one is wanted."""
        if self.options.json is None or os.environ.get("RANK", "0") != "0":
            return
        content = {"about": self.about, "rows": [asdict(row) for row in self.rows.values()], "vae": self.frames}
        text = json.dumps(content, indent=2)
        new = self.options.json.with_suffix(".tmp")
        new.write_text(text + "\n", encoding="utf-8")
        os.replace(new, self.options.json)


def aims(lever: Lever, row: Row, rows: dict[str, Row], card: float) -> dict[str, bool | None]:
    """What a row should reach, and whether it does."""
    found: dict[str, bool | None] = {}
    if lever.exact:
        theirs = rows["diffusers"].denoise if "diffusers" in rows else None
        known = theirs is not None and row.denoise is not None
        found[f"at most {OF_FLOOR:g} of floor"] = None if row.of_floor is None else row.of_floor <= OF_FLOOR
        found[f"{OF_DIFFUSERS:g} times faster than diffusers"] = (
            theirs >= OF_DIFFUSERS * row.denoise if known else None  # type: ignore[operator]
        )
    if lever.under is not None:
        found[f"under {lever.under:g} s"] = None if row.denoise is None else row.denoise < lever.under
    if lever.cap:
        found[f"within {card:g} GB"] = None if row.peak is None else row.peak <= card
    return found


def bound(row: Row, eager: Row | None) -> int | None:
    """How many passes must be reused to reach the cache's aim, from what a reused and a whole pass cost."""
    under = LEVERS["cached"].under
    if row.lever != "cached_bound" or eager is None or eager.denoise is None or row.denoise is None or not row.reused:
        return None
    assert under is not None
    whole = eager.denoise / row.passes
    cheap = (row.denoise - (row.passes - row.reused) * whole) / row.reused
    needed = math.ceil((row.passes * whole - under) / (whole - cheap)) if whole > cheap else row.passes + 1
    return max(0, needed) if needed <= row.passes else None


if __name__ == "__main__":
    main()
