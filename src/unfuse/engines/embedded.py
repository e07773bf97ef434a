"""The embedded engine: SlotNet by onnxruntime, then slots to layers. Runs on any CPU, needs no torch.

The network sees the picture and a hint of what stands out in it (`saliency`). It answers with five slots of fixed
meaning (background, decoration, objects behind, objects, text), and says of pairs of cells whether they show the same
thing and which one lies on top. Out of that come things (`pieces`); a user asks for a number of layers, and what is too
much is merged. Hidden colour is carried on from where a layer is seen (`carried_on`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from unfuse.cells import Plane, sigmoid
from unfuse.engines import Count, EngineLayers, OnStep, Step
from unfuse.engines.pieces import KINDS, TEXT, THINGS, Look, Search, found, layered, letters, shrunk, slot_of, wholes
from unfuse.errors import EngineError
from unfuse.matte import fitted, stretched, together
from unfuse.recompose import weights
from unfuse.refine import on_grey, resized, spread
from unfuse.saliency import Saliency, session, shipped
from unfuse.tokens import position_ids

STRIDE = 16
SIDE = 192  # of a square of the area at which SlotNet looks
FINER = 2  # the bucket is so many times as fine: mattes are found there
LONGEST = 1024  # the longer side at which SlotNet looks, for strips
SEARCH = Search()
# Alpha from here on is all, text's up to the first nothing: the network is not as sure as it should be.
SURE_THING, SURE_TEXT = 0.8, (0.15, 0.7)
LIKE = 0.09  # colours nearer than this (Euclidean, of 0..1) are one flat colour
RIM_SHARE, AREA_SHARE = 0.25, 0.2  # of the picture's rim and area, to be the background's
MOST_AUTO = 8  # layers that "auto" gives at most
NEAR = 0.25  # what "auto" merges without being asked to: see `pieces.cost`


class Embedded:
    """`Engine` over the weights in the package.

    model: other weights of SlotNet, as the ONNX file's bytes. weights_sha256: of SlotNet's and MatteNet's, joined.
    """

    name = "embedded"
    default_steps = 1
    max_layers = 16

    def __init__(self, model: bytes | None = None, threads: int = 0) -> None:
        model = model or shipped("slots.onnx")
        self.weights_sha256 = hashlib.sha256(model + shipped("matte.onnx")).hexdigest()
        self.session = session(model, threads)
        self.saliency = Saliency(threads)

    @staticmethod
    def card() -> dict[str, Any]:
        """The model cards of both: what the weights were trained on, for how long, how good they are."""
        return {name: json.loads(shipped(f"{name}.json")) for name in ("slots", "matte")}

    def bucket(self, size: tuple[int, int]) -> tuple[int, int]:
        width, height = fitted(*size, SIDE, STRIDE, LONGEST)
        return FINER * width, FINER * height

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
        notes = [
            ("the embedded engine looks at the picture alone: the prompt was not used",) if p else () for p in prompts
        ]
        opaque = [on_grey(picture) for picture in pictures]
        stacks = [arrange(opaque[i], self.look(opaque[i]), count, notes[i]) for i, count in enumerate(layers)]
        if on_step is not None:
            on_step(Step(1, 1, stacks[0].pixels[-1]))
        return stacks

    def look(self, picture: NDArray[np.float32], search: Search = SEARCH) -> Look:
        """What is found in a picture `h w 3`, at half its size."""
        small = resized(picture, (picture.shape[1] // FINER, picture.shape[0] // FINER), shrink=True)
        alpha, relations = self.slots(small, search.hint)
        thing = stretched(together(alpha[list(THINGS)]), search.faint, SURE_THING) * (1 - ground(small))
        ink = stretched(alpha[TEXT], *SURE_TEXT)
        things, ties = found(small, alpha, thing, relations, search)
        told = np.concatenate([np.tanh(relations / 2), [shrunk(a, relations.shape[1:]) * 2 - 1 for a in alpha]])
        return Look(things, letters(ink), ties, ink, told.astype(np.float32))

    def slots(
        self, picture: NDArray[np.float32], hint: Plane | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The network: a picture `h w 3` to the slots' alphas `s h w` (0..1), and relations `(r o) h/4 w/4` (logits).

        One at a time: in a batch sums round differently, and a picture's layers must not depend on its neighbours.
        hint: see `pieces.Search`.
        """
        salient = self.saliency(picture[None])[0] if hint is None else resized(hint, picture.shape[1::-1])
        rows, columns = (side // STRIDE for side in picture.shape[:2])
        ids = position_ids(len(KINDS) + 1, rows, columns).reshape(len(KINDS) + 2, rows * columns, 3)[1:]
        feed = {
            "picture": rearrange(picture * 2 - 1, "h w c -> 1 c h w").astype(np.float32),
            "salient": salient[None, None] * 2 - 1,
            "ids": ids[None],
        }
        logits, relations = self.session.run(["alpha", "relations"], feed)
        return sigmoid(logits[0]), relations[0]


def arrange(
    picture: NDArray[np.float32],
    look: Look,
    count: Count,
    notes: tuple[str, ...] = (),
) -> EngineLayers:
    """What was found in a picture `h w 3` to at most `count` layers, bottom to top: see `Embedded.look`.

    "auto" is as many as there are things, 8 at most. notes: what the answer should say beside its layers.
    """
    pieces, mattes = wholes(picture, look)
    most, cheap = (MOST_AUTO - 1, NEAR) if count == "auto" else (count - 1, 0.0)
    groups = layered(pieces, mattes, look.ties, most, cheap)
    alphas = np.stack([np.ones(picture.shape[:2], np.float32), *(together(mattes[g][..., 0]) for g in groups)])
    layers = np.stack([np.dstack([carried_on(picture, s), a]) for s, a in zip(weights(alphas), alphas, strict=True)])
    kinds = ("background", *(KINDS[slot_of([pieces[i] for i in group])] for group in groups))
    return EngineLayers(layers, kinds, notes)


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


def carried_on(picture: NDArray[np.float32], seen: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colour `h w 3` of one layer: the picture where the layer is seen, carried on smoothly into the rest.

    The rim of what is seen does not count: it is mixed with what lies over it.
    """
    import cv2

    sure = cv2.erode(((seen - 0.6) / 0.35).clip(0, 1) ** 2, np.ones((3, 3), np.uint8))
    return spread(picture, np.maximum(sure, 1e-4 * seen + 1e-6).astype(np.float32))
