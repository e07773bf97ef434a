"""Reading PPTX: our own to the bit, and slides that python-pptx makes as people do."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pptx import Presentation
from pptx.dml.color import RGBColor
from pptx.util import Emu, Pt
from stacks import assert_same_layers, everything, noise, png

from unfuse import formats
from unfuse.errors import FormatError
from unfuse.layers import Box, Layer, LayerStack

PIXEL = 9525
BLANK = 6
FOUR = np.zeros((20, 40, 4), np.uint8)  # a picture of four colours, so that turns and flips show
FOUR[:10, :20], FOUR[:10, 20:] = (255, 0, 0, 255), (0, 255, 0, 255)
FOUR[10:, :20], FOUR[10:, 20:] = (0, 0, 255, 255), (255, 255, 0, 255)


def test_our_own_come_back_to_the_bit(tmp_path: Path) -> None:
    stack = everything()
    inside = tuple(layer.replace(blend_mode="normal") for layer in stack["Gruppe 組"].layers)
    layers = [layer.replace(blend_mode="normal") for layer in stack]
    layers[3] = stack["Gruppe 組"].replace(layers=inside, opacity=1.0)
    stack = stack.replace(layers=tuple(layers))
    assert formats.write(stack, tmp_path / "a.pptx") == ()
    back = formats.read(tmp_path / "a.pptx")
    assert (back.size, back.icc, back.notes) == (stack.size, stack.icc, ())
    assert_same_layers(back.layers, stack.layers, ignore=("id", "kind", "locked"))
    assert back["Oben"].locked
    assert all(layer.original is None for layer in back.walk())


def test_a_slide_that_was_scaled_comes_back_in_its_pixels(tmp_path: Path) -> None:
    layer = Layer("a", "object", Box(0, 0, 6000, 40), noise(1, 6000, 40, 8))
    formats.write(LayerStack((6000, 150), (layer,)), tmp_path / "a.pptx")
    back = formats.read(tmp_path / "a.pptx")
    assert back.size == (6000, 150)
    assert_same_layers(back.layers, (layer,), ignore=("id", "kind"))


class Slides:
    """A presentation of 200 x 100 pixels, as python-pptx writes it."""

    def __init__(self, count: int = 1) -> None:
        self.file: Any = Presentation()
        self.file.slide_width, self.file.slide_height = Emu(200 * PIXEL), Emu(100 * PIXEL)
        self.slides = [self.file.slides.add_slide(self.file.slide_layouts[BLANK]) for _ in range(count)]
        self.shapes = self.slides[0].shapes

    def picture(self, left: int, top: int, width: int, height: int, shapes: Any = None) -> Any:
        places = (Emu(x * PIXEL) for x in (left, top, width, height))
        return (self.shapes if shapes is None else shapes).add_picture(BytesIO(png(FOUR)), *places)

    def text(self, words: str, left: int, top: int, width: int, height: int, size: float) -> Any:
        box = self.shapes.add_textbox(*(Emu(x * PIXEL) for x in (left, top, width, height)))
        box.text_frame.text = words
        box.text_frame.word_wrap = True
        run = box.text_frame.paragraphs[0].runs[0]
        run.font.size = Pt(size)
        colour: Any = RGBColor
        run.font.color.rgb = colour(200, 10, 30)
        return box

    def read(self, path: Path, **options: Any) -> LayerStack:
        self.file.save(str(path / "a.pptx"))
        return formats.read(path / "a.pptx", **options)


def at(stack: LayerStack, x: int, y: int) -> list[int]:
    pixels: list[int] = stack[0].to_canvas(stack.size)[y, x].tolist()
    return pixels


RED, GREEN, BLUE, YELLOW = ([*colour, 255] for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)))


@pytest.mark.parametrize(
    ("change", "box", "corners"),
    [
        ({}, (10, 10, 50, 30), [RED, GREEN, BLUE, YELLOW]),
        ({"rotation": 180}, (10, 10, 50, 30), [YELLOW, BLUE, GREEN, RED]),
        ({"rotation": 90}, (20, 0, 40, 40), [BLUE, RED, YELLOW, GREEN]),
        ({"flipH": "1"}, (10, 10, 50, 30), [GREEN, RED, YELLOW, BLUE]),
        ({"flipV": "1", "rotation": 90}, (20, 0, 40, 40), [RED, BLUE, GREEN, YELLOW]),
        ({"crop_left": 0.5, "width": 20}, (10, 10, 30, 30), [GREEN, GREEN, YELLOW, YELLOW]),
        ({"width": 80, "height": 40}, (10, 10, 90, 50), [RED, GREEN, BLUE, YELLOW]),
    ],
)
def test_pictures_lie_as_on_the_slide(
    tmp_path: Path, change: dict[str, Any], box: tuple[int, ...], corners: list[list[int]]
) -> None:
    slides = Slides()
    shape = slides.picture(10, 10, 40, 20)
    for key, value in change.items():
        if key.startswith("flip"):
            shape._element.spPr.find("{http://schemas.openxmlformats.org/drawingml/2006/main}xfrm").set(key, value)
        else:
            setattr(shape, key, Emu(value * PIXEL) if key in ("width", "height") else value)
    stack = slides.read(tmp_path)
    assert stack.size == (200, 100)
    assert stack[0].box == box
    left, top, right, bottom = box
    places = [(left + 2, top + 2), (right - 3, top + 2), (left + 2, bottom - 3), (right - 3, bottom - 3)]
    assert [at(stack, x, y) for x, y in places] == corners


def test_groups_may_scale_what_is_in_them(tmp_path: Path) -> None:
    slides = Slides()
    group = slides.shapes.add_group_shape()
    slides.picture(10, 10, 40, 20, group.shapes)
    group.left, group.top, group.width, group.height = (Emu(x * PIXEL) for x in (100, 50, 80, 40))
    stack = slides.read(tmp_path)
    assert (stack[0].kind, stack[0].box) == ("group", Box(100, 50, 180, 90))
    assert at(stack, 102, 52) == RED
    assert at(stack, 177, 87) == YELLOW


def test_text_boxes_stay_text(tmp_path: Path) -> None:
    slides = Slides()
    slides.text("Ein Wort, und noch eins dazu", 20, 10, 100, 60, 12).name = "Titel"
    turned = slides.text("schräg", 120, 40, 60, 30, 12)
    turned.rotation = 90.0
    stack = slides.read(tmp_path)
    title, other = stack
    assert (title.name, title.kind) == ("Titel", "text")
    assert title.text is not None
    assert " ".join(title.text.string.split()) == "Ein Wort, und noch eins dazu"
    assert len(title.text.lines) > 1
    assert (title.text.lines[0].color, title.text.lines[0].size) == ((200, 10, 30), 16)
    assert Box(20, 10, 120, 75).union(title.box) == Box(20, 10, 120, 75)
    assert title.pixels is not None
    assert title.pixels[..., 3].max() > 200
    assert other.text is not None
    assert other.text.lines[0].angle == pytest.approx(90, abs=0.1)
    assert stack.notes[0].startswith("the text of 'Titel' was set anew in ")


def test_what_is_no_picture_and_no_text_is_said(tmp_path: Path) -> None:
    slides = Slides(count=3)
    slides.shapes.add_table(2, 2, *(Emu(x * PIXEL) for x in (0, 0, 50, 50))).name = "Zahlen"
    slides.shapes.add_shape(1, *(Emu(x * PIXEL) for x in (0, 0, 50, 50))).name = "Kasten"
    slides.picture(0, 0, 40, 20)
    assert slides.read(tmp_path).notes == (
        "it has 3 slides: the first was read; say which with slide, 1 to 3",
        "'Zahlen' (table) was left out: only pictures and text are read",
        "'Kasten' (auto shape) was left out: only pictures and text are read",
    )


def test_a_slide_can_be_chosen(tmp_path: Path) -> None:
    slides = Slides(count=2)
    slides.picture(10, 10, 40, 20, slides.slides[1].shapes)
    assert len(slides.read(tmp_path)) == 0
    assert len(slides.read(tmp_path, slide=2)) == 1
    with pytest.raises(FormatError, match=r"slide is 3: .* has slides 1 to 2"):
        slides.read(tmp_path, slide=3)
    formats.write(everything(), tmp_path / "a.psd")
    with pytest.raises(FormatError, match="'slide' is not an option of Photoshop files: they have none"):
        formats.read(tmp_path / "a.psd", slide=1)


def test_broken_and_hostile_files_are_refused_in_one_line(tmp_path: Path) -> None:
    formats.write(everything(), tmp_path / "good.pptx")
    with zipfile.ZipFile(tmp_path / "good.pptx") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    slide = "ppt/slides/slide1.xml"
    laughs = b'<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>'
    wrong = {
        "not a zip": ({}, b"hello"),
        "lacks '\\[Content_Types\\].xml'": ({"a": b""}, None),
        "broken": (files | {slide: b"<p:sld"}, None),
        "leaves its place": (files | {"../evil": b""}, None),
        "has no slides|broken": ({k: v for k, v in files.items() if k != slide}, None),
        "broken|not a presentation": (files | {slide: laughs + b"<a>&b;</a>"}, None),
    }  # fmt: skip
    for message, (members, raw) in wrong.items():
        with zipfile.ZipFile(tmp_path / "a.pptx", "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        if raw is not None:
            (tmp_path / "a.pptx").write_bytes(raw)
        with pytest.raises(FormatError, match=message) as caught:
            formats.read(tmp_path / "a.pptx", limit_megapixels=4)
        assert "\n" not in str(caught.value)


def test_sizes_are_looked_up_before_pictures_are_decoded(tmp_path: Path) -> None:
    slides = Slides()
    huge = png(np.zeros((3000, 3000, 4), np.uint8))
    for _ in range(5):
        slides.shapes.add_picture(BytesIO(huge), 0, 0, Emu(20 * PIXEL), Emu(20 * PIXEL))
    with pytest.raises(FormatError, match="limit"):
        slides.read(tmp_path, limit_megapixels=4)
    slides = Slides()
    for _ in range(3):
        slides.picture(0, 0, 3000, 2000)
    with pytest.raises(FormatError, match="shows more than 16,000,000 pixels"):
        slides.read(tmp_path, limit_megapixels=4)
