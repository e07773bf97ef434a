"""Weights on disk: the published folder read strictly, and our own files written and read.

The published layout has a folder for each part, `transformer` and `vae` among them, with `config.json` and the weights:
one safetensors file, or shards with an index. Every parameter of ours is looked up by its published name, so that what
is missing, left over or of another shape is named, never guessed. Tensors go one at a time to their dtype and device.

Our own layout is a safetensors file and a JSON file of the same name beside it: the params, and whatever the trainer
wants remembered.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from unfuse.errors import EngineError
from unfuse.model.mmdit import MMDiT, MMDiTParams
from unfuse.model.vae import VAE, VIDEO_ONLY, VAEParams, fold
from unfuse.tokens import PATCH

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Model = TypeVar("Model", bound=nn.Module)
Params = TypeVar("Params", bound="DataclassInstance")

Names = Callable[[str], tuple[str, ...]]
Take = Callable[[str, Tensor], Tensor]

WEIGHTS = "diffusion_pytorch_model.safetensors"
OTHER_MODEL = "not the model that its config describes, take config and weights of one release"
FRACTIONS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}  # types of weights that stand for themselves

# Our modules and the published ones; where there are three, their tensors are stacked.
OUTSIDE_BLOCKS = {
    "image_in": ("img_in",),
    "text_norm": ("txt_norm",),
    "text_in": ("txt_in",),
    "sigma_in": ("time_text_embed.timestep_embedder.linear_1",),
    "sigma_out": ("time_text_embed.timestep_embedder.linear_2",),
    "kind": ("time_text_embed.addition_t_embedding",),
    "last": ("norm_out.linear",),
    "image_out": ("proj_out",),
}
IN_A_BLOCK = {
    "image.modulation.linear": ("img_mod.1",),
    "image.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "image.q_norm": ("attn.norm_q",),
    "image.k_norm": ("attn.norm_k",),
    "image.out": ("attn.to_out.0",),
    "image.mlp_in": ("img_mlp.net.0.proj",),
    "image.mlp_out": ("img_mlp.net.2",),
    "text.modulation.linear": ("txt_mod.1",),
    "text.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "text.q_norm": ("attn.norm_added_q",),
    "text.k_norm": ("attn.norm_added_k",),
    "text.out": ("attn.to_add_out",),
    "text.mlp_in": ("txt_mlp.net.0.proj",),
    "text.mlp_out": ("txt_mlp.net.2",),
}


def load_transformer(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> MMDiT:
    """The transformer in a published checkpoint's folder `transformer`, all of it on one device (see `placement`).

    Raises EngineError when a file is missing or broken, the config asks for what this code does not know, or a tensor
    is missing, left over or of another shape.
    """
    with torch.device("meta"):
        model = MMDiT(transformer_params(folder / "config.json"))
    return fill(model, Weights(folder), names=transformer_names, dtype=dtype, device=device)


def load_vae(path: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> VAE:
    """The RGBA-VAE, folded to 2D, in a published checkpoint's folder `vae`; or its weights file, a config beside it.

    Raises EngineError as `load_transformer` does.
    """
    folder = path if path.is_dir() else path.parent
    with torch.device("meta"):
        model = VAE(vae_params(folder / "config.json"))
    return fill(model, Weights(path, without=(VIDEO_ONLY,)), take=fold, dtype=dtype, device=device)


def transformer_names(name: str) -> tuple[str, ...]:
    """The published names of one of our transformer's parameters."""
    found = re.fullmatch(r"(?:blocks\.(\d+)\.)?(.+)\.(weight|bias)", name)
    assert found is not None
    block, module, leaf = found.groups()
    if block is None:
        return tuple(f"{published}.{leaf}" for published in OUTSIDE_BLOCKS[module])
    return tuple(f"transformer_blocks.{block}.{published}.{leaf}" for published in IN_A_BLOCK[module])


def transformer_params(path: Path) -> MMDiTParams:
    """The params that a published transformer's `config.json` describes."""
    config = {"use_layer3d_rope": False, "use_additional_t_cond": False, **read_json(path)}
    known = {"patch_size": PATCH, "guidance_embeds": False, "zero_cond_t": False, "use_layer3d_rope": True}
    check(config, known, path)
    try:
        return MMDiTParams(
            width=config["num_attention_heads"] * config["attention_head_dim"],
            heads=config["num_attention_heads"],
            depth=config["num_layers"],
            in_features=config["in_channels"],
            out_features=config["out_channels"] * PATCH**2,
            axes=tuple(config["axes_dims_rope"]),
            text_width=config["joint_attention_dim"],
            kinds=2 if config["use_additional_t_cond"] else 0,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise EngineError(f"{path} does not describe a transformer: {error}") from error


def vae_params(path: Path) -> VAEParams:
    """The params that a published VAE's `config.json` describes."""
    config = {"input_channels": 3, **read_json(path)}
    check(config, {"input_channels": VAEParams.channels, "attn_scales": []}, path)
    try:
        return VAEParams(
            base=config["base_dim"],
            multipliers=tuple(config["dim_mult"]),
            res_blocks=config["num_res_blocks"],
            channels=config["input_channels"],
            latent=config["z_dim"],
            latent_mean=tuple(config.get("latents_mean", VAEParams.latent_mean)),
            latent_std=tuple(config.get("latents_std", VAEParams.latent_std)),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise EngineError(f"{path} does not describe a VAE: {error}") from error


def check(config: dict[str, Any], known: dict[str, Any], path: Path) -> None:
    """Raise where a config asks for something else than what this code knows."""
    for key, value in known.items():
        if config.get(key, value) != value:
            raise EngineError(
                f"{path}: {key} is {config[key]!r}, and only {value!r} is known: this is not the layered model, "
                "or a later version of it"
            )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that must be there."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EngineError(f"{path} is missing: the checkpoint is not complete, download it again") from error
    except ValueError as error:
        raise EngineError(f"{path} is not JSON ({error}): download it again") from error
    if not isinstance(content, dict):
        raise EngineError(f"{path} holds no JSON object, which is wanted in braces: download it again")
    return content


class Stored(Protocol):
    """Tensors on disk by name: `Weights`, or a `single.Single`."""

    path: Path
    files: dict[str, Any]

    def read(self, name: str) -> Tensor:
        """One of them."""


class Weights:
    """The tensors of a safetensors file, or of a folder with one or with shards, read when asked for.

    without: parts of names; tensors with such a name are left alone.
    """

    def __init__(self, path: Path, without: tuple[str, ...] = ()) -> None:
        self.path = path
        self.files: dict[str, Any] = {}  # tensor name -> open file
        for file in weight_files(path):
            self.files |= tensors_in(file, without)

    def read(self, name: str) -> Tensor:
        tensor: Tensor = self.files[name].get_tensor(name)
        return tensor


def tensors_in(file: Path, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The open file for each tensor in it, but those with one of these parts in their names.

    Raises EngineError when it is broken, or holds whole numbers: they mean nothing without the way back, which each
    program that quantises has its own of.
    """
    try:
        opened: Any = safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise EngineError(f"{file} is broken ({error}): download it again") from error
    names = [name for name in opened.keys() if not any(part in name for part in without)]  # noqa: SIM118
    for name in names:
        if (kind := opened.get_slice(name).get_dtype()) not in FRACTIONS:
            raise EngineError(
                f"{file}: {name} is {kind}, and weights are one of {', '.join(sorted(FRACTIONS))}: take the published "
                "weights, or a quantised transformer as .gguf (transformer=FILE.gguf); plan='int8' rounds them itself"
            )
    return dict.fromkeys(names, opened)


def weight_files(path: Path, name: str = WEIGHTS) -> list[Path]:
    """The files that hold the weights: `path` itself, or in its folder one file or the shards that an index names."""
    if path.is_file():
        return [path]
    index = path / f"{name}.index.json"
    if not index.is_file():
        if not (path / name).is_file():
            raise EngineError(
                f"{path} has neither {name} nor {index.name}: the checkpoint is not complete, download it again"
            )
        return [path / name]
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise EngineError(f"{index} names no shards (its 'weight_map'): download it again")
    shards = sorted(set(named.values()))
    missing = [shard for shard in shards if not (path / shard).is_file()]
    if missing:
        raise EngineError(f"{path} lacks {a_few(missing)}: the checkpoint is not complete, download the rest")
    return [path / shard for shard in shards]


def keep(name: str, tensor: Tensor) -> Tensor:
    """A stored tensor as it is."""
    return tensor


def one_name(name: str) -> tuple[str, ...]:
    """A parameter that is stored under its own name."""
    return (name,)


def fill(
    model: Model,
    weights: Stored,
    *,
    names: Names = one_name,
    take: Take = keep,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Model:
    """Give every parameter of `model` (on the meta device) its tensors, by exact names and shapes; ready to evaluate.

    names: the stored tensors that are stacked into a parameter. take: a stored tensor in our shape.
    """
    shapes = shapes_of(model)
    check_names(weights, shapes, names)
    model.load_state_dict(gather(weights, shapes, names=names, take=take, device=device, dtype=dtype), assign=True)
    return model.eval()


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter by name."""
    return {name: tuple(parameter.shape) for name, parameter in model.state_dict().items()}


def check_names(weights: Stored, parameters: Iterable[str], names: Names) -> None:
    """Raise where tensors are missing or left over."""
    wanted = {stored for name in parameters for stored in names(name)}
    if missing := wanted - weights.files.keys():
        raise EngineError(f"{weights.path} lacks the tensors {a_few(missing)}: {OTHER_MODEL}")
    if left := weights.files.keys() - wanted:
        raise EngineError(f"{weights.path} has unknown tensors {a_few(left)}: {OTHER_MODEL}")


def gather(
    weights: Stored,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    names: Names = one_name,
    take: Take = keep,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Parameters of these names and shapes out of the stored tensors, which must be there."""
    state = {}
    for name, (rows, *rest) in shapes.items():
        parts = []
        for stored in names(name):
            part = take(stored, weights.read(stored))
            expected = (rows // len(names(name)), *rest)
            if part.shape != expected:
                raise EngineError(
                    f"{weights.path}: {stored} is {tuple(part.shape)}, and its config asks for {expected}"
                )
            parts.append(part.to(device, dtype))
        state[name] = torch.cat(parts) if len(parts) > 1 else parts[0]
    return state


def a_few(names: Iterable[str], most: int = 5) -> str:
    """Names for a message: the first few, and how many more there are."""
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def save(model: nn.Module, params: DataclassInstance, path: Path, **about: Any) -> None:
    """Write our own layout: `path` (.safetensors) and a JSON file beside it with `params` and `about`.

    Both are written under temporary names first, so that a full disk or a cancelled run costs nothing already there.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    text = json.dumps({"params": asdict(params), **about}, indent=2, ensure_ascii=False) + "\n"
    weights, described = path.with_suffix(".safetensors.tmp"), path.with_suffix(".json.tmp")
    save_file(tensors, weights)
    described.write_text(text, encoding="utf-8")
    os.replace(weights, path)
    os.replace(described, path.with_suffix(".json"))


def load(
    path: Path,
    kind: type[Params],
    build: Callable[[Params], Model],
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[Model, dict[str, Any]]:
    """Read what `save` wrote: the model that `build` makes of its params (of class `kind`), and the JSON beside it.

    Raises EngineError when a file is missing or broken, or weights and params do not belong together.
    """
    about = read_json(path.with_suffix(".json"))
    if not path.is_file():
        raise EngineError(f"{path} is missing, though {path.with_suffix('.json').name} is there")
    try:
        params = kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in about["params"].items()})
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"{path.with_suffix('.json')} does not describe {kind.__name__}: {error}") from error
    with torch.device("meta"):
        model = build(params)
    return fill(model, Weights(path), device=device, dtype=dtype), about


def fingerprint(folder: Path, *more: Path) -> str:
    """A sha256 that tells releases and fine-tunes apart without reading 41 GB: of every weights file under `folder`,
    and of the files `more`, the name, the size, and 16 pieces of 64 KiB spread evenly. It is no proof that they are
    whole.
    """
    pieces, length = 16, 2**16
    digest = hashlib.sha256()
    inside = [(file, file.relative_to(folder).as_posix()) for file in sorted(folder.rglob("*.safetensors"))]
    for file, name in [*inside, *((file, file.name) for file in more)]:
        size = file.stat().st_size
        digest.update(f"{name} {size}\n".encode())
        with file.open("rb") as content:
            for piece in range(pieces):
                content.seek(max(0, size - length) * piece // (pieces - 1))
                digest.update(content.read(length))
    return digest.hexdigest()
