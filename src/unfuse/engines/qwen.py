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
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from unfuse import reading
from unfuse.engines import Count, EngineLayers, OnStep, Step, qwen_door
from unfuse.engines.qwen_door import AUTO_LAYERS, SIDE, nearest
from unfuse.errors import EngineError, require
from unfuse.model.hub import to_stderr

if TYPE_CHECKING:
    from torch import Tensor

    from unfuse.model.layered import Layered
    from unfuse.model.plan import Plan
    from unfuse.model.text import Language, TextEncoder

MOST_STATES = 64  # prompts whose states are remembered


@dataclass(frozen=True, eq=False)
class Asked:
    """One call: pictures `h w 4` at the bucket `size` (width, height), or None for layers from the prompt alone."""

    pictures: Sequence[NDArray[np.float32] | None]
    size: tuple[int, int]
    layers: Sequence[Count]
    prompts: Sequence[str]
    steps: int
    seeds: Sequence[int]
    on_step: OnStep | None

    @property
    def counts(self) -> list[int]:
        """How many layers each gets."""
        return [AUTO_LAYERS if count == "auto" else count for count in self.layers]


class Qwen:
    """The published checkpoint as an `Engine`."""

    name = "qwen"
    max_layers = qwen_door.MOST_LAYERS

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
        from unfuse.model import lora, sequence
        from unfuse.model.checkpoint import fingerprint

        qwen_door.check_options(
            **{"area": area, "steps": steps, "guidance": guidance, "normalise": normalise, "negative": negative},
            **{"interval": interval, "shift": shift, "reuse": reuse, "compiled": compiled, "language": language},
            **{"precision": precision, "plan": plan, "previews": previews, "say": say},
        )
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        qwen_door.check_device(device)
        self.device = sequence.join(device)
        self.transformer = None if transformer is None else qwen_door.existing(transformer)
        self.folder = qwen_door.find_folder(folder, say)
        self.area, self.default_steps, self.language, self.previews, self.say = area, steps, language, previews, say
        self.guidance, self.normalise, self.negative, self.interval = guidance, normalise, negative, interval
        self.shift, self.reuse, self.loras, self.plan_name = shift, reuse, lora.checked(loras), plan
        qwen_door.check_parts(self.folder, self.loras, self.transformer)
        self.compiled = compiled
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
        self.say("reading the transformer and the VAE")
        return Layered(
            self.folder, plan.device, self.dtype, plan.placement, self.loras, self.transformer, self.compiled
        )

    @cached_property
    def text(self) -> TextEncoder:
        from unfuse.model.text import TextEncoder

        plan = self.in_force()
        if not plan.text_stays:
            self.free("model")
        self.say("reading the text encoder")
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
        from unfuse.model import sequence

        sizes = planning.sizes(self.folder, self.dtype)
        work = planning.working(self.folder, self.dtype, size, slots, batch)
        found = planning.find(self.device)
        plans = planning.plans(sizes, work, self.device, found)
        self.ladder = [(plan.name, plan.device) for plan in plans]
        left = plans[self.given_up :]
        wanted = left[0] if self.given_up else planning.choose(left, found, self.plan_name)
        self.plan = plans[sequence.largest(plans.index(wanted))]
        passes = steps * (1 if self.guidance == 1 else 2)
        lines = planning.table(sizes, work, plans, found, self.plan, self.folder)
        if self.plan.device == "cpu":
            lines.append(planning.cpu_time(self.folder, self.dtype, size, slots, batch * passes))
        if self.compiled and self.plan.placement in ("streamed", "disk"):
            lines.append("blocks that come one by one are not compiled")
        for line in lines:
            self.say(line)

    def fall(self, error: str) -> None:
        """Out of memory: let everything go, and go on with the next plan, if there is one."""
        plan = self.in_force()
        if "TORCHELASTIC_RUN_ID" in os.environ:
            raise EngineError(
                f"out of memory under the plan '{plan.name}' in one of several processes: name a later one"
            )
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
        """See `Engine.decompose`. An empty prompt is filled in by a caption, which comes back with the answer.

        Pictures with equal layer counts are one batch; each gets what it would get alone, up to rounding.
        """
        qwen_door.check_pictures(pictures)
        size: tuple[int, int] = pictures.shape[2:0:-1]
        return self.answer(Asked(list(pictures), size, layers, prompts, steps, seeds, on_step))

    def generate(
        self,
        size: tuple[int, int],
        layers: Sequence[Count],
        *,
        prompts: Sequence[str],
        steps: int,
        seeds: Sequence[int],
        on_step: OnStep | None = None,
    ) -> list[EngineLayers]:
        """See `engines.Generator`: text to layers, stage 2 of the paper's training (section 3.3). There is no
        condition, all else is as in `decompose`. Limited: the published weights were tuned for `decompose`.
        """
        qwen_door.check_size(size)
        qwen_door.check_prompts(prompts)
        return self.answer(Asked([None] * len(prompts), size, layers, prompts, steps, seeds, on_step))

    def answer(self, asked: Asked) -> list[EngineLayers]:
        """What one call gets, under the first plan whose memory suffices."""
        qwen_door.check(len(asked.pictures), asked.layers, asked.prompts, asked.steps, asked.seeds)
        while True:
            try:
                if self.plan is None:
                    self.choose(asked.size, max(asked.counts) + 1, len(asked.prompts), asked.steps)
                captions = self.read(asked)
                slots, told = self.denoise(asked, captions)
                break
            except (MemoryError, RuntimeError) as error:
                said = next(iter(str(error).splitlines()), "")
                if not qwen_door.out_of_memory(error):
                    if qwen_door.cannot_compile(error):
                        raise EngineError(qwen_door.NO_COMPILER.format(said)) from error
                    raise
            self.fall(said)  # not before the error is gone: it holds on to all that was at work
        told = [f"plan: {self.in_force().name}, on {self.in_force().device}", *told]
        if self.guidance != 1 and self.interval != (0.0, 1.0):
            told.append(qwen_door.guided(self.interval, asked.steps, asked.size, self.shift))
        answers = []
        for i, picture in enumerate(asked.pictures):
            whole, found = slots[i][0], slots[i][1:]
            given, tokens = bool(asked.prompts[i].strip()), len(self.states[captions[i]])
            about = qwen_door.notes(asked.layers[i], captions[i], given, tokens)
            if picture is None:
                about += (
                    qwen_door.LIMITED,
                    *qwen_door.compared(whole, qwen_door.together(found), "its layers put together"),
                )
            else:
                about += qwen_door.compared(whole, picture, "the input")
            answers.append(EngineLayers(found, (None,) * len(found), (*about, *told), captions[i]))
        return answers

    def read(self, asked: Asked) -> list[str]:
        """The prompts, captions where they are empty; and the states of all that is said, in `self.states`."""
        from unfuse.model.checkpoint import transformer_params

        captions = [
            prompt if prompt.strip() or picture is None else self.caption(picture)
            for picture, prompt in zip(asked.pictures, asked.prompts, strict=True)
        ]
        for caption, prompt in zip(captions, asked.prompts, strict=True):
            if caption != prompt:  # in time to stop, if it is wrong
                self.say(f"caption, by the text encoder: {caption}")
        said = set(captions) | (set() if self.guidance == 1 else {self.negative})
        if len(self.states) > MOST_STATES:
            self.states.clear()
        for text in sorted(said - self.states.keys()):
            states, _ = self.text.encode([text])
            self.states[text] = states[0].cpu()
        width = transformer_params(self.folder / "transformer/config.json").text_width
        for text in said:
            qwen_door.check_states(text, self.states[text], width)
        return captions

    def denoise(self, asked: Asked, captions: list[str]) -> tuple[dict[int, NDArray[np.float32]], list[str]]:
        """All slots `l+1 h w 4` of each picture, and what to say of the step cache."""
        slots: dict[int, NDArray[np.float32]] = {}
        passes = reused = 0
        largest = 0.0
        counts, steps = asked.counts, asked.steps
        groups = [[i for i, c in enumerate(counts) if c == count] for count in sorted(set(counts))]
        for nth, group in enumerate(groups):
            told = self.teller(asked.on_step, nth * steps, len(groups) * steps)
            latents = self.sample(asked, group, [captions[i] for i in group], told)
            slots |= {i: self.model.decode(frames).cpu().numpy() for i, frames in zip(group, latents, strict=True)}
            qwen_door.check_finite(all(bool(np.isfinite(slots[i]).all()) for i in group))
            passes += sum(row.passes for row in self.model.reused)
            reused += sum(row.reused for row in self.model.reused)
            largest = max([largest, *(row.largest for row in self.model.reused)])
        cache = f"step cache: {reused} of {passes} passes reused; the first block had changed by {largest:.0%} at most"
        return slots, [cache] if passes else []

    def sample(
        self, asked: Asked, group: list[int], captions: list[str], on_step: Callable[[int, Tensor], None]
    ) -> Tensor:
        """Clean latents `b l+1 c h/8 w/8` of those of what was asked for that get equally many layers."""
        import torch

        from unfuse.model.layered import Prompt
        from unfuse.model.text import together

        width, height = asked.size
        pictures = [picture for i in group if (picture := asked.pictures[i]) is not None]
        prompt = Prompt(*together([self.states[text] for text in captions]))
        negative = None if self.guidance == 1 else Prompt(*together([self.states[self.negative]] * len(group)))
        return self.model.sample(
            self.model.noise([asked.seeds[i] for i in group], asked.counts[group[0]] + 1, height, width),
            self.model.encode(torch.from_numpy(np.stack(pictures))) if pictures else None,
            prompt,
            negative,
            steps=asked.steps,
            guidance=self.guidance,
            normalise=self.normalise,
            interval=self.interval,
            shift=self.shift,
            reuse=self.reuse,
            on_step=on_step,
        )

    def teller(self, on_step: OnStep | None, before: int, total: int) -> Callable[[int, Tensor], None]:
        """What turns the sampler's steps into the engine's; a preview is the first picture's layers in a row.

        Damaged weights show in the first step, and the others are spared.
        """

        def told(step: int, latents: Tensor) -> None:
            qwen_door.check_finite(bool(latents.isfinite().all()))
            if on_step is None:
                return
            preview = None
            if self.previews:
                preview = rearrange(self.model.decode(latents[0, 1:]).cpu().numpy(), "l h w c -> h (l w) c")
            on_step(Step(before + step, total, preview))

        return told

    def caption(self, picture: NDArray[np.float32]) -> str:
        """The text encoder's caption of a picture `h w 4` on white; remembered."""
        from PIL import Image

        from unfuse.model.checkpoint import read_json
        from unfuse.model.text import PROCESSOR

        colour, alpha = picture[..., :3], picture[..., 3:]
        shown = Image.fromarray(np.uint8(np.clip(colour * alpha + 1 - alpha, 0, 1) * 255 + 0.5))
        key = hashlib.sha256(shown.tobytes()).hexdigest()
        if key not in self.captions:
            read_json(self.folder / PROCESSOR)  # said before the text encoder comes
            self.captions[key] = reading.quoted(self.text.caption(shown, self.language), np.asarray(shown))
        return self.captions[key]
