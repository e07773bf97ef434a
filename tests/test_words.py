"""Another text in the place of the old one: known letters in known places, set in the font that comes with unfuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features

from unfuse import typefaces, typeset
from unfuse.boxes import Box
from unfuse.composite import flatten
from unfuse.errors import StackError
from unfuse.layers import Layer, LayerStack
from unfuse.textblock import TextBlock, TextLine

FONT = Path(__file__).parents[1] / "src" / "unfuse" / "fonts" / "Inter.ttf"
SIZE = (400, 240)
RED = (200, 16, 46)


def font(size: int, weight: int = 700) -> ImageFont.FreeTypeFont:
    found = ImageFont.truetype(FONT, size)
    found.set_variation_by_axes([weight])
    return found


def written(rows: list[tuple[str, int, int, int, Any]], **fields: Any) -> Layer:
    """A layer of lines (string, middle, baseline, size, colour), and what it says."""
    pixels, lines = np.zeros((SIZE[1], SIZE[0], 4), np.uint8), []
    for string, x, y, size, color in rows:
        ink = Image.new("L", SIZE)
        ImageDraw.Draw(ink).text((x, y), string, 255, font(size), anchor="ms")
        left, top, right, bottom = ink.point(lambda level: level > 127 and 255).getbbox() or (0, 0, 1, 1)
        quad = ((left, top), (right, top), (right, bottom), (left, bottom))
        lines.append(TextLine(string, quad, size, color, (y - top) / (bottom - top), 700))
        alpha = np.asarray(ink)
        pixels[alpha > 0] = (*color, 0)
        pixels[..., 3] = np.maximum(pixels[..., 3], alpha)
    layer = Layer("Words", "text", Box(0, 0, *SIZE), pixels, id="words", **fields).crop_to_content()
    return layer.replace(text=TextBlock(tuple(lines), "center"))


def stack(*layers: Layer) -> LayerStack:
    back = np.full((SIZE[1], SIZE[0], 4), 255, np.uint8)
    return LayerStack(SIZE, (Layer("Back", "background", Box(0, 0, *SIZE), back), *layers))


@pytest.fixture
def before() -> LayerStack:
    return stack(written([("Summer", 200, 70, 48, RED), ("Market", 200, 125, 48, RED)]))


def text(of: LayerStack) -> TextBlock:
    found = of["Words"].text
    assert found
    return found


def like(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.minimum(a, b).sum(dtype=float) / np.maximum(a, b).sum(dtype=float))


def test_the_same_text_looks_the_same(before: LayerStack) -> None:
    after = before.replace_text("Words", "Summer\nMarket", font="Inter")
    assert like(*(x["Words"].to_canvas(SIZE)[..., 3] for x in (before, after))) > 0.85
    assert [line.string for line in text(after).lines] == ["Summer", "Market"]
    for old, new in zip(text(before).lines, text(after).lines, strict=True):
        assert np.array(new.quad) == pytest.approx(np.array(old.quad), abs=1.5)
        assert new.size == pytest.approx(old.size, rel=0.03)
        assert (new.color, new.font, new.weight) == (RED, "Inter", 700)


def test_the_closest_font_is_found_and_said(before: LayerStack, tmp_path: Path) -> None:
    (tmp_path / "mine.ttf").write_bytes(FONT.read_bytes())
    after = before.replace_text("Words", "Winter\nMarket", folder=str(tmp_path))
    assert text(after).lines[0].weight == 700
    assert after.notes == ("'Words': set in Inter, weight 700, 48 pixels, for 'Winter Market'",)
    again = after.replace_text("Words", "Spring\nMarket", folder=str(tmp_path))
    assert len(again.notes) == 1


def test_more_words_become_smaller_and_stay_in_the_box(before: LayerStack) -> None:
    after = before.replace_text("Words", "A very much longer text than there was before", font="Inter")
    left, top, right, bottom = text(before).bounds
    for line in text(after).lines:
        assert line.size < 48
        assert all(left - 1 <= x <= right + 1 and top - 4 <= y <= bottom + 8 for x, y in line.quad)
    assert len(text(after).lines) >= 3
    middles = [(line.quad[0][0] + line.quad[1][0]) / 2 for line in text(after).lines]
    assert middles == pytest.approx([200] * len(middles), abs=1.5)
    with pytest.raises(StackError, match="does not fit"):
        before.replace_text("Words", "much too long " * 40, font="Inter")


def test_what_is_beside_it_stays_to_the_bit(before: LayerStack) -> None:
    after = before.replace_text("Words", "Hi", font="Inter")
    touched = np.zeros(SIZE[::-1], bool)
    for each in (before, after):
        box = each["Words"].box
        touched[box.top : box.bottom, box.left : box.right] = True
    assert np.array_equal(flatten(before)[~touched], flatten(after)[~touched])
    assert after[0] is before[0]
    assert text(after.undo()) == text(before)


def test_a_part_is_replaced_and_the_rest_keeps_its_pixels() -> None:
    before = stack(written([("Summer", 200, 60, 48, RED), ("Entrance free", 200, 210, 20, (0, 0, 90))]))
    after = before.replace_text("Words", "No dogs", part="entrance free", font="Inter")
    assert [line.string for line in text(after).lines] == ["Summer", "No dogs"]
    old, new = (x["Words"].to_canvas(SIZE) for x in (before, after))
    assert np.array_equal(old[:120], new[:120])
    assert text(after).lines[1].color == (0, 0, 90)
    again = after.replace_text("Words", "Winter", part="Summer", font="Inter")
    again = again.replace_text("Words", "No cats", part="no dogs", font="Inter")
    assert [note.rpartition(" for ")[2] for note in again.notes] == ["'Winter'", "'No cats'"]
    both = before.replace_text("Words", "Winter\n\nNo dogs", font="Inter")
    assert [line.string for line in text(both).lines] == ["Winter", "No dogs"]
    with pytest.raises(StackError, match="says 2 texts, 'Summer', 'Entrance free'"):
        before.replace_text("Words", "Winter", font="Inter")
    with pytest.raises(StackError, match="did you mean 'Summer'"):
        before.replace_text("Words", "Winter", part="Sumer", font="Inter")


def test_lines_of_two_colours_keep_them() -> None:
    before = stack(written([("HAPPY", 200, 70, 40, (255, 255, 255)), ("BIRTHDAY", 200, 130, 60, RED)]))
    after = before.replace_text("Words", "MERRY CHRISTMAS", font="Inter")
    assert [(line.string, line.color) for line in text(after).lines] == [("MERRY", (255, 255, 255)), ("CHRISTMAS", RED)]


def test_it_goes_with_the_layers_transform_looks_and_effects(before: LayerStack) -> None:
    turned = before.rotate("Words", degrees=20).recolor("Words", color="#0040c0").drop_shadow("Words", x=6, y=6, blur=2)
    after = turned.replace_text("Words", "Winter\nMarket", font="Inter")
    assert text(after).lines[0].angle == pytest.approx(20, abs=0.1)
    assert text(after).lines[0].color == pytest.approx((0, 0x40, 0xC0), abs=2)
    new, old = after["Words"].original, turned["Words"].original
    assert new
    assert old
    assert (new.transform, new.looks, new.effects) == (old.transform, old.looks, old.effects)


def test_a_turned_text_stays_turned() -> None:
    upright = stack(written([("Summer", 200, 120, 60, RED)]))
    turned = upright.rotate("Words", degrees=30)["Words"]
    raw = turned.replace(original=None, text=turned.text)  # as read off a picture
    after = stack(raw).replace_text("Words", "Summer", font="Inter")
    assert text(after).lines[0].angle == pytest.approx(30, abs=0.2)
    assert like(*(x.to_canvas(SIZE)[..., 3] for x in (raw, after["Words"]))) > 0.75


def test_a_gradient_is_kept() -> None:
    layer = written([("GRADIENT", 200, 140, 60, RED)])
    assert layer.pixels is not None
    pixels = layer.pixels.copy()
    pixels[..., 0] = np.linspace(0, 250, pixels.shape[1]).astype(np.uint8)
    after = stack(layer.replace(pixels=pixels, text=layer.text)).replace_text("Words", "ANOTHERS", font="Inter")
    new = after["Words"].to_canvas(SIZE)
    solid = new[..., 3] == 255
    columns = np.nonzero(solid)[1]
    assert np.corrcoef(columns, new[solid][:, 0])[0, 1] > 0.99
    assert np.ptp(new[solid][:, 1]) <= 1


def test_colour_weight_and_alignment_can_be_given(before: LayerStack) -> None:
    after = before.replace_text("Words", "Winter\nis on", font="Inter", weight=300, color="#00f", align="left")
    lines = text(after).lines
    assert [(line.color, line.weight) for line in lines] == [((0, 0, 255), 300)] * 2
    assert lines[0].quad[0][0] == pytest.approx(lines[1].quad[0][0], abs=0.5)
    assert text(after).align == "left"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": "日本", "font": "Inter"}, "the font 'Inter' has no 日 本: take another"),
        ({"text": "\U0010fffe", "folder": None}, "no font here can write .*fonts-noto-cjk"),
        ({"text": "x", "font": "Intre"}, "no font is called 'Intre'.*Inter"),
        ({"text": "x", "font": "gone.ttf"}, "'gone.ttf' is not there"),
        ({"text": " "}, "text"),
        ({"text": "a\0b\ud800"}, r"no letter: \['\\x00', '\\ud800'\]; write it without"),
        ({"text": "x", "folder": "gone"}, "the folder of fonts 'gone' is not there, or holds none"),
    ],
)
def test_what_cannot_be_is_named(before: LayerStack, values: dict[str, Any], message: str) -> None:
    with pytest.raises(StackError, match=message):
        before.replace_text("Words", **values)


def test_a_tab_is_a_space(before: LayerStack) -> None:
    assert text(before.replace_text("Words", "at\t9", font="Inter")).string == "at 9"


def test_a_layer_that_says_nothing_is_refused(before: LayerStack) -> None:
    with pytest.raises(StackError, match="'Back' says nothing that was read: the layers that do are 'Words'"):
        before.replace_text("Back", "x")


@pytest.mark.skipif(not features.check("raqm"), reason="this Pillow cannot shape text")
def test_right_to_left() -> None:
    faces = [face for face in typefaces.system() if not face.missing("שלום")]
    if not faces:
        pytest.skip("no font here has Hebrew letters")
    face = faces[0]
    style = typeset.Style(face, 400, 40, align="right")
    (line,) = typeset.fit("שלום", style, typeset.Place(0, 300, 60, 50))
    box, ink = typeset.draw([line], face, 400)
    alone, mem = typeset.draw(typeset.fit("ם", style, typeset.Place(0, 300, 60, 50)), face, 400)
    columns = np.flatnonzero(mem.any(axis=0))
    last = ink[:, : columns[-1] + 1 - columns[0] + 2]  # the last letter stands at the left
    assert abs(last.sum() / mem.sum() - 1) < 0.25
    assert box.right <= 302
    assert alone.right <= 302


def test_breaking_lines() -> None:
    def length(string: str) -> float:
        return float(len(string))

    assert typeset.broken("one two three four", length, 9) == ["one two", "three", "four"]
    assert typeset.broken("one\ntwo three", length, 99) == ["one", "two three"]
    assert typeset.broken("拒绝二手烟。", length, 4) == ["拒绝二手", "烟。"]
    assert typeset.broken("unbreakable", length, 3) == ["unbreakable"]
    assert typeset.broken("e-mail now", length, 6) == ["e-mail", "now"]
    text = "aaaa bbbb cc dd"
    lines = typeset.balanced(text, ["aaaa bbbb cc", "dd"], length)
    assert max(map(len, lines)) <= 10
    assert " ".join(lines) == text


@pytest.mark.parametrize("words", ["从容不迫\n处变不惊", "هادئ\nورصين"])
def test_lines_of_a_taller_script_do_not_touch(words: str) -> None:
    if words[0] == "ه" and not features.check("fribidi"):
        pytest.skip("FriBiDi is not installed")
    tight = stack(written([("Summer", 200, 70, 48, RED), ("Market", 200, 108, 48, RED)]))
    fonts = Path(__file__).parents[1] / "docs" / "tasks" / "fonts"
    upper, lower = text(tight.replace_text("Words", words, folder=str(fonts))).lines
    assert max(y for _, y in upper.quad) < min(y for _, y in lower.quad)
