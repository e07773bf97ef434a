"""The 16 blend modes in the letters of W3C Compositing and Blending Level 1 (https://www.w3.org/TR/compositing-1/).

Each is B(Cb, Cs) of the colours of backdrop and source: straight (not multiplied by alpha), sRGB-encoded, 0 to 1, float
arrays `c h w` whose first axis is red, green, blue. The separable ones (section 10.1) take any shape. The answer has
the arrays' float type and lies in 0 to 1 but for its rounding. What alpha does to it is the business of `composite`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfuse.layers import BLEND_MODES, one_of

Floats = NDArray[np.floating[Any]]
Blend = Callable[[Floats, Floats], Floats]

TINY = float(np.finfo(np.float32).tiny)  # stands for a divisor of 0: 0 / TINY is 0, anything else / TINY is over 1


def normal(Cb: Floats, Cs: Floats) -> Floats:
    """The source."""
    return Cs


def multiply(Cb: Floats, Cs: Floats) -> Floats:
    """Darkens; white is neutral."""
    return Cb * Cs


def screen(Cb: Floats, Cs: Floats) -> Floats:
    """Lightens; black is neutral."""
    return 1 - (1 - Cb) * (1 - Cs)


def overlay(Cb: Floats, Cs: Floats) -> Floats:
    """Multiplies or screens, as the backdrop is dark or light."""
    return hard_light(Cs, Cb)


def darken(Cb: Floats, Cs: Floats) -> Floats:
    """The darker of the two, in each channel."""
    return np.minimum(Cb, Cs)


def lighten(Cb: Floats, Cs: Floats) -> Floats:
    """The lighter of the two, in each channel."""
    return np.maximum(Cb, Cs)


def color_dodge(Cb: Floats, Cs: Floats) -> Floats:
    """Brightens the backdrop by the source: 0 where Cb = 0, else 1 where Cs = 1, else min(1, Cb / (1 - Cs))."""
    return np.minimum(1, Cb / np.maximum(1 - Cs, TINY))


def color_burn(Cb: Floats, Cs: Floats) -> Floats:
    """Darkens the backdrop by the source: 1 where Cb = 1, else 0 where Cs = 0, else 1 - min(1, (1 - Cb) / Cs)."""
    return 1 - np.minimum(1, (1 - Cb) / np.maximum(Cs, TINY))


def hard_light(Cb: Floats, Cs: Floats) -> Floats:
    """Multiplies or screens, as the source is dark or light."""
    return np.where(Cs <= 0.5, multiply(Cb, 2 * Cs), screen(Cb, 2 * Cs - 1))


def soft_light(Cb: Floats, Cs: Floats) -> Floats:
    """Darkens or lightens, as the source is dark or light, softly."""
    D = np.where(Cb <= 0.25, ((16 * Cb - 12) * Cb + 4) * Cb, np.sqrt(Cb))
    return np.where(Cs <= 0.5, Cb - (1 - 2 * Cs) * Cb * (1 - Cb), Cb + (2 * Cs - 1) * (D - Cb))


def difference(Cb: Floats, Cs: Floats) -> Floats:
    """How far apart the two are."""
    return np.abs(Cb - Cs)


def exclusion(Cb: Floats, Cs: Floats) -> Floats:
    """Like difference, with less contrast."""
    return Cb + Cs - 2 * Cb * Cs


def hue(Cb: Floats, Cs: Floats) -> Floats:
    """The hue of the source, saturation and luminosity of the backdrop."""
    return _set_lum(_set_sat(Cs, _sat(Cb)), _lum(Cb))


def saturation(Cb: Floats, Cs: Floats) -> Floats:
    """The saturation of the source, hue and luminosity of the backdrop."""
    return _set_lum(_set_sat(Cb, _sat(Cs)), _lum(Cb))


def color(Cb: Floats, Cs: Floats) -> Floats:
    """Hue and saturation of the source, luminosity of the backdrop."""
    return _set_lum(Cs, _lum(Cb))


def luminosity(Cb: Floats, Cs: Floats) -> Floats:
    """The luminosity of the source, hue and saturation of the backdrop."""
    return _set_lum(Cb, _lum(Cs))


def _lum(C: Floats) -> Floats:
    lum: Floats = 0.3 * C[0] + 0.59 * C[1] + 0.11 * C[2]
    return lum


def _sat(C: Floats) -> Floats:
    sat: Floats = C.max(axis=0) - C.min(axis=0)
    return sat


def _clip_color(C: Floats) -> Floats:
    L, n, x = _lum(C), C.min(axis=0), C.max(axis=0)
    C = np.where(n < 0, L + (C - L) * L / np.maximum(L - n, TINY), C)
    return np.where(x > 1, L + (C - L) * (1 - L) / np.maximum(x - L, TINY), C)


def _set_lum(C: Floats, lum: Floats) -> Floats:
    return _clip_color(C + (lum - _lum(C)))


def _set_sat(C: Floats, sat: Floats) -> Floats:
    """The standard's three cases in one: min goes to 0, max to `sat`, mid between; grey goes to black."""
    low, high = C.min(axis=0), C.max(axis=0)
    stretched: Floats = (C - low) * sat / np.maximum(high - low, TINY)
    return stretched


MODES = (
    *(normal, multiply, screen, overlay, darken, lighten, color_dodge, color_burn, hard_light, soft_light),
    *(difference, exclusion, hue, saturation, color, luminosity),
)
TABLE: dict[str, Blend] = {mode.__name__.replace("_", "-"): mode for mode in MODES}
assert tuple(TABLE) == BLEND_MODES


def blend_mode(name: str) -> Blend:
    """The function of a mode; StackError names the nearest and all there are."""
    return TABLE[one_of("the blend mode", name, TABLE)]
