"""TIFF with layers: what Photoshop writes, and files of many pages.

The picture itself is the whole, for every program; Photoshop's layers lie beside it in tag ImageSourceData (Adobe
Photoshop TIFF Technical Note 3) as the records of a PSD, in the TIFF's byte order. Ours is big-endian, so that they are
those of `psd` to the byte. A stack of one plain layer is a flat TIFF.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO

from psd_tools.compression import PSDDecompressionWarning
from psd_tools.constants import ColorMode
from psd_tools.psd.header import FileHeader
from psd_tools.psd.layer_and_mask import LayerInfoBlock

from unfuse.composite import flatten
from unfuse.errors import FormatError, PictureError
from unfuse.formats.byte_order import big_endian
from unfuse.formats.foreign import at_one_depth, check_canvas, with_background
from unfuse.formats.live import Text, check
from unfuse.formats.manifest import LAYERS_TO_CANVAS, short
from unfuse.formats.names import clean
from unfuse.formats.psd import layer_info, records
from unfuse.formats.psd_reader import Reader
from unfuse.layers import Box, Layer, LayerStack
from unfuse.pixels import Picture, quantise
from unfuse.pixels import read as read_picture
from unfuse.saving import tiff

if TYPE_CHECKING:
    from PIL.TiffImagePlugin import TiffImageFile

IMAGE_SOURCE_DATA, PAGE_NAME, SUBFILE, BITS, PHOTOMETRIC = 37724, 285, 254, 258, 262
X_RESOLUTION, Y_RESOLUTION, X_POSITION, Y_POSITION = 282, 283, 286, 287
HEAD = b"Adobe Photoshop Document Data Block\0"
BLOCKS = {8: b"Layr", 16: b"Lr16", 32: b"Lr32"}
MASK_COLOUR = struct.pack(">h4HHBx", 0, 65535, 0, 0, 0, 50, 128)  # how masks are shown: red, half, as each layer says
LARGEST = 4_000_000_000  # bytes: a TIFF counts in 32 bits
MOST_PAGES = 1000


def write(stack: LayerStack, file: BinaryIO, suffix: str, text: Text = "live") -> tuple[str, ...]:
    """Write the whole as one page, and the layers beside it; `text` as in `psd`."""
    check(text)
    notes: list[str] = []
    whole = flatten(stack)
    tags: dict[int, bytes | str] = {}
    if _is_flat(stack) and stack[0].pixels is not None:
        whole = stack[0].pixels  # with what it hides
        tags[PAGE_NAME] = clean(stack[0].name) + "\0"
    else:
        transparent = bool((whole[..., 3] < (1 << stack.depth) - 1).any())
        layers = layer_info(LayerInfoBlock, records(stack.layers, 1, text, notes), transparent).tobytes()
        tags[IMAGE_SOURCE_DATA] = HEAD + _block(BLOCKS[stack.depth], layers) + _block(b"LMsk", MASK_COLOUR)
    data = tiff(whole, stack.icc, stack.dpi, tags)
    if len(data) > LARGEST:
        raise FormatError(f"the stack takes {len(data):,} bytes, a TIFF has at most {LARGEST:,}: write .psb or .zip")
    file.write(data)
    return tuple(notes)


def read(file: BinaryIO, *, what: str, max_pixels: int) -> LayerStack:
    """Photoshop's layers in a TIFF; else its pages, the first at the bottom. Raises FormatError."""
    from PIL import Image, TiffImagePlugin, UnidentifiedImageError

    data = file.read()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(BytesIO(data), formats=("TIFF",))
            assert isinstance(image, TiffImagePlugin.TiffImageFile)
            if (source := image.tag_v2.get(IMAGE_SOURCE_DATA)) and (
                layers := _layers(bytes(source), image, max_pixels)
            ):
                return _photoshop(image, data, layers, what, max_pixels)
            return _pages(image, data, what, max_pixels)
    except (FormatError, PictureError) as error:
        raise FormatError(str(error) if str(error).startswith(what) else f"{what}: {error}") from error
    except UnidentifiedImageError as error:
        raise FormatError(f"{what} is not a TIFF, or is broken (it begins with {data[:8]!r}): save it again") from error
    except Exception as error:  # Pillow and psd-tools fail in their own way at each place where a file may be broken
        why = short(f"{type(error).__name__} {error}")
        raise FormatError(f"{what} is not a TIFF, or is broken or cut short ({why}): save it again") from error


def _block(key: bytes, data: bytes) -> bytes:
    return b"8BIM" + key + struct.pack(">I", len(data)) + data + bytes(-len(data) % 4)


def _is_flat(stack: LayerStack) -> bool:
    if len(stack) != 1 or stack[0].pixels is None or stack[0].box != (0, 0, *stack.size):
        return False
    layer = stack[0]
    return (layer.opacity, layer.blend_mode, layer.visible, layer.locked) == (1, "normal", True, False)


def _layers(source: bytes, image: TiffImageFile, max_pixels: int) -> bytes | None:
    """The block that has the layers, big-endian; None where there is none, as in what Photoshop writes without any."""
    if not source.startswith(HEAD):
        return None
    depth = _depth(image)
    at, order = len(HEAD), ">" if source[len(HEAD) :].startswith(b"8BIM") else "<"
    while at + 12 <= len(source):
        key = source[at + 4 : at + 8][:: 1 if order == ">" else -1]
        (length,) = struct.unpack(f"{order}I", source[at + 8 : at + 12])
        data = source[at + 12 : at + 12 + length]
        if key in BLOCKS.values() and length:
            if key != BLOCKS[depth]:
                raise FormatError(f"has layers of another depth than its picture: {key.decode()}")
            return data if order == ">" else big_endian(data, LAYERS_TO_CANVAS * max_pixels)
        at += 12 + length + -length % 4
    return None


def _photoshop(image: TiffImageFile, data: bytes, layers: bytes, what: str, max_pixels: int) -> LayerStack:
    check_canvas(image.size, what=what, max_pixels=max_pixels)
    if image.tag_v2.get(PHOTOMETRIC) != 2:
        raise FormatError(f"{what} has layers that are not RGB ({image.mode}): save it as RGB")
    depth = _depth(image)
    width, height = image.size
    header = FileHeader(width=width, height=height, channels=3, depth=depth, color_mode=ColorMode.RGB)
    warnings.simplefilter("error", PSDDecompressionWarning)  # a broken channel would become black
    info = LayerInfoBlock.frombytes(layers)
    rows = tuple(zip(info.layer_records, info.channel_image_data, strict=True))
    reader = Reader(header, rows, what, max_pixels)
    # Profile and resolution without pixels: the whole is not needed.
    icc, dpi = image.info.get("icc_profile"), float(image.info.get("dpi", (72.0, 72.0))[0])
    return LayerStack(
        size=image.size,
        layers=reader.layers(),
        depth=16 if depth == 16 else 8,
        icc=icc or None,
        dpi=dpi if 0 < dpi < 1e5 else 72.0,
        notes=tuple(reader.notes),
    )


def _depth(image: TiffImageFile) -> int:
    bits = set(image.tag_v2.get(BITS, (1,)))
    if bits not in ({8}, {16}):
        raise FormatError(f"has layers of {', '.join(map(str, sorted(bits)))} bits a channel: save it with 8 or 16")
    return int(bits.pop())


def _pages(image: TiffImageFile, data: bytes, what: str, max_pixels: int) -> LayerStack:
    """A layer for each page, at the place that its tags say, the first at the bottom."""
    if image.n_frames > MOST_PAGES:
        raise FormatError(f"{what} has {image.n_frames} pages, the limit is {MOST_PAGES}")
    notes: list[str] = []
    pages = list(_measured(image, notes))
    size = max(box.right for _, box in pages), max(box.bottom for _, box in pages)
    check_canvas(size, what=what, max_pixels=max_pixels)
    if (total := sum(box.width * box.height for _, box in pages)) > (limit := LAYERS_TO_CANVAS * max_pixels):
        raise FormatError(f"{what} has {total:,} pixels in all pages, the limit is {limit:,}")
    layers, first = [], None
    for index, box in pages:
        image.seek(index)
        name = str(image.tag_v2.get(PAGE_NAME, "")).rstrip("\0")
        bits = max(image.tag_v2.get(BITS, (1,)))
        picture: Picture = read_picture(data if image.n_frames == 1 else image, limit_megapixels=max_pixels / 1e6)
        if bits > picture.depth:
            notes.append(f"page {index + 1} has {bits} bits a channel: they were rounded to {picture.depth}")
        pixels: Any = quantise(picture.pixels, picture.depth)
        place = Box(box.left, box.top, box.left + pixels.shape[1], box.top + pixels.shape[0])
        layers.append(Layer(name if name.strip() else f"Page {index + 1}", "object", place, pixels))
        first = first or picture
    assert first is not None
    if len(layers) > 1:
        notes.append(f"{len(layers)} pages became layers, the first at the bottom")
    made = with_background(at_one_depth(layers), Box(0, 0, *size))
    return LayerStack(size, made, 16 if made[0].depth == 16 else 8, first.icc, first.dpi, notes=tuple(notes))


def _measured(image: TiffImageFile, notes: list[str]) -> Iterator[tuple[int, Box]]:
    """Number and place of each page, before any is decoded."""
    for index in range(image.n_frames):
        image.seek(index)
        tags = image.tag_v2
        if tags.get(SUBFILE, 0) & 1 and index:
            notes.append(f"page {index + 1} is another page made smaller: it was left out")
            continue
        left, top = (
            round(float(tags.get(place, 0)) * float(tags.get(resolution, 1)))
            for place, resolution in ((X_POSITION, X_RESOLUTION), (Y_POSITION, Y_RESOLUTION))
        )
        yield index, Box(left, top, left + image.width, top + image.height)
