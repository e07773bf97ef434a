"""A parts pack as the composer draws from it: which parts there are, decoded once and kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFont


@dataclass(frozen=True)
class Pack:
    """The parts that one split (train or valid) may use, by folder; see `parts.build`."""

    root: Path
    objects: tuple[str, ...]
    photos: tuple[str, ...]
    fonts: tuple[str, ...]
    wide_fonts: tuple[str, ...]
    matcaps: tuple[str, ...] = ()
    scenes: tuple[tuple[str, ...], ...] = ()  # the layers of each, bottom to top

    @staticmethod
    def open(root: Path, split: str) -> Pack:
        """The parts of a split, read from the pack's `pack.json`."""
        rows = [r for r in json.loads((root / "pack.json").read_text())["parts"] if r["split"] == split]
        kinds = ("object", "photo", "font", "cjk-font", "matcap", "scene")
        files = {kind: tuple(r["file"] for r in rows if r["kind"] == kind) for kind in kinds}
        scenes = tuple(tuple(group) for _, group in groupby(files["scene"], lambda file: file.rpartition("/")[0]))
        return Pack(root, files["object"], files["photo"], files["font"], files["cjk-font"], files["matcap"], scenes)

    def image(self, file: str) -> NDArray[np.uint8]:
        """An object or a photograph: `h w 4` uint8, straight alpha."""
        return decoded(self.root / file)

    def typeface(self, file: str, size: int) -> ImageFont.FreeTypeFont:
        """A font at `size` pixels."""
        return typeface(self.root / file, size)


@lru_cache(maxsize=6000)
def decoded(path: Path) -> NDArray[np.uint8]:
    """`h w 4` uint8 of a picture file, kept in memory: decoding takes longer than drawing."""
    return np.asarray(Image.open(path).convert("RGBA"))


@lru_cache(maxsize=3000)
def typeface(path: Path, size: int) -> ImageFont.FreeTypeFont:
    """A font file at `size` pixels, kept in memory."""
    return ImageFont.truetype(str(path), size)
