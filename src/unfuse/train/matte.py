"""The stage `matte`: what MatteNet learns from things that the embedded engine finds in drawn designs.

A design is drawn, and looked at by SlotNet as it ships; what it finds is compared with the design's true layers. Of
each thing MatteNet is to say all of the layers that it shows, fragments and merged ones as well: see `truth_of`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import torch
from einops import rearrange, repeat
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from unfuse.cells import Plane
from unfuse.corpus.compose import Drawn, compose, flat, weather
from unfuse.corpus.draw import Rng
from unfuse.engines.embedded import Embedded
from unfuse.engines.pieces import Search
from unfuse.layers import Kind
from unfuse.matte import STRIDE, around, brought, there, together
from unfuse.model.unet import MATTENET, MATTES, TOLD, UNet, UNetParams
from unfuse.recompose import weights
from unfuse.train import sheets
from unfuse.train.data import RATIOS, at_least, levels, opened
from unfuse.train.slots import soft_iou
from unfuse.train.stage import Arrays, Stage, Tensors, TrainParams, Want
from unfuse.train.stage import size_of as size_of_net

SIZES = {"tiny": UNetParams(6, len(MATTES), (4, 8, 8, 16, 16), fold=2, told=TOLD), "small": MATTENET}
SHARE = 8  # patches that are cut from one design: finding its things costs as much as learning from them
DESIGN = 256  # pixels of the side of a square of a design's area
HINTED = 0.75  # of the objects are in the hint
SHAPES = ((1.0, 1.0), (0.71, 1.41), (1.41, 0.71), (0.58, 1.73), (0.45, 2.2))  # of height and width to the patch's side
ROOM = (0.15, 0.4)  # see `unfuse.matte`
MOSTLY, MUCH = 0.5, 0.1  # how much of a layer a thing must show to show it, and how much of the thing that must be
FAINT, CERTAIN, APART = (0.1, 0.35), (0.3, 0.7), 0.7  # ranges and a deviation: see `pieces.Search`
UNTOLD = 0.3  # of the things learn who covers them without being told
TOUCH = 0.05  # of alpha, from which on two layers touch
SPOILT = 0.3  # of the rough masks, beyond what the engine does to them


@dataclass(frozen=True, eq=False)
class Found:
    """A design's picture `h w 3`, what SlotNet tells of its cells `y x c`, and of each piece that was found in it how
    it is seen roughly, `l h w 3`, and its truth.
    """

    picture: NDArray[np.float32]
    told: NDArray[np.float32]
    rough: NDArray[np.float32]
    truth: list[Truth]


@dataclass(frozen=True, eq=False)
class Truth:
    """All of what a piece shows, alpha `h w`; what covers it, `h w`; where that is to be learnt, `h w`."""

    alpha: Plane
    covers: Plane
    counts: Plane


@cache
def engine() -> Embedded:
    """The engine as it ships, read once in each process."""
    return Embedded(threads=1)


def found(want: Want, shared: int) -> Found:
    """A design in which something was found."""
    rng = np.random.default_rng([want.seed, want.step, shared, 3])
    while True:
        ratio = RATIOS[int(rng.integers(len(RATIOS)))]
        size = at_least(DESIGN * ratio[0]), at_least(DESIGN * ratio[1])
        layers = compose(opened(want.data, want.split), rng, size)
        picture = weather(flat(layers), rng)
        look = engine().look(brought(picture, engine().bucket(size[::-1])[::-1]), search(layers, rng))
        if look.things:
            break
    rough = np.stack([brought(planes, size) for planes in look.rough(look.things)])
    kinds, alphas = [layer.kind for layer in layers], np.stack([layer.rgba[..., 3] for layer in layers])
    seen = weights(alphas)
    truth = [truth_of(planes[..., 0], kinds, alphas, seen) for planes in rough]
    return Found(picture, rearrange(look.told, "c y x -> y x c"), rough, truth)


def search(layers: list[Drawn], rng: Rng) -> Search:
    """One of the ways to look for things. The hint is drawn from the truth: its network costs as much as SlotNet."""
    hint = np.zeros(layers[0].rgba.shape[:2], np.float32)
    for layer in layers:
        if layer.kind == "object" and rng.random() < HINTED:
            hint = np.maximum(hint, layer.rgba[..., 3])
    hint = cv2.GaussianBlur(hint, (0, 0), rng.uniform(1, 5)) * np.float32(rng.uniform(0.5, 1))
    return Search(hint, rng.uniform(*FAINT), rng.uniform(*CERTAIN), apart=float(rng.normal(0, APART)))


def truth_of(seed: Plane, kinds: list[Kind], alphas: NDArray[np.float32], seen: NDArray[np.float32]) -> Truth:
    """What is true of a piece that is seen at `seed`, `h w`. Of the layers: kinds, alphas `l h w`, how each is seen.

    Of the layers above the bottom it shows those of which it shows most, text left out; where it shows most of none,
    the one that it shows most of; nothing where that is the background.
    """
    shares = np.minimum(seed, seen).sum((1, 2))
    most = int(shares.argmax())
    enough = shares > np.maximum(MOSTLY * seen.sum((1, 2)), MUCH * seed.sum())
    things = [i for i in range(1, len(kinds)) if enough[i] and kinds[i] != "text"]
    shown = things or [i for i in (most,) if i]
    return covered(together(alphas[shown]), max(shown, default=len(kinds)), alphas, seen)


def covered(matte: Plane, top: int, alphas: NDArray[np.float32], seen: NDArray[np.float32]) -> Truth:
    """The truth of a matte `h w` whose uppermost layer is number `top`. alphas, seen: `l h w`, of the layers.

    What neither covers it nor lies below it does not count: the order of things that lie apart cannot be seen.
    """
    touching = np.minimum(alphas, matte).max((1, 2)) > TOUCH
    number = np.arange(len(alphas))
    covers = seen[touching & (number > top)].sum(0)
    apart = seen[~touching & (number > 0)].sum(0)
    return Truth(matte, covers, np.asarray((1 - apart) * matte.any(), np.float32))


def patch(design: Found, rng: Rng, size: tuple[int, int]) -> dict[str, NDArray[np.float32]]:
    """One thing of a design at a (height, width), as a batch has it, in 0..1."""
    i = int(rng.integers(len(design.truth)))
    rough, truth = design.rough[i].copy(), design.truth[i]
    if rng.random() < SPOILT:
        rough[..., 0] = spoilt(rough[..., 0], rng)
    if rng.random() < UNTOLD:
        rough[..., 2] = 0.5
    top, left, bottom, right = shaped(around(rough[..., 0], rng.uniform(*ROOM)), rough.shape[:2], size)
    box = slice(top, bottom), slice(left, right)
    h, w = rough.shape[:2]
    told = there(design.told, (top / h, left / w, bottom / h, right / w), size)
    return {
        "patch": np.dstack([brought(design.picture[box], size), brought(rough[box], size)]),
        "told": told * np.float32(0.5) + np.float32(0.5),
        "matte": brought(np.dstack([truth.alpha, truth.covers, truth.counts])[box], size),
    }


def shaped(box: tuple[int, int, int, int], canvas: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box that is longer one way, so that it has the shape of a patch, as far as the canvas goes."""
    top, left, bottom, right = box
    height = max(bottom - top, round((right - left) * size[0] / size[1]))
    width = max(right - left, round((bottom - top) * size[1] / size[0]))
    tall, wide = min(height, canvas[0]), min(width, canvas[1])
    top = int(np.clip((top + bottom - tall) // 2, 0, canvas[0] - tall))
    left = int(np.clip((left + right - wide) // 2, 0, canvas[1] - wide))
    return top, left, top + tall, left + wide


def spoilt(seed: Plane, rng: Rng) -> Plane:
    """A mask from which a piece is missing, which is thicker or thinner, or has a hole."""
    pick = rng.random()
    reach = int(rng.integers(1, 4)) * 2 + 1
    if pick < 0.25:
        return np.asarray(cv2.erode(seed, np.ones((reach, reach), np.uint8)))
    if pick < 0.5:
        return np.asarray(cv2.dilate(seed, np.ones((reach, reach), np.uint8)))
    top, left, bottom, right = around(seed, 0.0)
    y, x = rng.uniform(top, bottom), rng.uniform(left, right)
    radius = rng.uniform(0.1, 0.4) * max(bottom - top, right - left)
    rows, columns = np.mgrid[: seed.shape[0], : seed.shape[1]]
    left_out = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
    kept = np.where(left_out, 0, seed).astype(np.float32)
    return kept if kept.sum() > 0.3 * seed.sum() else seed


def batch(want: Want) -> Arrays:
    """The things of one step, the same for the same want, uint8: patch `b h w 6`, told `b h/4 w/4 c`, matte `b h w 3`:
    alpha, what covers it, and where that counts.
    """
    shape = SHAPES[int(want.of_step().integers(len(SHAPES)))] if want.split == "train" else SHAPES[0]
    tall, wide = (max(2, round(want.side * share / STRIDE)) * STRIDE for share in shape)
    designs: dict[int, Found] = {}
    patches = []
    share = SHARE if want.split == "train" else 3
    for place in want.places():
        if place // share not in designs:
            designs[place // share] = found(want, place // share)
        patches.append(patch(designs[place // share], want.of_place(place), (tall, wide)))
    return {name: levels(np.stack([one[name] for one in patches])) for name in patches[0]}


def varied(arrays: Arrays, rng: Rng) -> Arrays:
    """The same things in other colours."""
    colours = [patch[..., rng.permutation(3)] for patch in arrays["patch"][..., :3]]
    return {**arrays, "patch": np.concatenate([np.stack(colours), arrays["patch"][..., 3:]], -1)}


def build(params: TrainParams) -> UNet:
    """The network, untrained; `small` is what ships."""
    sizes: UNetParams = size_of_net(SIZES, params, "matte")
    return UNet(sizes)


def inputs(arrays: Tensors) -> tuple[Tensor, Tensor, Tensor]:
    """uint8 arrays of a batch to what MatteNet sees, `b 6 h w` and `b c h/4 w/4` in -1..1, and to the truth: `b 3 h w`
    in 0..1, alpha, what covers it, and where that counts.
    """
    patch, told = (arrays[name].permute(0, 3, 1, 2).float() / 127.5 - 1 for name in ("patch", "told"))
    truth = arrays["matte"].permute(0, 3, 1, 2).float() / 255
    return patch.contiguous(memory_format=torch.channels_last), told, truth


def loss(net: UNet, arrays: Tensors) -> dict[str, Tensor]:
    """`loss` and its parts: cross entropy, missing overlap and L1 of alpha, and cross entropy of what covers it."""
    patch, told, truth = inputs(arrays)
    logits = net(patch, told).float()
    alpha, covers, counts = truth.unbind(1)
    entropy = functional.binary_cross_entropy_with_logits(logits[:, 0], alpha)
    share = torch.sigmoid(logits[:, 0])
    both = share.square().sum((-2, -1)) + alpha.square().sum((-2, -1))
    present = (alpha.mean((-2, -1)) > 1e-3).float()
    overlap = 1 - 2 * (share * alpha).sum((-2, -1)) / both.clamp_min(1e-6)
    overlap = (overlap * present).sum() / present.sum().clamp_min(1)
    edges = (share - alpha).abs().mean()
    above = functional.binary_cross_entropy_with_logits(logits[:, 1], covers, weight=counts)
    total = entropy + overlap + edges + above
    return {"loss": total, "entropy": entropy, "overlap": overlap, "l1": edges, "covers": above}


def validate(net: UNet, arrays: Tensors) -> dict[str, float]:
    """Soft IoU of the mattes and of the rough masks that they were made from, and the losses."""
    patch, told, truth = inputs(arrays)
    alpha = truth[:, 0]
    present = alpha.mean((-2, -1)) > 1e-3
    guess = torch.sigmoid(net(patch, told).float()[:, 0])
    out = {"iou": float(soft_iou(guess, alpha)[present].mean())}
    out["iou before"] = float(soft_iou(patch[:, 3] / 2 + 0.5, alpha)[present].mean())
    return {**out, **{k: float(v) for k, v in loss(net, arrays).items()}}


def sheet(net: UNet, arrays: Tensors) -> NDArray[np.uint8]:
    """Of a few held-out things: the patch, the rough mask, the true matte, the network's; what covers it, the same."""
    few = {name: tensor[: 6 * sheets.FEW : 2] for name, tensor in arrays.items()}
    patch, told, truth = inputs(few)
    guess = torch.sigmoid(net(patch, told).float())
    planes = torch.stack([patch[:, 3] / 2 + 0.5, truth[:, 0], guess[:, 0], truth[:, 1], guess[:, 1]], 1)
    grey = repeat(planes.cpu().numpy(), "b p h w -> b p h w c", c=3)
    shown = few["patch"][..., :3].cpu().numpy() / np.float32(255)
    rows = [[picture, *masks] for picture, masks in zip(shown, grey, strict=True)]
    return sheets.sheet(rows)


STAGE = Stage(
    "matte",
    "things: all of what a rough mask shows, shadow and hidden parts included",
    build,
    batch,
    loss,
    validate,
    sheet=sheet,
    vary=varied,
    ends=("first", "head"),
)
