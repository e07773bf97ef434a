"""What becomes of a run: the file or folder that an engine takes.

slots                 OUT.onnx, and its model card beside it            the engine `embedded`
matte                 OUT.onnx, and its model card beside it            the engine `embedded`
ink                   OUT.onnx, and its model card beside it            reading text, with every engine
finetune, a LoRA      OUT.safetensors with diffusers' and peft's names  the engine `qwen`, others too
finetune, all         a folder in the published layout                  the engine `qwen`, others too
image-to-layers       a folder: layers.safetensors, layers.json         the engine `trained`
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from unfuse.errors import FormatError, UnfuseError, require
from unfuse.model.checkpoint import WEIGHTS, Weights, transformer_names
from unfuse.model.checkpoint import save as save_own
from unfuse.model.layerflow import LayerFlow, LayerFlowParams
from unfuse.saving import replacing
from unfuse.train.finetune import save_lora
from unfuse.train.weights import ABOUT, about_of, part, weights_of

PRIVATE = {"data", "out", "start", "model", "pack"}  # paths of this machine; they say nothing to whoever gets the file
OWN = "layers.safetensors"  # of an exported LayerFlow


def publish(run: Path, out: Path, model: Path | None = None) -> Path:
    """Write what an engine takes of a run's averaged weights to `out`, and return it.

    model: the published checkpoint that was tuned, for a folder. Raises UnfuseError for runs that nothing runs yet.
    """
    about = about_of(run)
    if not about:
        raise UnfuseError(f"{run} holds no {ABOUT}: give the --out folder of a training run")
    stage = about["stage"]
    card = {**about, "params": {name: value for name, value in about["params"].items() if name not in PRIVATE}}
    if stage in ("slots", "matte", "ink"):
        for module in ("onnx", "onnxscript"):
            require(module, "train", "export")
        from unfuse.train.export import export

        named(out, ".onnx")
        export(run, out, card)
    elif stage == "image-to-layers" and about["model"]["reader"] == "bytes":
        named(out, "")
        own(run, out, card)
    elif stage == "finetune" and about["params"]["lora"] is not None:
        named(out, ".safetensors")
        save_lora(weights_of(run), out)
    elif stage in ("finetune", "image-to-layers"):
        named(out, "")
        tuned(weights_of(run), about, out, model)
    else:
        raise UnfuseError(
            f"{run} is a run of stage {stage}: only slots, matte, ink, image-to-layers and finetune end in what runs"
        )
    return out


def named(out: Path, suffix: str) -> None:
    """Raise FormatError where a name does not suit what will be written there."""
    if out.suffix != suffix:
        raise FormatError(
            f"{out}: name a {'folder, without a suffix' if not suffix else f'file that ends in {suffix}'}"
        )
    if not out.parent.is_dir():
        raise FormatError(f"there is no folder {out.parent}: make it first, or choose another place")


def own(run: Path, out: Path, card: dict[str, Any]) -> None:
    """Our own layout: weights, and what they are."""
    params = LayerFlowParams.read(card.pop("model"))
    net = LayerFlow(params)
    net.load_state_dict(weights_of(run))
    out.mkdir(exist_ok=True)
    save_own(net, params, out / OWN, card=card)


def tuned(weights: dict[str, Tensor], about: dict[str, Any], out: Path, model: Path | None) -> None:
    """The published layout: what was tuned in bfloat16, everything else as it is in `model`.

    Files are linked where they can be. The folder appears when it is whole.
    """
    model = model or Path(about["params"]["model"] or "")
    if not (model / "model_index.json").is_file():
        raise UnfuseError(f"{model} is no published checkpoint: say with --model FOLDER which one was tuned")
    if out.exists():
        raise FormatError(f"{out} is there already: choose another name")
    place = out.with_name(f".{out.name}.part")
    shutil.rmtree(place, ignore_errors=True)
    tensors = {"transformer": renamed(part(weights, "mmdit."))}
    if learned := part(weights, "vae."):
        tensors["vae"] = unfolded(learned, Weights(model / "vae"))
    for file in sorted(model.rglob("*")):
        ours = file.parent.name in tensors and ".safetensors" in file.name
        if file.is_file() and not ours:
            target = place / file.relative_to(model)
            target.parent.mkdir(parents=True, exist_ok=True)
            link(file.resolve(), target)
    for folder, found in tensors.items():
        with replacing(place / folder / WEIGHTS) as written:
            written.write(save(found, metadata={"format": "pt"}))
    os.replace(place, out)


def link(file: Path, target: Path) -> None:
    """The same file under another name, or a copy where that cannot be."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A transformer's weights under the published names, in bfloat16."""
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        names = transformer_names(name)
        for published, piece in zip(names, tensor.chunk(len(names)), strict=True):
            found[published] = piece.to(torch.bfloat16).contiguous()
    return found


def unfolded(weights: dict[str, Tensor], published: Weights) -> dict[str, Tensor]:
    """A VAE's weights in the published shapes: what no still picture meets stays as it was (see `model.vae.fold`)."""
    found = {name: published.read(name) for name in published.files}
    for name, tensor in weights.items():
        whole = found[name].clone()
        if whole.ndim == 5:
            whole[:, :, -1] = tensor.to(whole.dtype)
            found[name] = whole
        else:
            found[name] = tensor.to(whole.dtype).reshape(whole.shape).contiguous()
    return found
