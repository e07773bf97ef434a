"""Real files, made here byte by byte or by Pillow, and what must come out of them to the level."""

from __future__ import annotations

import hashlib
import io
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from unfuse.errors import PictureError
from unfuse.pixels import Picture, quantise, read, resize, to_float, to_image
from unfuse.saving import write_flat

RNG = np.random.default_rng(7)
U8 = RNG.integers(0, 256, (5, 7, 4)).astype(np.uint8)
U16 = RNG.integers(0, 65536, (5, 7, 4)).astype(np.uint16)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(levels: NDArray[Any], *, bits: int = 0, extra: bytes = b"", interlaced: bool = False) -> bytes:
    """`h w c` as PNG without filters; below 8 bits the samples are packed."""
    height, width, channels = levels.shape
    bits = bits or levels.dtype.itemsize * 8
    adam7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    raw = b""
    for top, left, down, across in adam7 if interlaced else [(0, 0, 1, 1)]:
        for row in levels[top::down, left::across] if left < width else []:
            if bits < 8:
                binary = "".join(format(int(v), f"0{bits}b") for v in row.ravel())
                binary += "0" * (-len(binary) % 8)
                raw += b"\0" + bytes(int(binary[i : i + 8], 2) for i in range(0, len(binary), 8))
            else:
                raw += b"\0" + row.astype(f">u{bits // 8}").tobytes()
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(levels: NDArray[Any], tags: Mapping[int, tuple[int, ...]], order: Literal["<", ">"] = "<") -> bytes:
    """`h w c` as TIFF; `tags` (all SHORT) are added to the usual ones or replace them."""
    height, width, channels = levels.shape
    strip = levels.astype(levels.dtype.newbyteorder(order)).tobytes()
    strip += b"\0" * (len(strip) % 2)
    every: dict[int, tuple[int, ...]] = {256: (width,), 257: (height,), 259: (1,)}
    every |= {
        258: (8 * levels.dtype.itemsize,) * channels,
        262: (2 if channels > 2 else 1,),
        273: (8,),
        277: (channels,),
        278: (height,),
        279: (len(strip),),
    }
    every |= {284: (1,)} | dict(tags)
    place = 8 + len(strip)
    values_at = place + 2 + 12 * len(every) + 4
    directory, values = struct.pack(order + "H", len(every)), b""
    for tag in sorted(every):
        value = struct.pack(f"{order}{len(every[tag])}H", *every[tag])
        if len(value) > 4:
            value, values = struct.pack(order + "L", values_at + len(values)), values + value
        directory += struct.pack(order + "HHL", tag, 3, len(every[tag])) + value.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "L", place) + strip + directory + b"\0\0\0\0" + values


def profile(space: bytes, tags: dict[bytes, bytes], pcs: bytes = b"XYZ ") -> bytes:
    """A minimal ICC version 2 profile, of an input device: LittleCMS finds their black without tables from Lab."""
    tags = {b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)} | tags
    table, data = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        value += b"\0" * (-len(value) % 4)
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(value))
        data += value
    head = struct.pack(">I4sI4s4s4s", 132 + len(table) - 4 + len(data), b"lcms", 0x02100000, b"scnr", space, pcs)
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28
    head += struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + data


LINEAR_GREY = profile(b"GRAY", {b"kTRC": b"curv\0\0\0\0\0\0\0\0"})


def odd_press() -> bytes:
    """A CMYK profile of a press whose cyan ink prints sRGB red, and whose other inks print its black, a dark grey."""
    identity = bytes(range(256))
    nodes = b""
    for node in range(16):
        cyan, other = node >> 3 & 1, node & 7
        lab = (15, 0, 0) if other else (54.29, 80.81, 69.89) if cyan else (100, 0, 0)  # sRGB red, D50
        nodes += bytes((round(lab[0] * 2.55), round(lab[1] + 128), round(lab[2] + 128)))
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + matrix + identity * 4 + nodes + identity * 3
    return profile(b"CMYK", {b"A2B0": lut, b"A2B1": lut}, b"Lab ")


def encoded(image: Image.Image, format_: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def levels_of(picture: Picture) -> NDArray[np.int64]:
    """The whole numbers of a picture, and with them the promise that they are whole."""
    x = picture.pixels.astype(np.float64) * (2**picture.depth - 1)
    np.testing.assert_allclose(x, np.round(x), atol=0.004)
    levels: NDArray[np.int64] = np.round(x).astype(np.int64)
    return levels


def opaque(levels: NDArray[Any]) -> NDArray[Any]:
    out = levels.copy()
    out[..., 3] = np.iinfo(levels.dtype).max
    return out


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_level_comes_back(dtype: type) -> None:
    every: NDArray[Any] = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    back = quantise(to_float(every), 8 if dtype is np.uint8 else 16)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, every)


def test_half_goes_up_and_outside_is_clipped() -> None:
    x = np.array([-1, -0.001, 0.5 / 255, 0.4999 / 255, 127.5 / 255, 128.5 / 255, 1, 1.01, np.inf, -np.inf])
    np.testing.assert_array_equal(quantise(x, 8), [0, 0, 1, 0, 128, 129, 255, 255, 255, 0])
    np.testing.assert_array_equal(quantise(x[6:], 16), [65535, 65535, 65535, 0])
    np.testing.assert_array_equal(x[:2], [-1, -0.001])  # the argument is left alone
    assert quantise(np.zeros((0, 3, 4), np.float32), 8).shape == (0, 3, 4)


def test_nan_is_not_a_pixel() -> None:
    with pytest.raises(PictureError, match="2 of 3 values are NaN"):
        quantise(np.array([np.nan, 0.5, np.nan]), 8)


def test_to_image_rounds_16_bit_half_up() -> None:
    levels = np.array([[[0, 128, 129, 65535]]], np.uint16)  # 257 a level: 128 is below a half, 129 above
    assert to_image(levels).getpixel((0, 0)) == (0, 0, 1, 255)
    np.testing.assert_array_equal(np.asarray(to_image(U8)), U8)
    np.testing.assert_array_equal(np.asarray(to_image(to_float(U8))), U8)


@pytest.mark.parametrize("size", [(3, 5), (31, 3), (4, 40), (64, 48), (1, 1), (16, 12)])
def test_resize_keeps_what_is_constant(size: tuple[int, int]) -> None:
    for alpha in (1, 0.25):
        constant = np.full((12, 16, 4), (0.2, 0.5, 0.9, alpha), np.float32)
        resized = resize(constant, size)
        assert resized.shape == (size[1], size[0], 4)
        assert resized.dtype == np.float32
        np.testing.assert_allclose(resized, np.broadcast_to(constant[0, 0], resized.shape), atol=2e-6)
        assert alpha < 1 or (resized[..., 3] == 1).all()


@pytest.mark.parametrize("size", [(5, 3), (80, 60), (5, 60), (17, 13)])
def test_resize_has_no_dark_fringe(size: tuple[int, int]) -> None:
    picture = np.zeros((12, 16, 4), np.float32)
    picture[:, 7:] = (1, 0, 0, 1)  # opaque red beside transparent black
    resized = resize(picture, size)
    shows = resized[..., 3] > 1e-3
    assert (resized[..., 3] < 1).any()
    np.testing.assert_allclose(resized[shows][:, :3], np.broadcast_to((1, 0, 0), (shows.sum(), 3)), atol=1e-4)
    assert resized.min() >= 0
    assert resized.max() <= 1


def test_shrinking_is_the_mean_of_the_area() -> None:
    picture = to_float(opaque(RNG.integers(0, 256, (8, 12, 4)).astype(np.uint8)))
    means = picture.reshape(4, 2, 4, 3, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(resize(picture, (4, 4)), means, atol=1e-6)
    same = resize(picture, (12, 8))
    np.testing.assert_array_equal(same, picture)
    assert not np.shares_memory(same, picture)


def test_sha_size_depth_and_defaults(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(U8))
    for source in (path, str(path), path.read_bytes()):
        picture = read(source)
        assert picture.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (picture.size, picture.depth, picture.icc, picture.dpi) == ((7, 5), 8, None, 72)
        assert picture.pixels.dtype == np.float32
        assert picture.pixels.flags.c_contiguous
        np.testing.assert_array_equal(levels_of(picture), U8)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("levels", [U8, U16], ids=["8", "16"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_every_kind(levels: NDArray[Any], channels: int, interlaced: bool) -> None:
    stored = levels[..., :channels]
    picture = read(png(stored, interlaced=interlaced))
    assert picture.depth == 8 * levels.itemsize
    expected = opaque(levels)
    expected[..., :3] = stored[..., :3] if channels > 2 else stored[..., :1]
    if channels in (2, 4):
        expected[..., 3] = stored[..., -1]
    np.testing.assert_array_equal(levels_of(picture), expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_png_grey_with_a_transparent_level(bits: int) -> None:
    top = 2**bits - 1
    stored = np.array([[[0], [1], [top], [top // 2]]], np.uint16 if bits == 16 else np.uint8)
    for key in (0, 1, top):
        picture = read(png(stored, bits=bits, extra=chunk(b"tRNS", struct.pack(">H", key))))
        scale = (2**picture.depth - 1) // top
        np.testing.assert_array_equal(levels_of(picture)[..., 0], stored[..., 0].astype(int) * scale)
        np.testing.assert_array_equal(picture.pixels[..., 3] == 0, stored[..., 0] == key)
        assert set(np.unique(picture.pixels[..., 3])) == {0, 1}


@pytest.mark.parametrize("levels", [U8, U16], ids=["8", "16"])
def test_png_colour_with_a_transparent_colour(levels: NDArray[Any]) -> None:
    key = levels[2, 3, :3].astype(">u2").tobytes()
    picture = read(png(levels[..., :3], extra=chunk(b"tRNS", key)))
    expected = opaque(levels)
    expected[2, 3, 3] = 0
    np.testing.assert_array_equal(levels_of(picture), expected)


def test_palette_with_alpha() -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture = read(encoded(image, "PNG", transparency=b"\x00\x80"))
    np.testing.assert_array_equal(levels_of(picture)[0], [[255, 0, 0, 0], [0, 255, 0, 128], [0, 0, 255, 255]])
    picture = read(encoded(image, "GIF", transparency=1))
    np.testing.assert_array_equal(levels_of(picture)[0, :, 3], [255, 0, 255])
    np.testing.assert_array_equal(levels_of(picture)[0, ::2, :3], [[255, 0, 0], [0, 0, 255]])


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_of_every_kind(order: Literal["<", ">"]) -> None:
    for levels in (U8, U16):
        top = np.iinfo(levels.dtype).max
        rgb, grey = opaque(levels), opaque(levels)
        grey[..., :3] = grey[..., :1]
        for stored, tags, expected in (
            (levels[..., :3], {}, rgb),
            (levels, {338: (2,)}, levels),
            (levels, {338: (0,)}, rgb),  # a fourth channel that is not alpha
            (levels[..., :1], {}, grey),
        ):
            picture = read(tiff(stored, tags, order))
            assert picture.depth == 8 * levels.itemsize
            np.testing.assert_array_equal(levels_of(picture), expected)
        premultiplied = levels.copy()
        premultiplied[..., :3] = np.round(levels[..., :3].astype(float) * levels[..., 3:] / top)
        back = levels_of(read(tiff(premultiplied, {338: (1,)}, order)))
        np.testing.assert_array_equal(back[..., 3], levels[..., 3])
        step = top / np.maximum(levels[..., 3:], 1)  # of straight colour, for one of premultiplied
        allowed = np.ceil(step if levels is U8 else step / 2) + 1  # Pillow, who does the 8 bits, cuts off
        assert (np.abs(back[..., :3] - levels[..., :3].astype(int)) <= allowed).all()


@pytest.mark.parametrize("levels", [U8, U16], ids=["8", "16"])
def test_tiff_whose_zero_is_white(levels: NDArray[Any]) -> None:
    back = levels_of(read(tiff(levels[..., :1], {262: (0,)})))
    np.testing.assert_array_equal(back[..., 0], np.iinfo(levels.dtype).max - levels[..., 0].astype(int))
    assert (back[..., 3] == np.iinfo(levels.dtype).max).all()


def test_private_tags_are_nobodys_business(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = read(tiff(U16[..., :3], {37724: (1, 2, 3), 65000: (1,)}))
    np.testing.assert_array_equal(levels_of(picture), opaque(U16))
    assert capfd.readouterr() == ("", "")


def test_first_frame_and_first_page() -> None:
    levels = np.maximum(U8, (0, 0, 0, 1)).astype(np.uint8)  # an animated WebP does not keep hidden colour
    first, second = Image.fromarray(levels), Image.new("RGBA", (7, 5), "red")
    for format_, options in (("WEBP", {"lossless": True, "exact": True}), ("PNG", {}), ("TIFF", {})):
        data = encoded(first, format_, save_all=True, append_images=[second], **options)
        np.testing.assert_array_equal(levels_of(read(data)), levels)
    black, white = Image.new("L", (4, 4), 0), Image.new("L", (4, 4), 255)
    for format_ in ("GIF", "MPO", "AVIF"):
        picture = read(encoded(black, format_, save_all=True, append_images=[white]))
        np.testing.assert_array_equal(levels_of(picture), np.broadcast_to((0, 0, 0, 255), (4, 4, 4)))


def test_one_pixel_and_a_long_strip() -> None:
    assert levels_of(read(png(U8[:1, :1]))).tolist() == [[U8[0, 0].tolist()]]
    strip = np.zeros((200, 12000, 3), np.uint8)
    strip[:, ::2] = 255
    picture = read(encoded(Image.fromarray(strip), "PNG"))
    assert picture.size == (12000, 200)
    np.testing.assert_array_equal(picture.pixels[..., :3], strip / 255)


def test_arrays() -> None:
    for array in (U8, U16):
        for given, expected in (
            (array, array),
            (array[..., :3], opaque(array)),
            (array[..., 0], np.dstack((array[..., :1].repeat(3, 2), opaque(array)[..., 3]))),
            (array[:, ::-1], array[:, ::-1]),
            (array.astype(array.dtype.newbyteorder(">")), array),
        ):
            picture = read(given)
            assert picture.depth == 8 * array.itemsize
            assert picture.sha256 == hashlib.sha256(expected.tobytes()).hexdigest()
            np.testing.assert_array_equal(levels_of(picture), expected)
    for floats in (to_float(U16), to_float(U16).astype(np.float64)):
        picture = read(floats)
        assert picture.depth == 16
        np.testing.assert_array_equal(levels_of(picture), U16)


def test_a_pil_image_reads_as_its_file_does() -> None:
    grey = Image.fromarray(U16[..., 0])
    for image in (Image.fromarray(U8), Image.fromarray(U8).convert("L"), grey, Image.fromarray(U8).convert("1")):
        data = encoded(image, "PNG")
        from_image, from_file = read(image), read(data)
        assert from_image.depth == from_file.depth
        np.testing.assert_array_equal(from_image.pixels, from_file.pixels)
    turned = Image.open(io.BytesIO(encoded(Image.fromarray(U8), "PNG", exif=orientation_tag(6))))
    assert read(turned).size == (5, 7)
    assert read(turned).sha256 == read(levels_of(read(turned)).astype(np.uint8)).sha256


EDGES = {  # EXIF 2.3, 4.6.4 A: which side of the picture the stored row 0 and column 0 are
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def stored(upright: NDArray[Any], orientation: int) -> NDArray[Any]:
    """How a camera stores the upright picture, word for word as the standard says it."""
    row, column = EDGES[orientation]
    if row in ("top", "bottom"):
        lines = upright if row == "top" else upright[::-1]
        return np.ascontiguousarray(lines if column == "left" else lines[:, ::-1])
    sides = upright if row == "left" else upright[:, ::-1]
    sides = sides.swapaxes(0, 1)
    return np.ascontiguousarray(sides if column == "top" else sides[:, ::-1])


def orientation_tag(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", list(EDGES))
def test_every_orientation_of_every_format(orientation: int) -> None:
    exif, tag = orientation_tag(orientation), {274: (orientation,)}
    eight, sixteen = stored(U8, orientation), stored(U16, orientation)
    image = Image.fromarray(eight)
    for data in (
        encoded(image, "PNG", exif=exif),
        encoded(image, "WEBP", exif=exif, lossless=True, exact=True),
        tiff(eight, {338: (2,)} | tag),
        encoded(image, "TIFF", exif=exif, compression="tiff_adobe_deflate"),
    ):
        np.testing.assert_array_equal(levels_of(read(data)), U8)
    for data in (
        png(sixteen, extra=chunk(b"eXIf", exif.tobytes()[6:])),
        tiff(sixteen, {338: (2,)} | tag),
    ):
        np.testing.assert_array_equal(levels_of(read(data)), U16)
    grey = levels_of(read(tiff(sixteen[..., :1], tag)))
    np.testing.assert_array_equal(grey[..., 0], U16[..., 0])
    blocks = np.kron(np.array([[0, 255, 0], [255, 255, 0]]), np.ones((16, 16))).astype(np.uint8)  # survive JPEG
    for format_, options in (("JPEG", {"quality": 95}), ("AVIF", {"quality": 90})):
        lossy = encoded(Image.fromarray(stored(blocks, orientation)), format_, exif=exif, **options)
        assert np.abs(levels_of(read(lossy))[..., 0] - blocks).max() <= 8


def test_broken_exif_does_not_refuse_a_picture() -> None:
    for exif in (b"", b"II", b"garbage that is no TIFF at all", b"MM\0*\0\0\0\x08\xff\xff"):
        np.testing.assert_array_equal(levels_of(read(png(U8, extra=chunk(b"eXIf", exif)))), U8)
    strange = orientation_tag(9).tobytes()[6:]
    np.testing.assert_array_equal(levels_of(read(png(U8, extra=chunk(b"eXIf", strange)))), U8)


def test_a_resolution_that_cannot_be_is_none() -> None:
    for nonsense in (0, 1):  # a metre
        assert read(png(U8, extra=chunk(b"pHYs", struct.pack(">IIB", nonsense, nonsense, 1)))).dpi == 72


def test_an_rgb_profile_does_not_touch_the_pixels() -> None:
    wide = profile(b"RGB ", {b"kTRC": b"curv\0\0\0\0\0\0\0\0"})  # no more than a header that says RGB
    for image in (Image.fromarray(U8), Image.fromarray(U8).convert("RGB").quantize(8), Image.fromarray(U8[..., 0])):
        with_profile, without = read(encoded(image, "PNG", icc_profile=wide)), read(encoded(image, "PNG"))
        assert with_profile.icc == wide
        np.testing.assert_array_equal(with_profile.pixels, without.pixels)


def test_a_profile_that_does_not_fit_is_dropped() -> None:
    for wrong in (odd_press(), LINEAR_GREY, b"not a profile", SRGB[:40]):
        picture = read(encoded(Image.fromarray(U8), "PNG", icc_profile=wrong))
        assert picture.icc is None or wrong == SRGB[:40]  # nothing but its head is looked at
        np.testing.assert_array_equal(levels_of(picture), U8)


def test_grey_goes_through_a_grey_profile() -> None:
    grey = np.array([[0, 10, 128, 255]], np.uint8)
    linear = grey / 255
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    for image in (Image.fromarray(grey), Image.fromarray(grey).convert("LA"), Image.fromarray(grey.astype("u2") * 257)):
        picture = read(encoded(image, "PNG", icc_profile=LINEAR_GREY))
        assert (picture.icc, picture.depth) == (None, 8)
        for channel in range(3):
            np.testing.assert_allclose(levels_of(picture)[..., channel], srgb, atol=1)
        assert (picture.pixels[..., 3] == 1).all()


INKS = {(0, 0, 0, 0): (255, 255, 255), (0, 255, 255, 0): (255, 0, 0), (255, 0, 0, 0): (0, 255, 255)}
INKS |= {(0, 0, 0, 255): (0, 0, 0), (0, 0, 0, 128): (127, 127, 127), (51, 102, 0, 51): (163, 122, 204)}


@pytest.mark.parametrize("ink", list(INKS))
def test_cmyk_without_a_profile(ink: tuple[int, int, int, int]) -> None:
    solid = Image.new("CMYK", (16, 16), ink)
    expected = np.broadcast_to((*INKS[ink], 255), (16, 16, 4))
    np.testing.assert_allclose(levels_of(read(encoded(solid, "TIFF"))), expected, atol=1)
    np.testing.assert_allclose(levels_of(read(encoded(solid, "JPEG", quality=95))), expected, atol=3)
    np.testing.assert_allclose(levels_of(read(solid)), expected, atol=1)
    # YCCK: the inks stored as YCbCr, and Adobe's marker says so (its last byte is 2)
    c, m, y, k = ink
    planes = (*Image.new("RGB", (1, 1), (c, m, y)).convert("YCbCr").getpixel((0, 0)), 255 - k)  # type: ignore[misc]
    data = encoded(Image.new("CMYK", (16, 16), tuple(255 - p for p in planes)), "JPEG", quality=95)
    adobe = data.index(b"Adobe")
    assert data[adobe + 11] == 0
    data = data[: adobe + 11] + b"\2" + data[adobe + 12 :]
    np.testing.assert_allclose(levels_of(read(data)), expected, atol=4)


def test_cmyk_goes_through_its_profile() -> None:
    press = odd_press()
    for ink, expected in (((255, 0, 0, 0), (255, 0, 0)), ((0, 0, 0, 0), (255, 255, 255)), ((0, 0, 0, 255), (0, 0, 0))):
        solid = Image.new("CMYK", (16, 16), ink)
        for data in (encoded(solid, "JPEG", quality=95, icc_profile=press), encoded(solid, "TIFF", icc_profile=press)):
            picture = read(data)
            assert (picture.icc, picture.depth) == (None, 8)
            np.testing.assert_allclose(levels_of(picture)[8, 8], (*expected, 255), atol=4)
    for useless in (SRGB, press[:200], b"nothing"):  # counts as none
        picture = read(encoded(Image.new("CMYK", (4, 4), (255, 0, 0, 0)), "TIFF", icc_profile=useless))
        assert levels_of(picture)[0, 0].tolist() == [0, 255, 255, 255]
        assert picture.icc is None


def refused(source: Any, **options: Any) -> str:
    with pytest.raises(PictureError) as caught:
        read(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    assert "there is no such file" in refused(tmp_path / "gone.png")
    assert str(tmp_path / "gone.png") in refused(str(tmp_path / "gone.png"))
    assert "is a folder" in refused(tmp_path)
    assert "cannot be opened" in refused("nul\0.png")
    (tmp_path / "empty.png").touch()
    assert "empty.png is empty (0 bytes)" in refused(tmp_path / "empty.png")
    (tmp_path / "notes.png").write_text("Dear diary")
    message = refused(tmp_path / "notes.png")
    assert "notes.png is not a picture that can be read (it begins with b'Dear dia')" in message
    assert "PNG, JPEG, WEBP, AVIF, TIFF, BMP, GIF" in message
    for data in (b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"8BPS\0\1", b"\0", b"\x89PNG\r\n\x1a\n"):
        assert "is not a picture that can be read" in refused(data)
    assert "not a picture" in refused(encoded(Image.new("RGB", (4, 4)), "PPM"))  # Pillow would, the list does not
    for wrong in (None, 3, [[0]], io.BytesIO(b"")):
        assert f"{type(wrong).__name__} is no picture: give a path" in refused(wrong)


BIG = np.kron(RNG.integers(0, 256, (12, 12, 4)), np.ones((4, 4, 1))).astype(np.uint8)


@pytest.mark.parametrize("format_", ["PNG", "PNG16", "TIFF16", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_cut_short(format_: str, part: float, capfd: pytest.CaptureFixture[str]) -> None:
    if format_.endswith("16"):
        file = io.BytesIO()
        write_flat(file, BIG.astype(np.uint16) * 250, suffix="." + format_[:-2].lower())
        data = file.getvalue()
    else:
        image = Image.fromarray(BIG).convert("RGB")
        data = encoded(image, format_, **({"compression": "tiff_lzw"} if format_ == "TIFF" else {}))
    message = refused(data[: int(len(data) * part)])
    assert "broken or cut short" in message or "is not a picture that can be read" in message
    assert capfd.readouterr().err == "" or format_ == "TIFF16"  # Pillow's libtiff writes there by itself


def test_damaged_files_are_read_or_refused_in_one_line() -> None:
    rng = np.random.default_rng(3)
    image = Image.fromarray(BIG)
    files = [png(U16), tiff(U16, {338: (2,)}), encoded(image, "PNG", icc_profile=SRGB, exif=orientation_tag(6))]
    files += [encoded(image.convert("RGB"), f, exif=orientation_tag(6)) for f in ("JPEG", "WEBP", "AVIF", "TIFF")]
    files += [encoded(image.convert("CMYK"), "JPEG", icc_profile=odd_press()), encoded(image.convert("P"), "GIF")]
    messages = []
    for data in files:
        for _ in range(15):
            damaged = bytearray(data)
            for place in rng.integers(0, min(len(data), 600), 4):
                damaged[place] = rng.integers(0, 256)
            try:
                read(bytes(damaged), limit_megapixels=0.01)
            except PictureError as error:
                messages.append(str(error))
    assert len(messages) > 20
    assert not [m for m in messages if "\n" in m]


def header_only(width: int, height: int) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_limits_are_checked_in_the_header() -> None:
    message = refused(header_only(50000, 40000))  # decoding it would need 8 GB and fail in another way
    assert "is 50000 x 40000 = 2000 megapixels, more than the limit of 200" in message
    assert "make it smaller or raise limit_megapixels" in message
    assert "broken or cut short" in refused(header_only(14000, 14000))  # 196: our limit, not Pillow's of 179
    assert "= 3.5e-05 megapixels, more than the limit of 1e-05" in refused(png(U8), limit_megapixels=1e-5)
    assert "more than the limit" in refused(U8, limit_megapixels=1e-5)
    assert "more than the limit" in refused(Image.fromarray(U8), limit_megapixels=1e-5)
    assert "more than the limit" in refused(png(U8), limit_megapixels=34e-6)
    assert read(png(U8), limit_megapixels=35e-6).size == (7, 5)


def test_pillows_own_limit_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(png(U8)).size == (7, 5)
        assert read(tiff(U8, {338: (2,)})).size == (7, 5)
    refused(b"no")
    assert Image.MAX_IMAGE_PIXELS == 3


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 2, 3), 1.5, np.float32), "from 1.5 to 1.5: floats must lie in 0..1"),
        (np.full((2, 2, 3), -0.1), "from -0.1 to -0.1"),
        (np.array([[0.5, np.nan]], np.float32), "NaN"),
        (np.zeros((2, 2, 3), np.int64), "the array is int64: give uint8, uint16, or float32 in 0..1"),
        (np.zeros((2, 2), bool), "the array is bool"),
        (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\): give h w, h w 3 or h w 4 \(channels last\)"),
        (np.zeros(5, np.uint8), r"shape \(5,\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"shape \(1, 4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), "4 x 0 pixels"),
    ],
)
def test_arrays_that_are_no_pictures(array: NDArray[Any], message: str) -> None:
    with pytest.raises(PictureError, match=message):
        read(array)


def test_pixels_of_a_kind_that_has_no_place_here() -> None:
    assert "has pixels of kind F: save it as RGB" in refused(Image.new("F", (2, 2)))
    assert "has pixels of kind I:" in refused(Image.new("I", (2, 2)))
    assert "has pixels of kind LAB" in refused(encoded(Image.new("LAB", (2, 2)), "TIFF"))
    assert "has 12 bits a pixel: save it with 8 or 16" in refused(tiff(U16[..., :1], {258: (12,)}))
    assert "separate planes: save it interleaved" in refused(tiff(U16[..., :3], {284: (2,)}))
    assert "16-bit pixels of an unusual kind" in refused(tiff(U16[..., :3], {278: (2,)}))  # strips that are not there


def test_importing_it_costs_nothing() -> None:
    code = "import sys, unfuse.pixels; print(sorted({'PIL', 'cv2'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
