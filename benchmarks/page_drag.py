"""The page in headless Chromium: seconds until it can be used, and frames a second while one of 12 layers is dragged.

    unfuse serve --port 8766 --no-browser --data FOLDER &
    python benchmarks/page_drag.py http://127.0.0.1:8766/

The stack is 2048 x 2048. Pointer events are made inside the page, one a frame, as a hand does; needs playwright, and
Chromium where Debian has it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from unfuse.layers import Layer, LayerStack

SIDE, LAYERS, FRAMES = 2048, 12, 120
DRAG = """async ([x, y, frames]) => {
  const board = document.querySelector('.board'), times = [];
  const send = (type, x, y) => board.dispatchEvent(new PointerEvent(type, {pointerId: 1, pointerType: 'mouse',
    button: 0, buttons: 1, clientX: x, clientY: y, bubbles: true, ctrlKey: true}));
  send('pointerdown', x, y);
  let last = performance.now();
  for (let i = 0; i < frames; i++) {
    send('pointermove', x + 80 * Math.sin(i / 10), y + 60 * Math.cos(i / 9));
    await new Promise(requestAnimationFrame);
    times.push(performance.now() - last);
    last = performance.now();
  }
  send('pointerup', x, y);
  times.sort((a, b) => a - b);
  return [1000 * frames / times.reduce((a, b) => a + b), times[Math.floor(0.9 * frames)]];
}"""


def stack() -> LayerStack:
    """Eleven soft discs on a wall."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    layers = []
    for i in range(LAYERS):
        pixels = np.full((SIDE, SIDE, 4), 255, np.uint8)
        pixels[..., :3] = rng.integers(0, 200, 3) + (x // 40)[..., None]
        if i:
            far = np.hypot(x - rng.integers(600, 1400), y - rng.integers(600, 1400))
            pixels[..., 3] = (255 * np.clip((700 - far) / 40, 0, 1)).astype(np.uint8)
        layers.append(Layer.from_canvas(f"Disc {i}" if i else "Wall", "object" if i else "background", pixels))
    return LayerStack((SIDE, SIDE), tuple(layers))


def main(url: str) -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        stack().save(Path(folder) / "twelve.zip")
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1360, "height": 850})
        for _ in range(3):
            began = time.perf_counter()
            page.goto(url)
            page.wait_for_selector(".dropzone")
            print(f"can be used after {time.perf_counter() - began:.2f} s")
        with page.expect_file_chooser() as chooser:
            page.click(".dropzone")
        chooser.value.set_files(Path(folder) / "twelve.zip")
        page.wait_for_selector(".row", timeout=120_000)
        page.wait_for_timeout(3000)
        box = page.locator(".board").bounding_box()
        assert box is not None
        for row in (0, 6, 0):
            page.click(f".row-name >> nth={row}")
            page.wait_for_timeout(300)
            centre = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, FRAMES]
            rate, slow = page.evaluate(DRAG, centre)
            print(f"layer {row} from the top: {rate:.0f} frames a second, nine of ten within {slow:.0f} ms")
            page.wait_for_timeout(2500)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
