"""What turns a picture at the bucket into layers: one Protocol, one table.

An engine is given pictures that are already at its bucket, and answers for each with `EngineLayers` at that size.
Native size, exact recomposition, names and cropping are not its business: `refine` and `decompose` see to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from inspect import signature
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from unfuse.errors import EngineError, nearest
from unfuse.layers import Kind

Count = int | Literal["auto"]


@dataclass(frozen=True)
class Step:
    """What `on_step` is told: `step` of `steps` is done; `preview` is `h w 4` float32 or None."""

    step: int
    steps: int
    preview: NDArray[np.float32] | None = None


OnStep = Callable[[Step], None]


@dataclass(frozen=True, eq=False)
class EngineLayers:
    """An engine's answer for one picture.

    pixels: `l h w 4` float32 in 0..1, straight alpha, sRGB-encoded, bottom to top, at the bucket. Colour under what
    covers it is the engine's guess (hidden colour). kinds: one for each layer, or None where the engine cannot say.
    notes: what the user should know, a line each. caption: of the whole, as it was used, where the engine reads one.
    """

    pixels: NDArray[np.float32]
    kinds: tuple[Kind | None, ...]
    notes: tuple[str, ...] = ()
    caption: str = ""


class Engine(Protocol):
    """Implement this, and put a factory into the table below, to add an engine (`fake.py` is the tutorial)."""

    name: str
    weights_sha256: str
    default_steps: int
    max_layers: int

    def bucket(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (width, height) at which the engine works on a picture of this native size."""
        ...

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
        """Layers of a batch: pictures `b h w 4` float32 in 0..1, straight alpha, all at one bucket.

        An `on_step` that raises stops the work: the exception passes through (see `errors.Cancelled`).
        """
        ...


@runtime_checkable
class Generator(Engine, Protocol):
    """An engine that can also make layers without a picture, from prompts alone."""

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
        """Layers for each of several prompts, all of one size (width, height)."""
        ...


@dataclass(frozen=True)
class Entry:
    """A row of the table: where the engine's class is, what it is for, what it needs.

    folder: what stands behind the colon of its name, "" where nothing does.
    """

    module: str
    attribute: str
    about: str
    needs: str = "nothing but the package"
    folder: str = ""


TABLE: dict[str, Entry] = {
    "embedded": Entry("unfuse.engines.embedded", "Embedded", "ships with the package; any CPU, about a second"),
    "qwen": Entry(
        "unfuse.engines.qwen",
        "Qwen",
        "the published 20-billion-parameter checkpoint: qwen:FOLDER or :OWNER/NAME",
        "pip install 'unfuse[qwen]'; 57 GB of disk; a GPU with 18 GB or more, 59 GB for all of it at once, or patience",
        "the folder of the release, with model_index.json in it, or its hub name such as Qwen/Qwen-Image-Layered, "
        "downloaded once (@REVISION behind it where you want one)",
    ),
    "trained": Entry(
        "unfuse.engines.trained",
        "Trained",
        "what 'unfuse train' and 'unfuse export' made",
        "pip install 'unfuse[torch]'",
        "the folder that 'unfuse export' wrote, with layers.safetensors in it",
    ),
    "fake": Entry("unfuse.engines.fake", "Fake", "brightness bands; for tests, and the tutorial for writing an engine"),
}


@cache
def load(name: str, **options: Any) -> Engine:
    """The engine of a name, its weights read; the same object when asked again.

    A name may carry a folder of weights, or their hub name: `qwen:checkpoints/layered`, `qwen:Owner/Name@revision`.
    options go to the engine's class. Raises EngineError for an unknown name or option, and where weights are missing.
    """
    key, _, folder = name.partition(":")
    if key not in TABLE:
        raise EngineError(f"engine {name!r} is unknown: say one of {', '.join(TABLE)}")
    entry = TABLE[key]
    if bool(entry.folder) != bool(folder):
        cure = f"say {key}:FOLDER, {entry.folder}" if entry.folder else f"say {key} alone"
        raise EngineError(f"engine {name!r}: {cure}")
    kind = getattr(import_module(entry.module), entry.attribute)
    known = [option for option in signature(kind).parameters if not (entry.folder and option == "folder")]
    if unknown := [option for option in options if option not in known]:
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise EngineError(f"engine {key!r} has no option {unknown[0]!r}{nearest(unknown[0], known)}: {has}")
    engine: Engine = kind(folder, **options) if entry.folder else kind(**options)
    return engine
