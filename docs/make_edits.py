"""Make the picture and the table of docs/edits.md, and the published schema of recipes, from the edits as they are.

    python docs/make_edits.py

The stack is drawn here, so that its layers are known; the recipes are those in the page itself, run one by one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unfuse import edits, recipe
from unfuse.layers import Kind, Layer, LayerStack

PAGE = Path(__file__).with_name("edits.md")
IMAGES = Path(__file__).with_name("images")
SCHEMA = Path(recipe.__file__).with_name("recipe.schema.json")
BETWEEN = re.compile(r"(<!-- table of make_edits.py -->\n).*?(<!-- end -->)", re.DOTALL)
SIDE, OVER = 480, 3  # drawn at three times the size
PAPER, INK = "#ffffff", "#3c3c3c"

Draw = Callable[[ImageDraw.ImageDraw], None]


def drawn(name: str, kind: Kind, draw: Draw, light: float = 0.0) -> Layer:
    """A layer from what `draw` paints on a canvas of 480, smooth, with light from above."""
    image = Image.new("RGBA", (SIDE * OVER, SIDE * OVER))
    draw(ImageDraw.Draw(image))
    pixels = np.array(image.convert("RGBa").resize((SIDE, SIDE), Image.Resampling.BOX).convert("RGBA"))
    rows = np.flatnonzero(pixels[..., 3].any(axis=1))
    shade = np.clip((np.arange(SIDE) - rows[0]) / max(1, rows[-1] - rows[0]), 0, 1)[:, None, None]
    pixels[..., :3] = np.clip(pixels[..., :3] * (1 + light * (0.5 - shade)), 0, 255)
    return Layer.from_canvas(name, kind, pixels)


def box(*numbers: int) -> Any:
    """Numbers of the canvas at the size that is drawn."""
    return tuple(OVER * number for number in numbers)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font."""
    return ImageFont.load_default(size)


def poster() -> LayerStack:
    """Five layers: a wall, a bottle and a glass, a badge, a headline."""

    def bottle(d: ImageDraw.ImageDraw) -> None:
        d.rounded_rectangle(box(150, 190, 250, 420), OVER * 26, "#2f7d4f")
        d.rectangle(box(182, 120, 218, 200), "#2f7d4f")
        d.rounded_rectangle(box(176, 100, 224, 126), OVER * 6, "#c9a227")
        d.rectangle(box(150, 270, 250, 350), "#f3ead2")

    def glass(d: ImageDraw.ImageDraw) -> None:
        d.polygon([box(280, 290), box(360, 290), box(348, 420), box(292, 420)], "#c3423f")

    def badge(d: ImageDraw.ImageDraw) -> None:
        d.ellipse(box(350, 110, 450, 210), "#d1495b")
        d.text(box(400, 160), "-30%", "#ffffff", font(OVER * 32), anchor="mm")

    def headline(d: ImageDraw.ImageDraw) -> None:
        d.text(box(28, 24), "Summer fruit", "#263238", font(OVER * 52))

    return LayerStack(
        (SIDE, SIDE),
        (
            drawn("Wall", "background", lambda d: d.rectangle(box(0, 0, SIDE, SIDE), "#f2d8a7"), 0.25),
            drawn("Bottle", "object", bottle, 0.5),
            drawn("Glass", "object", glass, 0.5),
            drawn("Badge", "object", badge, 0.2),
            drawn("Headline", "text", headline),
        ),
    )


def rows() -> str:
    """The table of all edits."""
    lines = ["| op | fields | does |", "|---|---|---|"]
    for op in edits.TABLE.values():
        fields = ", ".join(f"**{name}**" if name in op.required else name for name in op.fields)
        lines.append(f"| `{op.name}` | {fields} | {op.about} |")
    return "\n".join(lines) + "\n"


def recipes(page: str) -> list[tuple[str, str]]:
    """The recipes of the page: the caption before each, and its text."""
    return re.findall(r"^\*\*([^*\n]+)\*\*[^\n]*\n\n```yaml\n([^`]*)```", page, re.MULTILINE)


def sheet(pictures: list[tuple[str, Image.Image]], across: int = 4, side: int = 280) -> Image.Image:
    """Pictures side by side, each with its caption."""
    line, gap = 26, 14
    down = -(-len(pictures) // across)
    result = Image.new("RGB", (across * (side + gap) + gap, down * (side + line + gap) + gap), PAPER)
    draw = ImageDraw.Draw(result)
    for i, (caption, image) in enumerate(pictures):
        left, top = gap + i % across * (side + gap), gap + i // across * (side + line + gap)
        small = image.convert("RGB")
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        result.paste(small, (left + (side - small.width) // 2, top + (side - small.height) // 2))
        draw.text((left, top + side + 5), caption, INK, font(15))
    return result


def main() -> None:
    """Write all of it."""
    page = BETWEEN.sub(lambda found: f"{found[1]}{rows()}{found[2]}", PAGE.read_text("utf-8"))
    PAGE.write_text(page, "utf-8")
    SCHEMA.write_text(json.dumps(recipe.schema(), indent=1, ensure_ascii=False) + "\n", "utf-8")
    stack = poster()
    pictures = [("As it was", stack.flatten())]
    for caption, text in recipes(page):
        pictures.append((caption, recipe.run(stack, recipe.parse(text)).flatten()))
    sheet(pictures).save(IMAGES / "edits.png", optimize=True)


if __name__ == "__main__":
    main()
