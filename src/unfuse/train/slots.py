"""The stage `slots`: what SlotNet learns from true layers, and how it is judged.

Targets are canonical: which layer of a design goes into which slot follows from what can be seen (what kind of thing it
is, and whether another thing covers it), never from the order in which things were drawn.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from unfuse.cells import CELL, OFFSETS, RELATIONS, pairs
from unfuse.corpus import draw
from unfuse.corpus.compose import Drawn, compose, flat, weather
from unfuse.model.slots import SLOTS, STRIDE, SlotNet, SlotNetParams
from unfuse.saliency import Saliency
from unfuse.tokens import position_ids
from unfuse.train import remix, sheets
from unfuse.train.data import levels, opened, size_of
from unfuse.train.stage import Arrays, Stage, Tensors, TrainParams, Want
from unfuse.train.stage import size_of as size_of_net

Picture = NDArray[np.float32]

TRUNK = "stem.trunk."
TOUCH = 0.02  # a share of a layer that something must cover to count as lying above it
SALIENCY_SIDE = 192  # smaller than where it is used: training must not wait for a hint
SIZES = {
    "tiny": SlotNetParams(
        (8, 8, 16, 24), (16, 8, 8), kernel=4, width=24, heads=2, depth=2, axes=(4, 4, 4), trunk=(0.1, 0.1)
    ),
    "small": SlotNetParams(),
}


def slot_of(layers: list[Drawn]) -> list[int]:
    """The slot of each layer, an index into `SLOTS`.

    Text is text. Decoration that lies on no object is decoration. All other things are objects: in front, unless
    another one of them covers some of it.
    """
    free = [i for i, layer in enumerate(layers) if layer.kind not in ("background", "text")]
    heavy = [
        i
        for i in free
        if layers[i].kind == "object"
        or any(covers(layers[i], layers[j]) for j in free if j < i and layers[j].kind == "object")
    ]
    slots = {i: SLOTS.index("decoration") for i in free}
    for i in heavy:
        covered = any(covers(layers[j], layers[i]) for j in heavy if j > i)
        slots[i] = SLOTS.index("object behind" if covered else "object")
    named = {"background": 0, "text": SLOTS.index("text")}
    return [slots[i] if i in slots else named[layer.kind] for i, layer in enumerate(layers)]


def covers(upper: Drawn, lower: Drawn) -> bool:
    """Whether one layer lies on another: on a share of the smaller one that counts."""
    a, b = upper.rgba[..., 3], lower.rgba[..., 3]
    return float((a * (b > 0.5)).sum()) > TOUCH * float(min(a.sum(), b.sum()))


def targets(layers: list[Drawn]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """The layers of each slot put together, bottom to top: `l h w 4` straight alpha, and whose is seen, `l h w`.

    Whose: of the slot's layers the one that shows most there, counted from the bottom.
    """
    out = np.zeros((len(SLOTS), *layers[0].rgba.shape), np.float32)
    owner = np.zeros(out.shape[:3], np.uint8)
    shown = np.zeros(out.shape[:3], np.float32)
    for i, (slot, layer) in enumerate(zip(slot_of(layers), layers, strict=True)):
        out[slot] = draw.over(layer.rgba, out[slot])
        alpha = layer.rgba[..., 3]
        shown[slot] *= 1 - alpha
        owner[slot][alpha > shown[slot]] = i
        shown[slot] = np.maximum(shown[slot], alpha)
    return out, owner


@cache
def saliency() -> Saliency:
    """The hint's network, read once in each process."""
    return Saliency(threads=1)


def drawn(want: Want, place: int) -> tuple[Picture, Picture, NDArray[np.uint8]]:
    """One design: the picture `h w 3`, before any weather, its slots `l h w 4`, and whose is seen in them `l h w`."""
    layers = compose(opened(want.data, want.split), want.of_place(place), size_of(want))
    return flat(layers), *targets(layers)


def batch(want: Want) -> Arrays:
    """The batch of one step, the same for the same want: picture `b h w 3`, salient `b h w`, slots `b l h w 4`, uint8.

    And whose is seen in the slots, owner `b l h w`: see `targets`.

    Half of the designs are drawn; the other half are the same ones mirrored, with their colour channels exchanged and
    other weather: drawing costs more than looking, and so does the hint, which is mirrored with them.
    """
    found: dict[int, tuple[Picture, Picture, NDArray[np.uint8]]] = {}
    looked: dict[int, Picture] = {}
    pictures, slots, owners, twins = [], [], [], []
    for place in want.places():
        pair, twin = divmod(place, 2) if want.split == "train" else (place, 0)
        if pair not in found:
            found[pair] = drawn(want, 2 * pair)
        picture, truth, owner = found[pair]
        rng = np.random.default_rng([want.seed, want.step, place, 2])
        if twin:
            order = rng.permutation(3)
            picture, truth = picture[:, ::-1, order], truth[:, :, ::-1][..., [*order, 3]]
            owner = owner[:, :, ::-1]
        pictures.append(weather(picture, rng))
        slots.append(truth)
        owners.append(owner)
        twins.append((pair, twin))
        looked.setdefault(pair, pictures[-1][:, ::-1] if twin else pictures[-1])
    hints = dict(zip(looked, saliency()(np.stack(list(looked.values())), SALIENCY_SIDE), strict=True))
    salient = np.stack([hints[pair][:, ::-1] if twin else hints[pair] for pair, twin in twins])
    shown = {"picture": levels(np.stack(pictures)), "salient": levels(salient), "slots": levels(np.stack(slots))}
    return {**shown, "owner": np.stack(owners)}


def designs(want: Want) -> Arrays:
    """Slots and owners alone, of designs that are all drawn: the device makes pictures of them (`remix`)."""
    found = [drawn(want, place) for place in want.places()]
    return {"slots": levels(np.stack([slots for _, slots, _ in found])), "owner": np.stack([o for *_, o in found])}


def remixed(arrays: Tensors, copies: int, rng: np.random.Generator) -> Tensors:
    """What `batch` answers, of `copies` designs for each drawn one, on the slots' device."""
    pictures, slots, owner = remix.remixed(arrays["slots"], arrays["owner"], copies, rng)
    pictures = remix.weathered(pictures, rng)
    shown = {"picture": pictures.permute(0, 2, 3, 1), "salient": remix.salient(pictures, SALIENCY_SIDE)}
    shown = {name: (x * 255).round().byte() for name, x in {**shown, "slots": slots.permute(0, 1, 3, 4, 2)}.items()}
    return {**shown, "owner": owner}


def build(params: TrainParams) -> SlotNet:
    """The network, untrained; `small` is what ships."""
    sizes: SlotNetParams = size_of_net(SIZES, params, "slots")
    return SlotNet(sizes)


def begin(net: SlotNet, weights: dict[str, Tensor]) -> None:
    """Start from a run's weights, or from the trunk's alone."""
    whole = any(not name.startswith(TRUNK) for name in weights)
    net.load_state_dict(weights, strict=whole)


def ids_for(picture: Tensor) -> Tensor:
    """Positions `b l+1 n 3` of all slots and the condition for pictures `b 3 h w`."""
    rows, columns = picture.shape[-2] // STRIDE, picture.shape[-1] // STRIDE
    places = position_ids(len(SLOTS) + 1, rows, columns).reshape(len(SLOTS) + 2, rows * columns, 3)[1:]
    return torch.from_numpy(places).to(picture.device).expand(picture.shape[0], -1, -1, -1)


def inputs(arrays: Tensors) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """uint8 arrays of a batch to what `SlotNet` sees and should answer.

    picture `b 3 h w` and salient `b 1 h w` in -1..1, alpha `b l h w` and colour `b l 3 h w` in 0..1.
    """
    picture = arrays["picture"].permute(0, 3, 1, 2).float() / 127.5 - 1
    salient = arrays["salient"][:, None].float() / 127.5 - 1
    slots = arrays["slots"].permute(0, 1, 4, 2, 3).float() / 255
    return picture.contiguous(memory_format=torch.channels_last), salient, slots[:, :, 3], slots[:, :, :3]


def uncovered(alpha: Tensor) -> Tensor:
    """How much of each slot `b l h w` those above it leave to be seen."""
    above = torch.flip(torch.cumprod(torch.flip(1 - alpha, [1]), 1), [1])
    return torch.cat([above[:, 1:], torch.ones_like(above[:, :1])], 1)


def seen(alpha: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """What things there are in each cell, below all text, as numbers: higher is further up, 0 is the background.

    alpha, owner: `b l h w`, of the slots. Answers which thing is seen, `b h/4 w/4`, and which there is in each slot,
    -1 where there is none, `b l-1 h/4 w/4`.
    """
    half = CELL // 2
    alpha, owner = alpha[:, :-1, half::CELL, half::CELL], owner[:, :-1, half::CELL, half::CELL].long()
    number = owner + 256 * torch.arange(alpha.shape[1], device=alpha.device)[:, None, None]
    number[:, 0] = 0
    top = number.gather(1, (alpha * uncovered(alpha)).argmax(1, keepdim=True))[:, 0]
    return top, torch.where(alpha > 0.5, number, -1)


def relation_loss(logits: Tensor, top: Tensor, there_are: Tensor) -> dict[str, Tensor]:
    """Cross entropy and overlap of what differs, cross entropy of what lies above what and of what goes on below it.

    logits: `b (r o) h w`. top, there_are: see `seen`. Where two things share a slot, nobody knows what the upper one
    hides: those pairs do not count.
    """
    same, above, onward, backward = logits.float().chunk(len(RELATIONS), 1)
    entropy, overlap, order, below = [], [], [], []

    def judged(x: Tensor, truth: Tensor, counts: Tensor) -> Tensor:
        counts = counts.float()
        given = functional.binary_cross_entropy_with_logits(x, truth.float(), weight=counts, reduction="sum")
        return given / counts.sum().clamp_min(1)

    for i, offset in enumerate(OFFSETS):
        (a, b), (in_a, in_b) = pairs(top, offset), pairs(there_are, offset)
        differs = a != b
        guess = -pairs(same[:, i], offset)[0]
        entropy.append(judged(guess, differs, torch.ones_like(differs)))
        share = torch.sigmoid(guess)
        both = share.square().sum() + differs.sum()
        overlap.append(1 - 2 * (share * differs).sum() / both.clamp_min(1))
        order.append(judged(pairs(above[:, i], offset)[0], a > b, differs))
        for told, lower, upper, in_upper in ((onward, a, b, in_b), (backward, b, a, in_a)):
            known = (lower > 0) & (lower < upper) & (lower // 256 != upper // 256)
            below.append(judged(pairs(told[:, i], offset)[0], (in_upper == lower[:, None]).any(1), known))
    names = {"differs": entropy, "seams": overlap, "order": order, "below": below}
    return {name: torch.stack(found).mean() for name, found in names.items()}


def soft_iou(a: Tensor, b: Tensor) -> Tensor:
    """Sum of minima over sum of maxima of `b l h w`, for each `b l`."""
    return torch.minimum(a, b).sum((-2, -1)) / torch.maximum(a, b).sum((-2, -1)).clamp_min(1e-6)


def loss(net: SlotNet, arrays: Tensors) -> dict[str, Tensor]:
    """`loss` and its parts: cross entropy and soft IoU of alpha, L1 of colour where the slot is (most where hidden).

    And those of the relations (`relation_loss`).
    """
    picture, salient, alpha, colour = inputs(arrays)
    logits, guess, told = net(picture, salient, ids_for(picture))
    logits, guess = logits[:, 1:].float(), guess.float()
    truth = alpha[:, 1:]
    entropy = functional.binary_cross_entropy_with_logits(logits, truth)
    present = (truth.mean((-2, -1)) > 1e-3).float()
    product = torch.sigmoid(logits) * truth
    union = (torch.sigmoid(logits) + truth - product).sum((-2, -1))
    overlap = 1 - product.sum((-2, -1)) / union.clamp_min(1e-6)
    overlap = (overlap * present).sum() / present.sum().clamp_min(1)
    hidden = colour_error(guess, alpha, colour)
    relation = relation_loss(told, *seen(alpha, arrays["owner"]))
    total = 2 * entropy + overlap + hidden + 2.5 * (relation["differs"] + relation["seams"])
    total = total + 2 * relation["order"] + relation["below"]
    return {"loss": total, "entropy": entropy, "overlap": overlap, "colour": hidden, **relation}


def colour_error(guess: Tensor, alpha: Tensor, colour: Tensor) -> Tensor:
    """L1 of colour `b l 3 h/4 w/4` against the truth's, weighed by alpha, four times where something covers it."""
    b, count = alpha.shape[:2]

    def pool(x: Tensor) -> Tensor:  # b l (c) h w -> b l c h/4 w/4
        pooled = functional.avg_pool2d(x.reshape(b * count, -1, *alpha.shape[-2:]), 4)
        return pooled.reshape(b, count, -1, *guess.shape[-2:])

    small = pool(alpha)[:, :, 0]
    truth = pool(colour * alpha[:, :, None]) / small[:, :, None].clamp_min(1e-3)
    weight = small * (4 - 3 * pool(uncovered(alpha))[:, :, 0]) + 1e-6
    return ((guess - truth).abs().mean(2) * weight).sum() / weight.sum()


def validate(net: SlotNet, arrays: Tensors) -> dict[str, float]:
    """Soft IoU of each slot over the designs that have something there, their mean, and the losses."""
    picture, salient, alpha, _ = inputs(arrays)
    logits = net(picture, salient, ids_for(picture))[0].float()
    iou, present = soft_iou(torch.sigmoid(logits), alpha), alpha.mean((-2, -1)) > 1e-3
    out = {f"iou {name}": float(iou[:, i][present[:, i]].mean()) for i, name in enumerate(SLOTS) if i}
    return {"iou": float(np.mean(list(out.values()))), **out, **{k: float(v) for k, v in loss(net, arrays).items()}}


def sheet(net: SlotNet, arrays: Tensors) -> NDArray[np.uint8]:
    """Of a few held-out pictures: the picture and its true slots, and below them what the network sees."""
    rows: list[list[NDArray[np.float32]]] = []
    few = {name: tensor[: sheets.FEW] for name, tensor in arrays.items()}
    picture, salient, _, _ = inputs(few)
    logits, guess, _ = net(picture, salient, ids_for(picture))
    colour = functional.interpolate(guess.float().flatten(0, 1), scale_factor=4.0)
    alpha = torch.sigmoid(logits.float())
    for i in range(len(picture)):
        shown = (few["picture"][i].cpu().numpy() / 255).astype(np.float32)
        true = (few["slots"][i].cpu().numpy() / 255).astype(np.float32)
        of_one = colour.reshape(*guess.shape[:3], *alpha.shape[2:])[i].permute(0, 2, 3, 1)
        seen = torch.cat([of_one, alpha[i, ..., None]], -1).cpu().numpy()
        rows += [[shown, *true], [np.ones_like(shown), *seen]]
    return sheets.sheet(rows)


STAGE = Stage(
    "slots",
    "the embedded engine: a picture to five slots in one step",
    build,
    batch,
    loss,
    validate,
    begin=begin,
    sheet=sheet,
    designs=designs,
    remix=remixed,
    slow=(TRUNK,),
    ends=("stem.to2.1", "relations.mix.3", "meaning", "slot_decoder.head", "pixel_decoder.edges", "pixel_decoder.last"),
)
