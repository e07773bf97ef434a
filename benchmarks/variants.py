"""How many variants a second: a 1080x1080 stack of 6 layers, a table that changes colours, places and what is shown.

    python benchmarks/variants.py                            # 100 variants as PNG
    python benchmarks/variants.py --suffix .jpg --workers 1

The stack is drawn here: a soft photograph-like background, two shapes with shading, a badge, two lines of text. Said
are the whole run with its contact sheet, and for one process the parts: edits, composing what changed against composing
all, and encoding.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw

from unfuse import edits, variants
from unfuse.composite import flatten, reflatten
from unfuse.layers import Box, Kind, Layer, LayerStack
from unfuse.saving import write_flat

SIDE = 1080


def drawn(name: str, kind: Kind, draw: Any) -> Layer:
    """A layer from what `draw` paints at twice its size."""
    image = Image.new("RGBA", (2 * SIDE, 2 * SIDE))
    draw(ImageDraw.Draw(image))
    return Layer.from_canvas(name, kind, np.array(image.resize((SIDE, SIDE), Image.Resampling.BOX)))


def shaded(layer: Layer) -> Layer:
    """The layer with light from above."""
    assert layer.pixels is not None
    pixels = layer.pixels.copy()
    light = np.linspace(1.1, 0.6, layer.box.height)[:, None, None]
    pixels[..., :3] = np.clip(pixels[..., :3] * light, 0, 255).astype(np.uint8)
    return layer.replace(pixels=pixels)


def poster() -> LayerStack:
    """Six layers."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(40, 220, (9, 9, 3)).astype(np.float32)
    back = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) + rng.normal(0, 3, (SIDE, SIDE, 3))
    background = np.dstack([np.clip(back, 0, 255), np.full((SIDE, SIDE), 255)]).astype(np.uint8)
    return LayerStack(
        (SIDE, SIDE),
        (
            Layer("Back", "background", Box(0, 0, SIDE, SIDE), background),
            shaded(drawn("Hero", "object", lambda d: d.ellipse((500, 600, 1700, 1800), "#d08040"))),
            shaded(drawn("Table", "object", lambda d: d.rounded_rectangle((200, 1600, 1960, 1900), 60, "#604020"))),
            shaded(drawn("Badge", "object", lambda d: d.ellipse((1500, 200, 1900, 600), "#c81e28"))),
            drawn("Headline", "text", lambda d: d.text((160, 160), "Summer sale", "#ffffff", font_size=220)),
            drawn("Price", "text", lambda d: d.text((1560, 340), "19.90", "#ffffff", font_size=100)),
        ),
    )


def table(count: int) -> str:
    """Rows that change the badge, the headline and the price."""
    rows = ["name,Badge.color,Badge.x,Headline.color,Headline.y,Price.visible"]
    for i in range(count):
        rows.append(
            f"v{i:03},#{(i * 8761) % 0xFFFFFF:06x},{-i},#{(i * 39119) % 0xFFFFFF:06x},{i % 40},{i % 3 and 'yes'}"
        )
    return "\n".join(rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--suffix", default=".png")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--keep", type=Path, help="a folder that is left, to be looked at")
    given = parser.parse_args()
    stack = poster()
    with tempfile.TemporaryDirectory() as folder:
        place = given.keep or Path(folder) / "out"
        (Path(folder) / "t.csv").write_text(table(given.count))
        began, used = time.perf_counter(), os.times()
        made = variants.variants(stack, Path(folder) / "t.csv", place, suffix=given.suffix, workers=given.workers)
        seconds, after = time.perf_counter() - began, os.times()
        processor = sum(after[:4]) - sum(used[:4])
        assert not any(x.error for x in made)
        print(
            f"{given.count} variants as {given.suffix}, {given.workers} workers: {seconds:.2f} s, "
            f"{given.count / seconds:.1f} a second; processor {processor / given.count * 1e3:.0f} ms each, "
            f"{given.workers * given.count / processor:.1f} a second on {given.workers} idle cores"
        )
        rows, flat = variants.read_table(Path(folder) / "t.csv")[:20], flatten(stack)
        parts = {"edits": 0.0, "compose what changed": 0.0, "compose all": 0.0, f"encode {given.suffix}": 0.0}
        for row in rows:
            clock = [time.process_time()]
            one = edits.edit(stack, row.edits, remember=False)
            clock.append(time.process_time())
            pixels = reflatten(one, stack, flat)
            clock.append(time.process_time())
            flatten(one)
            clock.append(time.process_time())
            if given.suffix == ".png":
                variants._png(pixels, stack)
            else:
                write_flat(Path(folder) / f"x{given.suffix}", pixels)
            clock.append(time.process_time())
            for name, start, end in zip(parts, clock[:-1], clock[1:], strict=True):
                parts[name] += end - start
        print("processor ms each:", ", ".join(f"{name} {value / len(rows) * 1e3:.1f}" for name, value in parts.items()))


if __name__ == "__main__":
    main()
