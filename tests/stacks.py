"""Layer stacks for tests: small ones out of hypothesis, and one that has everything."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st
from PIL import ImageCms

from unfuse.layers import BLEND_MODES, Box, Layer, LayerStack, Pixels, Provenance

HARD_NAMES = (
    "背景",
    "Kreis ä é",
    "🎈🏳️‍🌈",
    "../../etc/passwd",
    "CON",
    "a/b\\c:d*?",
    ".",
    "x" * 300,
    "字" * 200,
    "tab\tnul\0",
    " ",
)
NAMES = st.sampled_from([name for name in HARD_NAMES if name.strip()]) | st.text(min_size=1, max_size=9).filter(
    str.strip
)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(seed: int, width: int, height: int, depth: int) -> Pixels:
    """`h w 4` of every level; a fifth of it has alpha 0 over colour, a fifth is opaque."""
    rng = np.random.default_rng(seed)
    dtype = np.uint8 if depth == 8 else np.uint16
    pixels = rng.integers(0, np.iinfo(dtype).max, (height, width, 4), dtype, endpoint=True)
    kind = rng.integers(0, 5, (height, width))
    pixels[kind == 0, 3] = 0
    pixels[kind == 1, 3] = np.iinfo(dtype).max
    return pixels


@st.composite
def rasters(draw: st.DrawFn, depth: int) -> Layer:
    left, top = draw(st.integers(-8, 14)), draw(st.integers(-8, 14))
    width, height = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    return Layer(
        name=draw(NAMES),
        kind=draw(st.sampled_from(["background", "object", "text", "decoration"])),
        box=Box(left, top, left + width, top + height),
        pixels=noise(draw(st.integers(0, 2**32 - 1)), width, height, depth),
        **draw(looks()),
    )


@st.composite
def looks(draw: st.DrawFn) -> dict[str, Any]:
    """Opacity in 255 steps, which every format holds, blend mode and flags."""
    return {
        "opacity": draw(st.integers(0, 255)) / 255,
        "blend_mode": draw(st.sampled_from(BLEND_MODES)),
        "visible": draw(st.booleans()),
        "locked": draw(st.booleans()),
    }


@st.composite
def groups(draw: st.DrawFn, inside: st.SearchStrategy[Layer]) -> Layer:
    return Layer.group(draw(NAMES), draw(st.lists(inside, min_size=1, max_size=3)), **draw(looks()))


@st.composite
def stacks(draw: st.DrawFn) -> LayerStack:
    depth: Literal[8, 16] = draw(st.sampled_from([8, 16]))
    layer = st.recursive(rasters(depth), groups, max_leaves=4)
    return LayerStack(
        size=(draw(st.integers(1, 16)), draw(st.integers(1, 16))),
        layers=tuple(draw(st.lists(layer, max_size=4))),
        depth=depth,
        icc=draw(st.none() | st.just(SRGB)),
        dpi=draw(st.sampled_from([72.0, 300.0, 96.5, 1.0])),
        provenance=Provenance(prompt=draw(NAMES), seed=draw(st.integers(-(2**40), 2**40)), steps=4, engine="fake"),
        notes=tuple(draw(st.lists(NAMES, max_size=2))),
    )


def soft(width: int, height: int, colour: tuple[int, int, int], depth: int = 8) -> Pixels:
    """A disc of one colour that fades out."""
    y, x = np.mgrid[0:height, 0:width]
    distance = np.hypot((x + 0.5) / width * 2 - 1, (y + 0.5) / height * 2 - 1)
    pixels = np.empty((height, width, 4), np.uint8)
    pixels[..., :3] = colour
    pixels[..., 3] = np.clip((1 - distance) * 400, 0, 255)
    return pixels if depth == 8 else pixels.astype(np.uint16) * np.uint16(257)


def everything(depth: Literal[8, 16] = 8, transparent: bool = False, size: tuple[int, int] = (120, 80)) -> LayerStack:
    """Opacity, blend modes, groups in groups, Unicode names, hidden, locked and off the canvas, profile, resolution."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    ground = np.dstack([x * 255 // width, y * 255 // height, (2 * x + y) % 256, np.full_like(x, 255)]).astype(np.uint8)
    if transparent:
        ground[..., 3] = np.clip(x * 4 - 60, 0, 255)

    def disc(
        name: str, left: int, top: int, wide: int, high: int, colour: tuple[int, int, int], **fields: Any
    ) -> Layer:
        box = Box(left, top, left + wide, top + high)
        return Layer(name, "object", box, soft(wide, high, colour, depth), **fields)

    return LayerStack(
        size=size,
        layers=(
            Layer.from_canvas(
                "Background 背景", "background", ground if depth == 8 else ground.astype(np.uint16) * np.uint16(257)
            ),
            disc("Kreis ä é 🎈", 20, 10, 50, 44, (230, 40, 60), opacity=0.7),
            disc("Schatten", -15, 30, 60, 60, (60, 200, 120), blend_mode="multiply"),
            Layer.group(
                "Gruppe 組",
                [
                    disc("Sonne", 60, 5, 40, 40, (250, 220, 30)),
                    disc("Licht", 80, 20, 60, 50, (30, 60, 240), blend_mode="screen", opacity=0.6),
                    Layer.group("innen", [disc("x/y:z", 70, 45, 30, 20, (0, 0, 0))], locked=True),
                ],
                opacity=0.8,
            ),
            disc("hidden", 5, 5, 20, 20, (255, 255, 255), visible=False),
            disc("Oben", 50, 40, 40, 36, (200, 90, 20), opacity=0.5, locked=True),
        ),
        depth=depth,
        icc=SRGB,
        dpi=150.0,
        provenance=Provenance("aa", "fake", "bb", 3, 4, "a prompt", "0.1.0"),
        notes=("a note",),
    )


def renamed(stack: LayerStack, name: Callable[[str], str]) -> LayerStack:
    """The stack with every layer's name changed, as formats do that cannot hold every name."""

    def inside(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
        return tuple(layer.replace(name=name(layer.name), layers=inside(layer.layers)) for layer in layers)

    return stack.replace(layers=inside(stack.layers))


def printable(name: str) -> str:
    """Without what a PSD's names cannot hold: control characters; a tab is a space."""
    return "".join(c if c.isprintable() or c == "\u200d" else "\ufffd" for c in name.replace("\t", " "))


def assert_same(a: LayerStack, b: LayerStack) -> None:
    """Every field equal, pixels to the bit."""
    for name in ("size", "depth", "icc", "dpi", "provenance", "notes"):
        assert getattr(a, name) == getattr(b, name), name
    assert_same_layers(a.layers, b.layers)


def assert_same_layers(a: tuple[Layer, ...], b: tuple[Layer, ...], ignore: tuple[str, ...] = ()) -> None:
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        for name in ("name", "kind", "box", "opacity", "blend_mode", "visible", "locked", "id"):
            if name not in ignore:
                assert getattr(one, name) == getattr(other, name), (one.name, name)
        if one.pixels is None:
            assert other.pixels is None
        else:
            assert other.pixels is not None
            assert one.pixels.dtype == other.pixels.dtype
            np.testing.assert_array_equal(one.pixels, other.pixels)
        assert_same_layers(one.layers, other.layers, ignore)


def png(pixels: Pixels) -> bytes:
    """An 8-bit PNG as any editor writes it."""
    from PIL import Image

    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
