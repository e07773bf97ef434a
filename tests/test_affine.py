"""Places: exact where they can be, resampled once where not, and free of fringes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from unfuse.composite import flatten
from unfuse.errors import StackError
from unfuse.layers import Box, Layer, LayerStack
from unfuse.render import frame

SIZE = (120, 100)


def noise(width: int, height: int) -> Any:
    return np.random.default_rng(1).integers(0, 256, (height, width, 4)).astype(np.uint8)


def smooth(width: int, height: int) -> Any:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 5 + i) * np.cos(y / 7 - i) * 100 + 128 for i in range(3)]
    return np.dstack([*waves, np.clip(np.hypot(x - width / 2, y - height / 2) * 8, 40, 255)]).astype(np.uint8)


def one(pixels: Any, left: int = 30, top: int = 20) -> LayerStack:
    height, width = pixels.shape[:2]
    return LayerStack(SIZE, (Layer("A", "object", Box(left, top, left + width, top + height), pixels),))


def shown(stack: LayerStack) -> Any:
    return stack["A"].pixels


@pytest.mark.parametrize(("width", "height"), [(40, 40), (41, 30), (40, 31)])
def test_quarter_turns_and_flips_keep_every_bit(width: int, height: int) -> None:
    stack = one(noise(width, height))
    assert np.array_equal(shown(stack.rotate("A", degrees=90)), np.rot90(shown(stack), -1))
    assert np.array_equal(shown(stack.rotate("A", degrees=-90)), np.rot90(shown(stack)))
    assert np.array_equal(shown(stack.flip("A")), shown(stack)[:, ::-1])
    assert stack.flip("A")["A"].box == stack["A"].box
    turned = stack
    for _ in range(4):
        turned = turned.rotate("A", degrees=90)
    assert shown(turned) is shown(stack)
    assert turned["A"].box == stack["A"].box


def test_ten_small_edits_equal_one() -> None:
    stack = one(smooth(50, 40))
    small = stack
    for _ in range(10):
        small = small.rotate("A", degrees=3.5).scale("A", factor=1.02)
    large = stack.rotate("A", degrees=35).scale("A", factor=1.02**10)
    assert small["A"].box == large["A"].box
    assert np.array_equal(shown(small), shown(large))
    back = small.scale("A", factor=1.02**-10).rotate("A", degrees=-35)
    assert np.array_equal(shown(back), shown(stack))  # to the bit, because nothing was resampled


def test_halving_is_the_mean_of_four_by_premultiplied_values() -> None:
    pixels = noise(40, 30)
    half = shown(one(pixels).fit("A", box=[10, 10, 30, 25]))
    x = pixels / 255.0
    x[..., :3] *= x[..., 3:]
    mean = x.reshape(15, 2, 20, 2, 4).mean(axis=(1, 3))
    mean[..., :3] /= mean[..., 3:]
    assert np.abs(half - mean * 255).max() <= 0.501


def test_hidden_colour_never_bleeds_into_edges() -> None:
    pixels = np.zeros((30, 30, 4), np.uint8)  # black where it is transparent
    pixels[5:25, 5:25] = 255
    for edit in ({"factor": 2.3}, {"factor": 0.37}):
        after = shown(one(pixels).scale("A", **edit).rotate("A", degrees=17))
        assert (after[after[..., 3] > 8][:, :3] >= 254).all()


@pytest.mark.parametrize("how", ["scale", "rotate"])
def test_a_plain_opaque_layer_stays_plain_and_opaque(how: str) -> None:
    pixels = np.full((31, 43, 4), (10, 200, 90, 255), np.uint8)
    stack = one(pixels)
    after = shown(stack.scale("A", factor=1.618) if how == "scale" else stack.rotate("A", degrees=12))
    solid = after[..., 3] == 255
    assert (after[solid] == (10, 200, 90, 255)).all()
    area = 31 * 43 * (1.618**2 if how == "scale" else 1)
    assert abs(after[..., 3].sum() / 255 - area) < 0.01 * area  # soft edges cover what they should


def test_resampling_is_close_to_the_function_behind_the_pixels() -> None:
    def wave(x: Any, y: Any) -> Any:
        return np.sin(x / 6) * np.cos(y / 8) * 0.5 + 0.5

    y, x = np.mgrid[:80, :80] + 0.5
    pixels = np.full((80, 80, 4), 65535, np.uint16)
    pixels[..., :3] = np.round(wave(x, y) * 65535)[..., None]
    stack = LayerStack((80, 80), (Layer("A", "object", Box(0, 0, 80, 80), pixels),), depth=16)
    turned = stack.rotate("A", degrees=20)["A"].to_canvas((80, 80))
    cos, sin = np.cos(np.radians(20)), np.sin(np.radians(20))
    u, v = cos * (x - 40) + sin * (y - 40) + 40, -sin * (x - 40) + cos * (y - 40) + 40
    inside = (np.minimum(u, v) > 4) & (np.maximum(u, v) < 76)
    assert np.abs(turned[..., 0] / 65535 - wave(u, v))[inside].max() < 0.002


def test_fit_meets_the_box_exactly() -> None:
    stack = one(noise(40, 30))
    assert stack.fit("A", how="stretch")["A"].box == (0, 0, 120, 100)
    assert stack.fit("A", how="fill")["A"].box == (-7, 0, 127, 100)
    assert stack.fit("A", box=[0, 0, 80, 80])["A"].box == (0, 10, 80, 70)
    assert stack.fit("A", box=[0, 0, 80, 80], anchor="left bottom")["A"].box == (0, 20, 80, 80)
    opaque = np.full((30, 40, 4), 255, np.uint8)
    assert (flatten(one(opaque).fit("A", how="fill")) == 255).all()
    with pytest.raises(StackError, match="left must be below right"):
        stack.fit("A", box=[10, 0, 10, 5])


@pytest.mark.parametrize(
    ("edit", "box"),
    [
        ({"x": "left"}, (0, 20, 40, 50)),
        ({"x": "right", "y": "bottom", "margin": 5}, (75, 65, 115, 95)),
        ({"x": "center", "y": "middle"}, (40, 35, 80, 65)),
        ({"y": "top", "to": "B"}, (30, 50, 70, 80)),
    ],
)
def test_align(edit: dict[str, Any], box: tuple[int, ...]) -> None:
    stack = one(noise(40, 30))
    other = Layer("B", "object", Box(10, 50, 20, 60), noise(10, 10))
    stack = stack.replace(layers=(*stack.layers, other))
    assert stack.align("A", **edit)["A"].box == box


def test_distribute_makes_gaps_equal() -> None:
    layers = [
        Layer(n, "object", Box(x, 0, x + w, 5), noise(w, 5)) for n, x, w in (("A", 0, 10), ("B", 12, 20), ("C", 90, 10))
    ]
    stack = LayerStack(SIZE, tuple(layers)).distribute(["A", "B", "C"])
    assert [x.box.left for x in stack] == [0, 40, 90]


def test_another_canvas_keeps_margins_and_covers_itself() -> None:
    back = Layer("Back", "background", Box(0, 0, 100, 100), np.full((100, 100, 4), 255, np.uint8))
    logo = Layer("Logo", "object", Box(80, 5, 95, 15), noise(15, 10))
    text = Layer("Text", "text", Box(20, 45, 80, 55), noise(60, 10))
    stack = LayerStack((100, 100), (back, logo, text))
    story = stack.canvas(width=100, height=200)
    assert story.size == (100, 200)
    assert story["Back"].box == (-50, 0, 150, 200)
    assert story["Logo"].box == (80, 5, 95, 15)  # right and top margins stay
    assert story["Text"].box == (20, 95, 80, 105)  # in the middle
    banner = stack.canvas(width=300, height=50, anchors={"Text": "left"})
    assert banner["Logo"].box.right == 298
    assert banner["Text"].box.left == 10
    assert (flatten(banner)[..., 3] == 255).all()
    assert stack.canvas(width=50, height=50, layout="keep").layers == stack.layers


def test_a_group_is_held_as_one() -> None:
    parts = [Layer(n, "object", Box(x, 10, x + 10, 20), noise(10, 10)) for n, x in (("L", 10), ("R", 50))]
    stack = LayerStack(SIZE, (Layer.group("G", parts),)).flip("G")
    assert stack["L"].box == (50, 10, 60, 20)
    assert stack["R"].box == (10, 10, 20, 20)
    assert frame(stack["G"]) == (10, 10, 60, 20)


def test_a_shadow_does_not_move_what_an_edit_holds_on_to() -> None:
    stack = one(noise(40, 30))
    assert frame(stack.drop_shadow("A")["A"]) == frame(stack["A"])
    a, b = stack.drop_shadow("A").rotate("A", degrees=90), stack.rotate("A", degrees=90).drop_shadow("A")
    assert np.array_equal(flatten(a), flatten(b))


@pytest.mark.parametrize(
    ("edit", "message"),
    [({"factor": 0}, "less than the minimum|is not valid"), ({"factor": 9999.0}, "scale it less")],
)
def test_what_scale_refuses(edit: dict[str, Any], message: str) -> None:
    with pytest.raises(StackError, match=message):
        one(noise(40, 30)).scale("A", **edit)
