"""The layer model: what it refuses, what it shares, and that cropping and finding are exact."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unfuse.composite import flatten
from unfuse.errors import StackError
from unfuse.layers import Box, Layer, LayerStack, Pixels, to_8_bit


def pixels(width: int = 3, height: int = 2, dtype: type = np.uint8) -> Any:
    full = np.iinfo(dtype).max
    return np.random.default_rng(width * height).integers(1, full, (height, width, 4)).astype(dtype)


def layer(name: str = "Hero", **fields: Any) -> Layer:
    return Layer(name, "object", Box(0, 0, 3, 2), pixels(), **fields)


def nested() -> LayerStack:
    inner = Layer.group("Badge", [layer("Star", id="star"), layer("Price", id="price")], id="badge")
    return LayerStack((8, 8), (layer("Back", id="back"), Layer.group("Promo", [inner, layer("Star", id="star 2")])))


# ---- the door


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "a layer's name is ''.*not empty"),
        ({"name": 3}, "a layer's name is 3"),
        ({"kind": "txt"}, "is 'txt' \\(did you mean 'text'\\?\\): it must be one of background, object, text"),
        (
            {"blend_mode": "mulitply"},
            "is 'mulitply' \\(did you mean 'multiply'\\?\\): it must be one of normal, multiply",
        ),
        ({"opacity": 1.5}, "opacity of layer 'Hero' is 1.5: it must be a number from 0 to 1"),
        ({"opacity": float("nan")}, "opacity .* is nan"),
        ({"opacity": "full"}, "opacity .* is 'full'"),
        ({"id": ""}, "id of layer 'Hero' is ''"),
        ({"box": Box(0, 0, 2, 3)}, "are uint8 \\(2, 3, 4\\): its box \\(0, 0, 2, 3\\) needs .* \\(3, 2, 4\\)"),
        ({"box": (0, 0, 3)}, "box of layer 'Hero' is \\(0, 0, 3\\)"),
        ({"box": (0, 0, 3.0, 2)}, "whole numbers"),
        ({"box": Box(3, 0, 0, 2)}, "left < right"),
        ({"pixels": pixels().astype(np.float32)}, "are float32 .* needs uint8 or uint16"),
        ({"pixels": pixels()[..., :3]}, "are uint8 \\(2, 3, 3\\)"),
        ({"pixels": [[0]]}, "are list"),
        ({"pixels": None}, "of kind 'object' with 0 layers and no pixels"),
        ({"kind": "group"}, "of kind 'group' with 0 layers and pixels: a group has layers and no pixels"),
        ({"layers": (layer("inner"),)}, "of kind 'object' with 1 layers and pixels"),
        ({"layers": ("inner",)}, "is given a str among its layers"),
    ],
)
def test_a_wrong_layer_is_refused_with_what_is_allowed(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StackError, match=message):
        layer().replace(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (0, 4)}, "size is \\(0, 4\\)"),
        ({"size": 4}, "size is 4: it must be \\(width, height\\)"),
        ({"size": (4.5, 4)}, "whole numbers"),
        ({"depth": 12}, "depth is 12: it must be 8 or 16"),
        ({"depth": 16}, "layer 'Back' holds uint8 in a stack of depth 16: depth 8 holds uint8, depth 16 holds uint16"),
        ({"dpi": 0}, "dpi is 0"),
        ({"dpi": float("inf")}, "dpi is inf"),
        ({"layers": (layer("a", id="x"), Layer.group("g", [layer("b", id="x")]))}, "'a' and 'b' share the id 'x'"),
        ({"layers": (None,)}, "the stack is given a NoneType"),
    ],
)
def test_a_wrong_stack_is_refused_with_what_is_allowed(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StackError, match=message):
        nested().replace(**changes)


# ---- sharing


def test_pixels_are_shared_and_read_only() -> None:
    own = pixels()
    first = Layer("a", "object", Box(0, 0, 3, 2), own)
    second = first.replace(name="b", opacity=0.5, box=Box(5, 5, 8, 7))
    assert first.pixels is second.pixels
    assert np.shares_memory(first.pixels, own)
    assert first.pixels is not None
    assert second.id == first.id
    with pytest.raises(ValueError, match="read-only"):
        own[0, 0] = 0


def test_only_pixels_that_are_not_contiguous_are_copied() -> None:
    wide = pixels(6, 2)
    cut = Layer("cut", "object", Box(0, 0, 3, 2), wide[:, :3])
    assert cut.pixels is not None
    assert cut.pixels.flags.c_contiguous
    assert not np.shares_memory(cut.pixels, wide)
    wide[:] = 0
    assert cut.pixels.any()


# ---- groups


def test_the_box_of_a_group_is_the_union_of_what_is_in_it() -> None:
    group = Layer.group("g", [layer(), layer().replace(box=Box(-5, 7, -2, 9))])
    assert group.kind == "group"
    assert group.box == Box(-5, 0, 3, 9)
    assert group.replace(layers=group.layers[:1]).box == Box(0, 0, 3, 2)


def test_walk_is_depth_first_bottom_to_top() -> None:
    assert [x.name for x in nested().walk()] == ["Back", "Promo", "Badge", "Star", "Price", "Star"]


# ---- finding


def test_layers_are_found_by_index_name_and_id() -> None:
    stack = nested()
    assert len(stack) == 2
    assert [x.name for x in stack] == ["Back", "Promo"]
    assert stack[0] is stack[-2] is stack["Back"] is stack["back"]
    assert stack["Price"] is stack["price"] is stack["Promo"].layers[0].layers[1]
    assert stack["star 2"] is stack["Promo"].layers[1]
    assert "Price" in stack
    assert stack["price"] in stack
    assert "Sun" not in stack


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("Sta", "no layer is called 'Sta' (did you mean 'Star'?): the stack has 'Back', 'Promo', 'Badge', 'Star'"),
        ("Star", "2 layers are called 'Star': ask by id, one of 'star', 'star 2'"),
        (2, "layer 2 is not in the stack: it has 2, the bottom one is 0"),
        (-3, "layer -3 is not in the stack"),
    ],
)
def test_what_is_not_found_is_named_with_what_there_is(key: int | str, message: str) -> None:
    with pytest.raises(StackError, match=re.escape(message)):
        nested()[key]


def test_replacing_a_layer_leaves_all_others_the_same_objects() -> None:
    stack = nested()
    changed = stack.replace_layer("price", stack["price"].replace(name="Cost"))
    assert [x.name for x in changed.walk()] == ["Back", "Promo", "Badge", "Star", "Cost", "Star"]
    assert changed["back"] is stack["back"]
    assert changed["star"] is stack["star"]
    assert changed["badge"].id == stack["badge"].id
    assert "Price" in stack


def test_a_layer_makes_room_for_several_or_for_none() -> None:
    stack = nested()
    several = stack.replace_layer("star 2", layer("Moon"), layer("Sun"))
    assert [x.name for x in several["Promo"].layers] == ["Badge", "Moon", "Sun"]
    fewer = stack.replace_layer("star").replace_layer("price")
    assert [x.name for x in fewer.walk()] == ["Back", "Promo", "Star"]
    assert len(stack.replace_layer("Back").replace_layer("Promo")) == 0


# ---- canvas and crop


@given(
    st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), st.sampled_from([np.uint8, np.uint16])
)
def test_cropping_from_a_canvas_and_back_is_exact(
    seed: int, width: int, height: int, share: float, dtype: type
) -> None:
    rng = np.random.default_rng(seed)
    canvas: Pixels = rng.integers(0, np.iinfo(dtype).max, (height, width, 4)).astype(dtype)
    canvas[rng.random((height, width)) < share] = 0
    canvas[canvas[..., 3] == 0] = 0
    cropped = Layer.from_canvas("cropped", "object", canvas, opacity=0.5)
    assert cropped.pixels is not None
    assert cropped.opacity == 0.5
    assert cropped.is_empty == (not canvas.any())
    assert np.array_equal(cropped.to_canvas((width, height)), canvas)
    if not cropped.is_empty:
        alpha = cropped.pixels[..., 3]
        assert all(edge.any() for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]))
    assert cropped.crop_to_content() is cropped or cropped.box.size == (1, 1)


def test_a_transparent_layer_crops_to_one_pixel() -> None:
    empty = Layer("none", "object", Box(4, 5, 7, 7), np.zeros((2, 3, 4), np.uint8)).crop_to_content()
    assert empty.is_empty
    assert empty.box == Box(4, 5, 5, 6)
    assert empty.crop_to_content().box == empty.box


def test_a_group_crops_each_layer() -> None:
    canvas = np.zeros((6, 6, 4), np.uint8)
    canvas[2, 3] = 255
    group = Layer.group("g", [Layer("a", "object", Box(1, 1, 7, 7), canvas)])
    assert not group.is_empty
    assert group.crop_to_content().box == Box(4, 3, 5, 4)


def test_to_image_is_the_layer_alone_at_8_bits() -> None:
    deep = Layer("deep", "object", Box(-1, 1, 2, 3), pixels(dtype=np.uint16), opacity=0.5, visible=False)
    image = deep.to_image((4, 4))
    assert image.mode == "RGBA"
    assert image.size == (4, 4)
    expected = np.zeros((4, 4, 4))
    expected[1:3, :2] = np.round(pixels(dtype=np.uint16)[:, 1:] / 257)
    assert np.array_equal(np.asarray(image), expected)
    group = Layer.group("g", [deep.replace(visible=True, opacity=1)], opacity=0.2)
    assert np.array_equal(np.asarray(group.to_image((4, 4))), expected)


def test_16_bits_round_to_the_nearest_of_8() -> None:
    every = np.arange(65536, dtype=np.uint16).reshape(128, 128, 4)
    assert np.array_equal(to_8_bit(every), np.floor(every / 257 + 0.5))
    assert to_8_bit(to_8_bit(every)).dtype == np.uint8


def test_flatten_gives_rgba_with_profile_and_resolution() -> None:
    stack = LayerStack((3, 2), (layer(),), icc=b"profile", dpi=300)
    image = stack.flatten()
    assert image.mode == "RGBA"
    assert image.info == {"icc_profile": b"profile", "dpi": (300, 300)}
    assert np.array_equal(np.asarray(image), flatten(stack))
    deep = LayerStack((3, 2), (Layer("d", "object", Box(0, 0, 3, 2), pixels(dtype=np.uint16)),), depth=16)
    assert np.array_equal(np.asarray(deep.flatten()), to_8_bit(flatten(deep)))
    assert deep.flatten().info == {"dpi": (72, 72)}


# ---- boxes


def test_boxes_meet_join_and_move() -> None:
    a, b = Box(0, 0, 4, 3), Box(2, -1, 9, 2)
    assert a.intersection(b) == Box(2, 0, 4, 2)
    assert a.intersection(Box(4, 0, 5, 1)) is None
    assert a.union(b) == Box(0, -1, 9, 3)
    assert a.moved(-2, 5) == Box(-2, 5, 2, 8)
    assert a.size == (a.width, a.height) == (4, 3)
    canvas = np.arange(12).reshape(3, 4)
    assert canvas[Box(1, 1, 3, 2).within(a)].tolist() == [[5, 6]]
