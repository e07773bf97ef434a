"""TIFF: Photoshop's layers there and back, in both byte orders, and files of many pages."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image, TiffImagePlugin
from stacks import assert_same_layers, everything, noise, printable, renamed, stacks

from unfuse import formats
from unfuse.composite import flatten
from unfuse.errors import FormatError
from unfuse.formats import tiff
from unfuse.layers import Box, Layer, LayerStack
from unfuse.pixels import quantise
from unfuse.pixels import read as read_picture

FOREIGN = Path(__file__).parent / "data" / "foreign"
NOT_IN_TIFF = ("id", "kind")


@settings(max_examples=25, deadline=None)
@given(stack=stacks())
def test_layers_come_back_to_the_bit(stack: LayerStack, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("stacks") / "a.tif"
    stack = renamed(stack, printable)
    assert formats.write(stack, path) == ()
    back = formats.read(path)
    assert (back.size, back.depth, back.icc, back.dpi, back.notes) == (
        stack.size,
        stack.depth,
        stack.icc,
        stack.dpi,
        (),
    )
    if stack.layers:
        assert_same_layers(back.layers, stack.layers, ignore=NOT_IN_TIFF)
    np.testing.assert_array_equal(whole(path), flatten(stack))


def whole(path: Path) -> Any:
    """What a program that knows nothing of layers shows."""
    picture = read_picture(path)
    return quantise(picture.pixels, picture.depth)


@pytest.mark.parametrize("depth", [8, 16])
def test_one_plain_layer_is_a_flat_picture(tmp_path: Path, depth: Literal[8, 16]) -> None:
    layer = Layer("only Kreis", "object", Box(0, 0, 6, 5), noise(3, 6, 5, depth))
    formats.write(LayerStack((6, 5), (layer,), depth=depth), tmp_path / "a.tiff")
    with Image.open(tmp_path / "a.tiff") as image:
        assert isinstance(image, TiffImagePlugin.TiffImageFile)
        assert tiff.IMAGE_SOURCE_DATA not in image.tag_v2
    assert_same_layers(formats.read(tmp_path / "a.tiff").layers, (layer,), ignore=NOT_IN_TIFF)


@pytest.mark.parametrize("depth", [8, 16])
def test_layers_are_read_little_end_first(depth: Literal[8, 16]) -> None:
    """Written by psdtags, a library of its own for these tags, out of `everything` without its balloon."""
    stack = formats.read(FOREIGN / f"little_endian_{depth}.tif")
    expected = everything(depth, True, size=(60, 40))
    expected = renamed(expected, lambda name: name.replace("🎈", "rot"))  # psdtags writes names of two units wrongly
    assert_same_layers(stack.layers, expected.layers, ignore=(*NOT_IN_TIFF, "opacity"))
    opacities = zip(stack.walk(), expected.walk(), strict=True)
    assert max(abs(one.opacity - other.opacity) for one, other in opacities) < 0.5 / 255 + 1e-9
    assert (stack.depth, stack.dpi, stack.notes) == (depth, 150, ())
    assert np.abs(flatten(stack).astype(int) - whole(FOREIGN / f"little_endian_{depth}.tif"))[..., 3].max() <= 257


# ---- pages


def test_pages_become_layers(tmp_path: Path) -> None:
    """Written by tifffile."""
    stack = formats.read(FOREIGN / "pages.tif")
    expected = everything(8, True, size=(60, 40))
    assert [layer.name for layer in stack] == ["Background ??", "Kreis ? ? ?", "Schatten", "Gruppe ?", "hidden", "Oben"]
    for layer, other in zip(stack, expected, strict=True):
        np.testing.assert_array_equal(layer.to_canvas(stack.size), other.to_canvas(stack.size))
    assert stack.notes == ("6 pages became layers, the first at the bottom",)


def pages(path: Path, *images: Image.Image, **options: Any) -> Path:
    images[0].save(path, "TIFF", save_all=True, append_images=images[1:], **options)
    return path


def test_pages_of_every_kind_lie_where_their_tags_say(tmp_path: Path) -> None:
    images = [
        Image.new("CMYK", (6, 4), (0, 255, 0, 0)),
        Image.new("L", (3, 2), 90),
        Image.new("RGBA", (2, 2), (1, 2, 3, 4)),
    ]
    parts = []
    for image, (x, y) in zip(images, ((0, 0), (2, 1), (4, 3)), strict=True):
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[tiff.X_POSITION], tags[tiff.Y_POSITION] = x / 10, y / 10
        tags[tiff.X_RESOLUTION], tags[tiff.Y_RESOLUTION] = 10, 10
        file = io.BytesIO()
        image.save(file, "TIFF", tiffinfo=tags)
        parts.append(Image.open(file))
    with TiffImagePlugin.AppendingTiffWriter(str(tmp_path / "a.tif"), True) as writer:
        for part in parts:
            tags = TiffImagePlugin.ImageFileDirectory_v2()
            for number in (tiff.X_POSITION, tiff.Y_POSITION, tiff.X_RESOLUTION, tiff.Y_RESOLUTION):
                tags[number] = part.tag_v2[number]  # type: ignore[attr-defined]
            part.save(writer, "TIFF", tiffinfo=tags)
            writer.newFrame()
    stack = formats.read(tmp_path / "a.tif")
    assert stack.size == (6, 5)
    assert [layer.box for layer in stack] == [Box(0, 0, 6, 4), Box(2, 1, 5, 3), Box(4, 3, 6, 5)]
    assert [layer.name for layer in stack] == ["Page 1", "Page 2", "Page 3"]
    assert stack[1].pixels is not None
    assert stack[1].pixels[0, 0].tolist() == [90, 90, 90, 255]


def test_a_flat_picture_is_one_layer(tmp_path: Path) -> None:
    pages(tmp_path / "a.tif", Image.new("RGB", (3, 2), (1, 2, 3)), dpi=(300, 300))
    stack = formats.read(tmp_path / "a.tif")
    assert [(layer.name, layer.kind, layer.box) for layer in stack] == [("Page 1", "background", (0, 0, 3, 2))]
    assert (stack.dpi, stack.notes) == (300, ())


def test_a_page_made_smaller_is_left_out_and_said(tmp_path: Path) -> None:
    small = Image.new("RGB", (2, 2))
    small.encoderinfo = {"tiffinfo": {tiff.SUBFILE: 1}}
    pages(tmp_path / "a.tif", Image.new("RGB", (8, 8)), small)
    stack = formats.read(tmp_path / "a.tif")
    assert len(stack) == 1
    assert stack.notes == ("page 2 is another page made smaller: it was left out",)


# ---- broken and hostile files


def with_tag(data: bytes, depth: int = 8, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[tiff.IMAGE_SOURCE_DATA] = 7
    tags[tiff.IMAGE_SOURCE_DATA] = tiff.HEAD + data
    Image.new(mode, (4, 4)).save(file, "TIFF", tiffinfo=tags)
    return file.getvalue()


def layers(stack: LayerStack, path: Path) -> bytes:
    """The value of the tag, without its head."""
    formats.write(stack, path)
    with Image.open(path) as image:
        assert isinstance(image, TiffImagePlugin.TiffImageFile)
        return bytes(image.tag_v2[tiff.IMAGE_SOURCE_DATA])[len(tiff.HEAD) :]


SMALL = LayerStack((4, 4), (Layer("a", "object", Box(1, 2, 3, 4), noise(0, 2, 2, 8)),))


def little(box: tuple[int, ...]) -> bytes:
    record = struct.pack("<h4iH", 1, *box, 0) + b"MIB8mron" + b"\xff\0\0\0" + struct.pack("<I", 12) + bytes(12)
    return b"MIB8ryaL" + struct.pack("<I", len(record)) + record


def test_a_broken_or_hostile_file_is_refused_in_one_line(tmp_path: Path) -> None:
    good = layers(SMALL, tmp_path / "a.tif")
    box, huge = struct.pack(">4i", 2, 1, 4, 3), struct.pack(">4i", 2, 1, 100_000, 100_000)
    assert good.count(box) == 1
    files = {
        b"hello": r"not a TIFF, or is broken \(it begins with b'hello'\): save it again",
        b"II*\0hello": "not a TIFF",
        (tmp_path / "a.tif").read_bytes()[:300]: "broken or cut short",
        with_tag(good[:40]): "broken or cut short",
        with_tag(good.replace(box, huge)): "pixels in all layers, the limit is 16,000,000",
        with_tag(little((0, 0, 100_000, 100_000))): "pixels in all layers, the limit is 16,000,000",
        with_tag(little((0, 0, 2, 2))[:40]): "cut short",
        with_tag(good.replace(b"Layr", b"Lr16")): "layers of another depth",
        with_tag(good, mode="CMYK"): "not RGB",
        with_tag(good, mode="F"): "layers of 32 bits a channel: save it with 8 or 16",
    }
    for data, message in files.items():
        (tmp_path / "b.tif").write_bytes(data)
        with pytest.raises(FormatError, match=message) as caught:
            formats.read(tmp_path / "b.tif", limit_megapixels=4)
        assert "\n" not in str(caught.value)
        assert str(caught.value).count(str(tmp_path)) == 1


def test_sizes_are_looked_up_before_anything_is_decoded(tmp_path: Path) -> None:
    pages(tmp_path / "a.tif", Image.new("1", (3000, 3000)))
    with pytest.raises(FormatError, match="canvas of 3000x3000 pixels, the limit is 4,000,000"):
        formats.read(tmp_path / "a.tif", limit_megapixels=4)
    pages(tmp_path / "a.tif", *[Image.new("1", (2000, 2000))] * 5)
    with pytest.raises(FormatError, match="20,000,000 pixels in all pages, the limit is 16,000,000"):
        formats.read(tmp_path / "a.tif", limit_megapixels=4)
