"""OpenRaster: there and back, as the specification has it, a file of Krita's, and hostile files."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from lxml import etree
from PIL import Image
from stacks import assert_same_layers, everything, noise, png, renamed, stacks

from unfuse import formats
from unfuse.composite import flatten, residual
from unfuse.errors import FormatError
from unfuse.formats.names import clean
from unfuse.layers import BLEND_MODES, Box, Layer, LayerStack
from unfuse.pixels import quantise
from unfuse.pixels import read as read_picture

FOREIGN = Path(__file__).parent / "data" / "foreign"
NOT_IN_ORA = ("id", "kind")


@settings(max_examples=25, deadline=None)
@given(stack=stacks())
def test_layers_come_back_to_the_bit(stack: LayerStack, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("stacks") / "a.ora"
    stack = renamed(stack, clean)  # without what XML cannot hold
    formats.write(stack, path)
    back = formats.read(path)
    assert back.notes == ()
    assert (back.size, back.dpi) == (stack.size, round(stack.dpi))
    if stack.layers:
        assert (back.depth, back.icc) == (stack.depth, stack.icc)
    assert_same_layers(back.layers, stack.layers, ignore=NOT_IN_ORA)


def test_every_blend_mode_comes_back(tmp_path: Path) -> None:
    layers = [Layer(mode, "object", Box(0, 0, 2, 2), noise(0, 2, 2, 8), blend_mode=mode) for mode in BLEND_MODES]
    stack = LayerStack((2, 2), (*layers, Layer.group("all", [x.replace(id=x.name) for x in layers], blend_mode="hue")))
    formats.write(stack, tmp_path / "a.ora")
    assert_same_layers(formats.read(tmp_path / "a.ora").layers, stack.layers, ignore=NOT_IN_ORA)


def test_the_file_is_as_the_specification_has_it(tmp_path: Path) -> None:
    stack = everything(size=(600, 400))
    formats.write(stack, tmp_path / "a.ora")
    assert (tmp_path / "a.ora").read_bytes()[30:54] == b"mimetypeimage/openraster"
    with zipfile.ZipFile(tmp_path / "a.ora") as archive:
        assert archive.infolist()[0].compress_type == zipfile.ZIP_STORED
        merged = Image.open(io.BytesIO(archive.read("mergedimage.png"))).convert("RGBA")
        thumbnail = Image.open(io.BytesIO(archive.read("Thumbnails/thumbnail.png")))
        root = etree.fromstring(archive.read("stack.xml"))
    np.testing.assert_array_equal(np.asarray(merged), flatten(stack))
    assert thumbnail.size == (256, 171)
    assert (root.get("w"), root.get("h")) == ("600", "400")
    (top,) = root
    assert [element.get("name") for element in top] == [layer.name for layer in reversed(stack.layers)]
    group = top[2]
    assert (group.tag, group.get("opacity"), group.get("isolation")) == ("stack", "0.8", "isolate")
    shadow = top[3]
    assert (shadow.get("x"), shadow.get("y"), shadow.get("composite-op")) == ("-15", "30", "svg:multiply")


def test_a_file_of_kritas_looks_as_in_krita() -> None:
    stack = formats.read(FOREIGN / "krita.ora")
    with zipfile.ZipFile(FOREIGN / "krita.ora") as archive:
        merged = read_picture(archive.read("mergedimage.png"))
    assert residual(stack, quantise(merged.pixels, 8)).max <= 2
    assert [layer.name for layer in stack] == [layer.name for layer in everything()]
    assert stack["Licht"].blend_mode == "screen"
    assert stack["Schatten"].box == everything()["Schatten"].box
    assert (stack[0].kind, stack["hidden"].visible, stack.dpi, stack.notes) == ("background", False, 150, ())


# ---- files that say more than a stack can, that are broken, or hostile

XML = '<?xml version="1.0"?><image w="8" h="8"><stack>{}</stack></image>'
LAYER = '<layer name="a" src="data/0.png" x="1" y="2" {}/>'
PNG = png(noise(0, 4, 4, 8))
LARGE = png(np.zeros((2000, 2000, 4), np.uint8))


def zipped(inside: str = "", xml: str = XML, others: Mapping[str, bytes] = {}) -> bytes:
    file = io.BytesIO()
    files = {"mimetype": b"image/openraster", "stack.xml": xml.format(inside).encode(), "data/0.png": PNG, **others}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def test_what_a_stack_does_not_have_is_noted(tmp_path: Path) -> None:
    blended = LAYER.format('composite-op="svg:multiply"')
    inside = (
        f'<filter name="f"/><stack name="empty"/><stack name="through" x="3">{blended}</stack>'
        + LAYER.format('composite-op="svg:plus" opacity="7"')
        + LAYER.format('composite-op="svg:exclusion" opacity="nan"')
    )
    (tmp_path / "a.ora").write_bytes(zipped(inside))
    stack = formats.read(tmp_path / "a.ora")
    assert [(layer.name, layer.blend_mode) for layer in stack] == [
        ("a", "exclusion"),
        ("a", "normal"),
        ("a", "multiply"),
    ]
    assert stack[0].box == Box(1, 2, 5, 6)
    assert stack.notes == (
        "'a' has the blend mode svg:plus: it became normal",
        "group 'through' has an offset, which the specification dropped: it was left out",
        "group 'through' lets blend modes through to what lies below it: it was taken apart",
        "group 'empty' is empty: it was left out",
        "'f' is a filter, which unfuse does not know: it was left out",
    )


def test_both_depths_in_one_file_become_the_deeper(tmp_path: Path) -> None:
    deep = LayerStack((4, 4), (Layer("a", "object", Box(0, 0, 4, 4), noise(1, 4, 4, 16)),), depth=16)
    formats.write(deep, tmp_path / "b.ora")
    with zipfile.ZipFile(tmp_path / "b.ora") as archive:
        inside = LAYER.format("") + LAYER.format("").replace("data/0", "data/1")
        (tmp_path / "a.ora").write_bytes(zipped(inside, others={"data/1.png": archive.read("data/000.png")}))
    stack = formats.read(tmp_path / "a.ora")
    assert [layer.depth for layer in stack] == [16, 16]
    shallow = np.asarray(Image.open(io.BytesIO(PNG))).astype(np.uint16) * np.uint16(257)
    np.testing.assert_array_equal(stack[1].pixels, shallow)


def bomb() -> bytes:
    """A PNG that claims 40,000 x 40,000 pixels."""
    head = PNG[12:16] + 2 * (40_000).to_bytes(4, "big") + PNG[24:29]
    return PNG[:12] + head + zlib.crc32(head).to_bytes(4, "big") + PNG[33:]


def entities(levels: int) -> str:
    rows = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(levels))
    return f'<!DOCTYPE x [<!ENTITY e0 "ha">{rows}]><image w="8" h="8"><stack name="&e{levels};"/></image>'


OUTSIDE = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><image w="8" h="8"><stack name="a">&e;</stack></image>'
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "not a zip": (lambda: b"PK nothing", "not a zip"),
    "another zip": (lambda: zipped(others={"mimetype": b"application/zip"}), "not an OpenRaster file"),
    "no mimetype": (lambda: zipped().replace(b"mimetype", b"mimetypo"), "lacks 'mimetype'"),
    "not XML": (lambda: zipped(xml="<image"), "not XML"),
    "other XML": (lambda: zipped(xml="<svg/>"), "does not say how large"),
    "negative": (lambda: zipped(xml='<image w="-8" h="8"/>'), "w is '-8'"),
    "no canvas": (lambda: zipped(xml='<image w="0" h="8"/>'), "at least 1x1"),
    "canvas too large": (lambda: zipped(xml='<image w="99999" h="99999"/>'), "99999x99999 pixels, the limit is"),
    "no picture": (lambda: zipped(LAYER.format("").replace("0.png", "9.png")), "lacks 'data/9.png'"),
    "picture elsewhere": (lambda: zipped(LAYER.format("").replace("data/0.png", "../../etc/passwd")), "lacks '../"),
    "member elsewhere": (lambda: zipped(others={"../a.png": PNG}), "leaves its place"),
    "no place": (lambda: zipped(LAYER.format("").replace('x="1"', 'x="one"')), "has no place"),
    "infinite": (lambda: zipped(LAYER.format("").replace('x="1"', 'x="inf"')), "has no place"),
    "far off": (lambda: zipped(LAYER.format("").replace('x="1"', 'x="1e300"')), "too far off"),
    "PNG bomb": (lambda: zipped(LAYER.format(""), others={"data/0.png": bomb()}), "megapixels"),
    "one picture often": (lambda: zipped(LAYER.format("") * 5, others={"data/0.png": LARGE}), "the limit of 0:"),
    "PNG that is text": (lambda: zipped(LAYER.format(""), others={"data/0.png": b"hello"}), "not a picture"),
    "billion laughs": (lambda: zipped(xml=entities(9).replace("{", "{{")), "declares entities"),
    "file of the system": (lambda: zipped(xml=OUTSIDE), "declares entities"),
    "deep": (lambda: zipped("<stack>" * 150 + LAYER.format("") + "</stack>" * 150), "more than 100 deep"),
    "very deep": (lambda: zipped("<stack>" * 5000 + "</stack>" * 5000), "not XML that can be read .*: save or down"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    make, message = HOSTILE[name]
    (tmp_path / "a.ora").write_bytes(make())
    with pytest.raises(FormatError, match=message) as caught:
        formats.read(tmp_path / "a.ora", limit_megapixels=4)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["a.ora"]
