"""Picture in, layer stack out. Start reading here.

file --pixels.read--> h w 4 --resize to the bucket--> engine --> l h w 4 at the bucket
     --refine: native size, exact recomposition--> clean: no empties, no duplicates --> names, boxes --> LayerStack
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfuse import __version__, engines, lettering, naming, pixels, reading, refine
from unfuse.engines import Count, Engine, EngineLayers, OnStep
from unfuse.errors import EngineError, StackError
from unfuse.layers import Kind, Layer, LayerStack, Provenance
from unfuse.pixels import Picture, Source
from unfuse.textblock import TextBlock

MOST = 16  # layers where nobody says how many
SEEN = 5e-4  # a layer whose alpha covers less of the canvas than this is empty
SAME = 0.95  # two neighbours whose alphas overlap more than this (soft IoU) are one layer


def decompose(
    source: Source,
    layers: Count = "auto",
    *,
    prompt: str = "",
    engine: str | Engine = "embedded",
    steps: int | None = None,
    seed: int = 0,
    text: bool | None = None,
    on_step: OnStep | None = None,
    limit_megapixels: float = 200,
) -> LayerStack:
    """Decompose one picture into a stack of at most `layers` layers, bottom to top, that flattens back to it.

    source: path, bytes, PIL image, `h w 3|4` array, or what `pixels.read` made of one (see there). layers: 1 to 16 (20
    for the engine 'qwen'), or "auto": as many as the engine finds. prompt: a caption of the whole, for engines that
    read one. steps: sampling steps, None for the engine's own number. seed: same seed, same bits on the same machine.
    text: whether text is read, so that layers of it have `text` and are called by their words; None where the extra
    `text` is installed. on_step: called with `engines.Step` after each step; what it raises stops the work (raise
    `errors.Cancelled`).

    Raises PictureError for what is not a picture, EngineError for what the engine cannot do, MissingExtra for a text
    that is to be read where nothing can read it.
    """
    many = decompose_many(
        [source],
        layers,
        prompt=prompt,
        engine=engine,
        steps=steps,
        seed=seed,
        text=text,
        on_step=on_step,
        limit_megapixels=limit_megapixels,
    )
    return many[0]


def decompose_many(
    sources: Sequence[Source],
    layers: Count = "auto",
    *,
    prompt: str | Sequence[str] = "",
    engine: str | Engine = "embedded",
    steps: int | None = None,
    seed: int | Sequence[int] = 0,
    text: bool | None = None,
    batch: int = 4,
    on_step: OnStep | None = None,
    limit_megapixels: float = 200,
) -> list[LayerStack]:
    """Decompose several pictures, of any sizes: those of one bucket go through the engine together, `batch` at a time.

    The answer for each picture is what `decompose` gives for it alone. Arguments and errors as there; prompt and seed
    may be one for each picture, and a picture may come several times, with several seeds.
    """
    runner = engines.load(engine) if isinstance(engine, str) else engine
    steps = runner.default_steps if steps is None else steps
    check(layers, steps, runner)
    pictures = [pixels.read(source, limit_megapixels=limit_megapixels) for source in sources]
    prompts, seeds = each(prompt, len(sources), "prompt"), each(seed, len(sources), "seed")
    reads = reading.is_available() if text is None else text
    reader = reading.name() if reads else ""
    about = [
        Provenance("", runner.name, runner.weights_sha256, seed, steps, prompt, __version__, reader)
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    stacks: dict[int, LayerStack] = {}
    for bucket, members in by_bucket(pictures, runner).items():
        for first in range(0, len(members), batch):
            some = members[first : first + batch]
            small = np.stack([pixels.resize(pictures[i].pixels, bucket) for i in some])
            found = runner.decompose(
                small,
                [layers] * len(some),
                prompts=[prompts[i] for i in some],
                steps=steps,
                seeds=[seeds[i] for i in some],
                on_step=on_step,
            )
            stacks.update(
                {i: assemble(pictures[i], answer, layers, about[i]) for i, answer in zip(some, found, strict=True)}
            )
    return [stacks[i] for i in range(len(pictures))]


def split(stack: LayerStack, layer: int | str, layers: Count = "auto", **options: Any) -> LayerStack:
    """Decompose one layer of a stack again: it becomes a group of that name that shows the same. Any depth.

    layer: index, name or id. layers and options as in `decompose`. A layer that turns out to be one thing stays as it
    is. Raises StackError for a group, a locked layer, or a layer that is not there.
    """
    old = stack[layer]
    if old.pixels is None:
        raise StackError(
            f"layer {old.name!r} is a group already: split one of {', '.join(repr(x.name) for x in old.layers)}"
        )
    if old.locked:
        raise StackError(f"layer {old.name!r} is locked: unlock it first")
    parts = decompose(old.pixels, layers, **options)
    if len(parts) < 2:
        return stack
    inside = tuple(part.replace(box=part.box.moved(old.box.left, old.box.top)) for part in parts)
    group = Layer(
        old.name,
        "group",
        old.box,
        layers=inside,
        opacity=old.opacity,
        blend_mode=old.blend_mode,
        visible=old.visible,
        id=old.id,
    )
    return stack.replace_layer(old.id, group)


# --- steps on the way ------------------------------------------------------------------------------------------------


def check(layers: Count, steps: int, engine: Engine) -> None:
    most = engine.max_layers
    if layers != "auto" and not (isinstance(layers, int) and 1 <= layers <= most):
        raise EngineError(f"layers={layers!r}: say 1 to {most}, or 'auto'")
    if steps < 1:
        raise EngineError(f"steps={steps}: say 1 or more")


def each(value: Any, count: int, what: str) -> list[Any]:
    """One value for each picture: the same for all, or as many as there are pictures."""
    values = [value] * count if isinstance(value, int | str) else list(value)
    if len(values) != count:
        raise EngineError(f"{len(values)} values of {what} for {count} pictures: give one, or one for each")
    return values


def by_bucket(pictures: Sequence[Picture], engine: Engine) -> dict[tuple[int, int], list[int]]:
    """The places of the pictures that share a bucket, bucket by bucket."""
    buckets: dict[tuple[int, int], list[int]] = {}
    for i, picture in enumerate(pictures):
        buckets.setdefault(engine.bucket(picture.size), []).append(i)
    return buckets


def assemble(picture: Picture, answer: EngineLayers, asked: Count, about: Provenance) -> LayerStack:
    """An engine's answer for one picture to its stack: native size, cleaned, named, cropped."""
    small, kinds = clean(answer)
    native = refine.refine(picture.pixels, small, depth=picture.depth)
    shown = [i for i in range(len(native)) if i == 0 or native[i, ..., 3].mean() / np.iinfo(native.dtype).max > SEEN]
    if len(shown) < len(native):  # what refinement found to be nothing must not take its pixels along
        native, kinds = refine.refine(picture.pixels, small[shown], depth=picture.depth), [kinds[i] for i in shown]
    said: list[TextBlock | None] = [None] * len(kinds)
    if about.reader:
        most = MOST if asked == "auto" else asked
        native, kinds, said = lettering.lifted(native, kinds, picture.pixels, reading.lines(picture.pixels), most)
    called = naming.names(native, kinds, [text.string if text else "" for text in said])
    layers = tuple(
        Layer.from_canvas(n, k, p).replace(text=t) for n, k, p, t in zip(called, kinds, native, said, strict=True)
    )
    notes = answer.notes
    if asked not in ("auto", len(layers)):
        notes += (f"asked for {asked} layers, found {len(layers)}",)
    return LayerStack(
        picture.size,
        layers,
        depth=picture.depth,
        icc=picture.icc,
        dpi=picture.dpi,
        provenance=replace(about, source_sha256=picture.sha256, prompt=answer.caption or about.prompt),
        notes=notes,
    )


def clean(answer: EngineLayers) -> tuple[NDArray[np.float32], list[Kind]]:
    """Layers at the bucket without empties and without neighbours that are the same, and a kind for each.

    What is not a number counts as nothing there.
    """
    layers = np.nan_to_num(answer.pixels, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
    keep: list[int] = []
    for i, layer in enumerate(layers):
        alpha = layer[..., 3]
        if i and alpha.mean() <= SEEN:
            continue
        if keep and soft_iou(alpha, layers[keep[-1], ..., 3]) > SAME and keep[-1] > 0:
            keep.pop()  # the upper one shows; the lower one would only repeat it
        keep.append(i)
    kinds = [answer.kinds[i] or guess_kind(layers[i, ..., 3], place) for place, i in enumerate(keep)]
    return layers[keep], kinds


def guess_kind(alpha: NDArray[np.float32], place: int) -> Kind:
    return "background" if place == 0 else "object"


def soft_iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Sum of minima over sum of maxima."""
    return float(np.minimum(a, b).sum() / max(np.maximum(a, b).sum(), 1e-6))
