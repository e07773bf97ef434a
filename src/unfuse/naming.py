"""Names that say what a layer is: 'Red circle, top right', not 'Layer 3'.

Colour, shape and place are read off the pixels; what was read as text is called by its words. Every name in a stack is
unique.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unfuse.layers import Kind, to_8_bit

# Basic colour terms (Berlin and Kay 1969) and two that designs need, as sRGB.
COLOURS = {
    "black": (15, 15, 15),
    "dark grey": (75, 75, 75),
    "grey": (140, 140, 140),
    "light grey": (205, 205, 205),
    "white": (250, 250, 250),
    "red": (215, 35, 40),
    "dark red": (120, 20, 25),
    "orange": (245, 140, 30),
    "brown": (120, 75, 40),
    "beige": (225, 200, 165),
    "yellow": (245, 220, 50),
    "green": (50, 160, 70),
    "dark green": (20, 80, 45),
    "light green": (160, 220, 150),
    "teal": (30, 150, 150),
    "light blue": (150, 205, 240),
    "blue": (40, 100, 220),
    "navy": (25, 40, 100),
    "purple": (130, 60, 180),
    "pink": (245, 150, 185),
}
MIXED = 0.45  # below this share of its pixels near one colour, a layer is called colourful
LONGEST = 40  # characters of a text in a name
ROWS, COLUMNS = ("top", "", "bottom"), ("left", "", "right")


def names(
    layers: NDArray[np.uint8] | NDArray[np.uint16], kinds: Sequence[Kind], said: Sequence[str] | None = None
) -> list[str]:
    """A name for each of `l h w 4` full-canvas layers, straight alpha, bottom to top; a repeated one gets a number.

    said: what each layer says, "" where it says nothing; words are a name.
    """
    result: list[str] = []
    for pixels, kind, text in zip(layers, kinds, said or [""] * len(kinds), strict=True):
        name = words(text) or describe(to_8_bit(pixels), kind)
        again = sum(name == other or other.startswith(f"{name} (") for other in result)
        result.append(f"{name} ({again + 1})" if again else name)
    return result


def words(text: str) -> str:
    """The first words of a text, as many as a list of layers has room for."""
    line = " ".join(text.split())
    if len(line) <= LONGEST:
        return line
    cut = line[: LONGEST - 1].rsplit(" ", 1)[0] if " " in line[: LONGEST - 1] else line[: LONGEST - 1]
    return f"{cut.rstrip()}…"


def describe(pixels: NDArray[np.uint8], kind: Kind) -> str:
    """The name of one full-canvas layer `h w 4`."""
    alpha = pixels[..., 3].astype(np.float32) / 255.0
    if kind == "background":
        return f"{colour(pixels, alpha).capitalize()} background"
    noun = "text" if kind == "text" else shape(alpha) if kind == "decoration" else "object"
    where = place(alpha)
    return f"{colour(pixels, alpha).capitalize()} {noun}" + (f", {where}" if where else "")


def colour(pixels: NDArray[np.uint8], alpha: NDArray[np.float32]) -> str:
    """The colour term that most of the visible pixels are nearest to, or 'colourful'."""
    step = max(1, round((alpha.size / 40_000) ** 0.5))
    rgb = pixels[::step, ::step, :3].reshape(-1, 3).astype(np.float32)
    weight = alpha[::step, ::step].ravel()
    rgb, weight = rgb[weight > 0.3], weight[weight > 0.3]
    if not len(rgb):
        return "faint"
    terms = np.array(list(COLOURS.values()), np.float32)
    eye = np.array([0.55, 0.75, 0.4], np.float32)  # green differences are seen best, blue ones least
    nearest = (((rgb[:, None] - terms) * eye) ** 2).sum(-1).argmin(1)
    share = np.bincount(nearest, weight, len(terms)) / weight.sum()
    return list(COLOURS)[int(share.argmax())] if share.max() >= MIXED else "colourful"


def shape(alpha: NDArray[np.float32]) -> str:
    """'circle', 'panel', 'band', 'veil' or 'shape', from how the layer fills its box."""
    solid = alpha > 0.5
    if solid.mean() < 0.25 * (alpha > 0.02).mean():
        return "veil"
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    if not rows.size:
        return "veil"
    h, w = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    fill = solid.sum() / (h * w)
    if fill > 0.9:
        return "band" if max(h / alpha.shape[0], w / alpha.shape[1]) > 0.95 else "panel"
    return "circle" if abs(fill - np.pi / 4) < 0.04 and 0.85 < h / w < 1.18 else "shape"


def place(alpha: NDArray[np.float32]) -> str:
    """'top left', 'bottom', 'centre', ...: the third of the canvas that the middle lies in; '' for what fills it."""
    if (alpha > 0.5).mean() > 0.6:
        return ""
    total = max(float(alpha.sum()), 1e-6)
    y = float(alpha.sum(1) @ np.arange(alpha.shape[0])) / total / alpha.shape[0]
    x = float(alpha.sum(0) @ np.arange(alpha.shape[1])) / total / alpha.shape[1]
    words = [ROWS[min(2, int(y * 3))], COLUMNS[min(2, int(x * 3))]]
    return " ".join(w for w in words if w) or "centre"
