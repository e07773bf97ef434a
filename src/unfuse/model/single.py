"""A transformer in one file instead of the published folder: safetensors as other tools store it, or GGUF.

Names may stand behind a prefix. Weights may be float8, with a scale beside them or without, or quantised as GGUF has
it; all of them are read as the numbers that they stand for, so that what comes after (LoRA, placements) knows no
difference. The config still comes from the folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfuse.errors import EngineError, require
from unfuse.model.checkpoint import Weights

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.")
SCALES = ("scale_weight", "weight_scale")  # of float8: what the stored weight is multiplied with
BESIDE = ("scaled_fp8", "scale_input", "input_scale", "comfy_quant")  # hints for other programs


class Single:
    """The tensors of one file, by published names; read as `Weights` reads, float8 and GGUF as the numbers they mean.

    Raises EngineError when it is no such file, or is broken.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.suffix not in (".safetensors", ".gguf"):
            raise EngineError(f"{path}: a transformer in one file is .safetensors or .gguf")
        self.stored = gguf_tensors(path) if path.suffix == ".gguf" else Weights(path, without=BESIDE).files
        spelled = {without_prefix(name): name for name in self.stored}
        self.scales = {n: s for n, s in spelled.items() if n.rpartition(".")[2] in SCALES}
        self.files = {name: spelling for name, spelling in spelled.items() if name not in self.scales}

    def read(self, name: str) -> Tensor:
        """A tensor under its published name, float32 where it was quantised."""
        held = self.stored[self.files[name]]
        if self.path.suffix == ".gguf":
            return dequantised(held)
        tensor: Tensor = held.get_tensor(self.files[name])
        if tensor.dtype not in (torch.float8_e4m3fn, torch.float8_e5m2):
            return tensor
        module = name.rpartition(".")[0]
        scales = [self.scales[key] for key in (f"{module}.{s}" for s in SCALES) if key in self.scales]
        if not scales:
            return tensor.float()
        scale: Tensor = self.stored[scales[0]].get_tensor(scales[0]).float()
        per_row = scale.numel() > 1 and scale.numel() == len(tensor)
        if scale.numel() != 1 and not per_row:
            raise EngineError(
                f"{self.path}: {scales[0]} is {tuple(scale.shape)}, and a scale is one number, or one for each of the "
                f"{len(tensor)} rows of {self.files[name]}: take a file that was scaled so, or the published weights"
            )
        return tensor.float() * (scale.reshape(-1, 1) if per_row else scale.reshape(()))


def without_prefix(name: str) -> str:
    """A tensor's name behind the prefix that other tools put before it."""
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def gguf_tensors(path: Path) -> dict[str, Any]:
    """The tensors of a GGUF file by name, mapped from disk."""
    reader = require("gguf", "gguf", "reading GGUF files").GGUFReader
    try:
        return {tensor.name: tensor for tensor in reader(path).tensors}
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise EngineError(f"{path} is broken ({error}): download it again") from error


def dequantised(held: Any) -> Tensor:
    """What a GGUF tensor stands for, float32, in torch's order of axes (GGUF's is reversed)."""
    from gguf.quants import dequantize

    shape = [int(side) for side in reversed(held.shape)]
    return torch.from_numpy(np.require(dequantize(held.data, held.tensor_type), requirements="W")).reshape(shape)
