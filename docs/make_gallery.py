"""Make the gallery: every example taken apart into 4 layers and into as many as there are, and one edit of each.

    python docs/make_gallery.py

Writes images/gallery_<name>_<layers>.webp and the page gallery.md, which says what the layers are, seconds included.
With the extra `text` installed, text is read and lifted off as its own layers.
"""

from __future__ import annotations

import time
from typing import Any

from make_pictures import DOCS, GAP, LINE, PAPER, ROOT, cell, sheet
from PIL import Image

import unfuse
from unfuse import composite
from unfuse.layers import LayerStack

WIDTH = 1000
COUNTS: tuple[Any, ...] = (4, "auto")
# example: what is done to it at "auto", in words and as a recipe
EDITS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "field": (
        "All that is an object moved 90 pixels to the left",
        [{"op": "move", "layer": "kind:object", "x": -90}],
    ),
    "halloween": (
        "The words in green",
        [{"op": "recolor", "layer": "HAPPY*", "color": "#3ddc84"}],
    ),
    "poster": (
        "The headline in red, the brand below taken away",
        [{"op": "recolor", "layer": "Unflustered*", "color": "#d7263d"}, {"op": "hide", "layer": "Gricity*"}],
    ),
    "smoke": (
        "The words in English, in the closest font",
        [{"op": "replace_text", "layer": "拒绝*", "text": "Smoke-free"}],
    ),
}
HEAD = """# Gallery

The examples, taken apart by the embedded engine with `unfuse decompose` into 4 layers and into as many as there are
(`auto`), and one edit of each. Made by `python docs/make_gallery.py`; nothing is picked out. The pictures come from the
Qwen-Image-Layered repository, Apache-2.0: [CREDITS.md](../examples/CREDITS.md).
"""


def main() -> None:
    """Write the pictures and the page."""
    page = [HEAD]
    for path in sorted((ROOT / "examples").glob("*.jpg")):
        name = path.stem
        page.append(f"\n## {name.capitalize()}\n")
        for count in COUNTS:
            start = time.perf_counter()
            stack = unfuse.decompose(path, layers=count)
            seconds = time.perf_counter() - start
            save(sheet(Image.open(path), stack), f"gallery_{name}_{count}")
            page.append(about(stack, name, count, seconds))
        words, recipe = EDITS[name]
        edited = unfuse.edit(stack, recipe)
        save(beside(Image.open(path), edited), f"gallery_{name}_edit")
        page.append(f'\n{words}:\n\n<img src="images/gallery_{name}_edit.webp" alt="{name}, before and after">\n')
    (DOCS / "gallery.md").write_text("".join(page), "utf-8")


def about(stack: LayerStack, name: str, count: Any, seconds: float) -> str:
    """What the page says of one stack, and its picture."""
    asked = "As many as there are" if count == "auto" else f"{count} layers"
    kinds = ", ".join(layer.name for layer in stack)
    return (
        f"\n{asked}, {seconds:.1f} s: {kinds}.\n\n"
        f'<img src="images/gallery_{name}_{count}.webp" alt="{name}, layers on a checkerboard">\n'
    )


def beside(picture: Image.Image, stack: LayerStack) -> Image.Image:
    """The picture, and the edited stack put together."""
    width = (WIDTH - 3 * GAP) // 2
    size = width, round(width * stack.size[1] / stack.size[0])
    result = Image.new("RGB", (WIDTH, size[1] + LINE + 2 * GAP), PAPER)
    after = Image.fromarray(composite.flatten(stack)).convert("RGBA")
    result.paste(cell(picture.convert("RGBA"), size, "the picture"), (GAP, GAP))
    result.paste(cell(after, size, "edited"), (2 * GAP + width, GAP))
    return result


def save(image: Image.Image, name: str) -> None:
    """A picture of the page."""
    image.thumbnail((WIDTH, 4 * WIDTH), Image.Resampling.LANCZOS)
    image.save(DOCS / "images" / f"{name}.webp", quality=82, method=6)


if __name__ == "__main__":
    main()
