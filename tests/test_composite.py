"""`flatten` against the letters of the standard, in plain Python floats, one pixel at a time."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unfuse.composite import flatten, over, residual
from unfuse.errors import StackError
from unfuse.layers import BLEND_MODES, Box, Layer, LayerStack, Pixels

Colour = tuple[float, float, float]
Pixel = tuple[float, float, float, float]  # straight alpha, 0 to 1
CLEAR: Pixel = (0, 0, 0, 0)


# ---- the reference: https://www.w3.org/TR/compositing-1/, sections 5.1 (source-over), 10.1 and 10.2 (blend modes)


def separable(mode: str, b: float, s: float) -> float:
    match mode:
        case "normal":
            return s
        case "multiply":
            return b * s
        case "screen":
            return 1 - (1 - b) * (1 - s)
        case "overlay":
            return separable("hard-light", s, b)
        case "darken":
            return min(b, s)
        case "lighten":
            return max(b, s)
        case "color-dodge":
            return 0 if b == 0 else 1 if s == 1 else min(1, b / (1 - s))
        case "color-burn":
            return 1 if b == 1 else 0 if s == 0 else 1 - min(1, (1 - b) / s)
        case "hard-light":
            return separable("multiply", b, 2 * s) if s <= 0.5 else separable("screen", b, 2 * s - 1)
        case "soft-light":
            if s <= 0.5:
                return b - (1 - 2 * s) * b * (1 - b)
            d = ((16 * b - 12) * b + 4) * b if b <= 0.25 else math.sqrt(b)
            return b + (2 * s - 1) * (d - b)
        case "difference":
            return abs(b - s)
        case "exclusion":
            return b + s - 2 * b * s
    raise AssertionError(mode)


def lum(c: Colour) -> float:
    return 0.3 * c[0] + 0.59 * c[1] + 0.11 * c[2]


def clip_colour(c: Colour) -> Colour:
    light, low, high = lum(c), min(c), max(c)
    if low < 0:
        c = tuple(light + (x - light) * light / (light - low) for x in c)  # type: ignore[assignment]
    if high > 1:
        c = tuple(light + (x - light) * (1 - light) / (high - light) for x in c)  # type: ignore[assignment]
    return c


def set_lum(c: Colour, light: float) -> Colour:
    d = light - lum(c)
    return clip_colour((c[0] + d, c[1] + d, c[2] + d))


def sat(c: Colour) -> float:
    return max(c) - min(c)


def set_sat(c: Colour, s: float) -> Colour:
    result = [0.0, 0.0, 0.0]
    low, mid, high = sorted(range(3), key=lambda i: c[i])
    if c[high] > c[low]:
        result[mid] = (c[mid] - c[low]) * s / (c[high] - c[low])
        result[high] = s
    return result[0], result[1], result[2]


def blended(mode: str, b: Colour, s: Colour) -> Colour:
    match mode:
        case "hue":
            return set_lum(set_sat(s, sat(b)), lum(b))
        case "saturation":
            return set_lum(set_sat(b, sat(s)), lum(b))
        case "color":
            return set_lum(s, lum(b))
        case "luminosity":
            return set_lum(b, lum(s))
    return separable(mode, b[0], s[0]), separable(mode, b[1], s[1]), separable(mode, b[2], s[2])


def composited(backdrop: Pixel, source: Pixel, mode: str) -> Pixel:
    cb, ab, cs, a = backdrop[:3], backdrop[3], source[:3], source[3]
    ao = a + ab * (1 - a)
    if ao == 0:
        return CLEAR
    mixed = [(1 - ab) * s + ab * m for s, m in zip(cs, blended(mode, cb, cs), strict=True)]
    r, g, b = (((1 - a) * ab * x + a * y) / ao for x, y in zip(cb, mixed, strict=True))
    return r, g, b, ao


def reference_pixel(layers: tuple[Layer, ...], x: int, y: int, full: int) -> Pixel:
    under = CLEAR
    for layer in layers:
        if not layer.visible:
            continue
        if layer.pixels is None:
            r, g, b, a = reference_pixel(layer.layers, x, y, full)
        elif layer.box.left <= x < layer.box.right and layer.box.top <= y < layer.box.bottom:
            r, g, b, a = (int(v) / full for v in layer.pixels[y - layer.box.top, x - layer.box.left])
        else:
            continue
        under = composited(under, (r, g, b, a * layer.opacity), layer.blend_mode)
    return under


def reference(stack: LayerStack) -> NDArray[np.float64]:
    """`h w 4` float64 in levels, straight."""
    (width, height), full = stack.size, 2**stack.depth - 1
    pixels = np.array([[reference_pixel(stack.layers, x, y, full) for x in range(width)] for y in range(height)])
    return np.asarray(pixels * full, np.float64)


# ---- random stacks


def random_pixels(seed: int, size: tuple[int, int], alphas: str, depth: int) -> Pixels:
    rng = np.random.default_rng(seed)
    full = 2**depth - 1
    pixels = rng.integers(0, full + 1, (size[1], size[0], 4))
    extremes = rng.choice([0, full // 2, full], pixels.shape)
    pixels[..., :3] = np.where(rng.random(pixels[..., :3].shape) < 0.3, extremes[..., :3], pixels[..., :3])
    if alphas == "hard":
        pixels[..., 3] = rng.choice([0, full], pixels.shape[:2])
    elif alphas == "faint":
        pixels[..., 3] = rng.integers(0, 3, pixels.shape[:2])
    elif alphas == "opaque":
        pixels[..., 3] = full
    return pixels.astype(np.uint8) if depth == 8 else pixels.astype(np.uint16)


@st.composite
def random_layers(draw: st.DrawFn, depth: int, groups: int = 2) -> tuple[Layer, ...]:
    layers = []
    for _ in range(draw(st.integers(1, 4))):
        fields: dict[str, Any] = {
            "opacity": draw(
                st.sampled_from([1.0, 1.0, 0.5, 0.0]) | st.integers(1, 99).map(lambda percent: percent / 100)
            ),
            "blend_mode": draw(st.sampled_from(BLEND_MODES)),
            "visible": draw(st.integers(0, 7)) > 0,
        }
        if groups and draw(st.integers(0, 3)) == 0:
            layers.append(Layer.group("group", draw(random_layers(depth, groups - 1)), **fields))
            continue
        left, top = draw(st.integers(-3, 4)), draw(st.integers(-3, 4))
        width, height = draw(st.integers(1, 9)), draw(st.integers(1, 9))
        alphas = draw(st.sampled_from(["soft", "hard", "faint", "opaque"]))
        pixels = random_pixels(draw(st.integers(0, 2**32)), (width, height), alphas, depth)
        layers.append(Layer("layer", "object", Box(left, top, left + width, top + height), pixels, **fields))
    return tuple(layers)


@st.composite
def random_stacks(draw: st.DrawFn) -> LayerStack:
    depth: Literal[8, 16] = draw(st.sampled_from([8, 8, 16]))
    return LayerStack((draw(st.integers(1, 7)), draw(st.integers(1, 7))), draw(random_layers(depth)), depth=depth)


@given(random_stacks())
@settings(deadline=None)
def test_random_stacks_agree_with_the_standard_within_half_a_level(stack: LayerStack) -> None:
    flat, expected = flatten(stack), reference(stack)
    assert flat.dtype == (np.uint8 if stack.depth == 8 else np.uint16)
    assert flat.shape == expected.shape
    difference = np.abs(flat - expected)
    assert difference[..., 3].max() <= 0.5 + 1e-3
    assert (difference[flat[..., 3] > 0] <= 0.5 + 1e-3).all()
    assert not flat[flat[..., 3] == 0].any()


@pytest.mark.parametrize("mode", BLEND_MODES)
@pytest.mark.parametrize("depth", [8, 16])
def test_each_mode_rounds_as_the_standard_does(mode: str, depth: int) -> None:
    size = 40, 40
    stack = LayerStack(
        size,
        tuple(
            Layer(
                str(i), "object", Box(0, 0, *size), random_pixels(i, size, alphas, depth), opacity=opacity, blend_mode=m
            )
            for i, (alphas, opacity, m) in enumerate([("soft", 1, "normal"), ("soft", 0.7, mode), ("hard", 0.5, mode)])
        ),
        depth=8 if depth == 8 else 16,
    )
    expected = np.floor(reference(stack) + 0.5)
    flat = flatten(stack)
    shows = flat[..., 3] > 0
    assert np.array_equal(flat[..., 3] > 0, expected[..., 3] > 0)
    assert (flat == expected)[shows].mean() > 0.999


@given(random_stacks())
@settings(max_examples=30, deadline=None)
def test_over_says_the_same(stack: LayerStack) -> None:
    flat, full = flatten(stack), 2**stack.depth - 1

    def folded(layers: tuple[Layer, ...]) -> NDArray[np.floating[Any]]:
        under: NDArray[np.floating[Any]] = np.zeros((stack.size[1], stack.size[0], 4))
        for layer in layers:
            if layer.visible:
                pixels = folded(layer.layers) if layer.layers else layer.to_canvas(stack.size) / full
                under = over(under, pixels, layer.blend_mode, layer.opacity)
        return under

    difference = np.abs(flat - full * folded(stack.layers))
    assert (difference[flat[..., 3] > 0] <= 0.5 + 1e-3).all()


# ---- known answers


def flat_layer(colour: tuple[int, int, int, int], **fields: Any) -> Layer:
    return Layer("flat", "object", Box(0, 0, 2, 2), np.full((2, 2, 4), colour, np.uint8), **fields)


def only(stack: LayerStack) -> tuple[int, ...]:
    flat = flatten(stack)
    assert (flat == flat[0, 0]).all()
    return tuple(int(value) for value in flat[0, 0])


def test_half_a_level_rounds_up() -> None:
    black, white = flat_layer((0, 0, 0, 255)), flat_layer((255, 255, 255, 255), opacity=0.5)
    assert only(LayerStack((2, 2), (black, white))) == (128, 128, 128, 255)
    assert only(LayerStack((2, 2), (white,))) == (255, 255, 255, 128)


def test_known_answers_of_blending() -> None:
    grey, red = flat_layer((128, 128, 128, 255)), flat_layer((255, 0, 0, 255), blend_mode="multiply")
    assert only(LayerStack((2, 2), (grey, red))) == (128, 0, 0, 255)
    # Over a transparent backdrop there is nothing to blend with: the source stays as it is.
    assert only(LayerStack((2, 2), (red,))) == (255, 0, 0, 255)
    # Isolated: in a group of its own the red meets no backdrop, so the group covers the grey.
    assert only(LayerStack((2, 2), (grey, Layer.group("alone", [red])))) == (255, 0, 0, 255)
    assert only(LayerStack((2, 2), (grey, Layer.group("all", [red], blend_mode="multiply")))) == (128, 0, 0, 255)


def test_opacity_of_a_group_is_not_that_of_its_layers() -> None:
    white, black = flat_layer((255, 255, 255, 255)), flat_layer((0, 0, 0, 255))
    assert only(LayerStack((2, 2), (white, Layer.group("pair", [white.replace(id="1"), black], opacity=0.5)))) == (
        128,
        128,
        128,
        255,
    )
    half = black.replace(opacity=0.5)
    assert only(LayerStack((2, 2), (white, Layer.group("pair", [half, half.replace(id="2")])))) == (64, 64, 64, 255)


@pytest.mark.parametrize("depth", [8, 16])
def test_one_layer_comes_back_to_the_bit_where_it_shows(depth: int) -> None:
    pixels = random_pixels(3, (300, 300), "soft", depth)
    for layer in (Layer("one", "object", Box(0, 0, 300, 300), pixels), Layer.from_canvas("one", "object", pixels)):
        for layers in ((layer,), (Layer.group("group", [layer]),)):
            flat = flatten(LayerStack((300, 300), layers, depth=8 if depth == 8 else 16))
            assert np.array_equal(flat, np.where(pixels[..., 3:] > 0, pixels, 0))


def test_an_opaque_layer_hides_what_is_under_it_to_the_bit() -> None:
    under, top = random_pixels(1, (300, 300), "soft", 8), random_pixels(2, (300, 300), "opaque", 8)
    box = Box(0, 0, 300, 300)
    stack = LayerStack((300, 300), (Layer("a", "object", box, under), Layer("b", "object", box, top)))
    assert np.array_equal(flatten(stack), top)


def test_nothing_shows_of_what_is_hidden_transparent_or_outside() -> None:
    red = flat_layer((255, 0, 0, 255))
    assert only(LayerStack((2, 2), ())) == (0, 0, 0, 0)
    assert only(LayerStack((2, 2), (red.replace(visible=False),))) == (0, 0, 0, 0)
    assert only(LayerStack((2, 2), (red.replace(opacity=0),))) == (0, 0, 0, 0)
    assert only(LayerStack((2, 2), (red.replace(box=Box(2, 0, 4, 2)),))) == (0, 0, 0, 0)
    assert only(LayerStack((2, 2), (flat_layer((255, 0, 0, 0)),))) == (0, 0, 0, 0)
    hidden = Layer.group("group", [red], visible=False)
    assert only(LayerStack((2, 2), (hidden,))) == (0, 0, 0, 0)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (70000, 1), (3, 70000), (701, 403)])
def test_every_strip_of_odd_sizes_is_painted(size: tuple[int, int]) -> None:
    pixels = random_pixels(5, size, "opaque", 8)
    middle = Box(size[0] // 3, size[1] // 3, size[0] // 3 + 1, size[1] // 3 + 1)
    dot = np.full((1, 1, 4), (1, 2, 3, 255), np.uint8)
    box = Box(0, 0, *size)
    flat = flatten(LayerStack(size, (Layer("all", "background", box, pixels), Layer("dot", "object", middle, dot))))
    expected = pixels.copy()
    expected[middle.top, middle.left] = 1, 2, 3, 255
    assert np.array_equal(flat, expected)


# ---- residual


def test_residual_is_the_largest_and_the_mean_difference_in_levels() -> None:
    stack = LayerStack((2, 2), (flat_layer((10, 20, 30, 255)),))
    picture = np.full((2, 2, 4), (10, 20, 30, 255), np.uint8)
    assert residual(stack, picture) == (0, 0)
    assert residual(stack, picture[..., :3]) == (0, 0)
    picture[0, 0, 1] += 4
    picture[1, 1, 2] -= 12
    assert residual(stack, picture) == (12, 1)
    assert residual(stack, picture.astype(np.uint16) * 257) == (12, 1)


def test_residual_leaves_out_colour_where_the_picture_has_none() -> None:
    stack = LayerStack((2, 2), (flat_layer((10, 20, 30, 0)),))
    assert residual(stack, np.full((2, 2, 4), (90, 90, 90, 0), np.uint8)) == (0, 0)
    assert residual(stack, np.full((2, 2, 4), (0, 90, 0, 255), np.uint8)).max == 255


def test_residual_refuses_another_size_or_type() -> None:
    with pytest.raises(StackError, match=r"uint8 \(2, 3, 4\).*\(2, 2, 4\)"):
        residual(LayerStack((2, 2), ()), np.zeros((2, 3, 4), np.uint8))
    with pytest.raises(StackError, match=r"float32 \(2, 2, 4\).*uint8 or uint16"):
        residual(LayerStack((2, 2), ()), np.zeros((2, 2, 4), np.float32))  # type: ignore[arg-type]


def test_over_refuses_an_unknown_mode() -> None:
    with pytest.raises(StackError, match="did you mean 'multiply'"):
        over(np.zeros((1, 1, 4)), np.zeros((1, 1, 4)), "mutliply")
