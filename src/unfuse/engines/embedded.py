"""The embedded engine: SlotNet by onnxruntime, then slots to layers. Runs on any CPU, needs no torch.

The network sees the picture and a hint of what stands out in it (`saliency`). It answers with five slots of fixed
meaning (background, decoration, objects behind, objects, text). A user asks for a number of layers: slots that show
nothing are dropped, a slot that shows several separate things is taken apart, and what is too much is merged again,
neighbours first (`arrange`). Hidden colour is carried on from where the slot is seen (`complete`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from unfuse.engines import Count, EngineLayers, OnStep, Step
from unfuse.errors import EngineError
from unfuse.layers import Kind
from unfuse.refine import spread
from unfuse.saliency import Saliency, session
from unfuse.tokens import position_ids

Plane = NDArray[np.float32]

STRIDE = 16
SIDE = 192  # of a square of the bucket's area
LONGEST = 1024  # a bucket's longer side, for strips
KINDS: tuple[Kind, ...] = ("background", "decoration", "object", "object", "text")  # of the slots, bottom to top
BEHIND, OBJECT = 2, 3
RIVALS = [1, BEHIND, OBJECT]  # slots that the network may hesitate between for one and the same thing
# Alpha below the first is nothing, above the second all, for slots 1 to 4: the network is not as sure as it should be.
CONTRAST = ((0.3, 0.75), (0.15, 0.7), (0.15, 0.7), (0.15, 0.7))
LIKE = 0.09  # colours nearer than this (Euclidean, of 0..1) are one flat colour
RIM_SHARE, AREA_SHARE = 0.25, 0.2  # of the picture's rim and area, to be the background's
SOLID = 0.2  # alpha from here on holds an island together
SPECK = 1e-3  # a thing that covers less of the canvas is no layer of its own
SHOWN = 0.3  # a thing of which less is seen is none
TWICE = 0.7  # an object behind of which less is seen is the one in front, seen twice
RIM = 0.06  # how far a soft rim reaches from its island, as a share of the longer side
MOST_ISLANDS = 24
MOST_AUTO = 8  # layers that "auto" gives at most
NEAR = 0.15  # what "auto" merges without being asked to: see `cost`


@dataclass(frozen=True, eq=False)
class Piece:
    """What will be one layer: alpha `h w` at the bucket in one slot, or in several where things were merged."""

    parts: dict[int, Plane]  # slot: alpha

    @cached_property
    def alpha(self) -> Plane:
        """All parts together."""
        clear: Plane = np.prod([1 - alpha for alpha in self.parts.values()], axis=0, dtype=np.float32)
        return 1 - clear

    @cached_property
    def area(self) -> float:
        """The share of the canvas that it covers."""
        return float(self.alpha.mean())

    @cached_property
    def slot(self) -> int:
        """Where it stands in the stack: the slot of its largest part."""
        return max(self.parts, key=lambda slot: float(self.parts[slot].sum()))

    @cached_property
    def centre(self) -> NDArray[np.float64]:
        """Row and column of its middle, as shares of the canvas."""
        h, w = self.alpha.shape
        weight = max(float(self.alpha.sum()), 1e-6)
        rows, columns = self.alpha.sum(1) @ np.arange(h), self.alpha.sum(0) @ np.arange(w)
        return np.array([rows / weight / h, columns / weight / w])

    def joined(self, other: Piece) -> Piece:
        """Both as one."""
        slots = sorted({*self.parts, *other.parts})
        nothing = np.zeros_like(self.alpha)
        both = {s: 1 - (1 - self.parts.get(s, nothing)) * (1 - other.parts.get(s, nothing)) for s in slots}
        return Piece(both)

    def pixels(self, shades: dict[int, NDArray[np.float32]]) -> NDArray[np.float32]:
        """`h w 4`, straight alpha: the parts' colours `h w 3` laid over each other."""
        colour = shades[self.slot] * 0.0
        for slot, alpha in sorted(self.parts.items()):
            colour = shades[slot] * alpha[..., None] + colour * (1 - alpha[..., None])
        shown = self.alpha[..., None]
        straight = np.where(shown > 0.01, colour / np.maximum(shown, 0.01), shades[self.slot])
        return np.concatenate([straight, shown], -1).astype(np.float32)


class Embedded:
    """`Engine` over the weights in the package (or other weights of the same kind, given as the ONNX file's bytes)."""

    name = "embedded"
    default_steps = 1
    max_layers = 16

    def __init__(self, model: bytes | None = None, threads: int = 0) -> None:
        model = model or (files("unfuse") / "weights" / "slots.onnx").read_bytes()
        self.weights_sha256 = hashlib.sha256(model).hexdigest()
        self.session = session(model, threads)
        self.saliency = Saliency(threads)

    @staticmethod
    def card() -> dict[str, Any]:
        """The model card: what the weights were trained on, for how long, how good they are."""
        card: dict[str, Any] = json.loads((files("unfuse") / "weights" / "slots.json").read_text())
        return card

    def bucket(self, size: tuple[int, int]) -> tuple[int, int]:
        ratio = (size[0] / size[1]) ** 0.5
        sides = (SIDE * ratio, SIDE / ratio)
        width, height = (int(np.clip(round(s / STRIDE), 2, LONGEST // STRIDE)) * STRIDE for s in sides)
        return width, height

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
        if steps != 1:
            raise EngineError(f"steps={steps}: the embedded engine answers in one step; leave steps out or say 1")
        opaque = pictures[..., :3] * pictures[..., 3:] + 0.5 * (1 - pictures[..., 3:])  # nothing there looks grey
        alpha = self.slots(opaque)
        notes = [
            ("the embedded engine looks at the picture alone: the prompt was not used",) if p else () for p in prompts
        ]
        found = [arrange(opaque[i], alpha[i], count, notes[i]) for i, count in enumerate(layers)]
        if on_step is not None:
            on_step(Step(1, 1, found[0].pixels[-1]))
        return found

    def slots(self, pictures: NDArray[np.float32]) -> NDArray[np.float32]:
        """The network alone: `b h w 3` to the slots' alphas `b l h w`, in 0..1."""
        b, h, w = pictures.shape[:3]
        rows, columns = h // STRIDE, w // STRIDE
        ids = position_ids(len(KINDS) + 1, rows, columns).reshape(len(KINDS) + 2, rows * columns, 3)[1:]
        feed = {
            "picture": rearrange(pictures * 2 - 1, "b h w c -> b c h w").astype(np.float32),
            "salient": self.saliency(pictures)[:, None] * 2 - 1,
            "ids": np.broadcast_to(ids, (b, *ids.shape)).copy(),
        }
        (logits,) = self.session.run(["alpha"], feed)
        alpha = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
        alpha[:, 0] = 1
        alpha = np.stack([settle(a) for a in alpha])
        for slot, (nothing, everything) in enumerate(CONTRAST, start=1):
            alpha[:, slot] = ((alpha[:, slot] - nothing) / (everything - nothing)).clip(0, 1)
        return alpha.astype(np.float32)


def settle(alpha: NDArray[np.float32]) -> NDArray[np.float32]:
    """Slots `l h w` without hesitation: a thing that is half in one slot and half in another goes into one.

    Where decoration and objects together claim at most all of a pixel, they are rival guesses about one thing, and the
    one that is stronger around there takes it all. What they claim beyond that is real overlap and stays as it is.
    """
    import cv2

    claims = alpha[RIVALS]
    reach = max(3, round(0.03 * max(alpha.shape[1:]))) | 1
    winner = np.stack([cv2.blur(claim, (reach, reach)) for claim in claims]).argmax(0)
    total = claims.sum(0)
    others = np.where(np.arange(len(RIVALS))[:, None, None] == winner, 0, claims)
    settled = others / np.maximum(others.sum(0), 1e-6) * np.maximum(0, total - 1)
    np.put_along_axis(settled, winner[None], np.minimum(1, total)[None], 0)
    result = alpha.copy()
    result[RIVALS] = settled.clip(0, 1)
    return result


def arrange(
    picture: NDArray[np.float32],
    alpha: NDArray[np.float32],
    count: Count,
    notes: tuple[str, ...] = (),
) -> EngineLayers:
    """Slots of one picture to at most `count` layers, bottom to top; "auto" is as many as there are things, 8 at most.

    picture: `h w 3`. alpha: `l h w`. notes: what the answer should say beside its layers.
    """
    flat = 1 - ground(picture)
    alpha = np.stack([a * flat if slot in RIVALS else a for slot, a in enumerate(alpha)])
    pieces = visible([piece for slot in range(1, len(KINDS)) for piece in apart(alpha[slot], slot)])
    pieces = merged(pieces, MOST_AUTO - 1, NEAR) if count == "auto" else merged(pieces, count - 1)
    stack = [Piece({0: np.ones(picture.shape[:2], np.float32)}), *sorted(pieces, key=lambda p: p.slot)]
    shown = {slot for piece in stack for slot in piece.parts}
    shades = {slot: complete(picture, alpha, slot) for slot in shown}
    return EngineLayers(np.stack([p.pixels(shades) for p in stack]), tuple(KINDS[p.slot] for p in stack), notes)


def ground(picture: NDArray[np.float32]) -> Plane:
    """Where a flat background surely shows, 0..1 `h w`; nowhere, if no one colour holds enough of the picture's rim.

    What has that colour and hangs together with the rim belongs to it, whatever the network says. Of several colours
    at the rim it is the one whose islands cover most.
    """
    import cv2

    rim = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    bins = (rim * 15.99).astype(np.int64) @ np.array([256, 16, 1])
    clear = np.zeros(picture.shape[:2], np.float32)
    for common in np.argsort(np.bincount(bins))[:-4:-1]:
        colour = rim[bins == common].mean(0) if (bins == common).any() else rim[0]
        if (np.linalg.norm(rim - colour, axis=-1) < LIKE).mean() < RIM_SHARE:
            continue
        far = np.linalg.norm(picture - colour, axis=-1)
        _, islands = cv2.connectedComponents((far < LIKE).astype(np.uint8))
        at_rim = np.unique(np.concatenate([islands[0], islands[-1], islands[:, 0], islands[:, -1]]))
        flat = np.isin(islands, at_rim[at_rim > 0])
        if flat.mean() > max(AREA_SHARE, (clear > 0).mean()):
            clear = np.where(flat, (2 - 2 * far / LIKE).clip(0, 1), 0).astype(np.float32)
    return clear


def apart(alpha: Plane, slot: int) -> list[Piece]:
    """The separate things in one slot: islands of its alpha, those of text joined over the gaps between letters.

    Soft rims and shadows belong to the nearest island, as far as `RIM`; specks and haze belong to nothing.
    """
    import cv2

    solid = (alpha > SOLID).astype(np.uint8)
    if KINDS[slot] == "text":
        reach = max(3, round(0.02 * max(alpha.shape)))
        solid = cv2.dilate(solid, np.ones((reach, 2 * reach + 1), np.uint8))
    count, islands = cv2.connectedComponents(solid)
    masses = np.bincount(islands.ravel(), alpha.ravel(), count) / alpha.size
    keep = [i for i in np.argsort(-masses[1:])[:MOST_ISLANDS] + 1 if masses[i] > SPECK]
    if not keep:
        return []
    far = np.stack([cv2.distanceTransform((islands != i).astype(np.uint8), cv2.DIST_L2, 3) for i in keep])
    near = (far.min(0) < RIM * max(alpha.shape)) & ((islands == 0) | np.isin(islands, keep))
    owner = np.where(near, far.argmin(0), -1)
    return [Piece({slot: np.where(owner == k, alpha, 0).astype(np.float32)}) for k in range(len(keep))]


def visible(pieces: list[Piece]) -> list[Piece]:
    """The pieces of which something shows, from the top down.

    What lies behind an object and is mostly covered by it is more likely the same thing seen twice than another one: it
    joins the object. Other things that are almost wholly covered are more likely ghosts: they go.
    """
    kept: list[Piece] = []
    for piece in sorted(pieces, key=lambda p: p.slot, reverse=True):
        clear = np.prod([1 - above.alpha for above in kept], axis=0)
        share = float((piece.alpha * clear).mean()) / max(piece.area, 1e-9)
        objects = [i for i, above in enumerate(kept) if above.slot == OBJECT]
        if piece.slot == BEHIND and share < TWICE and objects:
            cover = max(objects, key=lambda i: float((kept[i].alpha * piece.alpha).sum()))
            kept[cover] = kept[cover].joined(piece)
        elif share > SHOWN:
            kept.append(piece)
    return kept


def merged(pieces: list[Piece], most: int, cheap: float = 0.0) -> list[Piece]:
    """Merge the cheapest pair until at most `most` are left, and then those that cost less than `cheap`."""
    pieces = list(pieces)
    while len(pieces) > 1:
        price, i, j = min((cost(a, b), i, j) for i, a in enumerate(pieces) for j, b in enumerate(pieces) if i < j)
        if len(pieces) <= most and price >= cheap:
            break
        pieces = [*(p for k, p in enumerate(pieces) if k not in (i, j)), pieces[i].joined(pieces[j])]
    return pieces[: max(0, most)]


def cost(a: Piece, b: Piece) -> float:
    """How much is lost by merging two things: distance and size inside a slot; 10 and more across slots."""
    lost = math.dist(a.centre, b.centre) + math.sqrt(min(a.area, b.area))
    text = (KINDS[a.slot] == "text") != (KINDS[b.slot] == "text")
    return lost + 10 * abs(a.slot - b.slot) + 20 * text


def complete(picture: NDArray[np.float32], alpha: NDArray[np.float32], slot: int) -> NDArray[np.float32]:
    """Colour `h w 3` of one slot: the picture where the slot is seen, carried on smoothly into the rest.

    The rim of what is seen does not count: it is mixed with what lies over it. The network answers with colours too,
    but they do not beat this yet (docs/log.md).
    """
    import cv2

    seen = alpha[slot] * np.prod(1 - alpha[slot + 1 :], axis=0)
    sure = cv2.erode(((seen - 0.6) / 0.35).clip(0, 1) ** 2, np.ones((3, 3), np.uint8))
    return spread(picture, np.maximum(sure, 1e-4 * seen + 1e-6).astype(np.float32))
