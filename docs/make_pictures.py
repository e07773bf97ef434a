"""Make the pictures of the documentation, and the command output in the README, with the engine as it is now.

    python docs/make_pictures.py

Each picture in examples/ is taken apart as `unfuse decompose` does it; `images/first.png` shows the demo's picture and
its layers, `images/sheet_<name>.png` every picture with all its layers on a checkerboard.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import unfuse
from unfuse.layers import LayerStack

DOCS = Path(__file__).parent
ROOT = DOCS.parent
DEMO = "poster"
COMMAND = f"unfuse decompose examples/{DEMO}.jpg -o {DEMO}.psd -o {DEMO}.pptx"
BETWEEN = re.compile(r"(<!-- output of make_pictures.py -->\n```\n).*?(```\n<!-- end -->)", re.DOTALL)

WIDTH = 1200  # of a sheet
GAP, LINE = 16, 24  # between cells; height of a caption
SQUARE = 8  # of the checkerboard
PAPER, INK = (255, 255, 255), (60, 60, 60)


def checkerboard(size: tuple[int, int]) -> Image.Image:
    """What image editors show where nothing is."""
    board = Image.new("RGBA", size, (255, 255, 255, 255))
    draw = ImageDraw.Draw(board)
    for y in range(0, size[1], SQUARE):
        for x in range(y // SQUARE % 2 * SQUARE, size[0], 2 * SQUARE):
            draw.rectangle((x, y, x + SQUARE - 1, y + SQUARE - 1), (222, 222, 222, 255))
    return board


def cell(image: Image.Image, size: tuple[int, int], caption: str) -> Image.Image:
    """A picture on the checkerboard at `size`, with a frame and a caption below."""
    board = checkerboard(size)
    small = image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")  # premultiplied: clean edges
    board.alpha_composite(small)
    result = Image.new("RGB", (size[0], size[1] + LINE), PAPER)
    result.paste(board.convert("RGB"))
    draw = ImageDraw.Draw(result)
    draw.rectangle((0, 0, size[0] - 1, size[1] - 1), outline=(190, 190, 190))
    draw.text((0, size[1] + 4), fitted(caption, size[0]), INK, font())
    return result


def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(13)


def fitted(caption: str, width: int) -> str:
    """The caption, cut where it is wider than its cell."""
    short = caption
    while font().getlength(short) > width:
        short = short.rstrip("…")[:-1] + "…"
    return short


def sheet(picture: Image.Image, stack: LayerStack, most: int = 5) -> Image.Image:
    """The picture, then its layers bottom to top, row by row, with at most so many in a row."""
    shown = [(picture.convert("RGBA"), "the picture"), *layers(stack)]
    columns = math.ceil(len(shown) / math.ceil(len(shown) / most))
    width = (WIDTH - GAP * (columns + 1)) // columns
    size = width, round(width * stack.size[1] / stack.size[0])
    rows = math.ceil(len(shown) / columns)
    result = Image.new("RGB", (WIDTH, rows * (size[1] + LINE + GAP) + GAP), PAPER)
    for place, (image, text) in enumerate(shown):
        row, column = divmod(place, columns)
        result.paste(cell(image, size, text), (GAP + column * (width + GAP), GAP + row * (size[1] + LINE + GAP)))
    return result


def first(picture: Image.Image, stack: LayerStack) -> Image.Image:
    """The picture, large, and its layers beside it in one or two rows."""
    rows = 1 if len(stack) < 4 else 2
    columns = math.ceil(len(stack) / rows)
    ratio = stack.size[0] / stack.size[1]
    step = LINE + GAP  # from the end of one row to the next
    high = int((WIDTH - GAP * (columns + 2) - (rows - 1) * step * ratio) / (ratio * (rows + columns)))
    large, small = rows * high + (rows - 1) * step, (int(high * ratio), high)
    result = Image.new("RGB", (WIDTH, large + step + GAP), PAPER)
    result.paste(cell(picture.convert("RGBA"), (int(large * ratio), large), "the picture"), (GAP, GAP))
    for place, (image, text) in enumerate(layers(stack)):
        row, column = divmod(place, columns)
        left = 2 * GAP + int(large * ratio) + column * (small[0] + GAP)
        result.paste(cell(image, small, text), (left, GAP + row * (high + step)))
    return result


def layers(stack: LayerStack) -> list[tuple[Image.Image, str]]:
    """Each layer on the whole canvas, and what stands below it."""
    return [(layer.to_image(stack.size), f"{index}  {layer.name}") for index, layer in enumerate(stack)]


def output(command: str) -> str:
    """What a command of ours prints on a terminal 90 characters wide, without colours."""
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "examples").symlink_to(ROOT / "examples")
        environment = os.environ | {"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": "90", "TERM": "dumb"}
        arguments = [sys.executable, "-m", "unfuse.cli", *command.split()[1:]]
        end = subprocess.run(arguments, cwd=place, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", end.stdout).splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def main() -> None:
    (DOCS / "images").mkdir(exist_ok=True)
    for path in sorted((ROOT / "examples").glob("*.jpg")):
        stack = unfuse.decompose(path)
        picture = Image.open(path)
        sheet(picture, stack).save(DOCS / "images" / f"sheet_{path.stem}.png", optimize=True)
        if path.stem == DEMO:
            first(picture, stack).save(DOCS / "images" / "first.png", optimize=True)
        print(f"{path.stem}: {len(stack)} layers")
    readme = (ROOT / "README.md").read_text("utf-8")
    shown = f"$ {COMMAND}\n{output(COMMAND)}"
    if not BETWEEN.search(readme):
        raise SystemExit("README.md has no place for the output of the command")
    (ROOT / "README.md").write_text(BETWEEN.sub(lambda found: found[1] + shown + found[2], readme), "utf-8")


if __name__ == "__main__":
    main()
