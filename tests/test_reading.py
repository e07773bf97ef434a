"""Reading against known answers: text set in the bundled font, and what the example pictures say."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import unfuse
from unfuse import naming, reading
from unfuse.errors import MissingExtra
from unfuse.layers import LayerStack
from unfuse.textblock import TextBlock, TextLine, aligned

ROOT = Path(__file__).parents[1]
FONT = ROOT / "src" / "unfuse" / "fonts" / "Inter.ttf"

needs_reader = pytest.mark.skipif(not reading.is_available(), reason="reading needs rapidocr: pip install '.[text]'")


def font(size: int, weight: int) -> ImageFont.FreeTypeFont:
    found = ImageFont.truetype(FONT, size)
    found.set_variation_by_axes([weight])
    return found


def flyer() -> Image.Image:
    """Two paragraphs, of known place, size, weight and colour."""
    image = Image.new("RGB", (640, 420), "#f4efe6")
    draw = ImageDraw.Draw(image)
    draw.text((320, 90), "Summer Market", "#c8102e", font(64, 800), anchor="ms")
    draw.text((320, 160), "Every Sunday", "#c8102e", font(64, 800), anchor="ms")
    draw.text((40, 330), "Entrance free from 10 to 18", "#203040", font(28, 400), anchor="ls")
    return image


@pytest.fixture(scope="module")
def lines() -> tuple[TextLine, ...]:
    return reading.lines(np.asarray(flyer()))


@needs_reader
def test_what_is_said_and_where(lines: tuple[TextLine, ...]) -> None:
    assert [line.string for line in lines] == ["Summer Market", "Every Sunday", "Entrance free from 10 to 18"]
    boxes = [(320, 90, "ms", 64, 800), (320, 160, "ms", 64, 800), (40, 330, "ls", 28, 400)]
    for line, (x, y, anchor, size, weight) in zip(lines, boxes, strict=True):
        truth = ImageDraw.Draw(flyer()).textbbox((x, y), line.string, font(size, weight), anchor=anchor)
        found = (*line.quad[0], *line.quad[2])
        assert found == pytest.approx(truth, abs=3.5)  # of the first letter, Pillow counts what is left of it
        assert line.origin[1] == pytest.approx(y, abs=2.5)
        assert line.size == pytest.approx(size, rel=0.08)
        assert abs(line.weight - weight) <= 200
        assert line.confidence > 0.9
    assert lines[0].color == pytest.approx((0xC8, 0x10, 0x2E), abs=4)
    assert lines[2].color == pytest.approx((0x20, 0x30, 0x40), abs=12)


@needs_reader
def test_lines_are_put_together(lines: tuple[TextLine, ...]) -> None:
    whole = reading.block(lines, 640)
    assert [part.string for part in whole.paragraphs] == [
        "Summer Market\nEvery Sunday",
        "Entrance free from 10 to 18",
    ]
    assert whole.paragraphs[0].align == "center"


@needs_reader
def test_a_turned_line() -> None:
    image = Image.new("RGB", (500, 400), "white")
    ImageDraw.Draw(image).text((250, 200), "Turned a bit", "#003399", font(48, 700), anchor="mm")
    (line,) = reading.lines(np.asarray(image.rotate(-20, fillcolor="white", resample=Image.Resampling.BICUBIC)))
    assert line.string == "Turned a bit"
    assert line.angle == pytest.approx(20, abs=2)
    middle = [sum(values) / 4 for values in zip(*line.quad, strict=True)]
    assert middle == pytest.approx((250, 200), abs=6)


@needs_reader
def test_a_line_that_runs_up() -> None:
    image = Image.new("RGB", (400, 80), "black")
    ImageDraw.Draw(image).text((200, 40), "Photo by Maria", "white", font(30, 500), anchor="mm")
    (line,) = reading.lines(np.asarray(image.rotate(90, expand=True)))
    assert line.string == "Photo by Maria"
    assert line.angle == pytest.approx(-90, abs=3)


@needs_reader
def test_chinese_in_a_real_picture() -> None:
    with Image.open(ROOT / "examples" / "smoke.jpg") as picture:
        (line,) = reading.lines(np.asarray(picture.convert("RGB"))[:400])
    assert line.string == "拒绝二手烟"
    assert min(line.color) > 245


@needs_reader
def test_every_kind_of_picture_reads_the_same() -> None:
    image = flyer().crop((0, 280, 640, 360))
    levels = np.asarray(image)
    clear = np.dstack([levels, (np.abs(levels.astype(int) - (0xF4, 0xEF, 0xE6)).max(-1) > 8) * np.uint8(255)])
    for picture in (levels, levels / 255, np.asarray(image.convert("RGBA")), clear.astype(np.uint8)):
        (line,) = reading.lines(picture)
        assert line.string == "Entrance free from 10 to 18"
    assert reading.lines(np.zeros((8, 300, 3), np.uint8)) == ()
    assert reading.lines(np.full((64, 64, 3), 99, np.uint8)) == ()


@needs_reader
def test_reading_asks_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    reading._reader.cache_clear()
    reading._known.clear()
    assert len(reading.lines(np.asarray(flyer()))) == 3


@pytest.fixture(scope="module")
def stack() -> Iterator[LayerStack]:
    with Image.open(ROOT / "examples" / "poster.jpg") as picture:
        yield unfuse.decompose(np.asarray(picture.resize((503, 679))))


@needs_reader
def test_layers_say_what_the_picture_says(stack: LayerStack) -> None:
    said = " ".join(line.string for layer in stack if layer.text for line in layer.text.lines)
    for word in ("Unflustered", "and", "Unfazed.", "Gricity!"):
        assert word in said
    assert all(layer.kind == "text" for layer in stack if layer.text)
    assert all(layer.name.startswith(layer.text.lines[0].string) for layer in stack if layer.text)
    assert stack.provenance.reader.startswith("rapidocr ")


@needs_reader
def test_the_text_lies_on_its_ink(stack: LayerStack) -> None:
    for layer in stack:
        for line in layer.text.lines if layer.text else ():
            left, top = (math.floor(x) for x in line.quad[0])
            right, bottom = (math.ceil(x) for x in line.quad[2])
            alpha = layer.to_canvas(stack.size)[top:bottom, left:right, 3] > 127
            assert 0.1 < alpha.mean() < 0.95
            assert alpha[:3].any()
            assert alpha[-3:].any()


def test_without_reading_layers_say_nothing() -> None:
    stack = unfuse.decompose(np.asarray(flyer()), text=False)
    assert [layer.text for layer in stack] == [None] * len(stack)
    assert stack.provenance.reader == ""


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rapidocr", None)
    with pytest.raises(MissingExtra, match=r"reading text needs rapidocr: pip install 'unfuse\[text\]'"):
        unfuse.decompose(np.asarray(flyer()), text=True)


def test_names_are_words() -> None:
    assert naming.words("Summer\nMarket") == "Summer Market"
    long = naming.words("All the small things that nobody would ever read in full")
    assert long == "All the small things that nobody would…"
    layers = np.zeros((2, 4, 4, 4), np.uint8)
    assert naming.names(layers, ["text", "text"], ["Sale", "Sale"]) == ["Sale", "Sale (2)"]


def test_alignment() -> None:
    def line(left: float, right: float, top: float) -> TextLine:
        return TextLine("x", ((left, top), (right, top), (right, top + 8), (left, top + 8)), 10)

    assert aligned([line(0, 10, 0), line(0, 30, 10)]) == "left"
    assert aligned([line(20, 30, 0), line(0, 30, 10)]) == "right"
    assert aligned([line(10, 20, 0), line(0, 30, 10)]) == "center"
    assert aligned([line(0, 10, 0)]) is None
    far = TextBlock((line(0, 10, 0), line(0, 10, 60)))
    assert len(far.paragraphs) == 2


@needs_reader
def test_captions_quote_what_they_leave_out(lines: tuple[TextLine, ...]) -> None:
    caption = reading.quoted('A flyer for a "Summer Market".', np.asarray(flyer()))
    assert caption.startswith('A flyer for a "Summer Market". The text reads "Every Sunday", "Entrance free')
    assert reading.quoted(caption, np.asarray(flyer())) == caption
    assert len(lines) == 3
