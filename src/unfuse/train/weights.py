"""Checkpoints of training: one safetensors file with everything, and one JSON file that explains it.

    net.NAME                 weights
    ema.NAME                 their moving average, which is what is used
    optimizer.NAME.KEY       the optimizer's moments (and step) of a weight

Both files are written under temporary names and renamed, the JSON last.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unfuse.errors import EngineError, UnfuseError
from unfuse.model.checkpoint import Weights, load_transformer, read_json, weight_files
from unfuse.model.vae import VIDEO_ONLY, fold

WEIGHTS, ABOUT = "checkpoint.safetensors", "checkpoint.json"


def write(out: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """The two files of a checkpoint."""
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out / f"{WEIGHTS}.part")
    (out / f"{ABOUT}.part").write_text(json.dumps(about, indent=1, ensure_ascii=False))
    for name in (WEIGHTS, ABOUT):
        os.replace(out / f"{name}.part", out / name)


def read(out: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a checkpoint, and what its JSON says. Raises UnfuseError where it is missing or broken."""
    about = about_of(out)
    try:
        return load_file(out / WEIGHTS), about
    except (SafetensorError, OSError) as error:
        raise UnfuseError(
            f"{out / WEIGHTS} is missing or broken ({error}): give another --out, or take it away"
        ) from error


def part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {key.removeprefix(name): tensor for key, tensor in tensors.items() if key.startswith(name)}


def moments(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """What the optimizer keeps of each weight."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in part(tensors, "optimizer.").items():
        name, _, leaf = key.rpartition(".")
        found.setdefault(name, {})[leaf] = tensor
    return found


def about_of(start: Path) -> dict[str, Any]:
    """What a run's JSON says; nothing for other things that one can start from."""
    path = start / ABOUT
    try:
        about: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UnfuseError(f"{path} is broken ({error}): take the weights of another run") from error
    return about


def weights_of(start: Path, which: str = "ema.") -> dict[str, Tensor]:
    """Weights to begin from: a run's folder (averaged), an exported .onnx file, a published folder, the trunk's wheel.

    A published folder is that of a VAE (RGB or RGBA; a video VAE is folded to 2D), of a transformer, or of both.
    Raises UnfuseError for anything else.
    """
    if start.suffix == ".onnx" and start.is_file():
        from unfuse.train.export import state_of

        return state_of(start)
    if start.suffix == ".whl" and start.is_file():
        from unfuse.train.trunk import published as trunk

        return trunk(start)
    if (start / ABOUT).is_file():
        return part(read(start)[0], which)
    if (start / "config.json").is_file():
        return published(start)
    if (start / "model_index.json").is_file():
        return {f"vae.{name}": t for name, t in published(start / "vae").items()} | published(start / "transformer")
    raise UnfuseError(f"--start {start} is no run's folder, no .onnx file, no published folder and no wheel")


def published(folder: Path) -> dict[str, Tensor]:
    """The weights in a published VAE's or transformer's folder by our names."""
    kind = read_json(folder / "config.json").get("_class_name", "")
    if "Transformer" in kind:
        return {f"mmdit.{name}": tensor for name, tensor in load_transformer(folder).state_dict().items()}
    if "Autoencoder" not in kind:
        raise EngineError(f"{folder} holds a {kind or 'nameless model'}: a VAE or a transformer can be started from")
    weight_files(folder)
    files = Weights(folder, without=(VIDEO_ONLY,))
    return {name: fold(name, files.read(name)).float() for name in files.files}


def same(tensor: Tensor) -> Tensor:
    """A copy on the CPU, whole where it is in shards over processes."""
    whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
