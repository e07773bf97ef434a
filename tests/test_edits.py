"""Edits: what was not touched stays the same to the bit, many edits lose no more than one, and mistakes are named."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

import unfuse
from unfuse import oklab, recipe
from unfuse.composite import flatten, reflatten
from unfuse.edits import TABLE
from unfuse.errors import StackError
from unfuse.layers import Box, Layer, LayerStack
from unfuse.model import painter
from unfuse.textblock import TextBlock, TextLine

W, H = 96, 80

SALE = TextBlock((TextLine("SALE", ((20, 40), (60, 40), (60, 52), (20, 52)), 16),))


def noise(width: int, height: int, seed: int, depth: int = 8) -> Any:
    top, dtype = (255, np.uint8) if depth == 8 else (65535, np.uint16)
    return np.random.default_rng(seed).integers(0, top + 1, (height, width, 4)).astype(dtype)


def opaque(width: int, height: int, color: tuple[int, int, int]) -> Any:
    return np.full((height, width, 4), (*color, 255), np.uint8)


def disc(side: int, color: tuple[int, int, int]) -> Any:
    pixels = opaque(side, side, color)
    y, x = np.mgrid[:side, :side] + 0.5 - side / 2
    pixels[..., 1] += (y + side / 2).astype(np.uint8)  # light from below
    pixels[..., 3] = np.clip(side / 2 - np.hypot(x, y) + 0.5, 0, 1) * 255
    return pixels


def layer(name: str, box: tuple[int, int, int, int], pixels: Any, **fields: Any) -> Layer:
    return Layer(name, fields.pop("kind", "object"), Box(*box), pixels, id=name.lower(), **fields)


@pytest.fixture
def stack() -> LayerStack:
    """Noise behind, a soft badge, a group of two, a headline with a blend mode."""
    group = Layer.group(
        "Promo",
        [layer("Star", (60, 4, 84, 28), disc(24, (250, 200, 0))), layer("Price", (64, 10, 80, 20), noise(16, 10, 1))],
        opacity=0.7,
        id="promo",
    )
    return LayerStack(
        (W, H),
        (
            layer("Back", (0, 0, W, H), noise(W, H, 2), kind="background"),
            layer("Badge", (8, 14, 72, 78), disc(64, (200, 30, 40)), opacity=0.9, text=SALE),
            group,
            layer("Headline", (30, 60, 90, 76), noise(60, 16, 3), kind="text", blend_mode="multiply"),
        ),
    )


EDITS: dict[str, dict[str, Any]] = {  # for every op an edit of the layer Badge
    "move": {"x": 7, "y": -3},
    "scale": {"factor": 1.3},
    "rotate": {"degrees": 30},
    "flip": {"axis": "vertical"},
    "fit": {"box": [10, 20, 60, 70]},
    "align": {"x": "right", "y": "top", "margin": 4},
    "distribute": {"layer": ["Back", "Badge", "Headline"]},
    "canvas": {},
    "reset": {},
    "recolor": {"color": "#0a3"},
    "hue": {"degrees": 120},
    "tint": {"color": "#00f", "strength": 0.5},
    "palette": {"colors": {"#c81e28": "#1e28c8"}},
    "gradient": {"colors": ["#000", "#f80", "#fff"]},
    "brightness": {"amount": 0.2},
    "contrast": {"amount": 0.5},
    "saturation": {"amount": -1},
    "curves": {"points": [[0, 0.2], [1, 0.8]]},
    "blur": {"radius": 2},
    "drop_shadow": {"x": 3, "y": 3, "blur": 2},
    "outline": {"width": 3},
    "opacity": {"value": 0.25},
    "blend": {"mode": "screen"},
    "remove": {},
    "rename": {"name": "Seal"},
    "duplicate": {},
    "replace_picture": {"picture": np.full((9, 12, 3), 200, np.uint8)},
    "replace_text": {"text": "Off", "font": "Inter"},
    "repaint": {"words": "a blue middle", "engine": "blue"},
    "crop": {"box": [0, 0, 30, 50]},
    "heal": {"under": "Headline"},
    "mask": {"picture": np.eye(8, dtype=np.uint8) * 255},
    "extract": {},
    "split": {"engine": "fake"},
    "group": {"name": "One"},
    "ungroup": {"layer": "Promo"},
    "merge": {"layer": "Promo"},
    "merge_down": {},
    "merge_all": {},
    "reorder": {"to": "top"},
    "bring_forward": {},
    "send_backward": {},
    "show": {},
    "hide": {},
    "solo": {},
    "lock": {},
    "unlock": {},
}
# Same look, but perhaps for the rounding of pixels that are put together; and those that change the whole stack.
SAME = {"reset", "rename", "group", "merge", "merge_down", "show", "lock", "unlock"}
WHOLE = {"canvas", "merge_all", "extract", "solo", "distribute", "split"}


def footprint(stack: LayerStack, before: dict[str, Layer]) -> Any:
    """Where layers lie that are not the objects they were, `h w` of bool."""
    covered = np.zeros((stack.size[1], stack.size[0]), bool)
    for one in stack.walk():
        if one.pixels is not None and before.get(one.id) is not one and (box := one.box.intersection(Box(0, 0, W, H))):
            covered[box.top : box.bottom, box.left : box.right] = True
    return covered


class Blue:
    """Paints the middle of what it is shown."""

    def paint(self, picture: Any, words: str, *, seed: int, steps: int) -> Any:
        answer, (height, width) = picture.copy(), picture.shape[:2]
        answer[height // 3 : -height // 3, width // 3 : -width // 3] = 0, 0, 1
        return answer


@pytest.fixture(autouse=True)
def _a_painter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(painter.TABLE, "blue", lambda model: Blue())


def edited(stack: LayerStack, op: str) -> LayerStack:
    return unfuse.edit(stack, [{"op": op, "layer": "Badge"} | EDITS[op]])


@pytest.mark.parametrize("op", sorted(EDITS.keys() - WHOLE))
def test_what_an_edit_does_not_touch_stays_the_same_to_the_bit(stack: LayerStack, op: str) -> None:
    if op == "ungroup":
        stack = stack.opacity("Promo", value=1)
    after = edited(stack, op)
    old, new = ({x.id: x for x in each.walk()} for each in (stack, after))
    touched = footprint(stack, new) | footprint(after, old)
    if "backward" in op or "forward" in op or op == "reorder":  # the layer is the same object at another place
        box = stack["Badge"].box
        touched[box.top : box.bottom, box.left : box.right] = True
    assert np.array_equal(flatten(stack)[~touched], flatten(after)[~touched])
    others = {"back", "badge", "promo", "headline", "star", "price"} & new.keys()
    others -= {"promo", "star", "price"} if op in ("ungroup", "merge") else {"badge"}
    others -= {"back"} if op == "merge_down" else set()
    assert len(others) >= 2
    for key in others:
        assert new[key] is old[key]
    difference = np.abs(flatten(stack).astype(int) - flatten(after)).max()
    assert difference <= 1 if op in SAME else difference > 1 or op == "ungroup"


def test_every_op_is_tried() -> None:
    assert set(EDITS) == set(TABLE)


def test_the_docs_and_the_published_schema_say_what_there_is() -> None:
    root = Path(__file__).parents[1]
    spec = importlib.util.spec_from_file_location("make_edits", root / "docs" / "make_edits.py")
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    page = (root / "docs" / "edits.md").read_text("utf-8")
    assert made.rows() in page, "run docs/make_edits.py"
    assert json.loads(made.SCHEMA.read_text("utf-8")) == recipe.schema(), "run docs/make_edits.py"
    Draft202012Validator.check_schema(recipe.schema())
    known = made.recipes(page)
    assert len(known) == 7
    stack = made.poster()
    for _, text in known:
        edits = recipe.parse(text)
        Draft202012Validator(recipe.schema()).validate({"edits": [dict(edit) for edit in edits.edits]})
        after = recipe.run(stack, edits)
        assert after.size != stack.size or not np.array_equal(flatten(after), flatten(stack))


@pytest.mark.parametrize("depth", [8, 16])
def test_a_move_keeps_every_bit_and_shares_the_pixels(depth: Any) -> None:
    pixels = noise(5, 4, 0, depth)
    stack = LayerStack((20, 20), (layer("A", (3, 3, 8, 7), pixels),), depth=depth)
    moved = stack.move("A", x=4, y=-2)
    assert moved["A"].box == Box(7, 1, 12, 5)
    assert moved["A"].pixels is stack["A"].pixels
    assert stack.move("A", to=[0, 0])["A"].box == Box(0, 0, 5, 4)


def test_ten_moves_of_a_tenth_are_one_move(stack: LayerStack) -> None:
    small = stack
    for _ in range(10):
        small = small.move("Badge", x=0.1, y=0.25)
    assert small["Badge"].box == stack["Badge"].box.moved(1, 3)  # 2.5 down is rounded half up
    assert np.array_equal(flatten(small), flatten(stack.move("Badge", x=1, y=2.5)))


def test_reset_gives_the_untouched_layer_back(stack: LayerStack) -> None:
    edits: list[dict[str, Any]] = [{"op": "move", "x": 3}, {"op": "recolor", "color": "#fff"}, {"op": "drop_shadow"}]
    after = unfuse.edit(stack, [{"layer": "Badge"} | edit for edit in edits]).reset("Badge")
    assert after["Badge"].pixels is stack["Badge"].pixels
    assert after["Badge"].box == stack["Badge"].box
    assert after["Badge"].original is None


def test_reset_of_one_part_leaves_the_others(stack: LayerStack) -> None:
    both = stack.move("Badge", x=3).recolor("Badge", color="#00f")
    assert np.array_equal(flatten(both.reset("Badge", what="place")), flatten(stack.recolor("Badge", color="#00f")))
    assert np.array_equal(flatten(both.reset("Badge", what="looks")), flatten(stack.move("Badge", x=3)))


def test_recolor_meets_the_colour_and_keeps_the_shading() -> None:
    shade = np.linspace(0.5, 1, 32)
    linear = shade[:, None] * np.array([0.6, 0.05, 0.05])  # one surface under changing light
    rgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    pixels = np.full((4, 32, 4), 65535, np.uint16)
    pixels[..., :3] = np.round(rgb * 65535)
    pixels[0, ..., 3] = 0  # what is transparent does not count
    pixels[0, ..., :3] = 0
    stack = LayerStack((32, 4), (layer("A", (0, 0, 32, 4), pixels),), depth=16)
    after = stack.recolor("A", color="#2060c0")["A"].pixels
    assert after is not None
    lab = oklab.from_rgb((after[1:, :, :3] / 65535).astype(np.float32))
    target = oklab.lab_of("#2060c0")
    assert np.allclose(lab.mean(axis=(0, 1)), target, atol=1e-4)
    lightness = lab[0, :, 0]
    assert (np.diff(lightness) > 0).all()
    assert np.allclose(lightness / lightness[-1], np.cbrt(shade), atol=0.03)  # light falls on it as before


def test_a_flat_layer_gets_exactly_the_colour() -> None:
    before = opaque(9, 9, (200, 30, 40))
    before[..., 3] = np.arange(81).reshape(9, 9) * 3
    stack = LayerStack((9, 9), (layer("Badge", (0, 0, 9, 9), before),))
    pixels = stack.recolor("Badge", color="#10a0e0")["Badge"].pixels
    assert pixels is not None
    assert (pixels[..., :3] == (0x10, 0xA0, 0xE0)).all()
    assert np.array_equal(pixels[..., 3], before[..., 3])


def test_recolor_leaves_white_lettering_white_and_colours_grey_by_its_light() -> None:
    pixels = opaque(10, 10, (200, 30, 40))
    pixels[4:6, 2:8, :3] = 255
    badge = LayerStack((10, 10), (layer("Badge", (0, 0, 10, 10), pixels),))
    after = badge.recolor("Badge", color="#3366cc")["Badge"].pixels
    assert after is not None
    assert (after[4:6, 2:8, :3] >= 240).all()
    assert (after[0, 0, :3].astype(int) - (200, 30, 40))[2] > 100
    grey = opaque(10, 10, (128, 128, 128))
    grey[5:, :, :3] = 0
    tinted = LayerStack((10, 10), (layer("A", (0, 0, 10, 10), grey),)).recolor("A", color="#304060")["A"].pixels
    assert tinted is not None
    assert tinted[0, 0, 2] > tinted[0, 0, 0] + 30  # blue where there was light
    assert tinted[9, 9].max(initial=0, where=[True, True, True, False]) < 40  # and dark where there was none


def test_palette_exchanges_a_colour_in_light_and_shade_and_nothing_else() -> None:
    pixels = opaque(3, 1, (209, 73, 91))
    pixels[0, 1, :3] = (180, 60, 75)  # the same in the shade
    pixels[0, 2, :3] = (40, 160, 60)
    stack = LayerStack((3, 1), (layer("A", (0, 0, 3, 1), pixels),))
    after = stack.palette("A", colors={"#d1495b": "#f4a300", "#c3423f": "#6a4c93"})["A"].pixels
    assert after is not None
    assert np.abs(after[0, 0, :3].astype(int) - (0xF4, 0xA3, 0x00)).max() <= 1
    shade = oklab.from_rgb((after[0, 1:2, :3] / 255).astype(np.float32))[0] / oklab.lab_of("#f4a300")
    assert np.abs(shade[[0, 2]] - 0.9).max() < 0.06
    assert np.abs(after[0, 2].astype(int) - pixels[0, 2]).max() <= 1


def test_looks_are_set_not_added(stack: LayerStack) -> None:
    twice = stack.recolor("Badge", color="#0f0").brightness("Badge", amount=0.3).recolor("Badge", color="#00f")
    assert np.array_equal(flatten(twice), flatten(stack.recolor("Badge", color="#00f").brightness("Badge", amount=0.3)))


def test_oklab_knows_its_published_values_and_its_way_back() -> None:
    assert np.allclose(oklab.lab_of("#fff"), [1, 0, 0], atol=1e-4)
    assert np.allclose(oklab.lab_of("#ff0000"), [0.6279554, 0.2248631, 0.1258463], atol=1e-5)
    rgb = np.random.default_rng(0).uniform(-0.2, 1.2, (50, 3)).astype(np.float32)
    assert np.allclose(oklab.to_rgb(oklab.from_rgb(rgb)), rgb, atol=1e-5)


@pytest.mark.parametrize(
    ("where", "order"),
    [
        ({"to": 0}, "Badge Back Promo Headline"),
        ({"to": "top"}, "Back Promo Headline Badge"),
        ({"above": "Headline"}, "Back Promo Headline Badge"),
        ({"below": "Back"}, "Badge Back Promo Headline"),
    ],
)
def test_reorder(stack: LayerStack, where: dict[str, Any], order: str) -> None:
    assert " ".join(x.name for x in stack.reorder("Badge", **where)) == order


def test_reorder_goes_into_a_group(stack: LayerStack) -> None:
    assert [x.name for x in stack.reorder("Badge", above="Star")["Promo"].layers] == ["Star", "Badge", "Price"]


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("badge", "Badge"),
        ("Badge", "Badge"),
        (1, "Badge"),
        ("1", "Badge"),
        (-1, "Headline"),
        ("kind:text", "Headline"),
        ("*a*", "Back Badge Star Headline"),
        (["Star", "Back"], "Back Star"),
        ("at 40,46", "Badge"),
        ("at 62,16", "Star"),
        ("at 1,1", "Back"),
    ],
)
def test_selectors(stack: LayerStack, selector: Any, names: str) -> None:
    from unfuse.selection import select

    assert " ".join(x.name for x in select(stack, selector)) == names


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"op": "mvoe"}, "there is no op 'mvoe' \\(did you mean 'move'\\?\\): it must be one of move, "),
        ({"op": "move", "layer": "Badge", "dx": 3}, "move has no field 'dx'.*: it takes layer, x, y, to"),
        ({"op": "move"}, "move needs 'layer'"),
        ({"op": "move", "layer": "Bagde"}, "no layer is called 'Bagde' \\(did you mean 'Badge'\\?\\): the stack has"),
        ({"op": "move", "layer": "Badge", "x": "3"}, "the field 'x' is '3': '3' is not of type 'number'"),
        ({"op": "recolor", "layer": "Badge", "color": "red"}, "An sRGB colour, such as #e4002b"),
        ({"op": "opacity", "layer": "Badge", "value": 2}, "greater than the maximum"),
        ({"op": "rename", "layer": "*e*", "name": "X"}, "means 3 layers: name one of 'Badge', 'Price', 'Headline'"),
        ({"op": "move", "layer": "at 5,x"}, "'at 5,x' is no point: it must be 'at x,y' in whole pixels of the canvas"),
        ({"op": "move", "layer": "at 5.5, 3"}, "no point.* of 96 x 80, such as 'at 48,40'"),
        ({"op": "move", "layer": "at dusk"}, "no layer is called 'at dusk'"),
        ({"op": "move", "layer": "at 500,3"}, "no layer shows at 500,3 on the canvas of 96 x 80"),
        ({"op": "move", "layer": "kind:txt"}, "did you mean 'text'"),
        ({"op": "move", "layer": 9}, "there is no layer 9"),
        ("move", "is not an edit"),
    ],
)
def test_what_an_edit_refuses(stack: LayerStack, edit: Any, message: str) -> None:
    with pytest.raises(StackError, match=message):
        unfuse.edit(stack, [edit])


@pytest.mark.parametrize("locked", ["badge", "promo", "star"])
def test_a_locked_layer_is_named(stack: LayerStack, locked: str) -> None:
    frozen = stack.replace_layer(locked, stack[locked].replace(locked=True))
    name = stack[locked].name
    for one in {"badge": ["Badge"], "promo": ["Promo", "Star"], "star": ["Star", "Promo"]}[locked]:
        with pytest.raises(StackError, match=f"layer '{name}'.* is locked: unlock it first"):
            frozen.move(one, x=1)


@pytest.mark.parametrize("op", sorted(EDITS.keys() - {"show", "hide", "solo", "lock", "unlock", "extract"}))
def test_every_op_refuses_a_locked_layer(stack: LayerStack, op: str) -> None:
    target = "promo" if op in ("merge", "ungroup") else "badge"
    edit: dict[str, Any] = {"op": op, "layer": target} | EDITS[op]
    if op in ("canvas", "merge_all"):
        edit = {"op": op} | ({"width": 50, "height": 90} if op == "canvas" else {})
    frozen = stack.lock(target)
    with pytest.raises(StackError, match=f"layer '{stack[target].name}'.* is locked: unlock it first"):
        unfuse.edit(frozen, [edit])


@pytest.mark.parametrize("op", ["canvas", "extract", "solo", "distribute", "merge_all"])
def test_what_edits_of_the_whole_stack_keep(stack: LayerStack, op: str) -> None:
    edit: dict[str, dict[str, Any]] = {"canvas": {"width": 96, "height": 120}, "merge_all": {}}
    edit["distribute"] = {"layer": [0, 1, 3]}
    after = unfuse.edit(stack, [{"op": op} | edit.get(op, {"layer": "Badge"})])
    if op == "merge_all":
        assert np.array_equal(flatten(after), flatten(stack))
        return
    for one in after.walk():
        if op in ("extract", "solo") or (op == "distribute" and one.id != "badge"):
            assert one.pixels is stack[one.id].pixels
            assert one.box == stack[one.id].box
    if op == "canvas":  # as high as before times 1.25: the width sets the scale, so nothing but the wall is resampled
        assert all(after[key].pixels is stack[key].pixels for key in ("badge", "star", "price", "headline"))


def test_an_unknown_method_is_an_attribute_error(stack: LayerStack) -> None:
    with pytest.raises(AttributeError, match="did you mean 'recolor'"):
        stack.recolour("Badge", color="#fff")
    assert not hasattr(stack, "__array__")


def test_undo_and_redo(stack: LayerStack) -> None:
    one = stack.move("Badge", x=5)
    two = one.opacity("Badge", value=0.5)
    assert two.undo().layers == one.layers
    assert two.undo().undo().layers == stack.layers
    assert two.undo().undo().redo().redo().layers == two.layers
    assert two.undo().recolor("Badge", color="#fff").future == ()
    assert two.past[-1].edits == ({"op": "opacity", "layer": "Badge", "value": 0.5},)
    with pytest.raises(StackError, match="nothing to undo"):
        stack.undo()
    with pytest.raises(StackError, match="nothing to redo"):
        two.redo()


def test_edits_are_all_done_or_none(stack: LayerStack) -> None:
    with pytest.raises(StackError, match="edit 2 of 2: move: no layer is called 'Nobody'"):
        unfuse.edit(stack, [{"op": "remove", "layer": "Badge"}, {"op": "move", "layer": "Nobody"}])


@pytest.mark.parametrize("op", sorted(EDITS.keys() - {"canvas", "split", "ungroup"}))
def test_composing_only_what_changed_gives_the_same_bits(stack: LayerStack, op: str) -> None:
    tall = stack.replace(size=(6000, 80))  # wide, so that there are several strips
    after = unfuse.edit(tall, [{"op": op} | ({} if op == "merge_all" else {"layer": "Badge"}) | EDITS[op]])
    assert np.array_equal(reflatten(after, tall, flatten(tall)), flatten(after))


def test_split_is_an_edit(stack: LayerStack) -> None:
    solid = stack.replace_layer("badge", layer("Badge", (8, 14, 72, 78), opaque(64, 64, (200, 30, 40))))
    after = edited(solid, "split")
    assert after["badge"].kind == "group" or after["badge"] is solid["badge"]
    assert np.abs(flatten(after).astype(int) - flatten(solid)).max() <= 1
    assert after["back"] is solid["back"]


def test_duplicate_and_remove(stack: LayerStack) -> None:
    after = stack.duplicate("Promo")
    assert [x.name for x in after] == ["Back", "Badge", "Promo", "Promo copy", "Headline"]
    assert after[3].layers[0].pixels is stack["Star"].pixels
    assert [x.name for x in after.remove("Pro*").walk()] == ["Back", "Badge", "Headline"]
    assert [x.name for x in stack.remove(["Star", "Price"])] == ["Back", "Badge", "Headline"]


def test_crop_follows_the_layer_into_its_own_pixels(stack: LayerStack) -> None:
    plain = stack.crop("Badge", box=[10, 20, 50, 60])
    assert plain["Badge"].box == Box(10, 20, 50, 60)
    assert np.array_equal(
        plain["Badge"].to_canvas((W, H))[20:60, 10:50], stack["Badge"].to_canvas((W, H))[20:60, 10:50]
    )
    turned = stack.rotate("Badge", degrees=90).move("Badge", x=2).crop("Badge", box=[10, 20, 50, 60])
    assert np.array_equal(
        turned["Badge"].to_canvas((W, H)),
        stack.rotate("Badge", degrees=90)
        .move("Badge", x=2)
        .merge_all()
        .crop(0, box=[10, 20, 50, 60])[0]
        .to_canvas((W, H))
        if len(stack) == 1
        else stack.extract("Badge")
        .rotate(0, degrees=90)
        .move(0, x=2)
        .crop(0, box=[10, 20, 50, 60])[0]
        .to_canvas((W, H)),
    )
    with pytest.raises(StackError, match="nothing would be left of layer 'Badge'"):
        stack.crop("Badge", box=[80, 0, 90, 10])


def test_crop_leaves_the_colour_of_what_stays(stack: LayerStack) -> None:
    blue = stack.recolor("Badge", color="#00f")
    cut = blue.crop("Badge", box=[20, 20, 40, 30])
    assert np.array_equal(cut["Badge"].to_canvas((W, H))[20:30, 20:40], blue["Badge"].to_canvas((W, H))[20:30, 20:40])


def test_mask_multiplies_alpha(stack: LayerStack) -> None:
    half = np.zeros((2, 2), np.uint8)
    half[:, 0] = 255
    masked = stack.mask("Badge", picture=half)["Badge"].to_canvas((W, H))
    before = stack["Badge"].to_canvas((W, H))
    assert np.array_equal(masked[:, 8:20, 3], before[:, 8:20, 3])
    assert not masked[:, 60:, 3].any()
    inverted = stack.mask("Badge", picture=half, invert=True)["Badge"].to_canvas((W, H))
    assert np.abs(masked[..., 3].astype(int) + inverted[..., 3] - before[..., 3]).max() <= 1


@pytest.mark.parametrize(
    ("how", "box"), [("fit", (8, 30, 72, 62)), ("fill", (8, 14, 72, 78)), ("stretch", (8, 14, 72, 78))]
)
def test_a_new_picture_takes_the_place_the_turn_and_the_shadow(
    stack: LayerStack, how: str, box: tuple[int, ...]
) -> None:
    red = np.full((16, 32, 3), (255, 0, 0), np.uint8)
    after = stack.replace_picture("Badge", picture=red, how=how)
    assert after["Badge"].box == box
    assert after["Badge"].opacity == 0.9
    shown = after["Badge"].pixels
    assert shown is not None
    assert (shown == (255, 0, 0, 255)).all()
    turned = stack.rotate("Badge", degrees=90).drop_shadow("Badge", x=0, y=5, blur=0, opacity=1)
    both = turned.replace_picture("Badge", picture=red, how="fit")["Badge"].to_canvas((W, H))
    assert (both[20:70, 40] == (255, 0, 0, 255)).all()  # now upright
    assert (both[79, 26:54] == (0, 0, 0, 255)).all()


def test_a_new_picture_can_be_cut_with_the_old_matte(stack: LayerStack) -> None:
    red = np.full((64, 64, 3), (255, 0, 0), np.uint8)
    after = stack.replace_picture("Badge", picture=red, alpha="matte")["Badge"]
    before = stack["Badge"]
    assert after.pixels is not None
    assert before.pixels is not None
    assert np.array_equal(after.pixels[..., 3], before.pixels[..., 3])
    assert (after.pixels[before.pixels[..., 3] > 0][:, :3] == (255, 0, 0)).all()


def test_merge_down_refuses_what_would_look_different(stack: LayerStack) -> None:
    with pytest.raises(StackError, match="'Headline' blends as 'multiply' with what is below both"):
        stack.merge_down("Headline")
    with pytest.raises(StackError, match="'Back' has nothing below"):
        stack.merge_down("Back")


def test_effects_lie_below_the_layer(stack: LayerStack) -> None:
    plain, shadow = stack["Badge"], stack.drop_shadow("Badge", x=6, y=0, blur=0, color="#00f", opacity=1)["Badge"]
    assert shadow.pixels is not None
    assert plain.pixels is not None
    inside = plain.pixels[..., 3] == 255
    at = plain.box.within(shadow.box)
    assert np.array_equal(shadow.pixels[at][inside], plain.pixels[inside])
    assert (shadow.pixels[32 - shadow.box.top + plain.box.top, -3:, :3] == (0, 0, 255)).all()
    lined = stack.outline("Badge", width=3, color="#0f0")["Badge"]
    assert lined.box == Box(5, 11, 75, 81)


def test_an_outline_of_no_width_draws_nothing(stack: LayerStack) -> None:
    assert stack.outline("Badge", width=0).flatten().tobytes() == stack.flatten().tobytes()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda stack: stack.replace_text("Headline", text=" "),
            "the field 'text' is ' ': there is nothing to read (A text",
        ),
        (
            lambda stack: stack.recolor("Badge", color="reddish"),
            "the field 'color' is 'reddish': not of this kind (An sRGB",
        ),
    ],
)
def test_a_wrong_form_is_said_in_words(stack: LayerStack, edit: Any, message: str) -> None:
    with pytest.raises(StackError, match=re.escape(message)):
        edit(stack)


def test_group_solo_and_visibility(stack: LayerStack) -> None:
    together = stack.group(["Badge", "Headline"], name="Both")
    assert [x.name for x in together] == ["Back", "Promo", "Both"]
    assert [x.name for x in together.ungroup("Both")] == ["Back", "Promo", "Badge", "Headline"]
    alone = stack.lock("Back").solo("Star")
    assert [x.name for x in alone.walk() if x.visible] == ["Promo", "Star"]
    assert [x.name for x in stack.hide("Badge").show("Badge").walk() if not x.visible] == []
    with pytest.raises(StackError, match="not all in one group"):
        stack.group(["Badge", "Star"])


def sky(width: int, height: int) -> Any:
    """A slope of colour above a floor, which a hole can be continued over."""
    pixels = np.empty((height, width, 4), np.uint8)
    pixels[...] = (120, 160, 200, 255)
    pixels[..., 2] = 100 + np.arange(width)
    pixels[height * 3 // 4 :] = (90, 60, 30, 255)
    return pixels


@pytest.mark.parametrize("depth", [8, 16])
def test_heal_takes_a_ghost_away_and_nothing_else(depth: Any) -> None:
    wide = np.uint16(257) if depth == 16 else np.uint8(1)
    clean = sky(W, H) * wide
    ghost = clean.copy()
    ghost[20:52, 28:60, :3] = 7 * wide
    sticker = opaque(24, 24, (200, 0, 0)) * wide
    whole = LayerStack(
        (W, H), (layer("Wall", (0, 0, W, H), ghost), layer("Sticker", (32, 24, 56, 48), sticker)), depth=depth
    )
    after = whole.heal("Wall", under="Sticker", reach=6).remove("Sticker")
    found = after["Wall"].pixels
    assert found is not None
    off = np.abs(found.astype(int) - clean.astype(int)).max(axis=-1) / wide
    assert off.max() <= 4
    assert not off[:18].any()
    assert not off[:, 62:].any()
    assert after["Wall"].original is None
    assert after.undo().undo()["Wall"] is whole["Wall"]


def test_heal_follows_a_layer_that_was_moved(stack: LayerStack) -> None:
    wall = LayerStack((W, H), (layer("Wall", (0, 0, W, H), sky(W, H)), stack["Badge"].replace(text=None)))
    moved = wall.move("Wall", x=5).heal("Wall", under="Badge", reach=2)
    box, new = moved["Wall"].box, moved["Wall"].pixels
    assert box == Box(5, 0, W + 5, H)
    changed = (np.asarray(new) != sky(W, H)).any(axis=-1)
    shown = stack["Badge"].to_canvas((W, H))[..., 3] > 0
    where = np.zeros((H, W + 5), bool)
    where[:, 5:] = changed
    assert changed.any()
    ys, xs = np.nonzero(where)
    ky, kx = np.nonzero(shown)
    assert (ys.min() >= ky.min() - 2) & (ys.max() <= ky.max() + 2) & (xs.min() >= kx.min() - 2)


def test_heal_says_what_cannot_be(stack: LayerStack) -> None:
    with pytest.raises(StackError, match="'Badge' cannot be healed under itself"):
        stack.heal("*", under="Badge")
    with pytest.raises(StackError, match="'Price' has nothing around that place"):
        stack.heal("Price", under="Star", reach=40)


def test_a_picture_stands_where_it_is_anchored(stack: LayerStack) -> None:
    wide = opaque(8, 4, (9, 9, 9))  # in a frame of 64 x 64
    boxes = [
        stack.replace_picture("Badge", picture=wide, anchor=anchor)["Badge"].box
        for anchor in ("top", "center", "bottom")
    ]
    assert boxes == [Box(8, 14, 72, 46), Box(8, 30, 72, 62), Box(8, 46, 72, 78)]
