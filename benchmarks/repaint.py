"""How well a layer is found again in a picture of it that was painted anew, where the new layer is known.

    python benchmarks/repaint.py                       # the table of docs/edits.md
    python benchmarks/repaint.py --sheet repaint.png   # and what it looks like

No model is run: the answers are composed from a known layer, clean or moved, scaled, tinted, softened and grainy as
those of Qwen-Image-Edit are. Said are errors of alpha and of colour, the latter in levels where the layer shows, and
those of the plain way, the answer cut with the old alpha.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw

from unfuse.composite import flatten
from unfuse.edits import repaint
from unfuse.layers import Layer, LayerStack
from unfuse.model import painter
from unfuse.pixels import quantise, to_float

SIDE, OVER = 480, 4
RNG = np.random.default_rng(0)
GREEN = np.array([0.1, 0.9, 0.2])


class Known:
    """Answers with a picture that is known."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def paint(self, picture: Any, words: str, *, seed: int, steps: int) -> Any:
        """The answer, whatever is asked for."""
        return self.answer


def drawn(draw: Callable[[ImageDraw.ImageDraw], None]) -> Any:
    """`h w 4` in 0..1, straight alpha with soft edges, of what `draw` paints at four times the size."""
    image = Image.new("RGBA", (SIDE * OVER, SIDE * OVER))
    draw(ImageDraw.Draw(image))
    return to_float(np.array(image.convert("RGBa").resize((SIDE, SIDE), Image.Resampling.BOX).convert("RGBA")))


def bottle(body: str, cap: str, label: str, changed: bool = False) -> Any:
    """A bottle; a changed one has a handle and no cap."""

    def draw(d: ImageDraw.ImageDraw) -> None:
        def box(*at: int) -> Any:
            return tuple(OVER * x for x in at)

        if changed:
            d.ellipse(box(226, 285, 274, 375), outline=body, width=10 * OVER)
        d.rounded_rectangle(box(150, 190, 250, 420), OVER * 26, body)
        d.rectangle(box(182, 128, 218, 200), body)
        if not changed:
            d.rounded_rectangle(box(176, 100, 224, 130), OVER * 6, cap)
        d.rectangle(box(150, 270, 250, 350), label)

    found = drawn(draw)
    found[..., :3] *= np.linspace(1.1, 0.75, SIDE)[:, None, None]  # light from above
    return found.clip(0, 1)


def wall() -> Any:
    """Plaster in two tones."""
    grain = cv2.GaussianBlur(RNG.standard_normal((SIDE, SIDE)), (0, 0), 3)
    y, x = np.mgrid[:SIDE, :SIDE]
    light = 0.75 + 0.06 * grain / grain.std() + 0.07 * ((x // 40 + y // 60) % 2)
    return np.concatenate(((light[..., None] * (1.1, 1, 0.78)).clip(0, 1), np.ones((SIDE, SIDE, 1))), -1)


def over(layer: Any, below: Any) -> Any:
    """A layer over a picture."""
    return layer[..., 3:] * layer[..., :3] + (1 - layer[..., 3:]) * below


def drifted(picture: Any) -> Any:
    """A picture moved by some pixels, 1 percent larger, in another tint, softer and grainy."""
    way = np.array([[1.012, 0, 2.4], [0, 1.012, -1.3]])
    moved = cv2.warpAffine(picture, way, picture.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    soft = cv2.GaussianBlur(moved, (0, 0), 0.6) + np.array([6, -3, 2]) / 255
    return (soft + RNG.standard_normal(soft.shape) * 2 / 255).clip(0, 1)


def errors(found: Any, truth: Any) -> tuple[float, float, float]:
    """Mean error of alpha where either has an edge; mean colour error in levels inside, and where it is thin."""
    alpha = truth[..., 3]
    edge = cv2.dilate(((alpha > 0) & (alpha < 1)).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    off = 255 * np.abs(found[..., :3] - truth[..., :3]).mean(-1)
    thin = edge & (alpha > 0.2) & (found[..., 3] > 0.2)
    return float(np.abs(found[..., 3] - alpha)[edge].mean()), float(off[(alpha == 1) & ~edge].mean()), off[thin].mean()


def main() -> None:
    """Run all cases; print the table, write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sheet", help="a PNG of what moved: before, answer, after, the new layer on green, the plain way, alpha"
    )
    sheet = parser.parse_args().sheet
    old = bottle("#2f7d4f", "#c9a227", "#f3ead2")
    red, other = (bottle("#b02a3c", "#303030", "#ffd9d0", changed) for changed in (False, True))
    layers = [Layer.from_canvas(*of) for of in (("Wall", "background", quantise(wall(), 8)),)]  # type: ignore[arg-type]
    stack = LayerStack((SIDE, SIDE), (*layers, Layer.from_canvas("Bottle", "object", quantise(old, 8))))
    below = to_float(flatten(stack.replace(layers=stack.layers[:1])))[..., :3]
    box = repaint._view(stack, repaint._bare(stack["Bottle"]))
    view = slice(box.top, box.bottom), slice(box.left, box.right)
    print("| answer | alpha at edges | colour inside, at edges | plain way: alpha | colour |\n|---|---|---|---|---|")
    rows = []
    for name, truth in (("another colour", red), ("with a handle, without its cap", other)):
        for how, change in (("", lambda x: x), (", moved and tinted", drifted)):
            answer = change(over(truth, below)[view]).astype(np.float32)
            painter.load.cache_clear()
            painter.TABLE["known"] = lambda model, answer=answer: Known(answer)  # type: ignore[misc]
            after = stack.repaint("Bottle", "red", engine="known")
            found = to_float(after["Bottle"].to_canvas(stack.size))
            plain = np.concatenate((answer, old[view][..., 3:]), -1)
            ours, theirs = errors(found[view], truth[view]), errors(plain, truth[view])
            cells = (f"{x:.3f} | {inside:.1f}, {rim:.1f}" for x, inside, rim in (ours, theirs))
            print(f"| {name}{how} | {' | '.join(cells)} |")
            shown = [over(old, below)[view], answer, over(found, below)[view], over(found[view], GREEN)]
            shown += [over(plain, GREEN), np.repeat(found[view][..., 3:], 3, -1)]
            rows.append(np.concatenate([each[85:430, 70:270] for each in shown], 1))
    if sheet:
        Image.fromarray(quantise(np.concatenate(rows[1::2]), 8)).save(sheet)


if __name__ == "__main__":
    main()
