"""LoRA files: low-rank changes of the transformer's weights, merged while these are read.

W' = W + strength * (alpha / rank) * up @ down (LoRA, arXiv 2106.09685). A LoRA names published modules, and weights are
read under their published names, so it meets every way of loading alike. Two spellings are known: peft's dotted names,
with lora_A, lora_B or lora_down, lora_up, behind one of several prefixes; and kohya's, where the dots are underscores.
alpha is a tensor beside them, or stands in the file's metadata as diffusers writes it, or else is the rank.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from unfuse.errors import EngineError
from unfuse.model.checkpoint import a_few

PREFIX = re.compile(r"^(base_model\.model\.)?(transformer\.|diffusion_model\.|lora_unet_)?")
LEAF = re.compile(r"(?P<module>.+)\.(?P<leaf>(lora_A|lora_B|lora_down|lora_up)(\.default)?\.weight|alpha)$")
DOWN, UP = ("lora_A", "lora_down"), ("lora_B", "lora_up")
EXAMPLES = "transformer_blocks.0.attn.to_q.lora_A.weight and lora_unet_transformer_blocks_0_attn_to_q.lora_down.weight"
UNKNOWN_METADATA = ("rank_pattern", "alpha_pattern", "use_dora", "use_rslora", "lora_bias")


class Change(NamedTuple):
    """One file's change of one weight `o i`: factor * up `o r` @ down `r i`."""

    down: Tensor
    up: Tensor
    factor: float


class LoRAs:
    """The changes of any number of files, each with its strength, by published tensor name."""

    def __init__(self, files: Sequence[tuple[Path, float]], tensors: Iterable[str]) -> None:
        """Read them. tensors: the published names; a file that changes anything else is an EngineError naming it."""
        self.changes: dict[str, list[Change]] = defaultdict(list)
        modules = [name.removesuffix(".weight") for name in tensors if name.endswith(".weight")]
        known = {spelling: module for module in modules for spelling in (module, module.replace(".", "_"))}
        for path, strength in files:
            for module, change in read(path, known).items():
                factor = strength * change.factor
                self.changes[f"{module}.weight"].append(change._replace(factor=factor))

    def check(self, name: str, shape: Sequence[int]) -> None:
        """Raise EngineError where a file changes a published tensor of this shape as one of another."""
        for down, up, _ in self.changes.get(name, ()):
            if tuple(shape) != (len(up), down.shape[-1]):
                raise EngineError(
                    f"a LoRA changes {name} as {len(up)} x {down.shape[-1]}, and it is {tuple(shape)}: it was made for "
                    "another model, take one that was made for Qwen-Image"
                )

    def merge(self, name: str, weight: Tensor) -> Tensor:
        """A published tensor with every change of it; computed in float32."""
        self.check(name, weight.shape)
        for down, up, factor in self.changes.get(name, ()):
            weight = weight.float() + factor * (up.float() @ down.float())
        return weight


def read(path: Path, known: dict[str, str]) -> dict[str, Change]:
    """The changes in a file by published module."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get("lora_adapter_metadata", "{}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise EngineError(f"{path} is no LoRA file, or is broken ({error})") from error
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    unknown = []
    for name, tensor in tensors.items():
        found = LEAF.match(PREFIX.sub("", name))
        if found is None or found["module"] not in known:
            unknown.append(name)
        else:
            parts[known[found["module"]]][found["leaf"].split(".")[0]] = tensor
    if unknown or not parts:
        raise EngineError(
            f"{path} has unknown keys {a_few(unknown) or '(it is empty)'}: no LoRA of the layered model. Known are "
            f"such as {EXAMPLES}; take one that was made for Qwen-Image, or merge others with the tool that made them"
        )
    try:
        described = json.loads(metadata)
        alpha = default_alpha(path, described)
    except (ValueError, AttributeError) as error:
        raise EngineError(
            f"{path}: its lora_adapter_metadata is no JSON object ({error}): download it again"
        ) from error
    return {module: change(path, module, leaves, alpha) for module, leaves in parts.items()}


def default_alpha(path: Path, metadata: dict[str, Any]) -> float | None:
    """lora_alpha as diffusers writes it into the metadata; None where it does not."""
    plain = {key.removeprefix("transformer."): value for key, value in metadata.items()}
    if asked := [key for key in UNKNOWN_METADATA if plain.get(key)]:
        raise EngineError(f"{path} uses {a_few(asked)}, which is not known here: merge it with peft first")
    return plain.get("lora_alpha")


def change(path: Path, module: str, leaves: dict[str, Tensor], alpha: float | None) -> Change:
    """One module's change out of its tensors."""
    down, up = (next((leaves[leaf] for leaf in names if leaf in leaves), None) for names in (DOWN, UP))
    if down is None or up is None or not down.ndim == up.ndim == 2 or len(down) != up.shape[1]:
        raise EngineError(
            f"{path}: {module} has no pair of matrices r x i and o x r: the file is not whole, download it again"
        )
    if not all(x.is_floating_point() and bool(x.float().isfinite().all()) for x in (down, up)):
        raise EngineError(f"{path}: {module} has whole numbers, or values that are no numbers: download it again")
    if "alpha" in leaves and leaves["alpha"].numel() != 1:
        raise EngineError(f"{path}: alpha of {module} is {tuple(leaves['alpha'].shape)}, and one number is wanted")
    rank = len(down)
    scale = float(leaves["alpha"]) if "alpha" in leaves else rank if alpha is None else alpha
    return Change(down, up, scale / rank)


def fingerprint(weights: str, files: Sequence[tuple[Path, float]]) -> str:
    """The sha256 of a checkpoint's fingerprint with LoRA files and their strengths."""
    digest = hashlib.sha256(weights.encode())
    for path, strength in files:
        digest.update(f"{strength!r} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest() if files else weights


def checked(loras: str | Path | Iterable[str | Path | tuple[str | Path, float]]) -> list[tuple[Path, float]]:
    """Files with their strengths, 1 where none is said; a file that is not there is an EngineError."""
    files = []
    listed = [loras] if isinstance(loras, str | Path) or not isinstance(loras, Iterable) else loras
    for entry in listed:
        path, strength = entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, 1.0)
        if not isinstance(path, str | Path) or not isinstance(strength, int | float) or not math.isfinite(strength):
            raise EngineError(
                f"LoRA {entry!r}: give a .safetensors file, or (file, strength) such as ('a.safetensors', 0.8)"
            )
        if not Path(path).expanduser().is_file():
            raise EngineError(f"LoRA {path} is not a file: give a .safetensors file, or (file, strength)")
        files.append((Path(path).expanduser(), float(strength)))
    return files
