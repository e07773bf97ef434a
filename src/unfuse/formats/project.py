"""The native project file: a `.zip` of cropped PNGs with `manifest.json`, read back without loss."""

from __future__ import annotations

import zipfile
from typing import BinaryIO

from unfuse.formats import archive, manifest
from unfuse.layers import LayerStack


def write(stack: LayerStack, file: BinaryIO, suffix: str) -> tuple[str, ...]:
    """Write the project as one zip."""
    with zipfile.ZipFile(file, "w") as target:
        for name, data in manifest.pack(stack, "cropped"):
            archive.add(target, name, data)
    return ()


def read(file: BinaryIO, *, what: str, max_pixels: int) -> LayerStack:
    """Read a project back. Raises FormatError for a zip that is broken, hostile or not ours; see `manifest.unpack`."""
    with archive.reading(file, what=what, max_pixels=max_pixels) as member:
        return manifest.unpack(member, what=what, max_pixels=max_pixels)
