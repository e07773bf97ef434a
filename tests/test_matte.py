"""Mattes against known answers: drawn things, found roughly, and behind others."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from unfuse import engines, matte
from unfuse.engines.embedded import Embedded

SIDE = 256
Plane = NDArray[np.float32]


def disc(y: float, x: float, radius: float) -> Plane:
    """A disc's coverage of a square canvas."""
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    coverage: Plane = (radius - np.hypot(rows - y, columns - x) + 0.5).clip(0, 1).astype(np.float32)
    return coverage


def box(top: int, left: int, bottom: int, right: int) -> Plane:
    plane = np.zeros((SIDE, SIDE), np.float32)
    plane[top:bottom, left:right] = 1
    return plane


def drawn(*layers: tuple[Plane, tuple[float, float, float]]) -> NDArray[np.float32]:
    """Plain colours, each where its alpha is, over a pale ramp."""
    ramp = np.linspace(0.75, 0.95, SIDE, dtype=np.float32)[:, None, None]
    picture = np.broadcast_to(ramp * np.array([0.9, 1.0, 1.0], np.float32), (SIDE, SIDE, 3))
    for alpha, colour in layers:
        picture = alpha[..., None] * np.array(colour, np.float32) + (1 - alpha[..., None]) * picture
    return np.asarray(picture, np.float32)


def soft_iou(a: Plane, b: Plane) -> float:
    return float(np.minimum(a, b).sum() / np.maximum(a, b).sum())


def told(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """What SlotNet says of a picture's cells."""
    engine = engines.load("embedded")
    assert isinstance(engine, Embedded)
    return engine.look(picture).told


def alone(picture: NDArray[np.float32], seed: Plane, above: Plane | None = None) -> NDArray[np.float32]:
    """The matte of one thing, and what is said to cover it: `h w 2`."""
    others = np.zeros_like(seed) if above is None else above
    rough = np.dstack([seed, others, 0.5 + 0.5 * others])
    (found,) = matte.mattes(picture, told(picture), rough[None])
    return np.asarray(found, np.float32)


def test_a_rough_mask_becomes_the_thing_itself() -> None:
    truth = disc(120, 130, 50)
    found = alone(drawn((truth, (0.8, 0.1, 0.15))), box(84, 88, 160, 166))
    assert soft_iou(found[..., 0], truth) > 0.93


def test_a_panel_goes_on_behind_what_lies_on_it() -> None:
    panel, cover = box(60, 40, 200, 220), disc(130, 130, 45)
    picture = drawn((panel, (0.2, 0.3, 0.6)), (cover, (0.95, 0.8, 0.2)))
    found = alone(picture, panel * (1 - cover), cover)
    assert soft_iou(found[..., 0], panel) > 0.93
    assert found[cover > 0.5, 0].mean() > 0.9
    assert found[cover > 0.9, 1].mean() > 0.8  # and is known to be covered there


def test_things_are_looked_at_one_by_one_and_outside_their_boxes_is_nothing() -> None:
    one, other = disc(70, 70, 30), disc(190, 180, 40)
    picture = drawn((one, (0.9, 0.2, 0.2)), (other, (0.1, 0.2, 0.8)))
    nothing = np.zeros((SIDE, SIDE), np.float32)
    rough = np.stack([np.dstack([seed, nothing, nothing + 0.5]) for seed in (one, other)])
    both = matte.mattes(picture, told(picture), rough)
    for i, seed in enumerate((one, other)):
        assert np.array_equal(both[i], alone(picture, seed))
        top, left, bottom, right = matte.around(seed, matte.ROOM)
        outside = np.ones((SIDE, SIDE), bool)
        outside[top:bottom, left:right] = False
        assert not both[i][outside].any()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (128, 128), (40, 900), (900, 40), (3000, 2)])
def test_a_patch_has_the_shape_of_its_box_in_whole_strides(height: int, width: int) -> None:
    tall, wide = matte.fitted(height, width, matte.SIDE, matte.STRIDE, matte.LONGEST)
    assert tall % matte.STRIDE == wide % matte.STRIDE == 0
    assert matte.STRIDE <= min(tall, wide) <= max(tall, wide) <= matte.LONGEST
    if max(height, width) < 2 * min(height, width):
        assert 0.7 < tall / wide / (height / width) < 1.4


def test_nothing_has_the_whole_canvas_for_its_box() -> None:
    assert matte.around(np.zeros((30, 40), np.float32), 0.25) == (0, 0, 30, 40)
