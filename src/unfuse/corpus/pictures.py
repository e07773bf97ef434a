"""Folders of single RGBA pictures, for the VAE: files with alpha, or pictures with a matte each, as AIM-500 has them.

A matte lies in a folder `mask`, `masks`, `alpha` or `matte` beside the picture's folder, under the same name. The
colour is the picture's own: at soft edges some of what lay behind is in it. Each picture becomes a record of one layer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from unfuse import pixels
from unfuse.errors import FormatError
from unfuse.layers import Box, Kind, Layer, LayerStack

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp")
MATTES = ("mask", "masks", "alpha", "matte")
OTHERS = ("trimap", "trimaps", "usr")  # AIM-500 has them; they are no pictures


def files(root: Path) -> list[Path]:
    """All pictures below a folder, without mattes. Raises FormatError where there are none."""
    found = [
        path
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and not {part.lower() for part in path.relative_to(root).parts[:-1]} & _apart()
    ]
    if not found:
        raise FormatError(f"{root} holds no pictures: give a folder with {', '.join(SUFFIXES)} files in it")
    return found


def _apart() -> set[str]:
    return {*MATTES, *OTHERS}


def matte_of(path: Path) -> Path | None:
    """The matte of a picture, if it has one."""
    for folder in sorted(path.parent.parent.iterdir()) if path.parent.parent.is_dir() else ():
        if folder.is_dir() and folder.name.lower() in MATTES:
            for suffix in SUFFIXES:
                if (matte := folder / f"{path.stem}{suffix}").is_file():
                    return matte
    return None


def read(path: Path, row: int | None, limit_megapixels: float) -> tuple[LayerStack, dict[str, Any]]:
    """The picture as a stack of one layer, 8 bit. Raises FormatError where its matte has another size."""
    picture = pixels.read(path, limit_megapixels=limit_megapixels)
    levels = pixels.quantise(picture.pixels, 8)
    if matte := matte_of(path):
        mask = pixels.read(matte, limit_megapixels=limit_megapixels)
        if mask.size != picture.size:
            raise FormatError(f"{path} is {picture.size} and its matte {matte} {mask.size}: they must have one size")
        levels = np.dstack([levels[..., :3], pixels.quantise(mask.pixels[..., 0], 8)])
    box = Box(0, 0, *picture.size)
    kind: Kind = "background" if (levels[..., 3] == 255).all() else "object"
    return LayerStack(picture.size, (Layer(path.stem, kind, box, levels),)), {}
