"""Live text in files, read back by independent readers: what is said, where, how large, in which colour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pptx import Presentation
from psd_tools import PSDImage
from psd_tools.psd import PSD
from test_words import RED, SIZE, stack, written

from unfuse import formats
from unfuse.errors import FormatError
from unfuse.formats.psd_text import OWN
from unfuse.layers import LayerStack

FOREIGN = Path(__file__).parent / "data" / "foreign"


@pytest.fixture
def before() -> LayerStack:
    return stack(written([("Summer", 200, 70, 48, RED), ("(Märkte) 夏", 200, 125, 48, RED)], opacity=0.6))


def type_layer(path: Path) -> Any:
    (layer,) = [layer for layer in PSDImage.open(path) if layer.kind == "type"]
    return layer


def test_a_photoshop_type_layer(before: LayerStack, tmp_path: Path) -> None:
    formats.write(before, tmp_path / "a.psd")
    layer = type_layer(tmp_path / "a.psd")
    assert layer.text == "Summer\r(Märkte) 夏"
    said = before["Words"].text
    assert said
    first = said.lines[0]
    x, y = layer.transform[4:]
    assert (x, y) == pytest.approx(((first.quad[0][0] + first.quad[1][0]) / 2, first.origin[1]))
    engine = layer.engine_dict
    assert str(engine["Editor"]["Text"].value) == "Summer\r(Märkte) 夏\r"
    assert list(engine["StyleRun"]["RunLengthArray"]) == [7, 11]
    style = engine["StyleRun"]["RunArray"][0]["StyleSheet"]["StyleSheetData"]
    assert float(style["FontSize"]) == pytest.approx(48)
    assert float(style["Leading"]) == pytest.approx(55, abs=1)
    assert [round(float(level) * 255) for level in style["FillColor"]["Values"]][1:] == list(RED)
    assert int(engine["ParagraphRun"]["RunArray"][0]["ParagraphSheet"]["Properties"]["Justification"]) == 2
    assert str(layer.resource_dict["FontSet"][0]["Name"].value) == "Arial-BoldMT"
    back = formats.read(tmp_path / "a.psd")["Words"]
    assert np.array_equal(back.to_canvas(SIZE), before["Words"].to_canvas(SIZE))


def test_a_turned_type_layer(before: LayerStack, tmp_path: Path) -> None:
    formats.write(before.rotate("Words", degrees=30), tmp_path / "a.psd")
    cos, sin = type_layer(tmp_path / "a.psd").transform[:2]
    assert (cos, sin) == pytest.approx((np.cos(np.pi / 6), np.sin(np.pi / 6)), abs=1e-6)


def text_boxes(path: Path) -> list[Any]:
    return [shape for shape in Presentation(str(path)).slides[0].shapes if shape.has_text_frame]


def test_a_text_box_on_a_slide(before: LayerStack, tmp_path: Path) -> None:
    formats.write(before, tmp_path / "a.pptx", text="live")
    (box,) = text_boxes(tmp_path / "a.pptx")
    said = before["Words"].text
    assert said
    assert box.text_frame.text == "Summer\n(Märkte) 夏"
    left, top, right, _ = said.bounds
    assert (box.left / 9525, (box.left + box.width) / 9525) == pytest.approx((left, right), abs=0.5)
    assert abs(box.top / 9525 - top) < 16
    run = box.text_frame.paragraphs[0].runs[0]
    assert run.font.size.pt == pytest.approx(36, abs=0.1)
    assert (run.font.bold, run.font.name, tuple(run.font.color.rgb)) == (True, "Arial", RED)
    assert 'val="60000"' in run.font._element.xml
    assert box.name == "Words"


def test_a_turned_text_box(before: LayerStack, tmp_path: Path) -> None:
    turned = before.rotate("Words", degrees=30)
    formats.write(turned, tmp_path / "a.pptx", text="live")
    (box,) = text_boxes(tmp_path / "a.pptx")
    assert box.rotation == pytest.approx(30, abs=0.01)
    formats.write(before, tmp_path / "b.pptx", text="live")
    (level,) = text_boxes(tmp_path / "b.pptx")
    made = turned["Words"].original
    assert made
    a, b, c, d, e, f = made.transform
    x, y = middle(level)
    assert middle(box) == pytest.approx((a * x + b * y + c, d * x + e * y + f), abs=0.1)


def middle(box: Any) -> tuple[float, float]:
    return (box.left + box.width / 2) / 9525, (box.top + box.height / 2) / 9525


def test_pictures_of_text_where_they_are_wanted_or_look_better(before: LayerStack, tmp_path: Path) -> None:
    formats.write(before, tmp_path / "a.pptx")
    assert text_boxes(tmp_path / "a.pptx") == []
    shadow = before.drop_shadow("Words")
    notes = formats.write(shadow, tmp_path / "b.pptx", text="live")
    assert text_boxes(tmp_path / "b.pptx") == []
    assert notes == ("the text of 'Words' has effects: it stays a picture",)
    formats.write(before, tmp_path / "a.psd", text="picture")
    assert not [layer for layer in PSDImage.open(tmp_path / "a.psd") if layer.kind == "type"]
    with pytest.raises(FormatError, match="text is 'alive'"):
        formats.write(before, tmp_path / "c.pptx", text="alive")


# ---- the way back


@pytest.mark.parametrize("suffix", [".psd", ".tiff"])
def test_our_type_layers_come_back_equal(before: LayerStack, tmp_path: Path, suffix: str) -> None:
    for number, each in enumerate((before, before.rotate("Words", degrees=30), before.move("Words", x=0.3))):
        assert formats.write(each, tmp_path / f"{number}{suffix}") == ()
        back = formats.read(tmp_path / f"{number}{suffix}")
        assert (back.notes, back["Words"].kind, back["Words"].text) == ((), "text", each["Words"].text)


def test_several_texts_in_one_layer_come_back_and_are_said(tmp_path: Path) -> None:
    two = stack(written([("Summer", 80, 70, 40, RED), ("Market", 320, 220, 20, RED)]))
    assert formats.write(two, tmp_path / "a.psd") == (
        "the text of 'Words' is several texts: Photoshop sees its picture",
    )
    assert formats.read(tmp_path / "a.psd")["Words"].text == two["Words"].text


@pytest.mark.parametrize("degrees", [0, 30])
def test_a_type_layer_alone_says_it_too(before: LayerStack, tmp_path: Path, degrees: float) -> None:
    """Without our own block, as Photoshop leaves it: places within a pixel, everything else as it was."""
    turned = before.rotate("Words", degrees=degrees)
    formats.write(turned, tmp_path / "a.psd")
    with (tmp_path / "a.psd").open("rb") as file:
        psd = PSD.read(file)
    for record in psd.layer_and_mask_information.layer_info.layer_records:  # type: ignore[union-attr]
        record.tagged_blocks.pop(OWN, None)
    with (tmp_path / "b.psd").open("wb") as file:
        psd.write(file)
    back, truth = formats.read(tmp_path / "b.psd")["Words"].text, turned["Words"].text
    assert back
    assert truth
    assert back.align == "center"
    for ours, theirs in zip(truth.lines, back.lines, strict=True):
        assert (theirs.string, theirs.color, theirs.weight, theirs.font) == (ours.string, ours.color, 700, "Arial")
        assert theirs.size == pytest.approx(ours.size, abs=1e-3)
        assert np.array(theirs.quad) == pytest.approx(np.array(ours.quad), abs=1)
        assert theirs.angle == pytest.approx(degrees, abs=1e-3)
        assert theirs.baseline == pytest.approx(ours.baseline, abs=0.03)


def test_a_type_layer_that_was_changed_counts_and_not_our_block(before: LayerStack, tmp_path: Path) -> None:
    formats.write(before, tmp_path / "a.psd")
    formats.write(before.replace_text("Words", "Winter\nMarket", font="Inter"), tmp_path / "b.psd")
    psds = []
    for name in ("a.psd", "b.psd"):
        with (tmp_path / name).open("rb") as file:
            psds.append(PSD.read(file))
    old, new = (psd.layer_and_mask_information.layer_info.layer_records[1].tagged_blocks for psd in psds)  # type: ignore[union-attr]
    new[OWN] = old[OWN]
    with (tmp_path / "c.psd").open("wb") as file:
        psds[1].write(file)
    text = formats.read(tmp_path / "c.psd")["Words"].text
    assert text
    assert text.string == "Winter\nMarket"


def test_text_of_photoshop() -> None:
    """Point text and text in boxes, by Photoshop: what psd-tools has among its tests."""
    read = formats.read(FOREIGN / "text.psd")
    (layer,) = [layer for layer in read.walk() if layer.text]
    assert layer.text
    assert layer.text.string == "Line 1\nLine 2\nLine 3 and text"
    assert [(line.font, round(line.size), line.weight) for line in layer.text.lines] == [("Arial", 13, 400)] * 3
    assert [line.quad[0] for line in layer.text.lines] == [(85, 111), (85, 126), (85, 142)]
    boxed = formats.read(FOREIGN / "effect-stroke-gradient.psd")
    first, second = (layer for layer in boxed.walk() if layer.text)
    assert first.text
    assert second.text
    assert (first.text.string, second.text.string) == ("Text", "Text 2")
    assert (first.text.align, first.text.lines[0].color, first.text.lines[0].weight) == ("center", (102, 51, 51), 700)
    assert "the text of 'Text' was read without: tracking, shifted baseline" in boxed.notes
    assert "'Text' has layer effects: they were left out" in boxed.notes


def test_text_of_an_svg_comes_back(before: LayerStack, tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    turned = before.replace_text("Words", "Summer\nMarket", font="Inter").rotate("Words", degrees=20)
    formats.write(turned, tmp_path / "a.svg")
    back, truth = formats.read(tmp_path / "a.svg")["Words"].text, turned["Words"].text
    assert back
    assert truth
    assert (back.string, back.align) == (truth.string, "center")
    for ours, theirs in zip(truth.lines, back.lines, strict=True):
        assert (theirs.color, theirs.font) == (ours.color, ours.font)
        assert theirs.size == pytest.approx(ours.size, abs=0.01)
        assert np.array(theirs.quad) == pytest.approx(np.array(ours.quad), abs=4)


def test_lines_that_inkscape_writes(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    (tmp_path / "a.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="200" height="100" viewBox="0 0 100 50">'
        '<g transform="translate(2 3)"><text style="font-size:10px;fill:#f00;font-weight:bold" text-anchor="middle">'
        '<tspan x="40" y="20">One</tspan><tspan x="40" y="32">Two</tspan></text></g></svg>'
    )
    (layer,) = formats.read(tmp_path / "a.svg")
    assert layer.text
    assert layer.text.string == "One\nTwo"
    assert (layer.text.align, layer.text.lines[0].color, layer.text.lines[0].weight) == ("center", (255, 0, 0), 700)
    assert [line.size for line in layer.text.lines] == pytest.approx([20, 20])
    assert layer.text.lines[0].origin[1] == pytest.approx(46)
    left, _, right, _ = layer.text.bounds
    assert (left + right) / 2 == pytest.approx(84, abs=2)


def test_openraster_says_that_it_has_no_text(before: LayerStack, tmp_path: Path) -> None:
    (note,) = formats.write(before, tmp_path / "a.ora")
    assert note == "OpenRaster has no text: the words of 'Words' are only pictures"


def test_text_that_ag_psd_left_to_others_is_set() -> None:
    """Written by ag-psd without pixels: a point text, one in a box, one that is turned and has two styles."""
    read = formats.read(FOREIGN / "ag_more.psd")
    said = {layer.name: layer.text for layer in read.walk() if layer.text}
    assert {name: text.string for name, text in said.items()} == {
        "Unset": "Hello\nWorld",
        "Box": "one\ntwo\nthree\nfour",
        "Runs": "Big small",
    }
    assert not any(read[name].is_empty for name in said)
    line = said["Unset"].lines[0]
    assert (line.size, line.color, line.weight, line.font) == (18, (200, 16, 46), 700, "Arial")
    assert line.origin == pytest.approx((10, 30), abs=1.5)
    assert said["Runs"].lines[0].angle == pytest.approx(36.87, abs=0.01)
    assert read.notes == (
        "the text of 'Unset' has no pixels: it was set anew, and may look different",
        "the text of 'Box' was read without: where its box breaks lines",
        "the text of 'Box' has no pixels: it was set anew, and may look different",
        "the text of 'Runs' was read without: several styles in a line, underline",
        "the text of 'Runs' has no pixels: it was set anew, and may look different",
        "'Shadow' has layer effects: they were left out",
        "'Levels' is an adjustment layer: it was left out, the whole may look different",
        "'Vivid' has the blend mode vivid light: it became normal",
        "'Nothing' has no pixels: it was left out",
        "how it looked where it was saved is in the hidden layer 'Merged picture'",
    )
