"""Designs with true layers, and folders of predictions for them.

DESIGNS/<id>/image.png    the flat picture
DESIGNS/<id>/00.webp ...  the true layers bottom to top, full canvas, straight alpha (.webp lossless, or .png)
DESIGNS/<id>/meta.json    "template" says of which kind a design is; a folder without this file is no design
PREDICTIONS/<id>/0.png ...  predicted layers in the same way, and perhaps seconds.txt: how long it took
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unfuse.errors import FormatError
from unfuse.evaluate.metric import Rgba

SUFFIXES = (".png", ".webp")
LAYOUT = "a folder of folders, each with image.png, layers 00.webp, 01.webp, ... and meta.json"


@dataclass(frozen=True)
class Design:
    """A folder of the layout above."""

    folder: Path
    template: str

    @property
    def id(self) -> str:
        return self.folder.name

    def picture(self) -> NDArray[np.uint8]:
        """`h w 3`."""
        return np.array(_open(self.folder / "image.png").convert("RGB"))

    def layers(self) -> list[Rgba]:
        """The true layers. Raises FormatError where there are none, or one has another size than the picture."""
        stack = read_layers(self.folder)
        size = _open(self.folder / "image.png").size
        if not stack or any(x.shape[1::-1] != size for x in stack):
            found = [x.shape[1::-1] for x in stack]
            raise FormatError(f"{self.folder}: its layers have the sizes {found}: each must have {size}, as image.png")
        return stack


def read_designs(folder: Path) -> list[Design]:
    """All designs in a folder, by name. Raises FormatError where there are none, or one lacks its picture."""
    if not folder.is_dir():
        raise FormatError(f"{folder}: there is no such folder; designs are {LAYOUT}")
    metas = sorted(folder.glob("*/meta.json"))
    if not metas:
        raise FormatError(f"{folder} holds no designs: they are {LAYOUT}")
    if bare := [meta.parent for meta in metas if not (meta.parent / "image.png").is_file()]:
        raise FormatError(f"{bare[0]} lacks image.png: designs are {LAYOUT}")
    return [Design(meta.parent, _template(meta)) for meta in metas]


def read_layers(folder: Path) -> list[Rgba]:
    """The layers in a folder, bottom to top by number; none where there is no such folder."""
    files = [f for f in folder.glob("*") if f.stem.isdecimal() and f.suffix in SUFFIXES]
    return [np.array(_open(f).convert("RGBA")) for f in sorted(files, key=lambda f: int(f.stem))]


def read_seconds(folder: Path) -> float | None:
    """What seconds.txt says, if it is there."""
    file = folder / "seconds.txt"
    try:
        return float(file.read_text().split()[0]) if file.is_file() else None
    except (ValueError, IndexError) as error:
        raise FormatError(f"{file} must begin with a number of seconds") from error


def brought_to(rgba: Rgba, size: tuple[int, int]) -> Rgba:
    """A layer at another (width, height), averaged by area on premultiplied values; 8 bit, half up.

    Colour under alpha 0 becomes 0, also where the size stays: nobody sees it, and it must not count.
    """
    premultiplied = rgba.astype(np.float32)
    premultiplied[..., :3] *= premultiplied[..., 3:] / 255
    if size != rgba.shape[1::-1]:
        shrinks = size[0] <= rgba.shape[1]
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        premultiplied = np.asarray(cv2.resize(premultiplied, size, interpolation=how), np.float32)
    alpha = np.floor(premultiplied[..., 3:] + 0.5)
    colour = np.where(alpha > 0, premultiplied[..., :3] * 255 / np.maximum(premultiplied[..., 3:], 1e-6), 0)
    levels = np.concatenate([np.floor(colour + 0.5), alpha], -1)
    return np.asarray(np.clip(levels, 0, 255), np.uint8)


def fitted(stack: Sequence[Rgba], size: tuple[int, int]) -> list[Rgba]:
    """Layers at a (width, height); those that have it stay as they are, to the bit."""
    return [layer if layer.shape[1::-1] == size else brought_to(layer, size) for layer in stack]


def shrunk(size: tuple[int, int], short: int) -> tuple[int, int]:
    """A (width, height) with its short side brought to `short`; never enlarged."""
    scale = min(1.0, short / min(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _open(file: Path) -> Image.Image:
    try:
        image = Image.open(file)
        image.load()
    except OSError as error:
        raise FormatError(f"{file} cannot be read ({error}): it must be a PNG or WebP picture") from error
    return image


def _template(meta: Path) -> str:
    try:
        about = json.loads(meta.read_text(encoding="utf-8"))
        return str(about["template"])
    except (OSError, ValueError) as error:
        raise FormatError(f"{meta} cannot be read as JSON ({error})") from error
    except (KeyError, TypeError):
        return ""
