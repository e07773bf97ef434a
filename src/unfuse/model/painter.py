"""Painting a picture anew after words: Qwen-Image-Edit, run by diffusers from a folder or a hub name.

The weights (20 billion parameters, Apache-2.0) are not part of the package. What is run is the release's own pipeline,
`QwenImageEditPlusPipeline` or the older `QwenImageEditPipeline`, with its published guidance; it brings the picture to
its bucket of about a million pixels itself. Two things are ours, because with transformers 5 they are not as the model
was trained: the processor, which there wants torchvision for video whatever it is given, and the places of the
picture's tokens, which there have to be asked for. No remote code is run, no pickle is read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unfuse.errors import EngineError, nearest, require

RELEASE = "Qwen/Qwen-Image-Edit-2509"
PIPELINES = ("QwenImageEditPlusPipeline", "QwenImageEditPipeline")
PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "processor", "scheduler")
GUIDANCE, NEGATIVE = 4.0, " "  # as in the release's example
IMAGE_PAD = "<|image_pad|>"  # stands once in the prompt, and once for each visual token in what the model reads
WORK = 6 << 30  # bytes of GPU memory for what is not weights; an estimate


class Painter(Protocol):
    """Implement this, and put it into the table below, to add an engine that paints."""

    def paint(self, picture: NDArray[np.float32], words: str, *, seed: int, steps: int) -> NDArray[np.float32]:
        """A picture `h w 3` float32 in 0..1, sRGB-encoded, changed as the words say; it may come at another size."""
        ...


@lru_cache(maxsize=1)
def load(engine: str, model: str | None) -> Painter:
    """The engine of a name with the weights of a folder or hub name; the same object when asked again.

    Raises EngineError for an unknown engine, for weights that are missing or broken, and MissingExtra.
    """
    if engine not in TABLE:
        raise EngineError(f"engine {engine!r} is unknown{nearest(engine, TABLE)}: say one of {', '.join(TABLE)}")
    return TABLE[engine](model)


class QwenEdit:
    """The published checkpoint as a `Painter`."""

    def __init__(self, model: str | None) -> None:
        """Read the weights, to the GPU where there is one."""
        diffusers = require("diffusers", "edit", "the engine 'qwen-edit'")
        transformers = require("transformers", "edit", "the engine 'qwen-edit'")
        torch = require("torch", "edit", "the engine 'qwen-edit'")
        folder, kind = found(model)
        options = {"dtype": torch.bfloat16, "local_files_only": True, "use_safetensors": True}
        try:
            self.pipe: Any = getattr(diffusers, kind).from_pretrained(folder, processor=None, **options)
            self.pipe.processor = Reader(transformers, folder)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise EngineError(f"{folder} cannot be loaded as a {kind} ({error}): download it again") from error
        self.pipe.text_encoder.register_forward_pre_hook(placed_tokens, with_kwargs=True)
        self.pipe.set_progress_bar_config(disable=not sys.stderr.isatty())
        to_device(self.pipe)

    def paint(self, picture: NDArray[np.float32], words: str, *, seed: int, steps: int) -> NDArray[np.float32]:
        """See `Painter.paint`. The same seed gives the same bits on the same machine."""
        import torch
        from PIL import Image

        shown = Image.fromarray(np.uint8(picture.clip(0, 1) * 255 + 0.5))
        try:
            answer = self.pipe(
                image=shown,
                prompt=words,
                negative_prompt=NEGATIVE,
                true_cfg_scale=GUIDANCE,
                num_inference_steps=steps,
                generator=torch.Generator().manual_seed(seed),
                output_type="np",
            )
        except torch.OutOfMemoryError as error:
            raise EngineError(f"out of GPU memory ({error}): end what else uses it, and run it again") from error
        return np.asarray(answer.images[0], np.float32)


TABLE: dict[str, Callable[[str | None], Painter]] = {"qwen-edit": QwenEdit}


class Reader:
    """What a text encoder reads of prompts with pictures, as the release's processor makes it; without torchvision."""

    def __init__(self, transformers: Any, folder: Path) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        self.look = transformers.Qwen2VLImageProcessorPil.from_pretrained(folder / "processor", local_files_only=True)
        self.feature = transformers.BatchFeature

    def __call__(self, text: list[str], images: Any, **options: Any) -> Any:
        """The tokens of texts, `IMAGE_PAD` in them repeated for every token of its picture, and the pictures."""
        seen = self.look(images=images, return_tensors="pt")
        places = iter((seen["image_grid_thw"].prod(-1) // self.look.merge_size**2).tolist())
        parts = [each.split(IMAGE_PAD) for each in text]
        said = [first + "".join(IMAGE_PAD * next(places) + part for part in rest) for first, *rest in parts]
        return self.feature({**self.tokenizer(said, **options), **seen})


def placed_tokens(encoder: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Say which tokens are the picture's: else transformers 5 puts them in a row, and not where they are in it."""
    if named.get("mm_token_type_ids") is None and named.get("image_grid_thw") is not None:
        named["mm_token_type_ids"] = (named["input_ids"] == encoder.config.image_token_id).int()
    return given, named


def found(model: str | None) -> tuple[Path, str]:
    """The checkpoint's folder, downloaded where a hub name is given, and its pipeline. Raises EngineError."""
    from unfuse.model import hub

    published = f"a checkpoint such as {RELEASE} (20 billion parameters, Apache-2.0)"
    if model is None:
        raise EngineError(f"the engine 'qwen-edit' has no weights: give model=, the folder or hub name of {published}")
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if not hub.is_name(model):
            raise EngineError(f"{folder} is not a folder: give the folder or hub name of {published}")
        folder = hub.download(model)
    try:
        kind = json.loads((folder / "model_index.json").read_text("utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{folder} has no model_index.json that can be read: give {published}") from error
    if kind not in PIPELINES:
        raise EngineError(f"{folder} holds a {kind}, and 'qwen-edit' runs a {' or '.join(PIPELINES)}")
    if missing := [part for part in PARTS if not (folder / part).is_dir()]:
        raise EngineError(f"{folder} lacks {', '.join(missing)}: download it again")
    return folder, kind


def to_device(pipe: Any) -> None:
    """All of it to the GPU where it fits, else part by part, else layer by layer; to the CPU where there is none."""
    import torch

    if not torch.cuda.is_available():
        return
    sizes = [module.num_parameters() * 2 for module in (pipe.transformer, pipe.text_encoder, pipe.vae)]
    free = torch.cuda.mem_get_info()[0] - WORK
    if sum(sizes) <= free:
        pipe.to("cuda")
    elif max(sizes) <= free:
        pipe.enable_model_cpu_offload()
    else:
        pipe.enable_sequential_cpu_offload()
