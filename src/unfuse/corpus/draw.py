"""Drawing one layer: backgrounds, shapes, parts, text. Everything returns `h w 4` float32, straight alpha, 0..1.

Colours are sRGB-encoded. Warps and blurs work on premultiplied values, so that edges carry no dark fringe.
"""

from __future__ import annotations

import colorsys
import math

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Rgba = NDArray[np.float32]  # h w 4, straight
Plane = NDArray[np.float32]  # h w
Rng = np.random.Generator
Size = tuple[int, int]  # height, width
Colour = tuple[float, float, float]

CLEAR = 1e-6
LUMA = (0.299, 0.587, 0.114)  # of sRGB-encoded values (ITU-R BT.601)


def premultiplied(rgba: Rgba) -> Rgba:
    """From straight to premultiplied alpha."""
    return np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], -1)


def straight(rgba: Rgba) -> Rgba:
    """From premultiplied to straight alpha; colour under alpha 0 is 0."""
    alpha = np.clip(rgba[..., 3:], 0, 1)
    colour = np.where(alpha > 1e-4, rgba[..., :3] / np.maximum(alpha, CLEAR), 0)
    return np.concatenate([np.clip(colour, 0, 1), alpha], -1).astype(np.float32)


def over(top: Rgba, bottom: Rgba) -> Rgba:
    """Source over of two straight layers, straight again (Porter and Duff 1984)."""
    t, b = premultiplied(top), premultiplied(bottom)
    return straight(t + b * (1 - t[..., 3:]))


def solid(size: Size, colour: Colour, alpha: Plane | float = 1.0) -> Rgba:
    """One colour with the alpha `h w` that gives it its form."""
    out = np.empty((*size, 4), np.float32)
    out[..., :3] = colour
    out[..., 3] = alpha
    return out


def random_colour(rng: Rng, hue: float | None = None) -> Colour:
    """A colour near `hue` (0..1 around the circle), or of any hue."""
    h = rng.random() if hue is None else (hue + rng.normal(0, 0.04)) % 1
    return colorsys.hsv_to_rgb(float(h), float(rng.beta(2, 2)), float(rng.beta(3, 1.4)))


def luminance(colour: NDArray[np.float32] | Colour) -> float:
    """Luma of sRGB-encoded values, 0..1 (ITU-R BT.601)."""
    return float(np.dot(np.asarray(colour, np.float32), LUMA))


def grid(size: Size) -> tuple[Plane, Plane]:
    """The row and the column of each pixel."""
    h, w = size
    ys, xs = np.mgrid[0:h, 0:w].astype(np.float32)
    return ys, xs


# --- backgrounds -----------------------------------------------------------------------------------------------------


def gradient(size: Size, a: Colour, b: Colour, rng: Rng) -> NDArray[np.float32]:
    """`h w 3`: a linear or radial ramp from a to b."""
    ys, xs = grid(size)
    h, w = size
    if rng.random() < 0.5:
        angle = rng.choice([0, math.pi / 2, rng.uniform(0, math.pi)])
        t = (xs / w - 0.5) * math.cos(angle) + (ys / h - 0.5) * math.sin(angle)
    else:
        cy, cx = rng.uniform(0.2, 0.8, 2)
        t = np.hypot(ys / h - cy, xs / w - cx)
    t = (t - t.min()) / max(float(np.ptp(t)), CLEAR)
    ramp: NDArray[np.float32] = (np.asarray(a) * (1 - t[..., None]) + np.asarray(b) * t[..., None]).astype(np.float32)
    return ramp


def pattern(size: Size, ink: Colour, rng: Rng) -> Rgba:
    """Dots, stripes, waves, checks or a grid in one colour on nothing."""
    ys, xs = grid(size)
    step = rng.uniform(0.04, 0.14) * max(size)
    kind = rng.integers(5)
    soft = 0.8
    if kind == 0:
        shift = (np.floor(ys / step) % 2) * step / 2 * rng.integers(2)
        d = np.hypot((xs + shift) % step - step / 2, ys % step - step / 2)
        alpha = np.clip((step * rng.uniform(0.12, 0.35) - d) / soft, 0, 1)
    elif kind == 1:
        angle = rng.uniform(0, math.pi)
        d = np.abs((xs * math.cos(angle) + ys * math.sin(angle)) % step - step / 2)
        alpha = np.clip((step * rng.uniform(0.1, 0.3) - d) / soft, 0, 1)
    elif kind == 2:
        amplitude = step * rng.uniform(0.1, 0.4)
        d = np.abs((ys + amplitude * np.sin(xs / step * math.pi)) % step - step / 2)
        alpha = np.clip((step * rng.uniform(0.1, 0.3) - d) / soft, 0, 1)
    elif kind == 3:
        alpha = ((np.floor(xs / step) + np.floor(ys / step)) % 2).astype(np.float32)
    else:
        d = np.minimum(np.abs(xs % step - step / 2), np.abs(ys % step - step / 2))
        alpha = np.clip((max(1.0, step * 0.04) - d) / soft, 0, 1)
    return solid(size, ink, (alpha * rng.uniform(0.15, 0.9)).astype(np.float32))


def cloud_noise(size: Size, rng: Rng, octaves: int = 5) -> Plane:
    """Smooth noise in 0..1: sums of enlarged random grids."""
    h, w = size
    total = np.zeros(size, np.float32)
    for octave in range(octaves):
        cells = 2 ** (octave + 1)
        small = rng.random((cells + 1, cells + 1), dtype=np.float32)
        total += cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC) / 2**octave
    total -= total.min()
    return total / max(float(total.max()), CLEAR)


def hills(size: Size, colour: Colour, top: float, rng: Rng) -> Rgba:
    """A rolling horizon: everything below a smooth curve around `top` (0..1 of the height)."""
    h, w = size
    xs = np.linspace(0, 1, w, dtype=np.float32)
    line = top + sum(rng.uniform(0.01, 0.06) * np.sin(xs * f * 6.28 + rng.uniform(0, 6.28)) for f in (0.5, 1.1, 2.3))
    ys = np.linspace(0, 1, h, dtype=np.float32)[:, None]
    return solid(size, colour, np.clip((ys - line) * h, 0, 1).astype(np.float32))


def cover(photo: NDArray[np.uint8], size: Size, rng: Rng) -> NDArray[np.float32]:
    """A random crop of a photograph that fills the canvas, perhaps mirrored and graded: `h w 3`."""
    h, w = size
    ph, pw = photo.shape[:2]
    k = max(h / ph, w / pw) * rng.uniform(1.0, 1.6)
    crop_h, crop_w = min(ph, math.ceil(h / k)), min(pw, math.ceil(w / k))
    y, x = rng.integers(ph - crop_h + 1), rng.integers(pw - crop_w + 1)
    crop = photo[y : y + crop_h, x : x + crop_w, :3]
    how = cv2.INTER_AREA if k < 1 else cv2.INTER_LINEAR
    out: NDArray[np.float32] = cv2.resize(crop, (w, h), interpolation=how).astype(np.float32) / 255
    if rng.random() < 0.5:
        out = out[:, ::-1]
    if rng.random() < 0.3:
        out = cv2.GaussianBlur(out, (0, 0), rng.uniform(1, 5))
    graded: NDArray[np.float32] = (out - 0.5) * rng.uniform(0.7, 1.2) + 0.5 + rng.uniform(-0.2, 0.1)
    return np.clip(graded, 0, 1).astype(np.float32)


# --- shapes ----------------------------------------------------------------------------------------------------------


def rounded_box(size: Size, box: tuple[float, float, float, float], radius: float) -> Plane:
    """Coverage of a rounded rectangle (left, top, right, bottom in pixels) by its signed distance."""
    ys, xs = grid(size)
    left, top, right, bottom = box
    dx = np.abs(xs + 0.5 - (left + right) / 2) - (right - left) / 2 + radius
    dy = np.abs(ys + 0.5 - (top + bottom) / 2) - (bottom - top) / 2 + radius
    d = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0) - radius
    coverage: Plane = np.clip(0.5 - d, 0, 1).astype(np.float32)
    return coverage


def blob(size: Size, centre: tuple[float, float], radius: float, rng: Rng, wobble: float) -> Plane:
    """Coverage of a circle (wobble 0) or a soft-cornered blob; wobble below 0 makes a star-like badge."""
    ys, xs = grid(size)
    dy, dx = ys - centre[1], xs - centre[0]
    angle = np.arctan2(dy, dx)
    if wobble < 0:
        rim = 1 + 0.06 * np.cos(angle * int(rng.integers(8, 24)))
    else:
        rim = 1 + sum(wobble / (k + 1) * np.sin((k + 1) * angle + rng.uniform(0, 6.28)) for k in range(4))
    coverage: Plane = np.clip(radius * rim - np.hypot(dy, dx) + 0.5, 0, 1).astype(np.float32)
    return coverage


def confetti(size: Size, rng: Rng) -> Rgba:
    """Scattered paper strips and dots in many colours."""
    canvas = np.zeros((*size, 4), np.float32)
    unit = max(size) * rng.uniform(0.008, 0.022)
    for _ in range(int(rng.integers(8, 45))):
        y, x = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        corners = cv2.boxPoints(((x, y), (unit * rng.uniform(0.6, 2.4), unit), float(rng.uniform(0, 180))))
        colour = (*random_colour(rng), 1.0)
        if rng.random() < 0.35:
            cv2.circle(canvas, (int(x), int(y)), max(1, int(unit * 0.7)), colour, -1, cv2.LINE_AA)
        else:
            cv2.fillPoly(canvas, [corners.astype(np.int32)], colour, cv2.LINE_AA)
    return straight(cv2.GaussianBlur(premultiplied(canvas), (0, 0), 0.45))


def smoke(size: Size, rng: Rng) -> Rgba:
    """A pale cloud, densest around its middle."""
    noise = cloud_noise(size, rng)
    ys, xs = grid(size)
    h, w = size
    cy, cx = rng.uniform(0.3, 0.9), rng.uniform(0.2, 0.8)
    fall = np.exp(-((ys / h - cy) ** 2) / rng.uniform(0.02, 0.15) - ((xs / w - cx) ** 2) / rng.uniform(0.05, 0.4))
    alpha = np.clip((noise - rng.uniform(0.3, 0.5)) * rng.uniform(1.5, 3), 0, 1) * fall * rng.uniform(0.5, 0.95)
    grey = rng.uniform(0.6, 1.0)
    return solid(size, (grey, grey, min(1.0, grey * rng.uniform(0.95, 1.08))), alpha.astype(np.float32))


# --- parts: objects placed on the canvas -----------------------------------------------------------------------------


def place(part: NDArray[np.uint8], size: Size, centre: tuple[float, float], long_side: float, angle: float) -> Rgba:
    """An RGBA part (uint8, straight) scaled to `long_side`, turned by `angle` degrees about `centre` (x, y)."""
    ph, pw = part.shape[:2]
    k = long_side / max(ph, pw)
    source = premultiplied(part.astype(np.float32) / 255.0)
    if k < 1:
        source = cv2.resize(source, (max(2, round(pw * k)), max(2, round(ph * k))), interpolation=cv2.INTER_AREA)
        k = long_side / max(source.shape[:2])
    matrix = cv2.getRotationMatrix2D((source.shape[1] / 2, source.shape[0] / 2), angle, k)
    matrix[:, 2] += np.asarray(centre) - (source.shape[1] / 2, source.shape[0] / 2)
    return straight(cv2.warpAffine(source, matrix, (size[1], size[0]), flags=cv2.INTER_LINEAR))


def lit(mask: Plane, matcap: NDArray[np.uint8], reach: float) -> NDArray[np.uint8]:
    """A flat shape `h w` as a solid with a round edge of `reach` pixels, shaded by a matcap `h w 3`: `h w 4` uint8.

    The edge rises as a quarter of an ellipse; a matcap gives the colour of a surface by the direction that it faces.
    """
    inside = cv2.distanceTransform((mask > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    t = np.clip(inside / reach, 0, 1)
    height = cv2.GaussianBlur(np.sqrt(t * (2 - t)) * (0.7 * reach), (0, 0), 1.2)
    dx, dy = (cv2.Sobel(height, cv2.CV_32F, *axes, scale=1 / 8) for axes in ((1, 0), (0, 1)))
    facing = 0.48 / np.sqrt(dx * dx + dy * dy + 1)
    side = matcap.shape[0] - 1
    colour = cv2.remap(matcap, (0.5 - dx * facing) * side, (0.5 - dy * facing) * side, cv2.INTER_LINEAR)
    return np.dstack([colour, (mask * 255 + 0.5).astype(np.uint8)])


def with_outline(layer: Rgba, width: float, colour: Colour) -> Rgba:
    """A die-cut border around what the layer shows, as stickers have."""
    reach = max(1, round(width))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    rim = cv2.GaussianBlur(cv2.dilate(layer[..., 3], kernel), (0, 0), 0.6)
    return over(layer, solid(layer.shape[:2], colour, rim))


def with_shadow(layer: Rgba, offset: tuple[float, float], blur: float, strength: float, colour: Colour) -> Rgba:
    """A soft drop shadow; it belongs to the layer that casts it."""
    matrix = np.array([[1, 0, offset[0]], [0, 1, offset[1]]], np.float32)
    shade = cv2.warpAffine(layer[..., 3], matrix, (layer.shape[1], layer.shape[0]))
    shade = cv2.GaussianBlur(shade, (0, 0), max(0.5, blur)) * strength
    return over(layer, solid(layer.shape[:2], colour, shade))


def floor_shadow(layer: Rgba, strength: float, rng: Rng) -> Rgba:
    """A soft ellipse under the object, as in product shots."""
    rows, columns = np.where(layer[..., 3] > 0.3)
    if rows.size == 0:
        return layer
    cx, half = (columns.min() + columns.max()) / 2, (columns.max() - columns.min()) / 2
    canvas = np.zeros(layer.shape[:2], np.float32)
    centre = (int(cx), int(rows.max() - half * rng.uniform(0.0, 0.12)))
    axes = (max(1, int(half * rng.uniform(0.7, 1.1))), max(1, int(half * rng.uniform(0.08, 0.25))))
    cv2.ellipse(canvas, centre, axes, 0, 0, 360, 1.0, -1, cv2.LINE_AA)
    shade = cv2.GaussianBlur(canvas, (0, 0), max(1.0, half * 0.1)) * strength
    return over(layer, solid(layer.shape[:2], (0, 0, 0), shade))


# --- text ------------------------------------------------------------------------------------------------------------


def text_mask(
    size: Size, lines: list[str], font: ImageFont.FreeTypeFont, at: tuple[float, float], align: str, gap: float
) -> Plane:
    """Coverage of lines of text around `at` (x by `align`, y of the block's middle)."""
    image = Image.new("L", (size[1], size[0]))
    draw = ImageDraw.Draw(image)
    height = font.size * gap
    anchor = {"left": "lm", "center": "mm", "right": "rm"}[align]
    for i, line in enumerate(lines):
        draw.text((at[0], at[1] + (i - (len(lines) - 1) / 2) * height), line, fill=255, font=font, anchor=anchor)
    return np.asarray(image, np.float32) / 255.0


def stroke(mask: Plane, width: float) -> Plane:
    """The coverage of what is drawn around a mask, and of the mask itself, with a pen of `width` pixels."""
    reach = max(1, round(width))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    wide: Plane = cv2.dilate(mask, kernel)
    return wide
