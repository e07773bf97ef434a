"""The stage `ink`: what InkNet learns from lines of text drawn on designs, and how it is judged.

A line is drawn as a picture has it, at any size, other lines above and below it, with the noise that pictures collect;
it is found by a box that is not exact, as readers find it, and seen upright at one height, as `unfuse.ink` sees it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ImageFont
from torch import Tensor
from torch.nn import functional

from unfuse.corpus import draw
from unfuse.corpus.compose import Pack, compose, flat, ink_for, matcap, weather, wrapped
from unfuse.corpus.draw import Plane, Rgba, Rng
from unfuse.ink import HEIGHT, ROOM
from unfuse.model.unet import INKNET, INKS, UNet, UNetParams
from unfuse.train import sheets
from unfuse.train.data import levels, opened
from unfuse.train.slots import soft_iou
from unfuse.train.stage import Arrays, Stage, Tensors, TrainParams, Want
from unfuse.train.stage import size_of as size_of_net

SIZES = {"tiny": UNetParams(3, len(INKS), (4, 8, 8, 16)), "small": INKNET}
WIDTHS = (192, 256, 320, 448)  # of a step's patches, in pixels
SHARE = 16  # patches that are cut from one design: drawing it costs more than they do
DESIGN = (384, 384)  # pixels of it
FONT = (9, 110)  # pixels of the em in the picture
LEADING = (0.95, 1.5)  # from line to line, in ems
LOOSE = (-0.03, 0.3)  # of the line's height: how far a reader's box may lie beyond the ink, at each side
TURN = 1.5  # degrees (deviation) by which it is turned wrongly
SAME = 0.25  # of the lines have a colour that stands beside them as well
RAISED, OUTLINED, SHADOWED, RAMPED = 0.1, 0.2, 0.25, 0.15  # of the lines


@dataclass(frozen=True, eq=False)
class Line:
    """A drawn line: the picture `h w 3`, the coverage of its letters and of letters with outline, `h w` each."""

    picture: NDArray[np.float32]
    letters: Plane
    outlined: Plane


def ground(pack: Pack, rng: Rng) -> NDArray[np.float32]:
    """A design without its text, `h w 3`."""
    return flat([layer for layer in compose(pack, rng, DESIGN) if layer.kind != "text"])


def cut(design: NDArray[np.float32], rng: Rng, height: int, width: int) -> NDArray[np.float32]:
    """A part of a design at any scale, mirrored, its channels exchanged: `h w 3`."""
    h, w = design.shape[:2]
    scale = min(float(rng.uniform(0.3, 2)), h / height, w / width)
    tall, wide = max(2, int(height * scale)), max(2, int(width * scale))
    top, left = int(rng.integers(h - tall + 1)), int(rng.integers(w - wide + 1))
    part = design[top : top + tall, left : left + wide][:, :: int(rng.choice([1, -1]))][..., rng.permutation(3)]
    return np.asarray(cv2.resize(np.ascontiguousarray(part), (width, height), interpolation=cv2.INTER_LINEAR))


def line(pack: Pack, rng: Rng, design: NDArray[np.float32], width: int) -> tuple[NDArray[np.float32], Plane, Plane]:
    """One patch of `HEIGHT` and a width: the picture `h w 3` and its two inks `h w`, as `unfuse.ink` sees them."""
    size = int(np.exp(rng.uniform(*np.log(FONT))))
    wide = bool(pack.wide_fonts) and rng.random() < 0.2
    font = pack.typeface(str(rng.choice(pack.wide_fonts if wide else pack.fonts)), size)
    canvas = 4 * size, round(2.2 * size * width / HEIGHT) + 2 * size
    drawn = written(pack, rng, font, cut(design, rng, *canvas), wide)
    rows, columns = np.flatnonzero(drawn.letters.max(1) > 0.5), np.flatnonzero(drawn.letters.max(0) > 0.5)
    if len(rows) < 3:
        return line(pack, rng, design, width)
    tall = float(rows[-1] + 1 - rows[0])
    above, below, before = (float(rng.uniform(*LOOSE)) * tall for _ in range(3))
    height = tall + above + below
    top, high = rows[0] - above - ROOM * height, (1 + 2 * ROOM) * height
    left = columns[0] - before - ROOM * height
    if rng.random() < 0.4:  # somewhere in a long line
        left += float(rng.uniform(0, max(1, columns[-1] - columns[0] - high)))
    k = high / HEIGHT
    way = cv2.getRotationMatrix2D((width / 2, HEIGHT / 2), float(rng.normal(0, TURN)), 1)
    way = np.array([[k, 0, left + (k - 1) / 2], [0, k, top + (k - 1) / 2]]) @ np.vstack([way, [0, 0, 1]])
    planes = np.dstack([weather(drawn.picture, rng), drawn.letters, drawn.outlined])
    soft = cv2.GaussianBlur(planes, (0, 0), 0.4 * k) if k > 1.3 else planes  # what is shrunk is averaged
    patch = cv2.warpAffine(
        soft, way, (width, HEIGHT), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )
    return patch[..., :3], patch[..., 3], patch[..., 4]


def written(pack: Pack, rng: Rng, font: ImageFont.FreeTypeFont, below: NDArray[np.float32], wide: bool) -> Line:
    """A line in the middle of a picture `h w 3`, perhaps with others above and below it."""
    h, w = below.shape[:2]
    room = w * float(rng.uniform(0.25, 1.0))
    said = [words for _ in range(3) for words in wrapped(rng, font, room, wide, small=True)]
    at, gap = (font.size, h / 2), float(rng.uniform(*LEADING))
    mine = draw.text_mask((h, w), [_long(rng, said, font, room)], font, at, "left", gap)
    others = [said[0] if rng.random() < 0.6 else "", "", said[-1] if rng.random() < 0.6 else ""]
    mask = np.maximum(mine, draw.text_mask((h, w), others, font, at, "left", gap))
    colour = ink_for(rng, mask, below, float(rng.random()))
    if rng.random() < SAME:  # as something beside it has
        near = below[int(rng.integers(h)), int(rng.integers(w))]
        inside = below[mask > 0.3].mean(0) if (mask > 0.3).any() else near
        colour = tuple(near) if abs(draw.luminance(near) - draw.luminance(inside)) > 0.2 else colour
    layer, outlined = dressed(pack, rng, mask, mine, colour, font.size)
    alpha = layer[..., 3:]
    return Line(layer[..., :3] * alpha + below * (1 - alpha), mine, outlined)


def _long(rng: Rng, said: list[str], font: ImageFont.FreeTypeFont, room: float) -> str:
    """Words that fill some of the room."""
    text = str(rng.choice(said))
    for more in said:
        if font.getlength(f"{text} {more}") > room:
            break
        text = f"{text} {more}"
    return text


def dressed(pack: Pack, rng: Rng, mask: Plane, mine: Plane, colour: draw.Colour, em: float) -> tuple[Rgba, Plane]:
    """Letters `h w` in a colour, or solid in a material, with a ramp, an outline, a shadow: the layer `h w 4`.

    And the coverage of the line's own letters with their outline, without the shadow.
    """
    layer = draw.solid(mask.shape, colour, mask)
    if pack.matcaps and em > 20 and rng.random() < RAISED:
        layer = (draw.lit(mask, matcap(pack, rng), em * rng.uniform(0.04, 0.12)) / np.float32(255)).astype(np.float32)
    elif rng.random() < RAMPED:
        layer[..., :3] = draw.gradient(mask.shape, colour, draw.random_colour(rng), rng)
    if em > 14 and rng.random() < OUTLINED:
        width = max(1.0, em * rng.uniform(0.03, 0.08))
        tone = 0.0 if draw.luminance(colour) > 0.5 else 1.0
        layer = draw.over(layer, draw.solid(mask.shape, (tone, tone, tone), draw.stroke(mask, width)))
        mine = draw.stroke(mine, width)
    if rng.random() < SHADOWED:
        reach = max(0.6, em * 0.05)
        layer = draw.with_shadow(layer, (reach, reach), reach * rng.uniform(0.4, 1.5), rng.uniform(0.3, 0.7), (0, 0, 0))
    return layer, mine


def batch(want: Want) -> Arrays:
    """The lines of one step, the same for the same want: patch `b h w 3`, ink `b 2 h w`, uint8."""
    pack = opened(want.data, want.split)
    width = int(want.of_step().choice(WIDTHS)) if want.split == "train" else WIDTHS[-1]
    grounds: dict[int, NDArray[np.float32]] = {}
    patches, truths = [], []
    for place in want.places():
        shared = place // SHARE
        if shared not in grounds:
            grounds[shared] = ground(pack, np.random.default_rng([want.seed, want.step, shared, 3]))
        patch, *truth = line(pack, want.of_place(place), grounds[shared], width)
        patches.append(levels(patch))
        truths.append(levels(np.stack(truth)))
    return {"patch": np.stack(patches), "ink": np.stack(truths)}


def build(params: TrainParams) -> UNet:
    """The network, untrained; `small` is what ships."""
    sizes: UNetParams = size_of_net(SIZES, params, "ink")
    return UNet(sizes)


def inputs(arrays: Tensors) -> tuple[Tensor, Tensor]:
    """uint8 arrays of a batch to what InkNet sees, `b 3 h w` in -1..1, and should answer, `b 2 h w` in 0..1."""
    patch = arrays["patch"].permute(0, 3, 1, 2).float() / 127.5 - 1
    return patch.contiguous(memory_format=torch.channels_last), arrays["ink"].float() / 255


def loss(net: UNet, arrays: Tensors) -> dict[str, Tensor]:
    """`loss` and its parts: cross entropy, and what is missing to a full soft Dice coefficient."""
    patch, truth = inputs(arrays)
    logits = net(patch).float()
    entropy = functional.binary_cross_entropy_with_logits(logits, truth)
    share = torch.sigmoid(logits)
    both = share.square().sum((-2, -1)) + truth.square().sum((-2, -1))
    overlap = (1 - 2 * (share * truth).sum((-2, -1)) / both.clamp_min(1e-6)).mean()
    return {"loss": 2 * entropy + overlap, "entropy": entropy, "overlap": overlap}


def validate(net: UNet, arrays: Tensors) -> dict[str, float]:
    """Soft IoU of both inks, their mean, and the losses."""
    patch, truth = inputs(arrays)
    iou = soft_iou(torch.sigmoid(net(patch).float()), truth).mean(0)
    out = {f"iou {name}": float(value) for name, value in zip(INKS, iou, strict=True)}
    return {"iou": float(iou.mean()), **out, **{k: float(v) for k, v in loss(net, arrays).items()}}


def sheet(net: UNet, arrays: Tensors) -> NDArray[np.uint8]:
    """Of a few held-out lines: the patch, its true inks, what the network sees."""
    few = {name: tensor[: 2 * sheets.FEW] for name, tensor in arrays.items()}
    patch, truth = inputs(few)
    guess = torch.sigmoid(net(patch).float())
    rows: list[list[NDArray[np.float32]]] = []
    for shown, true, seen in zip(patch, truth, guess, strict=True):
        planes: list[Any] = [plane.cpu().numpy() for plane in (*true, *seen)]
        picture = ((shown + 1) / 2).permute(1, 2, 0).cpu().numpy().astype(np.float32)
        rows.append([picture, *(np.repeat(plane[..., None], 3, -1).astype(np.float32) for plane in planes)])
    return sheets.sheet(rows)


STAGE = Stage(
    "ink",
    "reading text: which pixels of a line are its letters",
    build,
    batch,
    loss,
    validate,
    sheet=sheet,
    ends=("first", "head"),
)
