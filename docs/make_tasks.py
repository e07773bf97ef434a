"""Run every command and every piece of Python of the pages in tasks/, and make their pictures.

    python docs/make_tasks.py

All happens in a copy of the folder, through the command line itself; the pictures go to images/task_<name>.webp.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from make_pictures import DOCS, GAP, LINE, PAPER, ROOT, cell, sheet
from PIL import Image

import unfuse
from unfuse import cli

TASKS = DOCS / "tasks"
PAGES = ("README", "colour", "product", "headline", "sticker", "sizes", "designer")  # in the order in which they run
WIDTH = 1000


def fenced(page: str) -> list[tuple[str, str]]:
    """The blocks of a page between fences: the language, empty for commands, and what is in it."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", (TASKS / f"{page}.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """What a page says to type, as arguments of `unfuse`."""
    lines = [line for language, block in fenced(page) if not language for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("unfuse ")]


def python(page: str) -> list[str]:
    """The pieces of Python of a page."""
    return [block for language, block in fenced(page) if language == "python"]


def copied(place: Path) -> Path:
    """The folder of the pages with the pictures that it needs, elsewhere."""
    (place / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "poster.jpg", place / "examples")
    shutil.copytree(TASKS, place / "docs" / "tasks")
    return place / "docs" / "tasks"


def type_in(folder: Path, arguments: list[str]) -> None:
    """Run a command in a folder. Raises what it raises."""
    with contextlib.chdir(folder):
        cli.app(args=arguments, prog_name="unfuse", standalone_mode=False)


def run(folder: Path, code: str) -> None:
    """Run a piece of Python in a folder."""
    with contextlib.chdir(folder):
        exec(compile(code, "a page", "exec"), {})


def work(folder: Path) -> None:
    """All pages, each command once."""
    done: list[list[str]] = []
    for page in PAGES:
        for arguments in commands(page):
            if arguments not in done:
                print("unfuse", *arguments)
                type_in(folder, arguments)
                done.append(arguments)
        for code in python(page):
            run(folder, code)


# --- the pictures


def opened(path: Path) -> Image.Image:
    """A picture as RGBA."""
    with Image.open(path) as image:
        return image.convert("RGBA")


def row(*pictures: tuple[Image.Image, str], height: int = 0) -> Image.Image:
    """Pictures side by side at one height, each with what it is."""
    ratios = [image.width / image.height for image, _ in pictures]
    high = height or int((WIDTH - GAP * (len(pictures) + 1)) / sum(ratios))
    widths = [round(ratio * high) for ratio in ratios]
    result = Image.new("RGB", (sum(widths) + GAP * (len(pictures) + 1), high + LINE + 2 * GAP), PAPER)
    left = GAP
    for (image, said), width in zip(pictures, widths, strict=True):
        result.paste(cell(image, (width, high), said), (left, GAP))
        left += width + GAP
    return result


def strong(image: Image.Image, like: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """A part of a picture with its differences from the mean of `like` there, eight times as large."""
    part, other = (np.asarray(each.convert("RGB").crop(box)).astype(float) for each in (image, like))
    values = 128 + 8 * (part - np.median(other, axis=(0, 1)))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).convert("RGBA")


def pictures(folder: Path) -> Iterator[tuple[str, Image.Image]]:
    """Each picture of the pages by its name, once all commands have run."""
    offer, poster = opened(folder / "offer.jpg"), opened(folder / "../../examples/poster.jpg")
    stack, layers = unfuse.load(folder / "offer.zip"), unfuse.load(folder / "poster.zip")
    yield "start", sheet(offer, unfuse.load(folder / "found.zip"), most=6)
    yield "colour", row((offer, "the picture"), (opened(folder / "colour.png"), "unfuse edit offer.zip colour.yaml"))
    wrong = layers.recolor("at 500,570", color="#d7263d").flatten()
    yield (
        "colour_hat",
        row((poster, "the picture"), (wrong, "recolor: the whole layer"), (opened(folder / "hat.png"), "palette")),
    )
    tin, jar = opened(folder / "products/tin.png"), opened(folder / "product.png")
    yield "product", row((offer, "the picture"), (jar, "product.yaml"), (tin, "products.csv"))
    product = unfuse.load(folder / "product.zip")
    ghost = product.replace_layer("Wall", stack["Wall"]).flatten()
    box = (360, 280, 760, 1030)
    yield "product_ghost", row((ghost.crop(box), "without heal"), (jar.crop(box), "with heal"), height=560)
    languages = [(opened(folder / f"languages/{name}.png"), name) for name in ("de", "fr", "zh", "ar")]
    yield "headline", row((poster, "the picture"), *languages)
    clean = opened(folder / "sticker.png")
    yield "sticker", row((offer, "the picture"), (clean, "unfuse edit offer.zip sticker.yaml"))
    removed, near = stack.remove("Sticker").flatten(), (60, 508, 326, 772)
    yield (
        "sticker_ghost",
        row(
            (strong(removed, clean, near), "remove, contrast x 8"),
            (strong(clean, clean, near), "heal and remove"),
            height=300,
        ),
    )
    yield "sizes", opened(folder / "sizes/contact.png").convert("RGB")
    plain = stack.canvas(width=1080, height=1920).flatten()
    story = opened(folder / "sizes/story.png")
    yield "sizes_plain", row((plain, "by canvas alone"), (story, "sizes.yaml, sizes.csv"), height=620)
    yield "designer", sheet(offer, unfuse.load(folder / "offer.psd"), most=4)


def main() -> None:
    """Run the pages and write their pictures."""
    os.environ["COLUMNS"] = "100"
    with tempfile.TemporaryDirectory() as place:
        folder = copied(Path(place))
        work(folder)
        type_in(folder, ["decompose", "offer.jpg", "-o", "found.zip"])
        for name, image in pictures(folder):
            image.thumbnail((WIDTH, 4 * WIDTH), Image.Resampling.LANCZOS)
            image.convert("RGB").save(DOCS / "images" / f"task_{name}.webp", quality=80, method=6)


if __name__ == "__main__":
    main()
