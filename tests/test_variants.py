"""Variants: each row is what the same edits make, a wrong row is alone with it, and what is done is not done again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unfuse import variants as module
from unfuse.composite import flatten
from unfuse.errors import FormatError, StackError
from unfuse.layers import Box, Layer, LayerStack
from unfuse.variants import Outcome, read_table, variants

TABLE = """name,canvas,Badge.color,Badge.x,Badge.visible,Hero.picture,Badge.drop_shadow.blur,Hero.opacity
summer,,#e4002b,5,,,,
winter,60x90,,,no,,,0.5
shoe,64x64,,,,shoe.png,3,
broken,,reddish,,,,,
"""


def stack() -> LayerStack:
    rng = np.random.default_rng(0)
    back = Layer("Back", "background", Box(0, 0, 60, 60), np.full((60, 60, 4), (30, 90, 200, 255), np.uint8))
    hero = Layer("Hero", "object", Box(10, 20, 40, 50), rng.integers(0, 256, (30, 30, 4)).astype(np.uint8))
    badge = Layer("Badge", "object", Box(44, 4, 56, 16), np.full((12, 12, 4), (200, 30, 40, 255), np.uint8))
    return LayerStack((60, 60), (back, hero, badge))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    Image.new("RGB", (20, 10), "#0f0").save(tmp_path / "shoe.png")
    (tmp_path / "table.csv").write_text(TABLE)
    return tmp_path / "table.csv"


def pixels(path: Path) -> object:
    return np.asarray(Image.open(path).convert("RGBA"))


@pytest.mark.parametrize("workers", [1, 2])
def test_each_row_is_what_its_edits_make(table: Path, tmp_path: Path, workers: int) -> None:
    outcomes = variants(stack(), table, tmp_path / "out", workers=workers)
    assert [(x.name, x.file) for x in outcomes] == [
        *((name, f"{name}.png") for name in ("summer", "winter", "shoe")),
        ("broken", ""),
    ]
    assert "recolor: the field 'color' is 'reddish'" in outcomes[3].error
    expected = {
        "summer": stack().recolor("Badge", color="#e4002b").move("Badge", x=5),
        "winter": stack().canvas(width=60, height=90).hide("Badge").opacity("Hero", value=0.5),
        "shoe": stack()
        .canvas(width=64, height=64)
        .replace_picture("Hero", picture=tmp_path / "shoe.png")
        .drop_shadow("Badge", blur=3),
    }
    for name, one in expected.items():
        np.testing.assert_array_equal(pixels(tmp_path / "out" / f"{name}.png"), flatten(one))
    with Image.open(tmp_path / "out" / "contact.png") as sheet:
        assert sheet.size == (2 * 256, 2 * 276)


def test_what_is_done_is_not_done_again(table: Path, tmp_path: Path) -> None:
    made: list[str] = []

    def run(one: LayerStack) -> list[str]:
        made.clear()
        variants(one, table, tmp_path / "out", workers=1, on_row=lambda outcome: made.append(outcome.name))
        return made

    assert run(stack()) == ["summer", "winter", "shoe", "broken"]
    assert run(stack()) == ["broken"]
    (tmp_path / "out" / "winter.png").unlink()
    with open(tmp_path / "out" / module.LEDGER, "a") as file:
        file.write('{"name": "summ')  # a run that was cut short
    assert run(stack()) == ["winter", "broken"]
    Image.new("RGB", (21, 10), "#00f").save(tmp_path / "shoe.png")
    assert run(stack()) == ["shoe", "broken"]
    table.write_text(TABLE.replace("#e4002b", "#111111"))
    assert run(stack()) == ["summer", "broken"]
    assert run(stack().opacity("Back", value=0.9)) == ["summer", "winter", "shoe", "broken"]


def test_layers_can_be_kept(table: Path, tmp_path: Path) -> None:
    table.write_text("name,Badge.x\na/b,5\n")
    (outcome,) = variants(stack(), table, tmp_path / "out", suffix=".psd", workers=1)
    assert outcome == Outcome("a/b", "a_b.psd", digest=outcome.digest)
    import unfuse

    assert [x.name for x in unfuse.load(tmp_path / "out" / "a_b.psd")] == ["Back", "Hero", "Badge"]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("Badge.colour", "'colour' is no field \\(did you mean 'color'"),
        ("Badge", "must be 'name', 'canvas' or 'Layer.field'"),
        ("Badge.move.z", "move has no field 'z'"),
        ("Badge.x,Badge.x", "a column twice"),
    ],
)
def test_a_wrong_column_is_said_before_anything_is_made(tmp_path: Path, header: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(f"{header}\n1\n")
    with pytest.raises(StackError, match=message):
        variants(stack(), tmp_path / "t.csv", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_wrong_suffix_is_said(table: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"'\.tga' is not a known format"):
        variants(stack(), table, tmp_path / "out", suffix=".tga")
    with pytest.raises(StackError, match="variants are files"):
        variants(stack(), table, tmp_path / "out", suffix="")
    for workers in (0, -1):
        with pytest.raises(StackError, match=r"workers=.*: say 1 or more"):
            variants(stack(), table, tmp_path / "out", workers=workers)
    assert not (tmp_path / "out").exists()


def test_rows_without_names_are_numbered_and_names_are_unique(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Badge.x\n" + "1\n" * 10)
    assert [x.name for x in read_table(tmp_path / "t.csv")][::9] == ["01", "10"]
    (tmp_path / "t.csv").write_text("name,Badge.x\na,1\na,2\nb,,3\n")
    found = read_table(tmp_path / "t.csv")
    assert "2 rows are called 'a'" in found[0].error
    assert (found[2].name, found[2].edits) == ("b", ())
    assert "its cell '3' is in none of the 2 columns: put a cell with ',' in it into double quotes" in found[2].error
    (tmp_path / "t.csv").write_text("name;Badge.x\na;1;;\nb;1;2\n")
    spare, extra = read_table(tmp_path / "t.csv")
    assert spare.edits == ({"op": "move", "layer": "Badge", "x": 1},)
    assert "a cell with ';' in it" in extra.error


def test_the_ledger_is_json_lines(table: Path, tmp_path: Path) -> None:
    variants(stack(), table, tmp_path / "out", workers=1)
    lines = [json.loads(line) for line in (tmp_path / "out" / module.LEDGER).read_text().splitlines()]
    assert [line["name"] for line in lines] == ["summer", "winter", "shoe", "broken"]


def test_a_canvas_is_a_preset_or_a_size(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("canvas\nstory\n1200 x 628\nstroy\n")
    story, banner, wrong = read_table(tmp_path / "t.csv")
    assert story.edits == ({"op": "canvas", "width": 1080, "height": 1920},)
    assert banner.edits == ({"op": "canvas", "width": 1200, "height": 628},)
    assert "did you mean 'story'" in wrong.error


def test_layers_are_held_where_the_table_says(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("name,canvas,Badge.anchor,Hero.anchor\na,60x90,left bottom,\nb,,,top\nc,,,\n")
    held, lacks, plain = read_table(tmp_path / "t.csv")
    assert held.edits == ({"op": "canvas", "width": 60, "height": 90, "anchors": {"Badge": "left bottom"}},)
    assert "canvas needs 'width' and 'height'" in lacks.error
    assert plain.edits == ()
    (done, _, _) = variants(stack(), tmp_path / "t.csv", tmp_path / "out", suffix=".zip", workers=1)
    import unfuse

    assert unfuse.load(tmp_path / "out" / done.file)["Badge"].box == Box(44, 34, 56, 46)  # 44 above the bottom
    (tmp_path / "t.csv").write_text("canvas,Badge.anchor\n60x90,beneath\n")
    assert "'beneath' is not one of" in read_table(tmp_path / "t.csv")[0].error


def test_a_fast_png_keeps_pixels_profile_and_resolution(tmp_path: Path) -> None:
    from unfuse.pixels import read

    whole = stack().replace(dpi=300.0)
    for one in (whole, whole.opacity("Back", value=0.5)):
        (tmp_path / "a.png").write_bytes(module._png(flatten(one), one))
        found = read(tmp_path / "a.png")
        np.testing.assert_array_equal((found.pixels * 255).round(), flatten(one))
        assert found.dpi == 300
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    (tmp_path / "a.png").write_bytes(module._png(flatten(whole), whole.replace(icc=profile)))
    assert read(tmp_path / "a.png").icc == profile
