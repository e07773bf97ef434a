"""The engine `qwen`: the published Qwen-Image-Layered checkpoint, from a folder on disk.

The weights (57 GB, Apache-2.0) are not part of the package: `qwen:FOLDER` names where they are. torch is imported when
an engine is made, transformers when a prompt has to be read.

Unlike the reference pipeline it takes batches with several layer counts, any bucket whose sides are multiples of 16,
straight alpha in the input, and a seed for each picture; guidance never goes off silently; slot 0, the model's own
picture of the whole, is decoded and compared with the input as a free sign of quality.
"""

from __future__ import annotations

import gc
import hashlib
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from unfuse import reading
from unfuse.engines import Count, EngineLayers, OnStep, Step
from unfuse.errors import EngineError, require

if TYPE_CHECKING:
    from torch import Tensor

    from unfuse.model.layered import Layered
    from unfuse.model.plan import Plan
    from unfuse.model.text import Language, TextEncoder

PIPELINE = "QwenImageLayeredPipeline"
PLANS = ("whole", "swapped", "precomputed", "int8", "streamed", "disk")  # see `model.plan`
MOST_STATES = 64  # prompts whose states are remembered
SIDE = 16  # the VAE's eighth times the patch's half
AUTO_LAYERS = 4  # the release's default
LARGE_DIFFERENCE = 12.0  # of 255 on average; a working VAE alone stays under 3


def to_stderr(line: str) -> None:
    """Tell whoever waits."""
    print(line, file=sys.stderr, flush=True)


class Qwen:
    """The published checkpoint as an `Engine`."""

    name = "qwen"
    max_layers = 20

    def __init__(
        self,
        folder: str | Path,
        *,
        area: int = 640 * 640,
        steps: int = 50,
        guidance: float = 4.0,
        normalise: bool = True,
        negative: str = " ",
        interval: tuple[float, float] = (0.0, 1.0),
        shift: float | None = None,
        reuse: float = 0.0,
        transformer: str | Path | None = None,
        loras: Sequence[str | Path | tuple[str | Path, float]] = (),
        compiled: bool = False,
        language: Language = "en",
        device: str | None = None,
        precision: Literal["float32", "bfloat16"] | None = None,
        plan: str | None = None,
        previews: bool = False,
        say: Callable[[str], None] = to_stderr,
    ) -> None:
        """Check that the folder (or hub name) holds a checkpoint; its weights are read at the first picture.

        area: pixels of the bucket; the release knows 640 x 640 and 1024 x 1024. steps: where none are asked for.
        guidance: 1 for none, half the time. normalise: keep every token's length under guidance. interval: the noise
        levels at which there is guidance. shift: of the schedule, for models distilled to few steps; None for the
        release's own. reuse: the first-block cache's threshold, 0 for none (`model.reuse`). transformer: a file with
        its weights instead of the folder's (`model.single`). loras: files merged into the weights, or pairs (file,
        strength). compiled: the blocks by torch.compile, slower at first and faster then. language: of captions.
        device: as torch names it; the GPU where there is one. precision: bfloat16 on a GPU, else float32. plan: a name
        in `model.plan.ABOUT`; None for the first that fits. previews: show `on_step` the layers so far. say: is told
        the plan before weights are loaded.
        """
        torch = require("torch", "qwen", "the engine 'qwen'")
        require("safetensors", "qwen", "the engine 'qwen'")
        from unfuse.model import lora
        from unfuse.model.checkpoint import fingerprint

        check_options(area, steps, interval, shift, reuse, plan)
        self.transformer = None if transformer is None else existing(transformer)
        self.folder = find_folder(folder, ("vae",) if self.transformer else ("transformer", "vae"))
        self.area, self.default_steps, self.language, self.previews, self.say = area, steps, language, previews, say
        self.guidance, self.normalise, self.negative, self.interval = guidance, normalise, negative, interval
        self.shift, self.reuse, self.loras, self.plan_name = shift, reuse, lora.checked(loras), plan
        self.compiled = compiled
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = getattr(torch, precision or ("bfloat16" if self.device.startswith("cuda") else "float32"))
        self.weights_sha256 = lora.fingerprint(
            fingerprint(self.folder, *([self.transformer] if self.transformer else [])), self.loras
        )
        self.captions: dict[str, str] = {}
        self.states: dict[str, Tensor] = {}  # of prompts, on the CPU
        self.plan: Plan | None = None  # in force since the first picture
        self.ladder: list[tuple[str, str]] = []  # names and devices of all plans, best first
        self.given_up = 0  # how many of them ran out of memory

    @cached_property
    def model(self) -> Layered:
        from unfuse.model.layered import Layered

        plan = self.in_force()
        if not plan.text_stays:
            self.free("text")
        return Layered(
            self.folder, plan.device, self.dtype, plan.placement, self.loras, self.transformer, self.compiled
        )

    @cached_property
    def text(self) -> TextEncoder:
        from unfuse.model.text import TextEncoder

        plan = self.in_force()
        if not plan.text_stays:
            self.free("model")
        return TextEncoder(self.folder, plan.text_device, self.dtype)

    def in_force(self) -> Plan:
        """The plan that was chosen; for programs that use the parts alone, one for a usual picture."""
        if self.plan is None:
            self.choose(self.bucket((1, 1)), AUTO_LAYERS + 1, 1, self.default_steps)
        assert self.plan is not None
        return self.plan

    def free(self, *parts: str) -> None:
        """Let loaded parts go."""
        import torch

        for part in parts:
            self.__dict__.pop(part, None)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def choose(self, size: tuple[int, int], slots: int, batch: int, steps: int) -> None:
        """Choose a plan for a size, the first that fits or the next after one that ran out of memory, and say it."""
        from unfuse.model import plan as planning

        sizes = planning.sizes(self.folder, self.dtype)
        work = planning.working(self.folder, self.dtype, size, slots, batch)
        found = planning.find(self.device)
        plans = planning.plans(sizes, work, self.device, found)
        self.ladder = [(plan.name, plan.device) for plan in plans]
        left = plans[self.given_up :]
        self.plan = left[0] if self.given_up else planning.choose(left, found, self.plan_name)
        passes = steps * (1 if self.guidance == 1 else 2)
        lines = planning.table(sizes, work, plans, found, self.plan, self.folder)
        if self.plan.device == "cpu":
            lines.append(planning.cpu_time(self.folder, self.dtype, size, slots, batch * passes))
        for line in lines:
            self.say(line)

    def fall(self, error: BaseException) -> None:
        """Out of memory: let everything go, and go on with the next plan, if there is one."""
        plan = self.in_force()
        self.given_up = self.ladder.index((plan.name, plan.device)) + 1
        self.free("model", "text")
        if self.given_up == len(self.ladder):
            self.given_up, self.plan = 0, None
            raise EngineError("out of memory under the last plan too: take a smaller area, fewer layers or pictures")
        self.plan = None
        self.say(f"out of memory under the plan '{plan.name}' on {plan.device} ({error}): going on with the next")

    def bucket(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (width, height) of about `area` pixels in the picture's proportions, in multiples of 16."""
        width, height = size
        scale = (self.area / (width * height)) ** 0.5
        longest = self.area / SIDE  # a strip cannot be thinner than one token
        return nearest(min(width * scale, longest)), nearest(min(height * scale, longest))

    def decompose(
        self,
        pictures: NDArray[np.float32],
        layers: Sequence[Count],
        *,
        prompts: Sequence[str],
        steps: int,
        seeds: Sequence[int],
        on_step: OnStep | None = None,
    ) -> list[EngineLayers]:
        """See `Engine.decompose`. An empty prompt is filled in by a caption, which comes back as a note.

        Pictures with equal layer counts are one batch; each gets what it would get alone, up to rounding.
        """
        check(pictures, layers, prompts, steps, seeds, self.max_layers)
        counts = [AUTO_LAYERS if count == "auto" else count for count in layers]
        while True:
            try:
                if self.plan is None:
                    self.choose(pictures.shape[2:0:-1], max(counts) + 1, len(pictures), steps)
                captions = self.read(pictures, prompts)
                texts = [caption or prompt for caption, prompt in zip(captions, prompts, strict=True)]
                slots, told = self.denoise(pictures, counts, texts, steps, seeds, on_step)
                break
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                self.fall(error)
        about = [f"plan: {self.in_force().name}, on {self.in_force().device}", *told]
        return [
            EngineLayers(
                slots[i][1:], (None,) * counts[i], (*notes(layers[i], captions[i], slots[i][0], picture), *about)
            )
            for i, picture in enumerate(pictures)
        ]

    def read(self, pictures: NDArray[np.float32], prompts: Sequence[str]) -> list[str]:
        """Captions where prompts are empty, '' elsewhere; and the states of all that is said, in `self.states`."""
        captions = ["" if p.strip() else self.caption(picture) for picture, p in zip(pictures, prompts, strict=True)]
        said = {caption or prompt for caption, prompt in zip(captions, prompts, strict=True)}
        said |= set() if self.guidance == 1 else {self.negative}
        if len(self.states) > MOST_STATES:
            self.states.clear()
        for text in sorted(said - self.states.keys()):
            states, _ = self.text.encode([text])
            self.states[text] = states[0].cpu()
        return captions

    def denoise(
        self,
        pictures: NDArray[np.float32],
        counts: list[int],
        texts: list[str],
        steps: int,
        seeds: Sequence[int],
        on_step: OnStep | None,
    ) -> tuple[dict[int, NDArray[np.float32]], list[str]]:
        """All slots `l+1 h w 4` of each picture, and what to say of the step cache."""
        slots: dict[int, NDArray[np.float32]] = {}
        passes = reused = 0
        largest = 0.0
        groups = [[i for i, c in enumerate(counts) if c == count] for count in sorted(set(counts))]
        for nth, group in enumerate(groups):
            told = None if on_step is None else self.teller(on_step, nth * steps, len(groups) * steps)
            latents = self.sample(
                pictures[group], counts[group[0]], [texts[i] for i in group], steps, [seeds[i] for i in group], told
            )
            slots |= {i: self.model.decode(frames).cpu().numpy() for i, frames in zip(group, latents, strict=True)}
            passes += sum(row.passes for row in self.model.reused)
            reused += sum(row.reused for row in self.model.reused)
            largest = max([largest, *(row.largest for row in self.model.reused)])
        cache = f"step cache: {reused} of {passes} passes reused; the first block had changed by {largest:.0%} at most"
        return slots, [cache] if passes else []

    def sample(
        self,
        pictures: NDArray[np.float32],
        count: int,
        prompts: list[str],
        steps: int,
        seeds: list[int],
        on_step: Callable[[int, Tensor], None] | None,
    ) -> Tensor:
        """Clean latents `b l+1 c h/8 w/8` of a batch in which every picture gets `count` layers."""
        import torch

        from unfuse.model.layered import Prompt
        from unfuse.model.text import together

        height, width = pictures.shape[1:3]
        prompt = Prompt(*together([self.states[text] for text in prompts]))
        negative = None if self.guidance == 1 else Prompt(*together([self.states[self.negative]] * len(prompts)))
        return self.model.sample(
            self.model.noise(seeds, count + 1, height, width),
            self.model.encode(torch.from_numpy(pictures)),
            prompt,
            negative,
            steps=steps,
            guidance=self.guidance,
            normalise=self.normalise,
            interval=self.interval,
            shift=self.shift,
            reuse=self.reuse,
            on_step=on_step,
        )

    def teller(self, on_step: OnStep, before: int, total: int) -> Callable[[int, Tensor], None]:
        """What turns the sampler's steps into the engine's; a preview is the first picture's layers in a row."""

        def told(step: int, latents: Tensor) -> None:
            preview = None
            if self.previews:
                preview = rearrange(self.model.decode(latents[0, 1:]).cpu().numpy(), "l h w c -> h (l w) c")
            on_step(Step(before + step, total, preview))

        return told

    def caption(self, picture: NDArray[np.float32]) -> str:
        """The text encoder's caption of a picture `h w 4` on white; remembered."""
        from PIL import Image

        colour, alpha = picture[..., :3], picture[..., 3:]
        shown = Image.fromarray(np.uint8(np.clip(colour * alpha + 1 - alpha, 0, 1) * 255 + 0.5))
        key = hashlib.sha256(shown.tobytes()).hexdigest()
        if key not in self.captions:
            self.captions[key] = reading.quoted(self.text.caption(shown, self.language), np.asarray(shown))
        return self.captions[key]


def existing(file: str | Path) -> Path:
    """A weights file that must be there."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise EngineError(f"transformer {path} is not a file: give a .safetensors or .gguf file, or leave it out")
    return path


def find_folder(folder: str | Path, parts: Sequence[str]) -> Path:
    """The checkpoint's folder, downloaded where a hub name is given; the weights of `parts` must be there."""
    from unfuse.model import hub
    from unfuse.model.checkpoint import read_json, weight_files

    path = Path(folder).expanduser()
    if not path.is_dir():
        if not hub.is_name(str(folder)):
            raise EngineError(f"{path} is not a folder: give the folder of a checkpoint, or its hub name Owner/Name")
        path = hub.download(str(folder))
    kind = read_json(path / "model_index.json").get("_class_name")
    if kind != PIPELINE:
        raise EngineError(f"{path} holds a {kind}, and the engine 'qwen' runs a {PIPELINE}")
    for part in parts:
        weight_files(path / part)
    return path


def check_options(
    area: int,
    steps: int,
    interval: tuple[float, float],
    shift: float | None,
    reuse: float,
    plan: str | None,
) -> None:
    """Raise EngineError on options that mean nothing."""
    if area < SIDE * SIDE:
        raise EngineError(f"area {area} is too small: {SIDE * SIDE} pixels or more, such as 640 * 640")
    if steps < 1:
        raise EngineError(f"steps is {steps}: 1 or more, 50 for full quality")
    if not 0 <= interval[0] <= interval[1] <= 1:
        raise EngineError(f"interval is {interval}: two noise levels in 0..1, the lower one first")
    if shift is not None and shift <= 0:
        raise EngineError(f"shift is {shift}: above 0, or None for the release's own")
    if not 0 <= reuse < 1:
        raise EngineError(f"reuse is {reuse}: 0 for no step cache, else below 1, such as 0.1")
    if plan is not None and plan not in PLANS:
        raise EngineError(f"plan {plan!r} is unknown: one of {', '.join(PLANS)}, or None for the first that fits")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out: the GPU's, or the CPU's in torch's words."""
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def nearest(side: float) -> int:
    """The multiple of 16 nearest to a side, at least one."""
    return max(SIDE, round(side / SIDE) * SIDE)


def check(
    pictures: NDArray[np.float32],
    layers: Sequence[Count],
    prompts: Sequence[str],
    steps: int,
    seeds: Sequence[int],
    most: int,
) -> None:
    """Raise EngineError on what the engine cannot work on."""
    if pictures.ndim != 4 or pictures.shape[3] != 4 or any(side < SIDE or side % SIDE for side in pictures.shape[1:3]):
        raise EngineError(f"pictures are {pictures.shape}: b h w 4 is wanted, h and w multiples of {SIDE}")
    if pictures.dtype != np.float32:
        raise EngineError(f"pictures are {pictures.dtype}: float32 in 0..1 is wanted")
    if not len(pictures) == len(layers) == len(prompts) == len(seeds):
        raise EngineError(
            f"{len(pictures)} pictures, {len(layers)} layer counts, {len(prompts)} prompts and {len(seeds)} seeds: "
            "one of each for every picture is wanted"
        )
    for count in layers:
        if count != "auto" and not 1 <= count <= most:
            raise EngineError(f"layers is {count}: 1 to {most}, or 'auto'")
    if steps < 1:
        raise EngineError(f"steps is {steps}: 1 or more, 50 for full quality")


def notes(count: Count, caption: str, whole: NDArray[np.float32], picture: NDArray[np.float32]) -> tuple[str, ...]:
    """What the user should know of one picture's decomposition: how many layers and why, the caption, the whole."""
    lines = []
    if count == "auto":
        lines.append(f"{AUTO_LAYERS} layers: the model cannot tell how many there are, and this is its usual number")
    if caption:
        lines.append(f"caption: {caption}")
    difference = 255 * float(np.abs(premultiplied(whole) - premultiplied(picture)).mean())
    lines.append(f"the model's own picture of the whole differs from the input by {difference:.1f} of 255 on average")
    if difference > LARGE_DIFFERENCE:
        lines.append("that is much: its layers may be poor; another seed, more steps or a better prompt may help")
    return tuple(lines)


def premultiplied(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """`h w 4` with the colours times alpha, so that what does not show does not count."""
    alpha = picture[..., 3:]
    return np.concatenate([picture[..., :3] * alpha, alpha], axis=-1)
