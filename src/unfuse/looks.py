"""Looks: what may be done to the colours of a layer. Each is a function of straight-alpha pixels `h w 4` float32.

RGB is sRGB-encoded and may leave 0 to 1 on the way, alpha is 0 to 1 and stays; what comes out is a new array. A look is
kept on the layer (`Original.looks`) and done anew from the untouched pixels, so each can be changed or taken back.
Lightness, hue and saturation are those of OKLab: see `oklab`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
from einops import reduce

from unfuse import oklab
from unfuse.errors import StackError
from unfuse.fields import Amount, Color, Field, Share
from unfuse.oklab import Floats

GREY = 0.03  # chroma of a mean that counts as half a hue, half a grey
DARK = 0.05  # lightness below which shading says little
DIM = 0.3  # mean lightness below which it says less and less, so that the grain of black does not become shading


def recolor(pixels: Floats, *, color: Color, strength: Share = 1.0) -> Floats:
    """Make `color` the layer's mean colour and keep its shading.

    A surface of one colour under changing light has L, a and b in proportion, so a pixel takes as much of the step from
    the mean to `color` as it has of the mean's hue: shadows stay shadows, and white or black lettering stays as it is.
    Of a layer without hue, as much as it has of the mean's lightness. The mean counts pixels by their alpha, and is met
    exactly but for what leaves the gamut.
    """
    lab, alpha = oklab.from_rgb(pixels[..., :3]), pixels[..., 3]
    mean = _mean(lab, alpha)
    chroma = float(mean[1:] @ mean[1:])
    by_hue = lab[..., 1:] @ mean[1:] / max(chroma, 1e-9)
    soft = max(DARK, DIM - mean[0])
    by_light = (lab[..., 0] + soft) / (mean[0] + soft)
    hued = chroma / (chroma + GREY**2)
    share = np.clip(hued * by_hue + (1 - hued) * by_light, 0, 2)[..., None]
    share /= max(float(_mean(share, alpha)[0]), 1e-3)
    return _with(pixels, lab + strength * share * (oklab.lab_of(color) - mean))


def hue(pixels: Floats, *, degrees: float) -> Floats:
    """Turn every hue by `degrees`; lightness and saturation stay."""
    lab, angle = oklab.from_rgb(pixels[..., :3]), np.radians(degrees)
    a, b = lab[..., 1], lab[..., 2]
    turned = lab[..., 0], a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)
    return _with(pixels, np.stack(turned, axis=-1))


def tint(pixels: Floats, *, color: Color, strength: Share = 1.0) -> Floats:
    """Draw every hue and saturation towards those of `color`; lightness stays."""
    lab = oklab.from_rgb(pixels[..., :3])
    lab[..., 1:] += strength * (oklab.lab_of(color)[1:] - lab[..., 1:])
    return _with(pixels, lab)


def palette(
    pixels: Floats,
    *,
    colors: Annotated[dict[str, Color], Field(minProperties=1, description="Old colour: new colour.")],
    reach: Annotated[float, Field(exclusiveMinimum=0, maximum=1)] = 0.1,
) -> Floats:
    """Exchange colours, such as one brand's for another's, in light and in shade, and what lies near them along.

    A pixel within half of `reach` in OKLab of an old colour, lit between half and one and a half times as much, gets
    the new colour lit likewise; up to `reach` it takes part of the step.
    """
    lab = oklab.from_rgb(pixels[..., :3])
    old = np.stack([oklab.lab_of(color) for color in colors])
    step = np.stack([oklab.lab_of(color) for color in colors.values()]) - old
    light = np.clip(lab @ old.T / np.maximum((old**2).sum(axis=-1), 1e-3), 0.5, 1.5)  # h w n: how each would be lit
    distance = np.sqrt(reduce((lab[..., None, :] - light[..., None] * old) ** 2, "h w n c -> h w n", "sum"))
    nearness = np.clip(2 - 2 * distance / reach, 0, 1).max(axis=-1, keepdims=True)
    closest = 1 / (
        distance**4 + 1e-14
    )  # of old colours that are near each other, the nearest has nearly all of the say
    nearness = nearness * closest / closest.sum(axis=-1, keepdims=True)
    return _with(pixels, lab + (nearness * light) @ step)


def gradient(pixels: Floats, *, colors: Annotated[list[Color], Field(minItems=2)]) -> Floats:
    """Colour by lightness alone: the first of `colors` for black, the last for white, the others evenly between."""
    lightness = oklab.from_rgb(pixels[..., :3])[..., 0]
    stops = np.stack([oklab.lab_of(color) for color in colors])
    at = np.linspace(0, 1, len(stops))
    return _with(pixels, np.stack([np.interp(lightness, at, stops[:, i]) for i in range(3)], axis=-1))


def brightness(pixels: Floats, *, amount: Amount) -> Floats:
    """Add `amount` to the lightness."""
    lab = oklab.from_rgb(pixels[..., :3])
    lab[..., 0] += amount
    return _with(pixels, lab)


def contrast(pixels: Floats, *, amount: Amount) -> Floats:
    """Spread the lightness about its middle: -1 leaves none, 1 doubles it."""
    lab = oklab.from_rgb(pixels[..., :3])
    lab[..., 0] = 0.5 + (lab[..., 0] - 0.5) * (1 + amount)
    return _with(pixels, lab)


def saturation(pixels: Floats, *, amount: Amount) -> Floats:
    """Scale the saturation: -1 is grey, 1 doubles it."""
    lab = oklab.from_rgb(pixels[..., :3])
    lab[..., 1:] *= 1 + amount
    return _with(pixels, lab)


def curves(
    pixels: Floats,
    *,
    points: Annotated[list[tuple[Share, Share]], Field(minItems=2, description="[from, to] pairs, 0 to 1.")],
    channel: Literal["rgb", "red", "green", "blue"] = "rgb",
) -> Floats:
    """Send encoded values through straight lines between `points`."""
    at, to = zip(*sorted(tuple(point) for point in points), strict=True)
    if len(set(at)) < len(at):
        raise StackError(f"curves: points {points} have two with the same start: give each value once")
    where = slice(0, 3) if channel == "rgb" else ("red", "green", "blue").index(channel)
    result = pixels.copy()
    result[..., where] = np.interp(pixels[..., where], at, to)
    return result


def _mean(lab: Floats, alpha: Floats) -> Floats:
    weight = max(float(alpha.sum(dtype=np.float64)), 1e-9)
    mean: Floats = (np.einsum("h w c, h w -> c", lab, alpha, dtype=np.float64) / weight).astype(np.float32)
    return mean


def _with(pixels: Floats, lab: Floats) -> Floats:
    return np.concatenate((oklab.to_rgb(lab), pixels[..., 3:]), axis=-1, dtype=np.float32)


Look = Callable[..., Floats]
LOOKS: dict[str, Look] = {
    function.__name__: function
    for function in (recolor, hue, tint, palette, gradient, brightness, contrast, saturation, curves)
}


def look(pixels: Floats, edit: Any) -> Floats:
    """`pixels` after one look, given as its edit."""
    values = {name: value for name, value in edit.items() if name != "op"}
    return LOOKS[edit["op"]](pixels, **values)
