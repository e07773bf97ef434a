"""The blend modes: identities of the standard and answers worked out by hand (agreement in bulk: test_composite)."""

from __future__ import annotations

import numpy as np
import pytest

from unfuse.blend import TABLE, Floats, blend_mode
from unfuse.errors import StackError
from unfuse.layers import BLEND_MODES

Cb = np.random.default_rng(0).random((3, 9, 11))
Cs = np.random.default_rng(1).random((3, 9, 11))
BLACK, WHITE = np.zeros_like(Cb), np.ones_like(Cb)


def lum(C: Floats) -> Floats:
    result: Floats = np.tensordot([0.3, 0.59, 0.11], C, 1)
    return result


def sat(C: Floats) -> Floats:
    result: Floats = np.ptp(C, axis=0)
    return result


def test_the_table_holds_the_sixteen_names_that_layers_allow() -> None:
    assert tuple(TABLE) == BLEND_MODES
    assert len(set(TABLE.values())) == 16


def test_an_unknown_mode_names_the_nearest_and_all() -> None:
    with pytest.raises(StackError, match=r"did you mean 'color-burn'.*normal, multiply.*luminosity"):
        blend_mode("colour-burn")


@pytest.mark.parametrize("mode", BLEND_MODES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_mode_keeps_shape_type_and_range(mode: str, dtype: type) -> None:
    grid: Floats = np.linspace(0, 1, 6, dtype=dtype)
    backdrop = np.stack(np.meshgrid(grid, grid, grid)).reshape(3, -1, 1)
    pairs = np.broadcast_arrays(backdrop, backdrop.reshape(3, 1, -1))
    with np.errstate(all="raise", under="ignore"):
        result = blend_mode(mode)(*pairs)
    assert result.shape == pairs[0].shape
    assert result.dtype == dtype
    assert result.min() >= -1e-5
    assert result.max() <= 1 + 1e-5


@pytest.mark.parametrize("mode", ["multiply", "screen", "darken", "lighten", "difference", "exclusion"])
def test_these_do_not_mind_which_is_on_top(mode: str) -> None:
    assert np.allclose(blend_mode(mode)(Cb, Cs), blend_mode(mode)(Cs, Cb))


@pytest.mark.parametrize(
    ("mode", "neutral"),
    [
        *[("multiply", 1.0), ("darken", 1.0), ("color-burn", 1.0)],
        *[("screen", 0.0), ("lighten", 0.0), ("color-dodge", 0.0), ("difference", 0.0), ("exclusion", 0.0)],
        *[("hard-light", 0.5), ("soft-light", 0.5)],
    ],
)
def test_a_neutral_source_leaves_the_backdrop(mode: str, neutral: float) -> None:
    assert np.allclose(blend_mode(mode)(Cb, np.full_like(Cb, neutral)), Cb)


@pytest.mark.parametrize(
    ("mode", "backdrop", "source", "answer"),
    [
        ("normal", 0.2, 0.7, 0.7),
        ("multiply", 0.5, 0.5, 0.25),
        ("screen", 0.5, 0.5, 0.75),
        ("overlay", 0.25, 0.5, 0.25),
        ("overlay", 0.75, 0.25, 0.625),
        ("color-dodge", 0.0, 1.0, 0.0),
        ("color-dodge", 0.001, 1.0, 1.0),
        ("color-dodge", 0.25, 0.5, 0.5),
        ("color-burn", 1.0, 0.0, 1.0),
        ("color-burn", 0.999, 0.0, 0.0),
        ("color-burn", 0.75, 0.5, 0.5),
        ("hard-light", 0.5, 0.25, 0.25),
        ("hard-light", 0.5, 0.75, 0.75),
        ("soft-light", 0.25, 1.0, 0.5),
        ("soft-light", 0.5, 0.0, 0.25),
        ("soft-light", 0.125, 1.0, 0.125 * ((16 * 0.125 - 12) * 0.125 + 4)),
        ("difference", 0.25, 1.0, 0.75),
        ("exclusion", 0.5, 0.25, 0.5),
    ],
)
def test_answers_worked_out_by_hand(mode: str, backdrop: float, source: float, answer: float) -> None:
    assert np.allclose(blend_mode(mode)(np.full((3, 1, 1), backdrop), np.full((3, 1, 1), source)), answer)


def test_dark_and_light_take_each_channel_by_itself() -> None:
    assert np.array_equal(blend_mode("darken")(Cb, Cs) + blend_mode("lighten")(Cb, Cs), Cb + Cs)


def test_luminosity_is_taken_from_where_the_mode_says() -> None:
    for mode in ("hue", "saturation", "color"):
        assert np.allclose(lum(blend_mode(mode)(Cb, Cs)), lum(Cb))
    assert np.allclose(lum(blend_mode("luminosity")(Cb, Cs)), lum(Cs))


def test_saturation_and_hue_are_taken_from_where_the_mode_says() -> None:
    # Colours of little saturation and middling luminosity, so that nothing needs clipping.
    backdrop, source = 0.4 + 0.2 * Cb, 0.4 + 0.2 * Cs
    assert np.allclose(sat(blend_mode("saturation")(backdrop, source)), sat(source))
    for mode, saturated, hued in (
        ("hue", backdrop, source),
        ("color", source, source),
        ("luminosity", backdrop, backdrop),
    ):
        result = blend_mode(mode)(backdrop, source)
        assert np.allclose(sat(result), sat(saturated))
        assert np.array_equal(np.argsort(result, axis=0), np.argsort(hued, axis=0))


def test_a_colour_blended_with_itself_by_these_stays() -> None:
    for mode in ("hue", "saturation", "color", "luminosity"):
        assert np.allclose(blend_mode(mode)(Cb, Cb), Cb)


def test_a_grey_source_takes_the_colour_away() -> None:
    grey = np.full_like(Cb, 0.6)
    for mode in ("hue", "saturation", "color"):
        result = blend_mode(mode)(Cb, grey)
        assert np.allclose(result, lum(Cb))


def test_black_and_white_have_no_room_for_colour() -> None:
    for mode in ("hue", "saturation", "color"):
        assert np.allclose(blend_mode(mode)(BLACK, Cs), 0)
        assert np.allclose(blend_mode(mode)(WHITE, Cs), 1)
