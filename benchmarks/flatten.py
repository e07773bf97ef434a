"""How fast `flatten` is, and how exact, beside Pillow's chain of `alpha_composite` in the same run.

    python benchmarks/flatten.py                       # 8 layers at 2048x2048
    python benchmarks/flatten.py --size 1024 --layers 4 --repeats 20

`soft`: every pixel of every layer has a random colour and alpha, the worst case. `hard`: an opaque background, then
shapes and lines of text, alpha 0 or 255 but for their edges. `canvas` layers are as large as the canvas; `cropped` ones
are cropped to what shows, as unfuse keeps them, and Pillow is given their places too. Times are medians of repeats that
alternate between the two, on the clock and, as `cpu`, of the processor, all threads together, which a busy machine
spoils less. Errors are in 8-bit levels from float64 composition without rounding.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from einops import reduce
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from unfuse.composite import THREADS, flatten, over
from unfuse.layers import Box, Layer, LayerStack

Canvases = list[NDArray[np.uint8]]  # h w 4 each, bottom to top


def soft(count: int, size: int) -> Canvases:
    """Random pixels."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (size, size, 4), dtype=np.uint8) for _ in range(count)]


def hard(count: int, size: int) -> Canvases:
    """An opaque background, then by turns an ellipse, a box and two lines of text, with smooth edges."""
    rng = np.random.default_rng(0)
    layers = [np.array(Image.effect_noise((size, size), 60).convert("RGBA"))]
    for i in range(1, count):
        image = Image.new("RGBA", (2 * size, 2 * size))
        draw = ImageDraw.Draw(image)
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        left, top = (int(value) for value in rng.integers(0, size, 2))
        right, bottom = left + int(rng.integers(size // 2, size)), top + int(rng.integers(size // 2, size))
        if i % 3 == 0:
            draw.multiline_text((left, top), "A headline of\ntwo lines", colour, font_size=size / 8)
        else:
            (draw.ellipse if i % 3 == 1 else draw.rectangle)((left, top, right, bottom), colour)
        # Colour is the same everywhere, so a plain mean of alpha is the smooth edge.
        alpha = reduce(np.array(image)[..., 3].astype(np.float32), "(h 2) (w 2) -> h w", "mean")
        layers.append(np.dstack([np.full((size, size, 3), colour), alpha]).astype(np.uint8))
    return layers


def chain(images: list[Image.Image], places: list[tuple[int, int]], cropped: bool) -> Image.Image:
    """Pillow's way: a new picture for each layer, or each laid down in place where it is cropped."""
    result = images[0]
    if cropped:
        result = result.copy()
        for image, place in zip(images[1:], places[1:], strict=True):
            result.alpha_composite(image, place)
        return result
    for image in images[1:]:
        result = Image.alpha_composite(result, image)
    return result


def exact(layers: Canvases) -> NDArray[np.float64]:
    """Float64 composition by `over`, in levels, `h w 4`."""
    under = np.zeros(layers[0].shape)
    for layer in layers:
        under = np.asarray(over(under, layer / 255), np.float64)
    return under * 255


def error(pixels: NDArray[np.integer], layers: Canvases, rows: int = 128) -> tuple[float, float]:
    """The largest and the mean error, in strips to save memory."""
    largest, total = 0.0, 0.0
    for top in range(0, pixels.shape[0], rows):
        part = slice(top, top + rows)
        difference = np.abs(pixels[part] - exact([layer[part] for layer in layers]))
        largest, total = max(largest, float(difference.max())), total + float(difference.sum())
    return largest, total / pixels.size


def alternated(calls: list[Callable[[], object]], repeats: int) -> list[tuple[float, float]]:
    """Milliseconds of each call, on the clock and of the processor: medians of turns, after one that does not count."""
    times: list[list[tuple[float, float]]] = [[] for _ in calls]
    for turn in range(repeats + 1):
        for call, own in zip(calls, times, strict=True):
            start = time.perf_counter(), time.process_time()
            call()
            if turn:
                own.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return [(1000 * statistics.median(t[0] for t in own), 1000 * statistics.median(t[1] for t in own)) for own in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2048, help="width and height of the canvas")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    size = options.size, options.size
    print(f"{options.layers} layers at {size[0]}x{size[1]}, {THREADS} threads, median of {options.repeats} repeats")
    print("stack          Pillow ms   cpu   unfuse ms   cpu   ratio   cpu   Pillow max, mean   unfuse max, mean")
    for name, make in (("soft", soft), ("hard", hard)):
        canvases = make(options.layers, options.size)
        for cropped in (False, True) if name == "hard" else (False,):
            layers = [Layer(name, "object", Box(0, 0, *size), canvas) for canvas in canvases]
            layers = [layer.crop_to_content() for layer in layers] if cropped else layers
            images = [Image.fromarray(layer.pixels) for layer in layers if layer.pixels is not None]
            places = [layer.box[:2] for layer in layers]
            stack = LayerStack(size, tuple(layers))

            def pillow(images=images, places=places, cropped=cropped) -> Image.Image:  # type: ignore[no-untyped-def]
                return chain(images, places, cropped)

            def ours(stack: LayerStack = stack) -> object:
                return flatten(stack)

            (theirs, their_cpu), (own, own_cpu) = alternated([pillow, ours], options.repeats)
            errors = [error(np.asarray(pillow()), canvases), error(flatten(stack), canvases)]
            print(
                f"{name + (' cropped' if cropped else ' canvas'):<14}{theirs:>10.0f}{their_cpu:>6.0f}"
                f"{own:>12.0f}{own_cpu:>6.0f}{own / theirs:>8.2f}{own_cpu / their_cpu:>6.2f}"
                + "".join(f"{largest:>12.3f}, {mean:.3f}" for largest, mean in errors)
            )


if __name__ == "__main__":
    main()
