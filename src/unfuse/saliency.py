"""What stands out in a picture: U^2-Net's small model (u2netp), a hint for SlotNet's condition.

It has seen photographs of people, animals and things, which the synthetic corpus has few of. Source: Qin et al.,
"U^2-Net: Going Deeper with Nested U-Structure for Salient Object Detection" (2020); weights by its authors, Apache-2.0,
trained on DUTS-TR (see NOTICE and docs/log.md for how the file in the package was made of theirs).
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

SIDE = 320  # of the square that the network looks at
MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # of ImageNet, sRGB-encoded
STD = np.array([0.229, 0.224, 0.225], np.float32)


def shipped(name: str) -> bytes:
    """A file of the package's weights."""
    return (files("unfuse") / "weights" / name).read_bytes()


def session(model: bytes, threads: int) -> Any:
    """A network in ONNX's form, ready to run on the CPU; it gives its memory back between pictures."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Saliency:
    """The network by onnxruntime. threads: 0 is as many as there are cores."""

    def __init__(self, threads: int = 0) -> None:
        self.session = session(shipped("saliency.onnx"), threads)

    def __call__(self, pictures: NDArray[np.float32], side: int = SIDE) -> NDArray[np.float32]:
        """`b h w 3` in 0..1 (sRGB-encoded) to `b h w` in 0..1. side: a multiple of 32, of the square looked at."""
        import cv2

        h, w = pictures.shape[1:3]
        how = cv2.INTER_AREA if min(h, w) > side else cv2.INTER_LINEAR
        squares = np.stack([cv2.resize(p, (side, side), interpolation=how) for p in pictures])
        brightest = squares.max((1, 2, 3), keepdims=True)
        looked = (squares / np.maximum(brightest, 1e-6) - MEAN) / STD
        (maps,) = self.session.run(["saliency"], {"picture": rearrange(looked, "b h w c -> b c h w")})
        return np.stack([cv2.resize(m[0], (w, h), interpolation=cv2.INTER_LINEAR) for m in maps]).clip(0, 1)
