"""The flat picture that a layered file stores beside its layers: what the program that wrote it saw.

Only Photoshop and OpenRaster files have one that another program rendered; it tells what a reader of layers cannot know
(effects, adjustments, text that is set anew). `difference` says how far our layers are from it.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from unfuse import pixels
from unfuse.errors import FormatError
from unfuse.formats.manifest import LAYERS_TO_CANVAS
from unfuse.pixels import Levels

OPENRASTER = "mergedimage.png"  # OpenRaster 0.0.5, section "File Layout"


def stored(path: Path, max_pixels: int) -> Levels | None:
    """The stored picture, `h w 3` over white or `h w 4` with straight alpha; None where the file has none.

    Raises FormatError where it is broken or larger than `max_pixels`, which is looked up before anything is decoded.
    """
    suffix = path.suffix.lower()
    if suffix not in (".psd", ".psb", ".ora"):
        return None
    try:
        with path.open("rb") as file:
            return _photoshop(file, path, max_pixels) if suffix != ".ora" else _openraster(file, max_pixels)
    except FormatError:
        raise
    except Exception as error:  # psd-tools and zipfile fail in their own way at each place where a file may be broken
        why = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise FormatError(f"{path}: its stored picture cannot be read ({why}): save it again") from error


def _photoshop(file: BinaryIO, path: Path, max_pixels: int) -> Levels | None:
    """The last section of the file; layers are skipped (Adobe Photoshop File Formats Specification, 2019)."""
    from psd_tools.constants import Resource
    from psd_tools.psd.header import FileHeader
    from psd_tools.psd.image_data import ImageData
    from psd_tools.psd.image_resources import ImageResources

    header = FileHeader.read(file)
    area = header.width * header.height
    if area > max_pixels or area * header.channels > 4 * LAYERS_TO_CANVAS * max_pixels:  # all channels are decoded
        raise FormatError(
            f"{path} is {header.width}x{header.height} pixels in {header.channels} channels, the limit is "
            f"{max_pixels:,}"
        )
    file.seek(struct.unpack(">I", file.read(4))[0], 1)  # colour mode data
    version: Any = ImageResources.read(file).get_data(Resource.VERSION_INFO)
    if version is not None and not version.has_composite:
        return None  # saved without "maximise compatibility": what stands there is blank
    form = ">I" if header.version == 1 else ">Q"
    file.seek(struct.unpack(form, file.read(struct.calcsize(form)))[0], 1)  # layers and masks
    planes: Any = ImageData.read(file).get_data(header)
    kind = np.dtype(np.uint8 if header.depth == 8 else ">u2")
    shape = header.height, header.width
    levels = np.dstack([np.frombuffer(plane, kind).reshape(shape) for plane in planes[:3]])
    return levels.astype(np.uint8) if header.depth == 8 else levels.astype(np.uint16)


def _openraster(file: BinaryIO, max_pixels: int) -> Levels | None:
    with zipfile.ZipFile(file) as archive:
        if OPENRASTER not in archive.namelist():
            return None
        with archive.open(OPENRASTER) as opened:
            data = opened.read(8 * max_pixels + (1 << 20))
    picture = pixels.read(data, limit_megapixels=max_pixels / 1e6)
    return pixels.quantise(picture.pixels, picture.depth)


def difference(flat: NDArray[np.uint8], picture: Levels) -> float:
    """Mean absolute difference in 8-bit levels of two pictures laid over white; 255 where their sizes differ.

    flat: `h w 4`, straight alpha. picture: what `stored` gives; Photoshop's lies over white already.
    """
    if flat.shape[:2] != picture.shape[:2]:
        return 255.0
    return float(np.abs(_white(flat) - _white(picture)).mean())


def _white(levels: Levels) -> NDArray[np.float32]:
    x = levels.astype(np.float32) * np.float32(255 / np.iinfo(levels.dtype).max)
    if x.shape[-1] == 3:
        return x
    alpha = x[..., 3:] / 255
    return np.asarray(x[..., :3] * alpha + 255 * (1 - alpha), np.float32)
