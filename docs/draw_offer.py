"""Draw what the pages in tasks/ start from, as flat as a customer sends it.

    python docs/draw_offer.py

offer.jpg is an advertisement: a wall, a bottle and its shadow, a badge, a sticker, two lines of text, and no layers.
jar.webp and tin.webp are the products that are to stand in the bottle's place. All three are bodies of revolution, lit
here, so that nothing in them is anyone else's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

import unfuse

TASKS = Path(__file__).with_name("tasks")
INTER = Path(unfuse.__file__).with_name("fonts") / "Inter.ttf"
SIDE, OVER = 1080, 2  # drawn at twice the size
SHADOW: dict[str, Any] = {"x": 20, "y": 14, "blur": 10, "color": "#4a2a10", "opacity": 0.6}  # as in product.yaml

Profile = Sequence[tuple[float, float]]  # how wide the body is from its axis at each height, in pixels
Bands = Sequence[tuple[float, str]]  # the colour from each height on
Label = Sequence[tuple[float, str, str, int, int]]  # height, text, colour, size, weight


def turned(profile: Profile, bands: Bands, label: Label, size: tuple[int, int]) -> Image.Image:
    """A body of revolution, lit from the left above, with a label; RGBA at `OVER` times the size."""
    width, height = size
    y = np.arange(height * OVER) / OVER
    at, wide = np.array(profile, float).T
    window = np.hanning(53) / np.hanning(53).sum()
    radius = np.convolve(np.pad(np.interp(y, at, wide), 26, mode="edge"), window, "valid")
    x = (np.arange(width * OVER) + 0.5) / OVER - width / 2
    across = np.clip(x / np.maximum(radius[:, None], 1e-3), -0.999, 0.999)
    normal = np.stack(
        [across, -np.gradient(radius, y)[:, None] * np.ones_like(across), np.sqrt(1 - across**2)], axis=-1
    )
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    light = np.array([-0.55, -0.45, 0.7]) / np.linalg.norm([-0.55, -0.45, 0.7])
    half = light + np.array([0.0, 0.0, 1.0])
    half /= np.linalg.norm(half)
    lamps = 0.5 * np.exp(-(((across + 0.55) / 0.07) ** 2)) + 0.25 * np.exp(-(((across - 0.72) / 0.05) ** 2))
    gloss = 0.3 * np.clip(normal @ half, 0, 1) ** 40 + 0.2 * lamps
    rim = 0.25 * np.clip(1 - normal[..., 2], 0, 1) ** 4
    heights, colors = zip(*bands, strict=True)
    base = np.array([rgb(color) for color in colors])[np.searchsorted(heights, y, "right") - 1][:, None]
    body = (base * (0.38 + 0.75 * np.clip(normal @ light, 0, 1))[..., None] + gloss[..., None]) * (1 - rim[..., None])
    inside = np.clip((radius[:, None] - np.abs(x)) * OVER + 0.5, 0, 1)
    image = picture(np.dstack([body, inside]))
    draw = ImageDraw.Draw(image)
    for down, text, color, points, weight in label:
        draw.text((width / 2 * OVER, down * OVER), text, color, font(points, weight), anchor="mm")
    return image


def bottle() -> Image.Image:
    """240 x 626 pixels."""
    neck = [(0, 30), (8, 34), (46, 34), (50, 29), (56, 29), (60, 34), (66, 34), (70, 30), (150, 32)]
    profile = [*neck, (200, 60), (250, 104), (290, 112), (600, 112), (618, 104), (626, 92)]
    bands = [(0, "#c79a3b"), (70, "#1f5f43"), (330, "#f4ead5"), (545, "#1f5f43")]
    label = [(400, "OLIO", "#1f5f43", 58, 800), (460, "extra vergine", "#6d6a52", 22, 500)]
    image = turned(profile, bands, label, (240, 626))
    ImageDraw.Draw(image).line([OVER * v for v in (70, 490, 170, 490)], "#c79a3b", 3 * OVER)
    return image


def jar() -> Image.Image:
    """300 x 430 pixels."""
    lid = [(0, 100), (6, 106), (70, 106), (76, 98), (92, 98)]
    profile = [*lid, (120, 130), (140, 138), (400, 138), (420, 128), (430, 110)]
    bands = [(0, "#d8d3c4"), (80, "#b3261e"), (170, "#fbf3df"), (350, "#b3261e")]
    label = [(235, "SUGO", "#b3261e", 60, 800), (295, "pomodoro", "#6d6a52", 26, 500)]
    return turned(profile, bands, label, (300, 430))


def tin() -> Image.Image:
    """300 x 400 pixels."""
    rim = [(0, 128), (10, 132), (16, 124)]
    profile = [*rim, (384, 124), (390, 132), (400, 128)]
    bands = [(0, "#cfd3d6"), (18, "#24507a"), (120, "#f3efe4"), (290, "#24507a"), (382, "#cfd3d6")]
    return turned(
        profile, bands, [(185, "TONNO", "#24507a", 54, 800), (240, "in olio", "#6d6a52", 26, 500)], (300, 400)
    )


def offer() -> Image.Image:
    """The advertisement, 1080 x 1080."""
    y, x = np.mgrid[0 : SIDE * OVER, 0 : SIDE * OVER] / (SIDE * OVER)
    dim = np.clip(np.hypot(x - 0.4, y - 0.35) / 1.1, 0, 1)[..., None]
    wall = (1 - dim) * (0.98, 0.86, 0.62) + dim * (0.955, 0.79, 0.54)
    wall = np.where(y[..., None] > 0.84, 0.93 * wall + 0.02, wall)
    image = picture(np.dstack([wall, np.ones_like(y)]))
    product, place = bottle(), (420, 324)
    shape = product.getchannel("A").point(lambda value: value * SHADOW["opacity"])
    shadow = Image.new("L", image.size)
    shadow.paste(shape, (OVER * (place[0] + SHADOW["x"]), OVER * (place[1] + SHADOW["y"])))
    shadow = shadow.filter(ImageFilter.GaussianBlur(OVER * SHADOW["blur"]))
    image.paste(Image.new("RGBA", image.size, SHADOW["color"]), (0, 0), shadow)
    image.alpha_composite(product, (OVER * place[0], OVER * place[1]))
    draw = ImageDraw.Draw(image)
    draw.ellipse([OVER * v for v in (780, 330, 1000, 550)], "#c8202f")
    draw.polygon([(OVER * a, OVER * b) for a, b in star(190, 640)], "#1d4fa3")
    for at, text, color, points, weight in (
        ((890, 425), "-30%", "#ffffff", 64, 800),
        ((890, 482), "this week", "#ffffff", 27, 600),
        ((190, 640), "NEW", "#ffffff", 56, 800),
        ((540, 110), "A taste of summer", "#2b1d0e", 92, 800),
        ((540, 190), "Cold pressed in Umbria", "#6b4a26", 40, 500),
    ):
        draw.text((OVER * at[0], OVER * at[1]), text, color, font(points, weight), anchor="mm")
    return image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def star(x: float, y: float) -> list[tuple[float, float]]:
    """A burst of sixteen points about a place."""
    turns = [(2 * math.pi * i / 32, 112 if i % 2 else 94) for i in range(32)]
    return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle, radius in turns]


def rgb(color: str) -> list[float]:
    """A colour, 0 to 1."""
    return [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def picture(values: NDArray[np.float64]) -> Image.Image:
    """`h w 4` in 0 to 1 as RGBA."""
    return Image.fromarray((np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8))


def font(size: int, weight: int) -> ImageFont.FreeTypeFont:
    """Inter."""
    found = ImageFont.truetype(str(INTER), size * OVER)
    found.set_variation_by_axes([weight])
    return found


def main() -> None:
    """Write all three."""
    offer().save(TASKS / "offer.jpg", quality=93, subsampling=0)
    for name, product in (("jar", jar()), ("tin", tin())):
        small = product.convert("RGBa").resize((product.width // OVER, product.height // OVER), Image.Resampling.BOX)
        small.convert("RGBA").save(TASKS / f"{name}.webp", quality=92, method=6)


if __name__ == "__main__":
    main()
