"""The four stages that learn by rectified flow: text to a picture, to RGBA, to layers, and a picture to layers.

They are one loss over one model (`LayerFlow`) and differ in what they are fed with (Qwen-Image-Layered section 3.3):

    text-to-rgb      the whole alone
    text-to-rgba     the whole, or one of its layers by its own name, in turns
    text-to-layers   the whole and its layers jointly
    image-to-layers  the same, and the picture's clean latent as the condition

x_s = (1 - s) x_0 + s e, v = e - x_0; s is logit-normal; the loss is the mean square error of the velocity over all
slots, the whole among them, for each picture, and the mean over pictures.

Pictures of one batch have different numbers of layers. They are bucketed: those with equal numbers go through the
transformer together, one pass for each number. Packing them all into one sequence would need a mask in the attention,
which takes the fused kernels away; padding would spend attention, which grows with the square of layers, on nothing.
Noise and sigma of a picture come from its own seed, so that nothing changes however a batch is cut.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from unfuse.corpus.records import flattened
from unfuse.errors import UnfuseError
from unfuse.flow import add_noise, logit_normal
from unfuse.model.layerflow import LayerFlow, LayerFlowParams
from unfuse.model.mmdit import MMDiTParams
from unfuse.train import data, parallel, sheets, vae
from unfuse.train.stage import Arrays, Stage, Tensors, TrainParams, Want, size_of
from unfuse.train.weights import about_of, part

SILENT = 0.1  # of the captions are left out, so that guidance has something to compare with
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)  # of noise, at which a stage is judged


def transformer(width: int, heads: int, depth: int, axes: tuple[int, int, int], text: int) -> MMDiTParams:
    """A transformer on 16 latent channels."""
    return MMDiTParams(width=width, heads=heads, depth=depth, axes=axes, text_width=text, kinds=0)


SIZES = {
    "tiny": LayerFlowParams(vae.SIZES["tiny"], transformer(48, 2, 3, (8, 8, 8), 32), "bytes"),
    "small": LayerFlowParams(vae.SIZES["small"], transformer(192, 6, 6, (8, 12, 12), 96), "bytes"),
    "full": LayerFlowParams(),
}


def build(params: TrainParams) -> LayerFlow:
    """The model of a size, with the VAE of the run that goes on, or of the one that it starts from."""
    sizes: LayerFlowParams = size_of(SIZES, params, "of flow")
    about = about_of(params.out) or ({} if params.start is None else about_of(params.start))
    if "vae" in about.get("model", {}):
        sizes = replace(sizes, vae=LayerFlowParams.read(about["model"]).vae)
    elif about.get("stage") == "vae":
        mean, std = tuple(about["latent_mean"]), tuple(about["latent_std"])
        sizes = replace(sizes, vae=replace(vae.params_of(about), latent_mean=mean, latent_std=std))
    if sizes.reader == "qwen" and params.model is None:
        raise UnfuseError(f"size {params.size} reads captions with a published text encoder: say --model FOLDER")
    return LayerFlow(sizes, params.model)


def begin(net: LayerFlow, weights: dict[str, Tensor]) -> None:
    """Take over a VAE's weights, a transformer's, or those of an earlier stage."""
    parts = {name.partition(".")[0] for name in weights}
    if "mmdit" not in parts:
        net.vae.load_state_dict(weights)
    elif "vae" not in parts:
        net.mmdit.load_state_dict(part(weights, "mmdit."))
    else:
        net.load_state_dict(weights)


# --- what each is fed with -------------------------------------------------------------------------------------------


def whole(want: Want) -> Arrays:
    """Text to RGB: the picture alone."""
    found = data.designs(want, want.layers)
    return data.together(want, [[flat(design)] for design in found], [design.caption for design in found])


def whole_or_layer(want: Want) -> Arrays:
    """Text to RGBA: at even places the picture, at odd ones a layer above the bottom, by its own name."""
    slots, said = [], []
    for place, design in zip(want.places(), data.designs(want, want.layers), strict=True):
        if place % 2 and len(design.layers) > 1:
            i = int(want.of_place(place).integers(1, len(design.layers)))
            slots.append([design.layers[i]])
            said.append(data.caption([design.layers[i]], [design.names[i]]))
        else:
            slots.append([flat(design)])
            said.append(design.caption)
    return data.together(want, slots, said)


def layered(want: Want) -> Arrays:
    """Text to layers: the whole, then its layers."""
    found = data.designs(want, want.layers)
    slots = [[flat(design), *design.layers] for design in found]
    return data.together(want, slots, [design.caption for design in found])


def decomposed(want: Want) -> Arrays:
    """Image to layers: the same, and the picture `b h w 3` as it comes in, with its noise."""
    found = data.designs(want, want.layers)
    slots = [[flat(design), *design.layers] for design in found]
    arrays = data.together(want, slots, [design.caption for design in found])
    return arrays | {"picture": data.levels(np.stack([design.picture for design in found]))}


def flat(design: data.Design) -> data.Rgba:
    """The layers put together, without the weather."""
    return data.opaque(flattened(np.stack(design.layers)))


# --- the loss --------------------------------------------------------------------------------------------------------


def frames(levels: Tensor) -> Tensor:
    """`... h w c` uint8 to `... c h w` in -1..1."""
    return rearrange(levels.float() / 127.5 - 1, "... h w c -> ... c h w")


def by_count(count: Tensor) -> list[Tensor]:
    """The places of the pictures that share a number of slots."""
    return [torch.nonzero(count == each)[:, 0] for each in sorted(set(count.tolist()))]


def noise_of(keys: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From each picture's own seed: noise like `like`, a normal number `b`, and an even one `b` on the CPU."""
    generators = [torch.Generator().manual_seed(key) for key in keys.tolist()]
    drawn = [
        (torch.randn(like.shape[1:], generator=g), torch.randn((), generator=g), torch.rand((), generator=g))
        for g in generators
    ]
    noise, normal, even = (torch.stack(part) for part in zip(*drawn, strict=True))
    return noise.to(like.device), normal.to(like.device), even


def some(net: LayerFlow, arrays: Tensors, places: Tensor) -> tuple[Tensor, Tensor | None, list[str]]:
    """Of the pictures at these places, which share a number: clean slots `b l c h w`, condition, captions."""
    here = places.to(arrays["slots"].device)
    clean = net.encode(frames(arrays["slots"][here, : int(arrays["count"][places[0]])]))
    condition = None
    if "picture" in arrays:
        picture = frames(arrays["picture"][here])[:, None]
        condition = net.encode(torch.cat([picture, torch.ones_like(picture[:, :, :1])], 2))
    return clean, condition, data.texts(arrays["text"][places].numpy())


def errors(net: LayerFlow, arrays: Tensors, places: Tensor) -> Tensor:
    """The mean square error of the velocity of each picture `b`."""
    clean, condition, captions = some(net, arrays, places)
    noise, normal, even = noise_of(arrays["key"][places], clean)
    said = ["" if silent else caption for silent, caption in zip((even < SILENT).tolist(), captions, strict=True)]
    sigma = logit_normal(normal)
    guess = net.velocity(add_noise(clean, noise, sigma), condition, sigma, net.read(said))
    return (guess.float() - (noise - clean)).square().flatten(1).mean(1)


def loss(net: LayerFlow, arrays: Tensors) -> dict[str, Tensor]:
    """The mean over pictures. All processes make as many passes as the one with the most: shards meet in each."""
    groups = by_count(arrays["count"])
    found = [errors(net, arrays, places).sum() for places in groups]
    idle = [0 * errors(net, arrays, groups[0]).sum() for _ in range(parallel.most(len(groups)) - len(groups))]
    return {"loss": torch.stack([*found, *idle]).sum() / len(arrays["count"])}


def validate(net: LayerFlow, arrays: Tensors) -> dict[str, float]:
    """The velocity's error at five noise levels, with the same noise each time."""
    found: dict[float, list[float]] = {level: [] for level in LEVELS}
    for places in by_count(arrays["count"]):
        clean, condition, captions = some(net, arrays, places)
        noise, _, _ = noise_of(arrays["key"][places], clean)
        text = net.read(captions)
        for level in LEVELS:
            sigma = clean.new_full((len(clean),), level)
            guess = net.velocity(add_noise(clean, noise, sigma), condition, sigma, text)
            found[level] += (guess.float() - (noise - clean)).square().flatten(1).mean(1).tolist()
    means = {f"error at {level}": float(np.mean(values)) for level, values in found.items()}
    return {"error": float(np.mean(list(means.values()))), **means}


def sheet(net: LayerFlow, arrays: Tensors) -> NDArray[np.uint8]:
    """Of a few held-out pictures: what goes in and the true slots, and below them what the model makes of it."""
    rows: list[list[NDArray[np.float32]]] = []
    for i in range(min(sheets.FEW, len(arrays["count"]))):
        count = int(arrays["count"][i])
        true = list((arrays["slots"][i, :count].cpu().numpy() / 255).astype(np.float32))
        picture = None if "picture" not in arrays else frames(arrays["picture"][i : i + 1])
        captions = data.texts(arrays["text"][i : i + 1].numpy())
        size = int(arrays["slots"].shape[2]), int(arrays["slots"].shape[3])
        made = net.sample(captions, count, size, picture=picture, steps=sheets.STEPS, seeds=[i])
        shown = list(rearrange(made[0].float().cpu().numpy() / 2 + 0.5, "l c h w -> l h w c"))
        blank = np.zeros_like(true[0])
        given = []
        if picture is not None:
            given = [data.opaque((arrays["picture"][i].cpu().numpy() / 255).astype(np.float32))]
        rows += [[*given, *true], [*([blank] * len(given)), *shown]]
    return sheets.sheet(rows)


def stage(name: str, about: str, batch: Any) -> Stage:
    """One of the four."""
    return Stage(name, about, build, batch, loss, validate, begin, sheet)


STAGES = (
    stage("text-to-rgb", "captions to pictures, in the latents of a VAE run", whole),
    stage("text-to-rgba", "captions to pictures and to single layers with alpha", whole_or_layer),
    stage("text-to-layers", "captions to a picture and its layers, jointly", layered),
    stage("image-to-layers", "pictures to their layers", decomposed),
)
