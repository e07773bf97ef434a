"""What the engine `qwen` accepts, checked at its door in words that name the cure, and what it says of its answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unfuse.composite import over
from unfuse.engines import Count
from unfuse.errors import EngineError
from unfuse.flow import schedule

if TYPE_CHECKING:
    from torch import Tensor

PIPELINE = "QwenImageLayeredPipeline"
PLANS = ("whole", "swapped", "precomputed", "int8", "streamed", "disk")  # see `model.plan`
SIDE = 16  # the VAE's eighth times the patch's half
MOST_AREA = 4096 * 4096  # sixteen times what the release knows
MOST_LAYERS = 20  # that the model was trained with
AUTO_LAYERS = 4  # the release's default
STEPS = "1 or more, 50 for full quality"
NUMBERS: dict[str, tuple[Callable[[float], bool], str]] = {
    "area": (
        lambda x: SIDE**2 <= x <= MOST_AREA and x == int(x),
        f"{SIDE**2} to {MOST_AREA} pixels, such as 409600, which is 640 x 640",
    ),
    "steps": (lambda x: x >= 1 and x == int(x), STEPS),
    "guidance": (lambda x: x >= 1, "1 for none, or more, 4 as released"),
    "shift": (lambda x: x > 0, "above 0, or None for the release's own"),
    "reuse": (lambda x: 0 <= x < 1, "0 for no step cache, else below 1, such as 0.1"),
}
CHOICES: dict[str, tuple[str | bool | None, ...]] = {
    "plan": (*PLANS, None),
    "language": ("en", "zh"),
    "precision": ("float32", "bfloat16", None),
    "normalise": (True, False),
    "compiled": (True, False),
    "previews": (True, False),
}
LARGE_DIFFERENCE = 12.0  # of 255 on average; a working VAE alone stays under 3
NO_COMPILER = (
    "the blocks cannot be compiled here ({}): leave 'compiled' off, or install what torch.compile needs, a C++ "
    "compiler and for a GPU triton"
)
LIMITED = (
    "made from the prompt alone: the published weights were tuned to take pictures apart, so that text to layers, an "
    "earlier stage of their training, is limited"
)


def existing(file: str | Path) -> Path:
    """A weights file that must be there."""
    if not isinstance(file, str | Path) or not Path(file).expanduser().is_file():
        raise EngineError(f"transformer {file} is not a file: give a .safetensors or .gguf file, or leave it out")
    return Path(file).expanduser()


def find_folder(folder: str | Path, say: Callable[[str], None]) -> Path:
    """The checkpoint's folder, downloaded where a hub name is given; `say` is told of it."""
    from unfuse.model import hub
    from unfuse.model.checkpoint import read_json

    path = Path(folder).expanduser()
    if not path.is_dir():
        if not hub.is_name(str(folder)):
            raise EngineError(f"{path} is not a folder: give the folder of a checkpoint, or its hub name Owner/Name")
        path = hub.download(str(folder), say)
    if not (path / "model_index.json").is_file():
        raise EngineError(
            f"{path}: model_index.json is missing: give the folder of the release that has it, with the folders "
            "transformer, vae, text_encoder, tokenizer, processor and scheduler beside it; or download it again"
        )
    kind = read_json(path / "model_index.json").get("_class_name")
    if kind != PIPELINE:
        raise EngineError(f"{path} holds a {kind}, and the engine 'qwen' runs a {PIPELINE}: give the folder of one")
    return path


def check_parts(folder: Path, loras: Sequence[tuple[Path, float]], transformer: Path | None) -> None:
    """Raise EngineError, naming the file, where a part is missing, broken or another model's: before minutes of
    loading, from headers alone. The text encoder may be left away, where the states of all prompts are given.
    """
    from unfuse.model import checkpoint, layered, placement, text

    layered.check_scheduler(folder)
    placement.stock(folder / "transformer", loras, transformer)
    checkpoint.vae_params(folder / "vae/config.json")
    checkpoint.Weights(folder / "vae")
    if (folder / "text_encoder").is_dir():
        text.check_files(folder)


def check_options(**options: Any) -> None:
    """Raise EngineError on options that mean nothing; they may come from a command line, so types are checked too."""
    for name, (fits, wanted) in NUMBERS.items():
        value = options[name]
        if value is None and name == "shift":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not fits(value):
            raise EngineError(f"{name} is {value!r}: {wanted}")
    for name, allowed in CHOICES.items():
        if not any(options[name] is each or (isinstance(each, str) and options[name] == each) for each in allowed):
            raise EngineError(f"{name} {options[name]!r} is unknown: one of {', '.join(str(each) for each in allowed)}")
    pair = options["interval"]
    levels = pair if isinstance(pair, tuple | list) and all(isinstance(x, int | float) for x in pair) else ()
    if len(levels) != 2 or not 0 <= levels[0] <= levels[1] <= 1:
        raise EngineError(f"interval is {pair}: two noise levels in 0..1, the lower one first, such as [0.2, 0.9]")
    if not callable(options["say"]):
        raise EngineError(f"say is {options['say']!r}: a function that is told lines, from Python alone")
    if not isinstance(options["negative"], str):
        raise EngineError(f"negative is {options['negative']!r}: a text, one space as released")


def check_device(device: str) -> None:
    """Raise EngineError where the engine does not know a device, or it is not there."""
    import torch

    unknown = f"device {device!r} is unknown: 'cpu', 'cuda', or 'cuda:1' for a second GPU"
    if not isinstance(device, str):
        raise EngineError(unknown)
    try:
        kind = torch.device(device)
    except RuntimeError as error:
        raise EngineError(unknown) from error
    if kind.type not in ("cpu", "cuda"):
        raise EngineError(f"{unknown}; for others its memory plans are not made")
    if kind.type == "cuda" and not torch.cuda.is_available():
        raise EngineError(
            f"device is {device!r}, and torch {torch.__version__} sees no GPU: leave device out to run on the CPU, or "
            "install a driver and a build of torch for it"
        )
    if kind.type == "cuda" and (kind.index or 0) >= torch.cuda.device_count():
        raise EngineError(f"device is {device!r}, and there are {torch.cuda.device_count()} GPUs, counted from 0")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out: the GPU's, or the CPU's in torch's words, page-locked or not."""
    import torch

    said = ("can't allocate memory", "Cannot allocate memory", "out of memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in said)


def cannot_compile(error: BaseException) -> bool:
    """Whether an error comes from torch.compile."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


def nearest(side: float) -> int:
    """The multiple of 16 nearest to a side, at least one."""
    return max(SIDE, round(side / SIDE) * SIDE)


def check_pictures(pictures: NDArray[np.float32]) -> None:
    """Raise EngineError unless they are a batch at a bucket."""
    if pictures.ndim != 4 or pictures.shape[3] != 4 or any(side < SIDE or side % SIDE for side in pictures.shape[1:3]):
        raise EngineError(f"pictures are {pictures.shape}: b h w 4 is wanted, h and w multiples of {SIDE}")
    if pictures.dtype != np.float32:
        raise EngineError(f"pictures are {pictures.dtype}: float32 in 0..1 is wanted")


def check_size(size: tuple[int, int]) -> None:
    """Raise EngineError unless it is a bucket."""
    if any(not isinstance(side, int) or side < SIDE or side % SIDE for side in size):
        near = " x ".join(str(nearest(side)) for side in size)
        raise EngineError(f"size is {size[0]} x {size[1]}: multiples of {SIDE} are wanted, such as {near}")


def check(count: int, layers: Sequence[Count], prompts: Sequence[str], steps: int, seeds: Sequence[int]) -> None:
    """Raise EngineError on what the engine cannot work on; count: of the pictures."""
    if not count == len(layers) == len(prompts) == len(seeds):
        raise EngineError(
            f"{count} pictures, {len(layers)} layer counts, {len(prompts)} prompts and {len(seeds)} seeds: "
            "one of each for every picture is wanted"
        )
    for each in layers:
        if each != "auto" and (not isinstance(each, int) or not 1 <= each <= MOST_LAYERS):
            raise EngineError(f"layers is {each}: 1 to {MOST_LAYERS}, or 'auto'")
    if steps < 1:
        raise EngineError(f"steps is {steps}: {STEPS}")
    for seed in seeds:
        if not isinstance(seed, int | np.integer) or not -(2**63) <= seed < 2**64:
            raise EngineError(f"seed is {seed}: a whole number from -2^63 to 2^64 - 1, 0 as a rule")
    for prompt in prompts:
        if not isinstance(prompt, str) or any("\ud800" <= letter <= "\udfff" for letter in prompt):
            raise EngineError(f"the prompt {prompt!r} is no text in Unicode: write it anew, in UTF-8")


def check_states(text: str, states: Tensor, width: int | None) -> None:
    """Raise EngineError where the states of a prompt, which may come from elsewhere, are not what the model reads."""
    import torch

    if not (
        isinstance(states, torch.Tensor)
        and states.ndim == 2
        and len(states) > 0
        and states.shape[1] == width
        and states.is_floating_point()
        and bool(states.isfinite().all())
    ):
        found = f"{tuple(states.shape)} {states.dtype}" if isinstance(states, torch.Tensor) else type(states).__name__
        raise EngineError(
            f"the states of {text!r} are {found}: a tensor t d of finite floats is wanted, a row for each token and d "
            f"{width}, as model.text.TextEncoder.encode([prompt])[0][0] is"
        )


def check_prompts(prompts: Sequence[str]) -> None:
    """Raise EngineError where there is nothing to make layers from."""
    if any(not prompt.strip() for prompt in prompts):
        raise EngineError("the prompt is empty: without a picture it is all there is, so describe the whole picture")


def check_finite(finite: bool) -> None:
    """Raise EngineError where the model answered with what is no number."""
    if not finite:
        raise EngineError(
            "the model answered with values that are no numbers: a file of its weights is damaged (compare its sha256 "
            "with the published one, or download it again), a LoRA is too strong, or the picture has such values"
        )


def notes(count: Count, caption: str, given: bool, tokens: int) -> tuple[str, ...]:
    """What the user should know of one picture's layers: how many and why, and the caption that was used."""
    from unfuse.model.text import MAX_TOKENS

    lines = []
    if count == "auto":
        lines.append(f"{AUTO_LAYERS} layers: the model cannot tell how many there are, and this is its usual number")
    lines.append(f"caption, {'as given' if given else 'by the text encoder'}: {caption}")
    if tokens >= MAX_TOKENS:
        lines.append(f"only the first {MAX_TOKENS} tokens of the caption count, and it reaches that: shorten it")
    return tuple(lines)


def guided(interval: tuple[float, float], steps: int, size: tuple[int, int], shift: float | None) -> str:
    """At how many steps there is guidance, where it is not at all of them."""
    low, high = interval
    sigmas = schedule(steps, (size[0] // SIDE) * (size[1] // SIDE), shift)[:-1].tolist()
    count = sum(low <= sigma <= high for sigma in sigmas)
    levels = f"whose noise levels go from {sigmas[0]:.2f} to {sigmas[-1]:.2f}"
    return f"guidance at {count} of {steps} steps" + ("" if count else f", {levels}: widen the interval")


def compared(whole: NDArray[np.float32], other: NDArray[np.float32], what: str) -> tuple[str, ...]:
    """How far slot 0, the model's own picture of the whole, is from what it should be: a sign of quality for free."""
    difference = 255 * float(np.abs(premultiplied(whole) - premultiplied(other)).mean())
    line = f"the model's own picture of the whole differs from {what} by {difference:.1f} of 255 on average"
    if difference <= LARGE_DIFFERENCE:
        return (line,)
    return line, "that is much: its layers may be poor; another seed, more steps or a better prompt may help"


def together(layers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Layers `l h w 4` put together: `h w 4`, straight alpha."""
    return reduce(over, layers, np.zeros_like(layers[0]))


def premultiplied(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """`h w 4` with the colours times alpha, so that what does not show does not count."""
    alpha = picture[..., 3:]
    return np.concatenate([picture[..., :3] * alpha, alpha], axis=-1)
