"""A folder of full-canvas PNGs, bottom layer first by name, for every program that opens pictures.

`manifest.json` beside them makes it a project as well: edit a PNG, keep its size, and read the folder again.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from unfuse.errors import FormatError
from unfuse.formats import manifest
from unfuse.layers import LayerStack


def write(stack: LayerStack, path: Path, suffix: str = "") -> tuple[str, ...]:
    """Write the project as the folder `path`; one of ours that is there is replaced, whole or not at all.

    Raises FormatError where `path` is a file, or a folder with something in it that is not ours.
    """
    if path.exists() and not path.is_dir():
        raise FormatError(f"{path} is a file: choose another name, or a suffix for one of the file formats")
    if path.is_dir() and (other := _foreign(path)):
        raise FormatError(f"{path} is a folder with {other.name!r} in it, which unfuse did not write: choose another")
    target = Path(os.path.realpath(path))
    part, old = (target.with_name(f".{uuid.uuid4().hex}.part") for _ in range(2))
    try:
        part.mkdir()
        for name, data in manifest.pack(stack, "canvas"):
            file = part / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        if target.is_dir():
            target.rename(old)
        part.rename(target)
    except OSError as error:
        raise FormatError(f"{path} cannot be written ({error.strerror or error}): choose another place") from error
    finally:
        if old.is_dir() and not target.is_dir():
            old.rename(target)
        for folder in (part, old):
            shutil.rmtree(folder, ignore_errors=True)
    return ()


def read(path: Path, *, max_pixels: int) -> LayerStack:
    """Read the folder of a project back. Raises FormatError where it is not one; see `manifest.unpack`."""
    return manifest.unpack(lambda name, most: _file(path, name, most), what=str(path), max_pixels=max_pixels)


def _foreign(folder: Path) -> Path | None:
    """Something in the folder that no project of ours put there; None says that it may be replaced."""
    if not (folder / manifest.MANIFEST).is_file():
        return next(folder.iterdir(), None)
    try:
        known = manifest.members(manifest.parse(_file(folder, manifest.MANIFEST, 1 << 24), what=str(folder)))
    except FormatError:
        return folder / manifest.MANIFEST
    files = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return next((path for path in files if path.relative_to(folder).as_posix() not in known), None)


def _file(folder: Path, name: str, most: int) -> bytes:
    path = folder / name
    if not path.is_file():
        raise FormatError(f"{folder} lacks {name!r}, which it needs: give one as it was saved")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise FormatError(f"{name!r} in {folder} is a link that leaves the folder")
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise FormatError(f"{name!r} in {folder} is larger than the {most:,} bytes that fit there")
    return data
