"""PDF, read back with PDFium, a reader of its own: looks, words, and with pikepdf, layers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pikepdf
import pytest
from stacks import everything, noise, soft

from unfuse import formats
from unfuse.composite import flatten
from unfuse.errors import FormatError
from unfuse.layers import BLEND_MODES, Box, Layer, LayerStack
from unfuse.textblock import TextBlock, TextLine

pdfium = pytest.importorskip("pypdfium2")


def shown(path: Path, stack: LayerStack) -> Any:
    """What PDFium shows over white, `h w 3` uint8, a pixel of the stack a pixel."""
    document = pdfium.PdfDocument(path)
    page = document[0].render(scale=stack.dpi / 72).to_numpy()[..., 2::-1].copy()  # BGR
    document.close()
    return page


def over_white(stack: LayerStack) -> Any:
    flat = flatten(stack).astype(float)
    flat /= 255 if stack.depth == 8 else 65535
    return (flat[..., :3] * flat[..., 3:] + 1 - flat[..., 3:]) * 255


@pytest.mark.parametrize(("depth", "transparent"), [(8, False), (8, True), (16, False)])
def test_pdfium_composes_our_layers_as_we_do(tmp_path: Path, depth: Literal[8, 16], transparent: bool) -> None:
    stack = everything(depth, transparent).replace(icc=None, dpi=72.0)
    assert formats.write(stack, tmp_path / "a.pdf") == ()
    page = shown(tmp_path / "a.pdf", stack)
    assert page.shape == (80, 120, 3)
    difference = np.abs(page - over_white(stack))
    assert difference.max() < 4  # PDFium rounds each of six layers to 8 bits
    assert difference.mean() < 0.7


@pytest.mark.parametrize("mode", BLEND_MODES)
def test_every_blend_mode_is_the_standards(tmp_path: Path, mode: str) -> None:
    disc = Layer("a", "object", Box(20, 10, 100, 70), soft(80, 60, (230, 140, 60)), blend_mode=mode)
    stack = LayerStack((120, 80), (everything()[0], disc))
    formats.write(stack, tmp_path / "a.pdf")
    close = 8 if mode in ("hue", "saturation", "color", "luminosity", "soft-light") else 3  # 8 bits inside PDFium
    assert np.abs(shown(tmp_path / "a.pdf", stack) - over_white(stack)).max() <= close


def test_layers_can_be_switched(tmp_path: Path) -> None:
    stack = everything()
    formats.write(stack, tmp_path / "a.pdf")
    with pikepdf.open(tmp_path / "a.pdf") as pdf:
        content: Any = pdf.Root.OCProperties
        assert [str(group.Name) for group in content.OCGs] == [layer.name for layer in stack.walk()]
        assert [str(group.Name) for group in content.D.OFF] == ["hidden"]
        assert [str(group.Name) for group in content.D.Locked] == ["innen", "Oben"]
        order = [
            str(each.Name) if isinstance(each, pikepdf.Dictionary) else len(list(each)) for each in content.D.Order
        ]
        assert order == ["Oben", "hidden", "Gruppe 組", 4, "Schatten", "Kreis ä é 🎈", "Background 背景"]
        assert [float(x) for x in pdf.pages[0].MediaBox] == [0, 0, 120 * 72 / 150, 80 * 72 / 150]
        image = pdf.pages[0].Resources.XObject.X1
        assert (int(image.Width), int(image.Height)) == stack[1].box.size
        assert bytes(pdf.pages[0].Resources.XObject.X0.ColorSpace[1].read_bytes()) == stack.icc


def test_pictures_are_lossless(tmp_path: Path) -> None:
    layer = Layer("a", "object", Box(0, 0, 9, 7), noise(5, 9, 7, 8))
    formats.write(LayerStack((9, 7), (layer,)), tmp_path / "a.pdf")
    with pikepdf.open(tmp_path / "a.pdf") as pdf:
        image = pdf.pages[0].Resources.XObject.X0
        colour = np.frombuffer(image.read_bytes(), np.uint8).reshape(7, 9, 3)
        alpha = np.frombuffer(image.SMask.read_bytes(), np.uint8).reshape(7, 9, 1)
    np.testing.assert_array_equal(np.dstack([colour, alpha]), layer.pixels)


def line(string: str, x: float, y: float, width: float, angle: float = 0, **fields: Any) -> TextLine:
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    quad = tuple((x + u * c - v * s, y + u * s + v * c) for u, v in ((0, 0), (width, 0), (width, 12), (0, 12)))
    return TextLine(string, quad, 16, **fields)  # type: ignore[arg-type]


WORDS = TextBlock((line("Große <Worte>", 10, 8, 90, color=(250, 240, 0)), line("背景 🎈", 30, 30, 40, 20)))
TEXT = Layer("Words", "text", Box(10, 5, 110, 65), soft(100, 60, (250, 240, 0)), text=WORDS)


def test_words_can_be_found_where_they_are_and_nothing_looks_different(tmp_path: Path) -> None:
    stack = LayerStack((120, 80), (everything()[0], TEXT))
    formats.write(stack, tmp_path / "live.pdf")
    formats.write(stack, tmp_path / "picture.pdf", text="picture")
    np.testing.assert_array_equal(shown(tmp_path / "live.pdf", stack), shown(tmp_path / "picture.pdf", stack))
    document = pdfium.PdfDocument(tmp_path / "live.pdf")
    page = document[0].get_textpage()
    assert page.get_text_range().split() == ["Große", "<Worte>", "背景", "🎈"]
    left, bottom, _, top = page.get_charbox(0, loose=True)
    assert abs(left - 10) < 1
    assert bottom <= 80 - 20 <= top
    first, last = page.get_charbox(0), page.get_charbox(len("Große <Worte>") - 1)
    assert last[0] - first[0] == pytest.approx(90 * 12 / 13, abs=1)
    document.close()
    empty = pdfium.PdfDocument(tmp_path / "picture.pdf")
    assert empty[0].get_textpage().get_text_range() == ""
    empty.close()
    with pytest.raises(FormatError, match="text is 'both'"):
        formats.write(stack, tmp_path / "a.pdf", text="both")


@pytest.mark.parametrize(("size", "dpi"), [((30_000, 2), 72), ((2, 2), 600), ((50, 40), 300)])
def test_pages_have_a_size_that_viewers_take(tmp_path: Path, size: tuple[int, int], dpi: float) -> None:
    layer = Layer("a", "object", Box(0, 0, 2, 2), noise(0, 2, 2, 8))
    formats.write(LayerStack(size, (layer,), dpi=dpi), tmp_path / "a.pdf")
    with pikepdf.open(tmp_path / "a.pdf") as pdf:
        _, _, width, height = (float(x) for x in pdf.pages[0].MediaBox)
    assert max(width, height) <= 14_400
    assert width / height == pytest.approx(size[0] / size[1], rel=1e-3)
