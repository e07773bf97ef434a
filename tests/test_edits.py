"""Edits: what was not touched stays the same to the bit, many edits lose no more than one, and mistakes are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import unfuse
from unfuse import oklab
from unfuse.composite import flatten
from unfuse.edits import TABLE
from unfuse.errors import StackError
from unfuse.layers import Box, Layer, LayerStack

W, H = 96, 80


def noise(width: int, height: int, seed: int, depth: int = 8) -> Any:
    top, dtype = (255, np.uint8) if depth == 8 else (65535, np.uint16)
    return np.random.default_rng(seed).integers(0, top + 1, (height, width, 4)).astype(dtype)


def opaque(width: int, height: int, color: tuple[int, int, int]) -> Any:
    return np.full((height, width, 4), (*color, 255), np.uint8)


def disc(side: int, color: tuple[int, int, int]) -> Any:
    pixels = opaque(side, side, color)
    y, x = np.mgrid[:side, :side] + 0.5 - side / 2
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
            layer("Badge", (8, 30, 40, 62), disc(32, (200, 30, 40)), opacity=0.9),
            group,
            layer("Headline", (30, 60, 90, 76), noise(60, 16, 3), kind="text", blend_mode="multiply"),
        ),
    )


EDITS: dict[str, dict[str, Any]] = {  # for every op an edit of the layer Badge
    "move": {"x": 7, "y": -3},
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
    "reorder": {"to": "top"},
}


def test_every_op_is_tried() -> None:
    assert set(EDITS) == set(TABLE)


def footprint(stack: LayerStack, before: dict[str, Layer]) -> Any:
    """Where layers lie that are not the objects they were, `h w` of bool."""
    covered = np.zeros((stack.size[1], stack.size[0]), bool)
    for one in stack.walk():
        if one.pixels is not None and before.get(one.id) is not one and (box := one.box.intersection(Box(0, 0, W, H))):
            covered[box.top : box.bottom, box.left : box.right] = True
    return covered


@pytest.mark.parametrize("op", EDITS)
def test_what_an_edit_does_not_touch_stays_the_same_to_the_bit(stack: LayerStack, op: str) -> None:
    edited = unfuse.edit(stack, [{"op": op, "layer": "Badge", **EDITS[op]}])
    old, new = ({x.id: x for x in each.walk()} for each in (stack, edited))
    touched = footprint(stack, new) | footprint(edited, old)
    if op == "reorder":  # the layer is the same object at another place
        box = stack["Badge"].box
        touched[box.top : box.bottom, box.left : box.right] = True
    assert np.array_equal(flatten(stack)[~touched], flatten(edited)[~touched])
    for key in {"back", "promo", "headline"}:
        assert new[key] is old[key]
    assert (op in ("reset", "rename")) == np.array_equal(flatten(stack), flatten(edited))


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
    edited = unfuse.edit(stack, [{"layer": "Badge"} | edit for edit in edits]).reset("Badge")
    assert edited["Badge"].pixels is stack["Badge"].pixels
    assert edited["Badge"].box == stack["Badge"].box
    assert edited["Badge"].original is None


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


def test_a_flat_layer_gets_exactly_the_colour(stack: LayerStack) -> None:
    pixels = stack.recolor("Badge", color="#10a0e0")["Badge"].pixels
    before = stack["Badge"].pixels
    assert pixels is not None
    assert before is not None
    assert (pixels[before[..., 3] > 0][:, :3] == (0x10, 0xA0, 0xE0)).all()
    assert np.array_equal(pixels[..., 3], before[..., 3])


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
        ("at 24,46", "Badge"),
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
        ({"op": "drop_shadow", "layer": "Promo"}, "'Promo' is a group"),
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
