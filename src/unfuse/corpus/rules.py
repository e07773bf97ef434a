"""The rules that turn what a file holds into a record: which layers stay, which are put together, which file is left.

The paper's pipeline (Qwen-Image-Layered section 3.4): leave out layers with anomalous elements and layers that do not
contribute to the composite, merge layers that do not overlap. `RULES` names each rule; one that is not in a set of
rules is not applied. All of this works on plain layers (see `plain`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unfuse.corpus import anomalies
from unfuse.corpus.anomalies import pixels_of
from unfuse.corpus.plain import merged, overlap
from unfuse.errors import FormatError, nearest
from unfuse.layers import Box, Layer

RULES = {
    "groups": "groups are taken apart; without it each becomes one layer",
    "hidden": "hidden layers are left out; without it they are shown",
    "blend": "layers with a blend mode get the colour they show; without it a file that has one is left out",
    "effects": "a file whose layers do not give its stored picture is left out: it has what we cannot render",
    "empty": "layers that cover next to nothing are left out",
    "duplicates": "of layers that look the same at the same place the upper one stays",
    "watermarks": "faint overlays that span the canvas and repeat, or are named so, are left out",
    "faces": "layers with a blurred patch, such as an unrecognisable face, are left out; a background with its file",
    "unseen": "layers that do not change the composite are left out",
    "merge": "layers that do not overlap are merged until no more are left than wanted",
    "similar": "of files that look the same the first one stays",
}
LIMITS = {
    "few": "a file with fewer layers than wanted is left out",
    "many": "a file with more layers than wanted is left out, after merging",
    "small": "a file whose shorter side is too short is left out",
}
SEEN = 1.5  # levels by which a layer must change some pixel of the composite to be seen
MOST_LAYERS = 99  # of a record, whose members are numbered with two digits
BACKGROUND = 0.5  # of the canvas; a layer at the bottom that covers more is the background


@dataclass(frozen=True)
class RuleParams:
    """Which rules apply, and their limits.

    error: levels by which the layers may differ from the stored picture, on average. side: of the record's longer side
    in pixels, 0 for that of the file. short: pixels that the file's shorter side must have. least, most: layers.
    """

    rules: frozenset[str] = frozenset(RULES)
    error: float = 2.0
    side: int = 1024
    short: int = 64
    least: int = 2
    most: int = 20


def without(off: Collection[str], **limits: Any) -> RuleParams:
    """All rules but those in `off`, with limits by the names of `RuleParams`.

    Raises FormatError for a rule that does not exist, and for limits that cannot be.
    """
    for rule in off:
        if rule not in RULES:
            raise FormatError(f"there is no rule {rule!r}{nearest(rule, RULES)}: it must be one of {', '.join(RULES)}")
    params = RuleParams(frozenset(RULES) - set(off), **limits)
    if not 1 <= params.least <= params.most <= MOST_LAYERS:
        raise FormatError(
            f"{params.least} to {params.most} layers cannot be: say two numbers from 1 to {MOST_LAYERS}, least first"
        )
    if params.side < 0 or 0 < params.side < params.short or params.error < 0:
        raise FormatError(
            f"a longer side of {params.side}, a shorter of at least {params.short} and an error of {params.error:g} "
            "cannot be: none may be below 0, and the longer side must be 0 or not below the shorter"
        )
    return params


class Left(NamedTuple):
    """A layer that was left out, and the rule that did it."""

    rule: str
    layer: Layer


class Dropped(Exception):
    """The file is left out; the message is the rule."""


def clean(layers: list[Layer], size: tuple[int, int], rules: Collection[str]) -> tuple[list[Layer], list[Left]]:
    """The layers that stay, and those that were left out, by the rules on single layers.

    Raises Dropped where a rule takes the whole file.
    """
    left: list[Left] = []
    for rule, find in FINDERS.items():
        if rule in rules:
            found = find(layers, size)
            left += [Left(rule, layer) for i, layer in enumerate(layers) if i in found]
            if rule == "faces" and 0 in found and _is_background(layers[0], size):
                raise Dropped(rule)
            layers = [layer for i, layer in enumerate(layers) if i not in found]
    return layers, left


def _empty(layers: list[Layer], size: tuple[int, int]) -> set[int]:
    return {i for i, layer in enumerate(layers) if anomalies.nearly_empty(layer, size)}


def _duplicates(layers: list[Layer], size: tuple[int, int]) -> set[int]:
    return anomalies.duplicates(layers)


def _faces(layers: list[Layer], size: tuple[int, int]) -> set[int]:
    return {i for i, layer in enumerate(layers) if anomalies.blurred_faces(layer)}


def unseen(layers: list[Layer], size: tuple[int, int]) -> set[int]:
    """Indices of layers without which the composite is the same, to within `SEEN` levels at every pixel.

    With U what is below and T how clear all above it is, layer i changes the composite by T a (C - U). From the bottom
    up, with U of those that stay and T of all above, each one that goes leaves the composite as it was.
    """
    clear = list(_clear_above(layers, size))[::-1]
    under = np.zeros((size[1], size[0], 4), np.float32)  # premultiplied
    found = set()
    for i, (layer, above) in enumerate(zip(layers, clear, strict=True)):
        source = pixels_of(layer).astype(np.float32) / 255
        alpha = source[..., 3:].copy()
        source[..., 3] = 1
        part = under[layer.box.within(Box(0, 0, *size))]
        step = alpha * (source - part)
        if float((np.abs(step).max(-1) * above).max()) <= SEEN:
            found.add(i)
        else:
            part += step
    return found


def _clear_above(layers: list[Layer], size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """From the top layer down: how clear what lies above each is, within its box, 0 to 255, rounded up."""
    clear = np.ones((size[1], size[0]), np.float32)
    for layer in reversed(layers):
        part = clear[layer.box.within(Box(0, 0, *size))]
        yield np.ceil(part * 255 - 1e-3).astype(np.uint8)
        part *= 1 - pixels_of(layer)[..., 3].astype(np.float32) / 255


FINDERS: dict[str, Callable[[list[Layer], tuple[int, int]], set[int]]] = {
    "empty": _empty,
    "duplicates": _duplicates,
    "watermarks": anomalies.watermarks,
    "faces": _faces,
    "unseen": unseen,
}


def _is_background(layer: Layer, size: tuple[int, int]) -> bool:
    return float((pixels_of(layer)[..., 3] > 127).sum()) > BACKGROUND * size[0] * size[1]


# --- merging ---------------------------------------------------------------------------------------------------------


def merge(layers: list[Layer], most: int) -> tuple[list[Layer], int]:
    """Layers that do not overlap merged until there are at most `most`, and how many merges that took.

    Two layers can become one where one of them can be brought to the other: it overlaps neither the other nor any layer
    between them. Then the composite stays the same to the bit. Of all such pairs the one is taken whose kinds agree and
    whose common box wastes least. Where no pair is left there may be more than `most` layers.
    """
    layers = list(layers)
    meets = np.array([[i != j and overlap(a, b) for j, b in enumerate(layers)] for i, a in enumerate(layers)])
    merges = 0
    while len(layers) > max(most, 1):
        pair = _best(layers, meets)
        if pair is None:
            break
        low, high, place = pair
        one = merged([layers[low], layers[high]], _name(layers[low], layers[high]))
        meets[place] = meets[low] | meets[high]
        meets[:, place] = meets[place]
        gone = high if place == low else low
        layers[place] = one
        del layers[gone]
        meets = np.delete(np.delete(meets, gone, 0), gone, 1)
        merges += 1
    return layers, merges


def _best(layers: list[Layer], meets: NDArray[np.bool_]) -> tuple[int, int, int] | None:
    """(lower, upper, where the merged layer goes) of the best pair."""
    count = len(layers)
    numbers = np.arange(count)
    below = np.where(meets & (numbers < numbers[:, None]), numbers, -1).max(1)  # the next one below that each meets
    above = np.where(meets & (numbers > numbers[:, None]), numbers, count).min(1)
    i, j = np.triu_indices(count, 1)
    down, up = i > below[j], j < above[i]
    i, j, down = i[down | up], j[down | up], down[down | up]
    if not len(i):
        return None
    boxes = np.array([layer.box for layer in layers])
    kinds = np.array([layer.kind for layer in layers])
    corners = np.concatenate([np.minimum(boxes[i, :2], boxes[j, :2]), np.maximum(boxes[i, 2:], boxes[j, 2:])], 1)
    waste = _area(corners) - _area(boxes[i]) - _area(boxes[j])
    best = np.lexsort((waste, kinds[i] != kinds[j]))[0]
    return int(i[best]), int(j[best]), int(i[best] if down[best] else j[best])


def _area(boxes: NDArray[np.int64]) -> NDArray[np.int64]:
    sides: NDArray[np.int64] = boxes[:, 2:] - boxes[:, :2]
    return sides[:, 0] * sides[:, 1]


def _name(low: Layer, high: Layer) -> str:
    parts = [part for layer in (low, high) for part in layer.name.split(" + ")]
    return " + ".join(parts[:3]) + (" + ..." if len(parts) > 3 and parts[3] != "..." else "")
