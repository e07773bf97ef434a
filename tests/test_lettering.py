"""Text that was read, as layers of its own: known letters on a known picture come off it without a trace."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from test_words import RED, SIZE, written

from unfuse.composite import flatten
from unfuse.layers import Box, Layer, LayerStack
from unfuse.lettering import lifted
from unfuse.pixels import to_float
from unfuse.textblock import TextLine

SKY = np.dstack([np.full(SIZE[::-1], v, np.uint8) for v in (90, 140, 220, 255)])
SKY[..., 1] += np.linspace(0, 40, SIZE[1]).astype(np.uint8)[:, None]


def case(depth: int = 8) -> tuple[NDArray[Any], NDArray[Any], list[TextLine]]:
    """The picture, the layers of an engine that sees the words only as a haze, and the lines."""
    words = written([("Summer", 200, 70, 48, (255, 255, 255)), ("Entrance free", 200, 210, 24, RED)])
    assert words.text
    stack = LayerStack(SIZE, (Layer("Sky", "background", Box(0, 0, *SIZE), SKY), words))
    picture = flatten(stack)
    hazy = words.to_canvas(SIZE).copy()
    hazy[..., 3] //= 2  # the other half is left in the sky
    layers = np.stack([picture, np.zeros_like(picture), hazy]).astype(np.uint8 if depth == 8 else np.uint16)
    return (layers * 257 if depth == 16 else layers), to_float(picture), list(words.text.lines)


def test_words_come_off_clean() -> None:
    layers, picture, lines = case()
    whole, kinds, said = lifted(layers, ["background", "object", "text"], picture, lines, 16)
    assert kinds == ["background", "object", "text", "text"]
    assert [text.string if text else "" for text in said] == ["", "", "Summer", "Entrance free"]
    assert np.abs(whole[0, ..., :3].astype(int) - SKY[..., :3]).max() <= 12  # no ghost
    assert (whole[2, ..., 3] == 255).sum() > 2000
    stack = LayerStack(SIZE, tuple(Layer.from_canvas(str(i), "object", x) for i, x in enumerate(whole)))
    assert np.array_equal(
        flatten(stack), flatten(LayerStack(SIZE, (Layer("P", "object", Box(0, 0, *SIZE), layers[0]),)))
    )


def test_as_many_layers_as_there_may_be() -> None:
    layers, picture, lines = case()
    whole, _, said = lifted(layers, ["background", "object", "text"], picture, lines, 3)
    assert len(whole) == 3
    assert said[2]
    assert said[2].string == "Summer\nEntrance free"
    same, _, _ = lifted(layers[:2], ["background", "object"], picture, lines, 2)
    assert np.array_equal(same, layers[:2])


def test_sixteen_bits() -> None:
    layers, picture, lines = case(16)
    whole, _, _ = lifted(layers, ["background", "object", "text"], picture, lines, 16)
    assert whole.dtype == np.uint16
    assert len(whole) == 4


def test_what_is_not_ink_on_something_stays() -> None:
    layers, picture, lines = case()
    noisy = np.random.default_rng(0).random(picture.shape).astype(np.float32)
    noisy[..., 3] = 1
    for hard in (noisy, picture * (1, 1, 1, 0.5)):
        same, _, _ = lifted(layers, ["background", "object", "text"], hard.astype(np.float32), lines, 16)
        assert np.array_equal(same, layers)
    faint = [TextLine("Summer", lines[0].quad, 48, confidence=0.5)]
    same, _, _ = lifted(layers, ["background", "object", "text"], picture, faint, 16)
    assert np.array_equal(same, layers)
