"""Live text in files, read back by independent readers: what is said, where, how large, in which colour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pptx import Presentation
from psd_tools import PSDImage
from test_words import RED, SIZE, stack, written

from unfuse import formats
from unfuse.errors import FormatError
from unfuse.layers import LayerStack


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
