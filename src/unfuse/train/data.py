"""What stages are fed with: designs, drawn by the composer from a parts pack or read from a folder of records.

One step's pictures share a size. They need not share a number of layers: slots are padded in memory, and `count` says
how many are true; the loss looks at each number of layers by itself (see `train.flow`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from unfuse.corpus import draw, records
from unfuse.corpus.compose import Pack, compose, weather
from unfuse.errors import UnfuseError
from unfuse.train.stage import Arrays, Want

Rgba = NDArray[np.float32]  # h w 4, 0..1, straight
MULTIPLE = 16  # pixels; sides are multiples of it
RATIOS = ((1.0, 1.0), (0.84, 1.19), (1.19, 0.84), (0.75, 1.33), (1.33, 0.75))  # of height and width to the base side
TEXT = 2048  # bytes of a caption that travel
OVERLAP = 0.02  # of the smaller one, from which on two layers overlap
COLOURS = {
    "black": (0, 0, 0), "white": (1, 1, 1), "grey": (0.5, 0.5, 0.5), "red": (0.85, 0.15, 0.15),
    "orange": (0.95, 0.55, 0.15), "yellow": (0.95, 0.9, 0.25), "green": (0.2, 0.65, 0.25), "cyan": (0.3, 0.8, 0.85),
    "blue": (0.2, 0.35, 0.85), "purple": (0.5, 0.25, 0.7), "pink": (0.95, 0.6, 0.75), "brown": (0.5, 0.32, 0.2),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Design:
    """A picture `h w 3` float32 as it comes in, its true layers bottom to top, what they are called, what it shows."""

    picture: NDArray[np.float32]
    layers: list[Rgba]
    names: list[str]
    caption: str


def checked(data: Path) -> Path:
    """The folder itself. Raises UnfuseError where it is neither a parts pack nor a folder of records."""
    if (data / "pack.json").is_file() or (data / records.INDEX).is_file():
        return data
    raise UnfuseError(
        f"{data} holds no pack.json and no {records.INDEX}: make it with 'unfuse corpus build {data}', or with "
        "'unfuse corpus psd DIR -o OUT' from your own files"
    )


def designs(want: Want, most: int) -> list[Design]:
    """The designs of a want, with at most `most` layers each, all at one size."""
    if (want.data / "pack.json").is_file():
        return [composed(want, place, most) for place in want.places()]
    return [recorded(want, place, most) for place in want.places()]


def size_of(want: Want) -> tuple[int, int]:
    """Height and width of the step's pictures, of the composer."""
    ratio = RATIOS[int(want.of_step().integers(len(RATIOS)))] if want.split == "train" else RATIOS[0]
    return at_least(want.side * ratio[0]), at_least(want.side * ratio[1])


def at_least(side: float) -> int:
    """The nearest side that is allowed."""
    return max(1, round(side / MULTIPLE)) * MULTIPLE


@lru_cache(maxsize=4)
def opened(root: Path, split: str) -> Pack:
    """The pack of a split, read once in each process."""
    cv2.setNumThreads(1)
    return Pack.open(root, split)


def composed(want: Want, place: int, most: int) -> Design:
    """A design drawn from a parts pack; the picture has been through the weather."""
    rng = want.of_place(place)
    drawn = compose(opened(want.data, want.split), rng, size_of(want))
    layers, names = grouped([x.rgba for x in drawn], [x.name for x in drawn], int(rng.integers(1, most + 1)))
    return Design(weather(records.flattened(np.stack(layers)), rng), layers, names, caption(layers, names))


def recorded(want: Want, place: int, most: int) -> Design:
    """A record at the size of the step: one record is drawn for its shape, the others are alike in shape."""
    found, shapes, _ = records.opened(want.data, want.split)
    shape = shapes[int(want.of_step().integers(len(found)))]
    record = found[int(want.of_place(place).choice(np.flatnonzero(shapes == shape)))]
    size = at_least(want.side * shape**0.5), at_least(want.side * shape**-0.5)  # width, height
    stack = list(records.on_white(records.resized(record, size)))
    layers, names = grouped(stack, [layer.name for layer in record.layers], most)
    return Design(records.flattened(np.stack(layers)), layers, names, record.caption or caption(layers, names))


def grouped(layers: list[Rgba], names: list[str], most: int) -> tuple[list[Rgba], list[str]]:
    """At most `most` layers that show the same: neighbours become one, first those that do not overlap, small ones."""
    layers, names = list(layers), list(names)
    while len(layers) > most:
        prices = [price(below, above, i == 0) for i, (below, above) in enumerate(pairwise(layers))]
        i = int(np.argmin(prices))
        layers[i : i + 2] = [draw.over(layers[i + 1], layers[i])]
        names[i : i + 2] = [names[i] if names[i] == names[i + 1] else f"{names[i]} and {names[i + 1]}"]
    return layers, names


def price(below: Rgba, above: Rgba, bottom: bool) -> float:
    """What is lost by merging two neighbours: the smaller area, more if they overlap, most if one is the bottom."""
    a, b = below[..., 3], above[..., 3]
    smaller = float(min(a.mean(), b.mean()))
    overlap = float(np.minimum(a, b).mean()) > OVERLAP * smaller
    return smaller + overlap + 2 * bottom


def caption(layers: list[Rgba], names: list[str]) -> str:
    """What a design shows, from below: colours and names."""
    return ", ".join(f"{colour(layer)} {name}" for layer, name in zip(layers, names, strict=True))


def colour(layer: Rgba) -> str:
    """The name of the colour that is nearest to a layer's mean."""
    mean = (layer[..., :3] * layer[..., 3:]).sum((0, 1)) / max(float(layer[..., 3].sum()), 1e-6)
    return min(COLOURS, key=lambda name: float(np.square(np.subtract(COLOURS[name], mean)).sum()))


def levels(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """0..1 to 0..255, half up."""
    return (values.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def opaque(picture: NDArray[np.float32]) -> Rgba:
    """A picture `h w 3` as a layer."""
    return np.dstack([picture, np.ones(picture.shape[:2], np.float32)])


def together(want: Want, slots: list[list[Rgba]], captions: list[str]) -> Arrays:
    """Slots of each picture, and captions, as a batch.

    slots `b l h w 4` uint8, empty where a picture has fewer; count `b`; text `b t` UTF-8 with 0 behind it; key `b`.
    """
    height, width, _ = slots[0][0].shape
    padded = np.zeros((len(slots), max(map(len, slots)), height, width, 4), np.uint8)
    for i, of_one in enumerate(slots):
        padded[i, : len(of_one)] = levels(np.stack(of_one))
    text = np.zeros((len(slots), TEXT), np.uint8)
    for i, said in enumerate(captions):
        code = said.encode()[:TEXT]
        text[i, : len(code)] = np.frombuffer(code, np.uint8)
    count = np.array([len(of_one) for of_one in slots], np.int64)
    return {"slots": padded, "count": count, "text": text, "key": want.keys()}


def texts(codes: NDArray[np.uint8]) -> list[str]:
    """The captions of a batch."""
    return [bytes(code).rstrip(b"\0").decode(errors="ignore") for code in codes]
