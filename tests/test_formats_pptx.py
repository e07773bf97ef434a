"""PPTX, read back with python-pptx: places, names, and that the pictures put together are the stack."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pptx import Presentation
from pptx.oxml.ns import qn
from stacks import everything, noise, soft

from unfuse import formats
from unfuse.composite import flatten
from unfuse.layers import Box, Layer, LayerStack
from unfuse.pixels import quantise
from unfuse.pixels import read as read_picture

EMU = 9525  # a pixel


def slide_of(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    (slide,) = Presentation(str(path)).slides
    return slide


def pictures(shapes: Any) -> Iterator[Any]:
    """The pictures of a slide, depth first, bottom to top."""
    for shape in shapes:
        yield from pictures(shape.shapes) if hasattr(shape, "shapes") else [shape]


def properties(shape: Any) -> Any:
    return shape._element.find(f".//{qn('p:cNvPr')}")


def opacity(shape: Any) -> float:
    fix = shape._element.find(f".//{qn('a:alphaModFix')}")
    return 1.0 if fix is None else int(fix.get("amt")) / 100_000


def shown(path: Path, size: tuple[int, int]) -> LayerStack:
    """What the slide shows, as a stack: hidden shapes left out, places in pixels."""
    layers = []
    for shape in pictures(slide_of(path).shapes):
        pixels = quantise(read_picture(shape.image.blob).pixels, 8)
        left, top = round(shape.left / EMU), round(shape.top / EMU)
        box = Box(left, top, left + pixels.shape[1], top + pixels.shape[0])
        assert (shape.width, shape.height) == (box.width * EMU, box.height * EMU)
        hidden = properties(shape).get("hidden") == "1"
        layers.append(Layer(shape.name, "object", box, pixels, opacity=opacity(shape), visible=not hidden))
    return LayerStack(size, tuple(layers))


def group(name: str, *layers: Layer, **fields: Any) -> Layer:
    return Layer.group(name, layers, **fields)


def disc(name: str, left: int, **fields: Any) -> Layer:
    return Layer(name, "object", Box(left, 5, left + 30, 35), soft(30, 30, (200, 5 * abs(left), 40)), **fields)


GROUND = Layer.from_canvas("Himmel 背景", "background", np.full((40, 60, 4), (90, 120, 200, 255), np.uint8))


def test_each_layer_is_a_picture_at_its_place_with_name_and_alt_text(tmp_path: Path) -> None:
    stack = LayerStack(
        (60, 40), (GROUND, disc("Kreis 🎈", -4, opacity=0.5, locked=True), disc("weg", 20, visible=False))
    )
    formats.write(stack, tmp_path / "a.pptx")
    slide = slide_of(tmp_path / "a.pptx")
    presentation = Presentation(str(tmp_path / "a.pptx"))
    for shape, layer in zip(slide.shapes, stack, strict=True):
        assert shape.name == properties(shape).get("descr") == layer.name
        unit = presentation.slide_width / 60
        assert (shape.left, shape.top) == (round(layer.box.left * unit), round(layer.box.top * unit))
        assert opacity(shape) == layer.opacity
        assert (properties(shape).get("hidden") == "1") == (not layer.visible)
        assert (shape._element.find(f".//{qn('a:picLocks')}").get("noMove") == "1") == layer.locked
        assert layer.pixels is not None
        np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(shape.image.blob)).convert("RGBA")), layer.pixels)


@pytest.mark.parametrize(
    ("size", "width", "height"),
    [
        ((1920, 1080), 20, 11.25),  # inches at 96 pixels an inch
        ((10_752, 5_376), 56, 28),  # the longest slide there is
        ((24, 48), 1, 2),  # the shortest
        ((12_000, 200), 56, 1),  # both: the picture keeps its shape, the slide is higher
    ],
)
def test_the_slide_has_the_pictures_proportions(
    tmp_path: Path, size: tuple[int, int], width: float, height: float
) -> None:
    formats.write(LayerStack(size, (Layer("a", "object", Box(4, 4, 8, 8), noise(0, 4, 4, 8)),)), tmp_path / "a.pptx")
    presentation = Presentation(str(tmp_path / "a.pptx"))
    assert (presentation.slide_width, presentation.slide_height) == (width * 914_400, height * 914_400)
    (picture,) = slide_of(tmp_path / "a.pptx").shapes
    assert abs(picture.width - picture.height) <= 1
    assert abs(picture.left / presentation.slide_width - 4 / size[0]) < 1e-6


def test_groups_are_groups(tmp_path: Path) -> None:
    stack = LayerStack((120, 120), (GROUND, group("außen", disc("a", 3), group("innen", disc("b", 9)), visible=False)))
    formats.write(stack, tmp_path / "a.pptx")
    _, outer = slide_of(tmp_path / "a.pptx").shapes
    assert outer.name == "außen"
    assert properties(outer).get("hidden") == "1"
    assert [shape.name for shape in outer.shapes] == ["a", "innen"]
    inner = outer.shapes[1]
    assert (inner.left, inner.top, inner.width, inner.height) == (9 * EMU, 5 * EMU, 30 * EMU, 30 * EMU)


SIZE = (120, 100)  # above an inch, so that a pixel has its usual size
ALIKE = {
    "normal": (GROUND, disc("a", 3, opacity=0.7), disc("b", 20)),
    "multiply in the middle": (GROUND, disc("a", 3), disc("b", 10, blend_mode="multiply", opacity=0.6), disc("c", 20)),
    "hidden multiply": (GROUND, disc("a", 3, blend_mode="multiply", visible=False), disc("c", 20)),
    "group with opacity": (GROUND, group("g", disc("a", 3), disc("b", 12), opacity=0.4), disc("c", 20)),
    "blend inside a group": (GROUND, group("g", disc("a", 3), disc("b", 12, blend_mode="screen"), disc("c", 30))),
    "group that blends": (GROUND, group("g", disc("a", 3), disc("b", 12), blend_mode="difference"), disc("c", 20)),
    "everything": everything().layers,
    "nothing": (),
}


@pytest.mark.parametrize("name", ALIKE)
def test_the_slide_looks_as_the_stack_does(tmp_path: Path, name: str) -> None:
    stack = LayerStack(SIZE, ALIKE[name])
    formats.write(stack, tmp_path / "a.pptx")
    difference = np.abs(flatten(shown(tmp_path / "a.pptx", SIZE)).astype(int) - flatten(stack))
    assert difference.max() <= 1


def test_only_what_lies_under_a_blend_mode_is_merged(tmp_path: Path) -> None:
    names = {}
    for name, layers in ALIKE.items():
        formats.write(LayerStack(SIZE, layers), tmp_path / "a.pptx")
        names[name] = [shape.name for shape in pictures(slide_of(tmp_path / "a.pptx").shapes)]
    assert names["multiply in the middle"] == ["Himmel 背景 + a + b", "c"]
    assert names["hidden multiply"] == ["Himmel 背景", "a", "c"]
    assert names["group with opacity"] == ["Himmel 背景", "g", "c"]
    assert names["blend inside a group"] == ["Himmel 背景", "a + b", "c"]
    assert names["group that blends"] == ["Himmel 背景 + g", "c"]


def test_what_is_merged_is_said(tmp_path: Path) -> None:
    notes = formats.write(LayerStack(SIZE, ALIKE["multiply in the middle"]), tmp_path / "a.pptx")
    assert notes == ("PowerPoint has no blend modes: 'Himmel 背景 + a + b' became one picture",)
    notes = formats.write(LayerStack(SIZE, ALIKE["group with opacity"]), tmp_path / "a.pptx")
    assert notes == ("PowerPoint has no opacity of groups: 'g' became one picture",)
    assert formats.write(LayerStack(SIZE, ALIKE["normal"]), tmp_path / "a.pptx") == ()


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    formats.write(everything(depth=16), tmp_path / "a.pptx")
    for shape in pictures(slide_of(tmp_path / "a.pptx").shapes):
        assert read_picture(shape.image.blob).depth == 8
        assert read_picture(shape.image.blob).icc == everything().icc
