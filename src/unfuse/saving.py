"""Picture -> file: flat pictures by suffix, and files that are written whole or not at all."""

from __future__ import annotations

import os
import struct
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from unfuse.errors import PictureError
from unfuse.pixels import DPI, Levels, quantise, to_float, to_image, to_srgb

SAVE_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {  # suffix: Pillow's format and options
    ".png": ("PNG", {"compress_level": 4}),  # three times as fast as 6, for 3% more bytes
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True, "exact": True}),
    ".avif": ("AVIF", {"quality": 90, "subsampling": "4:4:4"}),
    ".tif": ("TIFF", {}),  # by our own `tiff`
    ".tiff": ("TIFF", {}),
    ".bmp": ("BMP", {}),
}


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` only when the block ends well; else `path` stays as it was."""
    target = Path(os.path.realpath(path))
    if os.path.exists(target) and not target.is_file() and not target.is_dir():
        with open(target, "wb") as file:  # /dev/null and pipes are written to, not replaced
            yield file
        return
    part = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with open(part, "xb") as file:
            yield file
        os.replace(part, target)
    except OSError as error:
        raise PictureError(
            f"{os.fspath(path)} cannot be written ({error.strerror or error}): choose another place"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def write_flat(
    target: str | os.PathLike[str] | BinaryIO,
    pixels: Levels,
    *,
    icc: bytes | None = None,
    dpi: float = DPI,
    suffix: str | None = None,
) -> None:
    """Write `h w 4` uint8 or uint16, straight alpha, as a flat picture; a path is written whole or not at all.

    The format goes by `suffix`, or the path's own: .png and .tiff (exact, 8 or 16 bit), .webp (exact, 8 bit), .jpg and
    .avif (lossy, 8 bit, quality 95 and 90), .bmp. JPEG and BMP have no alpha: there the picture is laid over white. 16
    bit is rounded where the format has 8. Profile and dpi are written where the format has a place for them; BMP has
    none for a profile, so its pixels are converted to sRGB. Raises PictureError.
    """
    suffix = (Path(target).suffix if suffix is None and isinstance(target, str | os.PathLike) else suffix or "").lower()
    if suffix not in SAVE_OPTIONS:
        raise PictureError(f"a flat picture cannot be saved as {suffix!r}: use one of {', '.join(SAVE_OPTIONS)}")
    if pixels.ndim != 3 or pixels.shape[2] != 4 or pixels.dtype not in (np.uint8, np.uint16):
        raise PictureError(f"cannot save {pixels.dtype} of shape {pixels.shape}: give h w 4, uint8 or uint16")
    try:
        data = _encode(pixels, icc, dpi, suffix)
    except Exception as error:  # each of Pillow's writers fails in its own way
        size = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise PictureError(f"{size} pixels cannot be saved as {suffix} ({error}): use .png") from error
    if isinstance(target, str | os.PathLike):
        with replacing(target) as file:
            file.write(data)
    else:
        target.write(data)


def _encode(pixels: Levels, icc: bytes | None, dpi: float, suffix: str) -> bytes:
    format_, options = SAVE_OPTIONS[suffix]
    opaque = bool((pixels[..., 3] == np.iinfo(pixels.dtype).max).all())
    if format_ == "TIFF":
        return tiff(pixels, icc, dpi)
    if pixels.dtype == np.uint16 and format_ == "PNG":
        return _png16(pixels[..., :3] if opaque else pixels, icc, dpi)
    if format_ in ("JPEG", "BMP") and not opaque:
        x = to_float(pixels)
        x[..., :3] = x[..., :3] * x[..., 3:] + (1 - x[..., 3:])
        pixels, opaque = quantise(x, 8), True
    image = to_image(pixels)
    if opaque:
        image = image.convert("RGB")
    if icc and format_ == "BMP":
        image = to_srgb(image, icc)
    file = BytesIO()
    image.save(file, format_, dpi=(dpi, dpi), icc_profile=icc, **options)
    return file.getvalue()


def _png16(pixels: NDArray[Any], icc: bytes | None, dpi: float) -> bytes:
    """`h w 3|4` uint16 as PNG (W3C, third edition); each row is its difference from the one above, filter 2."""
    from PIL.PngImagePlugin import putchunk

    height, width, channels = pixels.shape
    rows = np.frombuffer(pixels.astype(">u2").tobytes(), np.uint8).reshape(height, -1)
    filtered = np.full((height, 1 + rows.shape[1]), 2, np.uint8)
    filtered[:, 1:] = rows
    filtered[1:, 1:] -= rows[:-1]
    file = BytesIO(b"\x89PNG\r\n\x1a\n")
    file.seek(8)
    putchunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2 if channels == 3 else 6, 0, 0, 0))
    if icc:
        putchunk(file, b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc))
    putchunk(file, b"pHYs", struct.pack(">IIB", round(dpi / 0.0254), round(dpi / 0.0254), 1))  # pixels a metre
    putchunk(file, b"IDAT", zlib.compress(filtered.tobytes(), 4))
    putchunk(file, b"IEND")
    return file.getvalue()


def tiff(pixels: Levels, icc: bytes | None, dpi: float, private: dict[int, bytes | str] | None = None) -> bytes:
    """`h w 4` uint8 or uint16 as TIFF 6.0: one deflated strip of big-endian pixels, alpha unassociated, left out where
    all is opaque. `private` are further tags, bytes or ASCII by number.
    """
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    opaque = bool((pixels[..., 3] == np.iinfo(pixels.dtype).max).all())
    shown: NDArray[Any] = pixels[..., :3] if opaque else pixels
    height, width, channels = shown.shape
    strip = zlib.compress(shown.astype(shown.dtype.newbyteorder(">")).tobytes(), 4)
    tags = ImageFileDirectory_v2(ifh=b"MM\0\x2a\0\0\0\0")
    tags[256], tags[257], tags[277], tags[258] = width, height, channels, (8 * pixels.itemsize,) * channels
    tags[259], tags[262], tags[284] = 8, 2, 1  # deflate, RGB, interleaved
    tags[273], tags[278], tags[279] = 0, height, len(strip)  # Pillow counts the strip from behind the directory
    tags[282], tags[283], tags[296] = dpi, dpi, 2  # inches
    if channels == 4:
        tags[338] = 2
    for number, value in ((private or {}) | ({34675: icc} if icc else {})).items():
        tags.tagtype[number] = 2 if isinstance(value, str) else 7
        tags[number] = value
    file = BytesIO()
    tags.save(file)
    return file.getvalue() + strip
