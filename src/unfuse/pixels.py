"""File or bytes -> picture: everything about how pixels are stored, so that nothing else has to know it.

The way back is `saving`.

Read: PNG, JPEG, WebP, AVIF, TIFF, BMP and GIF (the first frame or page), 8 or 16 bit, grey, palette or CMYK, become
`h w 4` float32 in 0..1 with straight alpha, upright (EXIF 2.3, tag Orientation). Values stay in the picture's own
encoding: an RGB profile (ICC.1) is kept to be written back, and nothing is converted through it. CMYK with a CMYK
profile and grey with a grey profile are converted to sRGB, relative colorimetric with black point compensation, 8 bit;
CMYK without a profile becomes `(255 - ink) (255 - black) / 255`. A profile that does not fit its pixels is dropped.
PNG's gAMA, cHRM and cICP are not looked at.

There is one rounding rule, half up: `quantise`. Its inverse is `to_float`.
"""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import numpy as np
from einops import rearrange, repeat
from numpy.typing import NDArray

from unfuse.errors import PictureError

if TYPE_CHECKING:
    from PIL import Image

Source: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[Any] | Picture"
Levels: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]

READABLE = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "I;16", "I;16L", "I;16B")
DPI = 72.0  # of a picture that does not say

# EXIF orientation: is the stored picture transposed, and then the step down and across that puts it upright.
UPRIGHT = {1: (False, 1, 1), 2: (False, 1, -1), 3: (False, -1, -1), 4: (False, -1, 1)}
UPRIGHT |= {5: (True, 1, 1), 6: (True, 1, -1), 7: (True, -1, -1), 8: (True, -1, 1)}

_turn = threading.Lock()


@dataclass(frozen=True, eq=False)
class Picture:
    """The flat input.

    pixels: `h w 4` float32 in 0..1, straight alpha, in the picture's own encoding (sRGB unless `icc` says otherwise).
    depth: bits a channel of the source; `pixels * (2**depth - 1)` are whole numbers to within float32 rounding.
    icc: the RGB profile to write back, or None. dpi: pixels an inch, 72 where the source does not say.
    sha256: of the source's bytes; for an array or a PIL image, of its pixels as `h w 4` whole numbers.
    """

    pixels: NDArray[np.float32]
    depth: Literal[8, 16]
    icc: bytes | None
    dpi: float
    sha256: str

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]


@overload
def quantise(x: NDArray[np.floating[Any]], depth: Literal[8]) -> NDArray[np.uint8]: ...
@overload
def quantise(x: NDArray[np.floating[Any]], depth: Literal[16]) -> NDArray[np.uint16]: ...
@overload
def quantise(x: NDArray[np.floating[Any]], depth: Literal[8, 16]) -> Levels: ...
def quantise(x: NDArray[np.floating[Any]], depth: Literal[8, 16]) -> Levels:
    """0..1 to whole numbers of 8 or 16 bit, any shape: half up, what lies outside is clipped.

    NaN is a PictureError and not a black pixel: whoever made it has a mistake that must not be saved.
    """
    top = 2**depth - 1
    y = x * x.dtype.type(top)
    y += 0.5
    if y.size and np.isnan(y.max()):
        raise PictureError(f"{np.isnan(y).sum()} of {y.size} values are NaN: pixels must be numbers in 0..1")
    np.clip(y, 0, top, out=y)
    return y.astype(np.uint8) if depth == 8 else y.astype(np.uint16)


def to_float(levels: Levels) -> NDArray[np.float32]:
    """Whole numbers, uint8 or uint16, any shape, to float32 in 0..1; `quantise` gives them back exactly."""
    return np.divide(levels, np.float32(np.iinfo(levels.dtype).max), dtype=np.float32)


def to_image(pixels: Levels | NDArray[np.float32]) -> Image.Image:
    """`h w 4` uint8, uint16 or float32 in 0..1, straight alpha, as a PIL RGBA image of 8 bit (rounded half up)."""
    from PIL import Image

    return Image.fromarray(_eight(pixels))


def _eight(pixels: Levels | NDArray[np.float32]) -> NDArray[np.uint8]:
    """uint8, uint16 or float32 in 0..1 to uint8, half up."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    return quantise(pixels.astype(np.float32) / (65535 if pixels.dtype == np.uint16 else 1), 8)


def resize(pixels: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """`h w 4` float32 in 0..1, straight alpha, to `size` (width, height); always a new array.

    On premultiplied values, so that hidden colour never bleeds into edges: axes that shrink by area, then axes that
    grow by cubic convolution, clipped to 0..1. Opaque stays exactly opaque; where alpha is 0, colour is 0.
    """
    import cv2

    height, width = pixels.shape[:2]
    if size == (width, height):
        return pixels.copy()
    alpha = pixels[..., 3:]
    opaque = bool(alpha.min() == 1)
    x = pixels[..., :3].copy() if opaque else np.concatenate((pixels[..., :3] * alpha, alpha), axis=-1)
    smaller = (min(width, size[0]), min(height, size[1]))
    if smaller != (width, height):
        x = cv2.resize(x, smaller, interpolation=cv2.INTER_AREA).astype(np.float32, copy=False)
    if smaller != size:
        x = cv2.resize(x, size, interpolation=cv2.INTER_CUBIC).astype(np.float32, copy=False)
    alpha = np.ones((*x.shape[:2], 1), np.float32) if opaque else np.clip(x[..., 3:], 0, 1)
    colour = np.zeros((*x.shape[:2], 3), np.float32)
    np.divide(np.clip(x[..., :3], 0, alpha), alpha, out=colour, where=alpha > 1e-6)  # below: rounding, not colour
    return np.concatenate((colour, alpha), axis=-1)


def read(source: Source, *, limit_megapixels: float = 200) -> Picture:
    """Read a picture: a path, the bytes of a file, a PIL image, or an array, a tensor of torch too; one that was read
    already is as it is.

    An array is `h w`, `h w 3` or `h w 4` (straight alpha), uint8, uint16, or float32/float64 in 0..1, which is rounded
    to 16 bit. Raises PictureError, one line, for what is not there, not a picture, broken, cut short, or larger than
    `limit_megapixels`, which is looked up in the file's header before anything is decoded.
    """
    if type(source).__module__ == "torch":
        tensor: Any = source
        source = (tensor.float() if tensor.is_floating_point() else tensor).detach().cpu().numpy()
    if isinstance(source, Picture):
        return source
    if isinstance(source, np.ndarray):
        return _picture(_array_levels(source, limit_megapixels), None, DPI, None)
    from PIL import Image

    if isinstance(source, Image.Image):
        with _quiet():
            return _decode(source, b"", "the PIL image", limit_megapixels)
    data, name = _load(source)
    with _quiet():
        return _decode(_open(data, name), data, name, limit_megapixels)


def measure(data: bytes, name: str) -> tuple[int, int]:
    """(width, height) of the picture in `data`, from its header alone. Raises PictureError where it is none."""
    with _quiet():
        return _open(data, name).size


def _load(source: str | os.PathLike[str] | bytes) -> tuple[bytes, str]:
    """The bytes, and what messages call them."""
    if isinstance(source, bytes):
        return source, "the picture"
    if not isinstance(source, str | os.PathLike):
        raise PictureError(f"{type(source).__name__} is no picture: give a path, bytes, a PIL image or an array")
    name = os.fspath(source)
    try:
        return Path(source).read_bytes(), name
    except FileNotFoundError:
        raise PictureError(f"{name}: there is no such file; check the path") from None
    except IsADirectoryError:
        raise PictureError(f"{name} is a folder: give a picture file in it") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise PictureError(f"{name!r} cannot be opened ({error}): check the path and its permissions") from error


def _open(data: bytes, name: str) -> Image.Image:
    """The picture's header. Nothing is decoded yet."""
    from PIL import Image

    if not data:
        raise PictureError(f"{name} is empty (0 bytes): save or download it again")
    try:
        image = Image.open(BytesIO(data), formats=READABLE)
    except Exception as error:  # each of Pillow's readers fails in its own way
        raise PictureError(
            f"{name} is not a picture that can be read (it begins with {data[:8]!r}): "
            f"give one of {', '.join(READABLE)}, 8 or 16 bit, or save it again as PNG"
        ) from error
    key = image.info.get("transparency")
    if image.format == "PNG" and image.mode in ("1", "L") and isinstance(key, int) and key < 2 ** data[24] < 256:
        # Pillow spreads 1, 2 and 4 bit grey over 0..255 but leaves the transparent level as stored
        image.info["transparency"] = key * 255 // (2 ** data[24] - 1)
    return image


def _decode(image: Image.Image, data: bytes, name: str, limit: float) -> Picture:
    _check_size(image.size, name, limit)
    try:
        image.load()
        if image.mode not in MODES:
            raise PictureError(f"has pixels of kind {image.mode}: save it as RGB, grey or CMYK, 8 or 16 bits a channel")
        levels, icc = _levels(image, data)
        return _picture(_upright(levels, image), icc, _dpi(image), data or None)
    except PictureError as error:
        raise PictureError(f"{name} {error}") from None
    except MemoryError as error:
        raise PictureError(f"{name} ({image.width} x {image.height}) does not fit into memory: shrink it") from error
    except Exception as error:  # each of Pillow's decoders fails in its own way
        raise PictureError(f"{name} is broken or cut short ({error}): save or download it again") from error


def _levels(image: Image.Image, data: bytes) -> tuple[Levels, bytes | None]:
    """`h w 4` uint8 or uint16, not yet upright, and the RGB profile if there is one."""
    profile: bytes = image.info.get("icc_profile") or b""
    space = profile[16:20] if profile[36:40] == b"acsp" else b""
    if image.mode == "CMYK":
        rgb = to_srgb(image, profile) if space == b"CMYK" else image.convert("RGB")
        return np.array(rgb.convert("RGBA")), None
    sixteen = _sixteen(image, data)
    levels = np.array(image.convert("RGBA")) if sixteen is None else sixteen
    if space == b"GRAY" and (levels[..., :2] == levels[..., 1:3]).all():
        grey = to_image(levels)
        grey_as_rgb = to_srgb(grey.getchannel("R"), profile)
        return np.dstack((np.array(grey_as_rgb), np.array(grey.getchannel("A")))), None
    return levels, profile if space == b"RGB " else None


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """RGB, CMYK or L to sRGB. A profile that LittleCMS cannot use counts as none."""
    from PIL import ImageCms

    try:
        intent, black = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, BytesIO(profile), srgb, intent, "RGB", flags=black)
    except ImageCms.PyCMSError:
        return image.convert("RGB")
    assert converted is not None  # None only when it works in place
    return converted


def _sixteen(image: Image.Image, data: bytes) -> NDArray[np.uint16] | None:
    """The pixels of a 16-bit picture, `h w 4`, or None when it has 8 bits.

    Pillow keeps 16 bits only of grey. Colour comes from OpenCV, and must agree with Pillow in the upper byte: OpenCV
    takes some TIFFs for what they are not, and says nothing.
    """
    from PIL.TiffImagePlugin import TiffImageFile

    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    if image.mode.startswith("I;16"):
        if tags.get(258, (16,)) != (16,):
            raise PictureError(f"has {tags[258][0]} bits a pixel: save it with 8 or 16 bits")
        grey = np.array(image).astype(np.uint16)
        if tags.get(262) == 0:  # white is zero
            grey = np.invert(grey)
        transparent = grey == image.info.get("transparency", -1)
        return np.dstack((grey, grey, grey, np.where(transparent, 0, 65535).astype(np.uint16)))
    bits = data[24:25] if image.format == "PNG" else tags.get(258, ())
    if image.mode not in ("RGB", "RGBA") or 16 not in bits or not data:
        return None
    if tags.get(284) == 2:
        raise PictureError("is a 16-bit TIFF with separate planes: save it interleaved, or as PNG")
    deep = _opencv(data)
    eight = np.array(image)
    if image.mode == "RGB" and "transparency" not in image.info:  # TIFF: a fourth channel that is not alpha
        deep[..., 3] = 65535
    if tags.get(338) == (1,):
        return _straight(deep)
    if np.abs((deep[..., :3] >> 8).astype(np.int16) - eight[..., :3]).max() > 1:
        raise PictureError("has 16-bit pixels of an unusual kind: save it as an ordinary 16-bit PNG")
    return deep


def _opencv(data: bytes) -> NDArray[np.uint16]:
    """Decode 16-bit colour to `h w 4` with OpenCV."""
    import cv2

    # setLogLevel moved in OpenCV 5. It warns on standard error about every private tag that Photoshop writes.
    set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
    before = set_log_level(0)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    finally:
        set_log_level(before)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        raise ValueError("the 16-bit pixels cannot be decoded")
    order = cv2.COLOR_BGR2RGBA if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    levels: NDArray[np.uint16] = cv2.cvtColor(pixels, order).astype(np.uint16)
    return levels


def _straight(levels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Premultiplied `h w 4` to straight alpha, in whole numbers, half up."""
    colour, alpha = levels[..., :3].astype(np.uint64), levels[..., 3:].astype(np.uint64)
    colour = np.minimum((colour * 65535 + alpha // 2) // np.maximum(alpha, 1), 65535)
    return np.concatenate((colour, alpha), axis=-1).astype(np.uint16)


def _array_levels(array: NDArray[Any], limit: float) -> NDArray[Any]:
    if array.ndim == 2:
        array = repeat(array, "h w -> h w 3")
    if array.ndim != 3 or array.shape[2] not in (3, 4):
        raise PictureError(f"the array has shape {array.shape}: give h w, h w 3 or h w 4 (channels last)")
    _check_size((array.shape[1], array.shape[0]), "the array", limit)
    kind = f"{array.dtype.kind}{array.dtype.itemsize}"
    if kind not in ("u1", "u2", "f4", "f8"):
        raise PictureError(f"the array is {array.dtype}: give uint8, uint16, or float32 in 0..1")
    if kind[0] == "f":
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 1):  # NaN fails too
            raise PictureError(f"the array goes from {low:g} to {high:g}: floats must lie in 0..1 and not be NaN")
        array = quantise(array, 16)
    array = array.astype(f"u{array.dtype.itemsize}", copy=False)  # the machine's own byte order
    if array.shape[2] == 4:
        return array
    return np.dstack((array, np.full(array.shape[:2], np.iinfo(array.dtype).max, array.dtype)))


def _picture(levels: Levels, icc: bytes | None, dpi: float, data: bytes | None) -> Picture:
    solid: NDArray[Any] = np.ascontiguousarray(levels)
    sha256 = hashlib.sha256(solid.data if data is None else data).hexdigest()
    return Picture(to_float(solid), 8 if solid.dtype == np.uint8 else 16, icc, dpi, sha256)


def _check_size(size: tuple[int, int], name: str, limit: float) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise PictureError(f"{name} is {width} x {height} pixels: give one with at least 1 x 1")
    if width * height > limit * 1e6:
        raise PictureError(
            f"{name} is {width} x {height} = {width * height / 1e6:.6g} megapixels, more than the limit of {limit:g}: "
            "make it smaller or raise limit_megapixels"
        )


def _upright(levels: Levels, image: Image.Image) -> Levels:
    """Apply the EXIF orientation. TIFF has none left by now: Pillow and OpenCV both apply it while they decode."""
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # broken metadata is no reason to refuse a picture
        return levels
    transposed, down, across = UPRIGHT.get(orientation, UPRIGHT[1])
    return (rearrange(levels, "h w c -> w h c") if transposed else levels)[::down, ::across]


def _dpi(image: Image.Image) -> float:
    try:
        dpi = float(image.info["dpi"][0])
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError):
        return DPI
    if not 1 <= dpi <= 1e5:
        return DPI
    whole = round(dpi)  # PNG counts pixels a metre, so that 72 comes back as 72.009
    return float(whole) if abs(dpi - whole) < 0.0128 else dpi


@contextmanager
def _quiet() -> Iterator[None]:
    """Pillow without its warnings, and with our limit in place of its own.

    Both belong to the whole process, hence the lock: threads take turns at decoding.
    """
    from PIL import Image

    with _turn, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
