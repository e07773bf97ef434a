"""What layers say: text goes along with every edit of its layer, is kept in projects, and goes where pixels are new."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unfuse import formats
from unfuse.boxes import Box
from unfuse.errors import FormatError, StackError
from unfuse.layers import Layer, LayerStack
from unfuse.textblock import TextBlock, TextLine

QUAD = ((10, 20), (50, 20), (50, 30), (10, 30))


def line(**changes: Any) -> TextLine:
    fields: dict[str, Any] = {"string": "Hello", "quad": QUAD, "size": 12.0, "baseline": 0.8, **changes}
    return TextLine(**fields)


def stack(**fields: Any) -> LayerStack:
    pixels = np.full((10, 40, 4), 255, np.uint8)
    block = TextBlock((line(), line(string="世界 2", color=(200, 0, 20))), "center")
    back = Layer("Back", "background", Box(0, 0, 90, 60), np.full((60, 90, 4), 255, np.uint8))
    said = Layer("Words", "text", Box(10, 20, 50, 30), pixels, text=block, **fields)
    return LayerStack((90, 60), (back, said))


def text(of: LayerStack) -> TextBlock:
    found = of["Words"].text
    assert found
    return found


def test_geometry() -> None:
    assert (line().angle, line().width, line().height, line().origin) == (0, 40, 10, (10, 28))
    turned = line().transformed((0, -1, 0, 1, 0, 0))  # a quarter turn, clockwise
    assert turned.angle == pytest.approx(90)
    assert turned.origin == pytest.approx((-28, 10))
    assert line().transformed((2, 0, 0, 0, 2, 0)).size == 24
    assert line().transformed((-1, 0, 0, 0, 1, 0)).is_mirrored
    assert not line().is_mirrored
    assert not turned.is_mirrored


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"string": " "}, "not empty"),
        ({"string": "a\nb"}, "one line"),
        ({"quad": QUAD[:3]}, "four points"),
        ({"quad": (*QUAD[:3], (0, float("nan")))}, "four points"),
        ({"color": (0, 0, 256)}, "0 to 255"),
        ({"size": 0}, "above 0"),
        ({"weight": 0}, "1 to 1000"),
        ({"confidence": 2}, "0 to 1"),
    ],
)
def test_a_wrong_line_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StackError, match=message):
        line(**changes)


def test_a_wrong_block_is_refused() -> None:
    with pytest.raises(StackError, match="at least one"):
        TextBlock(())
    with pytest.raises(StackError, match="did you mean 'center'"):
        TextBlock((line(),), "centre")  # type: ignore[arg-type]
    with pytest.raises(StackError, match="no group's"):
        Layer.group("G", [stack()[1]], text=TextBlock((line(),)))


def test_text_goes_along() -> None:
    before = stack()
    assert text(before.move("Words", x=5, y=-3)).bounds == (15, 17, 55, 27)
    assert text(before.move("Words", x=5.5).reset("Words")).bounds == pytest.approx((10, 20, 50, 30))
    scaled = text(before.scale("Words", factor=0.5))
    assert scaled.lines[0].size == pytest.approx(6)
    assert scaled.bounds == pytest.approx((20, 22.5, 40, 27.5))
    assert text(before.rotate("Words", degrees=30)).lines[0].angle == pytest.approx(30)
    assert text(before.rename("Words", name="Words").opacity("Words", value=0.5)) == text(before)
    shadow = before.drop_shadow("Words")
    assert shadow["Words"].box != before["Words"].box
    assert text(shadow) == text(before)
    assert text(before.replace_layer("Words", before["Words"].crop_to_content())) == text(before)


def test_new_pixels_drop_it() -> None:
    before = stack()
    assert before.replace_picture("Words", picture=np.zeros((9, 9, 3), np.uint8))["Words"].text is None
    assert before.crop("Words", box=(10, 20, 30, 30))["Words"].text is None
    assert text(before.crop("Words", box=(0, 0, 80, 60))) == text(before)
    assert before["Words"].replace(pixels=before["Words"].pixels).text is None


@pytest.mark.parametrize("name", ["a.zip", "a"])
def test_projects_keep_it(tmp_path: Path, name: str) -> None:
    after = stack().rotate("Words", degrees=30)
    formats.write(after, tmp_path / name)
    back = formats.read(tmp_path / name)
    assert text(back) == text(after)
    assert text(back.undo()) == text(stack())


def test_projects_from_before_are_read_and_the_unknown_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    formats.write(stack(), folder)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    said = manifest["layers"][1].pop("text")
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    assert formats.read(folder)["Words"].text is None
    manifest["layers"][1]["text"] = said | {"tracking": 3}
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(FormatError, match="'tracking' was unexpected"):
        formats.read(folder)
