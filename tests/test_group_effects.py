"""Effects of groups: laid around the group as it shows, in the whole, in edits, in projects and in files of others."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unfuse import edit, formats, recipe
from unfuse.composite import flatten, reflatten
from unfuse.errors import FormatError, StackError
from unfuse.layers import Box, Layer, LayerStack, Pixels
from unfuse.selection import one

SIZE = (120, 80)


def disc(side: int, *colour: int, depth: int = 8) -> Pixels:
    v, u = np.mgrid[:side, :side] - (side - 1) / 2
    alpha = np.clip(side / 2 - np.hypot(u, v), 0, 1) * 255 + 0.5
    levels = np.dstack([*(np.full((side, side), level) for level in colour), alpha]).astype(np.uint8)
    deep: Any = levels.astype(np.uint16) * np.uint16(257)
    return levels if depth == 8 else deep


def before(depth: Any = 8) -> LayerStack:
    dtype = np.uint8 if depth == 8 else np.uint16
    white: Any = np.full((SIZE[1], SIZE[0], 4), np.iinfo(dtype).max, dtype)
    back = Layer("Back", "background", Box(0, 0, *SIZE), white)
    red = Layer("Red", "object", Box(20, 20, 50, 50), disc(30, 200, 30, 30, depth=depth))
    blue = Layer("Blue", "object", Box(40, 25, 70, 55), disc(30, 30, 30, 200, depth=depth), opacity=0.7)
    return LayerStack(SIZE, (back, Layer.group("Group", (red, blue), opacity=0.9)), depth=depth)


def dressed(stack: LayerStack) -> LayerStack:
    return stack.outline("Group", width=3, color="#ffcc00").drop_shadow("Group", x=6, y=6, blur=3)


def levels_apart(one_stack: LayerStack, other: LayerStack) -> float:
    flats = [flatten(stack).astype(float) for stack in (one_stack, other)]
    return float(np.abs(flats[0] - flats[1]).max() / (257 if one_stack.depth == 16 else 1))


@pytest.mark.parametrize("depth", [8, 16])
def test_effects_are_those_of_the_group_merged(depth: Any) -> None:
    assert levels_apart(dressed(before(depth)), dressed(before(depth).merge("Group"))) <= 1
    assert levels_apart(dressed(before(depth)).merge("Group"), dressed(before(depth))) <= 1


def test_the_box_covers_what_the_effects_reach() -> None:
    after = dressed(before())
    alone = after.replace(layers=(after["Group"],))
    rows, columns = np.nonzero(flatten(alone)[..., 3])
    box = after["Group"].box
    assert box.left <= columns.min()
    assert box.top <= rows.min()
    assert columns.max() < box.right
    assert rows.max() < box.bottom
    assert after["Group"].to_canvas(SIZE)[..., 3].max() == 255
    outside = np.ones(SIZE[::-1], bool)
    outside[box.intersection(Box(0, 0, *SIZE)).within(Box(0, 0, *SIZE))] = False  # type: ignore[union-attr]
    np.testing.assert_array_equal(flatten(after)[outside], flatten(before())[outside])


def test_a_layer_far_away_takes_no_memory(tmp_path: Path) -> None:
    """The box of the group would be a terabyte; what shows is on the canvas."""
    after = dressed(before().move("Blue", x=1_000_000, y=-1_000_000))
    np.testing.assert_array_equal(flatten(after), flatten(dressed(before().hide("Blue"))))
    formats.write(after, tmp_path / "a.psd")
    assert levels_apart(formats.read(tmp_path / "a.psd"), after) <= 1
    gone = before().move("Group", x=1_000_000).drop_shadow("Group")
    formats.write(gone, tmp_path / "b.psd")
    np.testing.assert_array_equal(flatten(gone), flatten(before().hide("Group")))


def test_they_are_set_again_taken_back_and_undone() -> None:
    after = dressed(before())
    assert [edit["op"] for edit in after["Group"].effects] == ["outline", "drop_shadow"]
    again = after.outline("Group", width=1)
    assert [edit["op"] for edit in again["Group"].effects] == ["outline", "drop_shadow"]
    for plain in (after.reset("Group", what="effects"), after.reset("Group"), after.undo().undo()):
        assert plain["Group"].effects == ()
        np.testing.assert_array_equal(flatten(plain), flatten(before()))
    assert after.reset("Group", what="place")["Group"].effects == after["Group"].effects


def test_they_follow_what_the_group_becomes() -> None:
    after = dressed(before())
    for change in (
        {"op": "move", "layer": "Red", "x": 10},
        {"op": "hide", "layer": "Blue"},
        {"op": "scale", "layer": "Group", "factor": 1.3},
        {"op": "crop", "layer": "Group", "box": [30, 20, 60, 50]},
        {"op": "recolor", "layer": "Group", "color": "#00ff00"},
    ):
        now = edit(after, change)
        assert levels_apart(now, dressed(edit(before(), change))) == 0
        np.testing.assert_array_equal(reflatten(now, after, flatten(after)), flatten(now))


def test_what_cannot_be_said_without_them_is_refused() -> None:
    with pytest.raises(StackError, match="has an opacity, a blend mode or effects that its layers cannot take over"):
        dressed(before()).opacity("Group", value=1).ungroup("Group")
    with pytest.raises(StackError, match="only groups have them, others an original"):
        before()["Red"].replace(effects=({"op": "blur", "radius": 1},))


def test_a_shadow_is_hit_and_counts() -> None:
    plain = before()
    after = plain.drop_shadow("Group", x=30, y=0, blur=0)
    assert one(after, "at 90,40").name == "Group"
    assert one(after, "at 35,35").name == "Red"
    assert one(after, "at 118,2").name == "Back"
    assert recipe.fingerprint(after) != recipe.fingerprint(plain)
    assert any(line.startswith("Group: effects") for line in recipe.differences(plain, after))


@pytest.mark.parametrize("name", ["a.zip", "a"])
def test_projects_keep_them(tmp_path: Path, name: str) -> None:
    after = dressed(before())
    assert formats.write(after, tmp_path / name) == ()
    back = formats.read(tmp_path / name)
    assert back["Group"].effects == after["Group"].effects
    np.testing.assert_array_equal(flatten(back), flatten(after))
    assert back.undo()["Group"].effects == after.undo()["Group"].effects


def test_a_manifest_says_version_2_only_where_it_must(tmp_path: Path) -> None:
    for number, stack in ((1, before()), (2, dressed(before()))):
        formats.write(stack, tmp_path / "a.zip")
        with zipfile.ZipFile(tmp_path / "a.zip") as archive:
            assert json.loads(archive.read("manifest.json"))["version"] == number


@pytest.mark.parametrize(
    ("effect", "message"),
    [({"op": "hue", "degrees": 3}, "hue is none of"), ({"op": "blur", "radius": "wide"}, "the field 'radius'")],
)
def test_a_manifest_with_other_effects_is_refused(tmp_path: Path, effect: Any, message: str) -> None:
    formats.write(dressed(before()), tmp_path / "a")
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text("utf-8"))
    manifest["layers"][1]["effects"] = [effect]
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(FormatError, match=message):
        formats.read(tmp_path / "a")


@pytest.mark.parametrize("suffix", ["psd", "ora", "tiff", "svg"])
def test_files_of_others_get_layers_that_look_the_same(tmp_path: Path, suffix: str) -> None:
    after = dressed(before())
    (note,) = formats.write(after, tmp_path / f"a.{suffix}")
    assert note.endswith("'Group' has its outline and drop shadow in layers of their own, at its bottom")
    back = formats.read(tmp_path / f"a.{suffix}")
    assert [x.name for x in back["Group"].layers] == ["Group drop shadow", "Group outline", "Red", "Blue"]
    assert levels_apart(back, after) <= 1


@pytest.mark.parametrize("how", ["blur", "blend"])
def test_where_layers_cannot_say_it_the_group_is_one_picture(tmp_path: Path, how: str) -> None:
    after = dressed(before())
    after = after.blur("Group", radius=2) if how == "blur" else after.blend("Blue", mode="multiply")
    (note,) = formats.write(after, tmp_path / "a.psd")
    assert note.startswith("effects of groups become pixels: 'Group' became one picture, with its outline and drop")
    back = formats.read(tmp_path / "a.psd")
    assert back["Group"].layers == ()
    assert levels_apart(back, after) <= 1


def test_a_flat_picture_has_them(tmp_path: Path) -> None:
    assert formats.write(dressed(before()), tmp_path / "a.png") == ()
