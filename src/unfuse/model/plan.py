"""What a run needs, what there is, and how to place the model: known from the headers of the weights, before loading.

Bytes of weights are exact; the memory of the work itself is an estimate (`working`), and so is the time on a CPU, from
a short measurement of how fast it multiplies matrices.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from unfuse.errors import EngineError
from unfuse.model.checkpoint import shapes_of, transformer_params, vae_params, weight_files
from unfuse.model.mmdit import MMDiT, MMDiTParams
from unfuse.model.placement import Placement
from unfuse.model.text import TEXT_WEIGHTS
from unfuse.model.vae import VIDEO_ONLY
from unfuse.tokens import PATCH

GB = 1e9
TEXT_TOKENS = 512  # at most, see `text.MAX_TOKENS`
SCHEDULE = 50  # steps whose modulations are counted


@dataclass(frozen=True)
class Sizes:
    """Bytes of a checkpoint's parts in the precision of the run."""

    text: int
    vae: int
    blocks: int  # without modulation
    blocks_int8: int  # the same in int8
    modulation: int
    outside: int  # of the transformer, beside its blocks
    depth: int
    table: int  # the modulations of a schedule, computed ahead

    @property
    def transformer(self) -> int:
        """All of it."""
        return self.blocks + self.modulation + self.outside


@dataclass(frozen=True)
class Found:
    """Bytes that are free; gpu is 0 without one."""

    gpu: int
    ram: int


@dataclass(frozen=True)
class Plan:
    """One way to run: where, how the transformer is placed, whether the text encoder stays while it works.

    gpu, ram: bytes that it needs at its peak.
    """

    name: str
    device: str
    placement: Placement
    text_device: str
    text_stays: bool
    gpu: int
    ram: int

    def fits(self, found: Found) -> bool:
        """Whether there is room for it."""
        return self.gpu <= found.gpu and self.ram <= found.ram


ABOUT = {
    "whole": "all weights stay in memory",
    "swapped": "the text encoder is freed before the transformer comes",
    "precomputed": "swapped; modulation is computed for the schedule, and its weights dropped",
    "int8": "precomputed; the blocks' weights are rounded to int8, a scale for every row",
    "streamed": "precomputed; blocks wait in RAM and come to the GPU one by one",
    "disk": "precomputed; blocks are read from disk one by one, at every pass",
}


def sizes(folder: Path, dtype: torch.dtype) -> Sizes:
    """Of a published checkpoint; reads nothing but its configs and the headers of its weights."""
    params = transformer_params(folder / "transformer/config.json")
    with torch.device("meta"):
        inside = {name: math.prod(shape) for name, shape in shapes_of(MMDiT(params)).items()}
    blocks = {name: n for name, n in inside.items() if name.startswith("blocks.")}
    modulation = sum(n for name, n in blocks.items() if ".modulation." in name)
    still = [
        count(shape) // (shape[2] if len(shape) == 5 else 1)  # the last temporal slice of each kernel
        for name, shape in shapes(weight_files(folder / "vae"))
        if VIDEO_ONLY not in name
    ]
    reader = folder / "text_encoder"  # may be left away where the states of all prompts are given
    text = sum(count(x) for _, x in shapes(weight_files(reader, TEXT_WEIGHTS))) if reader.is_dir() else 0
    return Sizes(
        text=text * dtype.itemsize,
        vae=sum(still) * dtype.itemsize,
        blocks=(sum(blocks.values()) - modulation) * dtype.itemsize,
        blocks_int8=sum(blocks.values()) - modulation,
        modulation=modulation * dtype.itemsize,
        outside=(sum(inside.values()) - sum(blocks.values())) * dtype.itemsize,
        depth=params.depth,
        table=SCHEDULE * params.depth * 2 * 6 * params.width * dtype.itemsize,
    )


def shapes(files: Iterable[Path]) -> list[tuple[str, list[int]]]:
    """Names and shapes in the headers of safetensors files."""
    found = []
    for path in files:
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(min(length, 100_000_000)))
        except (OSError, ValueError, struct.error) as error:
            raise EngineError(f"{path} is broken ({error}): download it again") from error
        found += [(name, about["shape"]) for name, about in header.items() if name != "__metadata__"]
    return found


def count(shape: list[int]) -> int:
    """Numbers in a tensor."""
    return math.prod(shape)


def working(folder: Path, dtype: torch.dtype, size: tuple[int, int], slots: int, batch: int) -> int:
    """Bytes for the work itself, estimated: about twenty tensors as large as all tokens in a block, or ten of the
    decoder's last size.
    """
    transformer, vae = transformer_params(folder / "transformer/config.json"), vae_params(folder / "vae/config.json")
    tokens = batch * (tokens_of(vae.factor, size, slots) + TEXT_TOKENS)
    block = 20 * tokens * transformer.width
    decoder = 10 * min(size[0], 1024) * min(size[1], 1024) * vae.base
    return max(block, decoder) * dtype.itemsize


def tokens_of(factor: int, size: tuple[int, int], slots: int) -> int:
    """Image tokens of the slots and the condition."""
    return (slots + 1) * (size[0] // (factor * PATCH)) * (size[1] // (factor * PATCH))


def find(device: str) -> Found:
    """What is free now, for each of the processes that torchrun started here."""
    gpu = torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else 0
    return Found(gpu, free_ram() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def free_ram() -> int:
    """RAM that can be had without swapping, within a container's limit; a guess of half where it cannot be found."""
    free = 2**63 - 1
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text("ascii").splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    try:
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text("ascii")) for name in ("max", "current"))
        return min(free, limit - used)
    except (OSError, ValueError):  # no container, or "max"
        return free


def plans(sizes: Sizes, work: int, device: str, found: Found) -> list[Plan]:
    """All ways to run on a device, best first; after those of a GPU come those without it."""
    rest, lean = sizes.vae + work, sizes.blocks + sizes.outside + sizes.table
    two_blocks = 2 * sizes.blocks // sizes.depth + sizes.outside + sizes.table
    needs: list[tuple[str, Placement, int]] = [  # of the device, beside the text encoder
        ("whole", "whole", sizes.transformer + rest),
        ("swapped", "whole", sizes.transformer + rest),
        ("precomputed", "precomputed", lean + rest),
        ("int8", "int8", lean - sizes.blocks + sizes.blocks_int8 + rest),
        ("streamed", "streamed", two_blocks + rest),
        ("disk", "disk", two_blocks + rest),
    ]
    on_cpu = [
        Plan(name, "cpu", placement, "cpu", name == "whole", 0, peak(name, need, sizes.text, work))
        for name, placement, need in needs
        if name != "streamed"  # from RAM to RAM
    ]
    if device == "cpu":
        return on_cpu
    text_fits = sizes.text + work <= found.gpu
    on_gpu = []
    for name, placement, need in needs:
        text_here = text_fits or name not in ("streamed", "disk")
        waiting = sizes.blocks if name == "streamed" else 0
        on_gpu.append(
            Plan(
                name=name,
                device=device,
                placement=placement,
                text_device=device if text_here else "cpu",
                text_stays=name == "whole",
                gpu=peak(name, need, sizes.text, work) if text_here else need,
                ram=max(waiting, 0 if text_here else sizes.text + work),
            )
        )
    return on_gpu + on_cpu


def peak(name: str, need: int, text: int, work: int) -> int:
    """Bytes of a device on which both work: together where nothing is freed, else the larger of the two."""
    return need + text if name == "whole" else max(need, text + work)


def choose(plans: list[Plan], found: Found, named: str | None = None) -> Plan:
    """The first plan that fits, or the first of the name given by hand, whether it fits or not."""
    if named is not None:
        by_name = [plan for plan in plans if plan.name == named]
        if not by_name:
            raise EngineError(
                f"plan {named!r} is unknown here: one of {', '.join(dict.fromkeys(p.name for p in plans))}"
            )
        return by_name[0]
    fitting = [plan for plan in plans if plan.fits(found)]
    if not fitting:
        raise EngineError(
            f"no plan fits into {found.gpu / GB:.1f} GB of GPU memory and {found.ram / GB:.1f} GB of RAM; the "
            f"smallest, 'disk', needs {plans[-1].ram / GB:.1f} GB of RAM: free some, take a smaller area or fewer "
            "layers, or say plan='disk' to try all the same"
        )
    return fitting[0]


def table(sizes: Sizes, work: int, plans: list[Plan], found: Found, chosen: Plan, folder: Path) -> list[str]:
    """The whole reckoning, a line each."""
    lines = [
        f"needs: text encoder {sizes.text / GB:.1f} GB, transformer {sizes.transformer / GB:.1f} GB "
        f"(modulation {sizes.modulation / GB:.1f}), VAE {sizes.vae / GB:.2f} GB, work about {work / GB:.1f} GB",
        f"found: GPU {found.gpu / GB:.1f} GB free, RAM {found.ram / GB:.1f} GB free, "
        f"disk {shutil.disk_usage(folder).free / GB:.1f} GB free",
    ]
    for plan in plans:
        mark = ">" if plan == chosen else " "
        fits = "fits" if plan.fits(found) else "does not fit"
        lines.append(
            f"{mark} {plan.name:<11} on {plan.device:<6} GPU {plan.gpu / GB:5.1f} GB, RAM {plan.ram / GB:5.1f} GB, "
            f"{fits}: {ABOUT[plan.name]}"
        )
    return lines


def flops(params: MMDiTParams, tokens: int) -> float:
    """Of one pass: every token meets 12 d^2 weights in each block, and every other token in its attention."""
    together = tokens + TEXT_TOKENS
    return params.depth * (2 * 12 * params.width**2 * together + 4 * together**2 * params.width)


def cpu_speed(dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter) -> float:
    """FLOPs a second of this CPU on matrices of the model's kind; the best of three short tries."""
    x = torch.ones(1024, 1024, dtype=dtype)
    spent = []
    for _ in range(3):
        start = clock()
        x @ x
        spent.append(clock() - start)
    return 2 * 1024**3 / max(min(spent), 1e-9)


def cpu_time(folder: Path, dtype: torch.dtype, size: tuple[int, int], slots: int, passes: int) -> str:
    """A frank line on how long that many passes take here."""
    params = transformer_params(folder / "transformer/config.json")
    factor = vae_params(folder / "vae/config.json").factor
    work = passes * flops(params, tokens_of(factor, size, slots))
    return (
        f"on this CPU about {duration(work / cpu_speed(dtype))} at the speed of one large matrix product just now; it "
        "will be more: attention is slower, and weights that come from disk have to be read"
    )


def duration(seconds: float) -> str:
    """A time as people say it: "40 seconds", "14 hours", "5 days"."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds" if seconds >= 2 else "a second"
