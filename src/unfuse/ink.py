"""Ink: which pixels of a line of text are letters, and which are what they stand on. InkNet by onnxruntime.

Colours alone do not say it: letters stand on photographs, beside things of their own colour, and below other lines.
The network has seen lines drawn by the composer, in its fonts, on its designs (docs/training.md, the stage `ink`).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from unfuse.cells import sigmoid
from unfuse.saliency import session, shipped

HEIGHT = 64  # pixels of the patch that the network looks at
ROOM = 0.25  # of a line's height, above and below it and at its ends, that the patch shows as well
ENDS = 0.1  # of a line's height, beyond its ends, from where on what is written is another word
STRIDE = 8  # the patch's width is a multiple of it
LONGEST = 2560  # its width at most


@cache
def network() -> Any:
    """The network in the package, read once; one thread is enough for a line."""
    return session(shipped("ink.onnx"), 1)


def inks(patch: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How surely each pixel is of the letters in the middle of an upright line `h w 3` with `ROOM` around it.

    `2 h w` in 0..1: the letters themselves, and with the outline that they may have. sRGB-encoded.
    """
    import cv2

    h, w = patch.shape[:2]
    wide = min(max(STRIDE, round(w * HEIGHT / h / STRIDE) * STRIDE), LONGEST)
    how, back = (cv2.INTER_AREA, cv2.INTER_LINEAR) if h > HEIGHT else (cv2.INTER_LINEAR, cv2.INTER_AREA)
    small = cv2.resize(patch, (wide, HEIGHT), interpolation=how).astype(np.float32) / 127.5 - 1
    (logits,) = network().run(["ink"], {"patch": rearrange(small, "h w c -> 1 c h w")})
    found = np.stack([cv2.resize(plane, (w, h), interpolation=back) for plane in sigmoid(logits[0])])
    beyond = round((ROOM - ENDS) / (1 + 2 * ROOM) * h)
    found[:, :, :beyond] = found[:, :, w - beyond :] = 0
    return found
