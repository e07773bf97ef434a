"""Drawings (SVG) as pixels: render the whole, or every top group alone on the same canvas.

Rendering is resvg's, without system fonts, so that the same file gives the same pixels on every machine; drawings
that need a font or an embedded picture are therefore refused with `DrawingError`. Images are `h w 4`, 8-bit, sRGB,
straight alpha.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from unfuse.errors import require

SVG = "{http://www.w3.org/2000/svg}"
DRAWN = {
    SVG + tag for tag in ("g", "path", "rect", "circle", "ellipse", "line", "polyline", "polygon", "use", "a", "switch")
}
FOREIGN = {SVG + tag for tag in ("text", "image", "foreignObject", "flowRoot")}
UNITS = {"": 1.0, "px": 1.0, "in": 96.0, "cm": 96 / 2.54, "mm": 96 / 25.4, "pt": 96 / 72, "pc": 16.0}  # CSS, in pixels
MAX_SIDE = 2048  # a tiny drawing on a huge page is rendered no larger than this

Box = tuple[int, int, int, int]


class DrawingError(Exception):
    """A drawing that cannot become a part: broken, empty, or in need of fonts or foreign files."""


def parse(source: Path | str) -> ET.Element:
    """Read an SVG file, or markup, and give its root a viewBox and no fixed size, so that it renders at any size.

    Raises `DrawingError`.
    """
    try:
        root = ET.fromstring(source.read_bytes() if isinstance(source, Path) else source)
    except ET.ParseError as error:
        raise DrawingError(f"not well-formed: {error}") from error
    if found := {child.tag for child in root.iter()} & FOREIGN:
        raise DrawingError(f"needs {', '.join(sorted(tag.removeprefix(SVG) for tag in found))}")
    if root.get("viewBox") is None:
        width, height = (_number(root.get(side, "")) for side in ("width", "height"))
        root.set("viewBox", f"0 0 {width} {height}")
    root.attrib.pop("width", None)
    root.attrib.pop("height", None)
    return root


def render(root: ET.Element, side: int) -> Image.Image:
    """Render with a long side of `side` pixels. Raises `DrawingError` where resvg cannot."""
    resvg = require("resvg_py", "corpus", "rendering drawings")
    _, _, width, height = (_number(value) for value in re.split(r"[\s,]+", root.get("viewBox", "").strip()))
    fit = {"width": side} if width >= height else {"height": side}
    if min(width, height) * side < max(width, height):
        raise DrawingError(f"a canvas of {width:g} x {height:g} is a line")
    try:
        png = resvg.svg_to_bytes(svg_string=ET.tostring(root, "unicode"), skip_system_fonts=True, **fit)
    except ValueError as error:
        raise DrawingError(str(error)) from error
    return Image.open(io.BytesIO(png)).convert("RGBA")


def content(image: Image.Image) -> Box:
    """The box of everything that is not (nearly) transparent. Raises `DrawingError` for an empty image."""
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha > 3)).getbbox()
    if box is None:
        raise DrawingError("nothing is drawn")
    return box


def frame(root: ET.Element, side: int) -> tuple[Callable[[], Image.Image], Image.Image]:
    """Choose size and crop such that the drawn content has a long side of about `side` pixels.

    Returns a function that renders the tree as it is at the time of the call in that frame, and its first result.
    """
    left, top, right, bottom = content(render(root, side))
    scaled = min(MAX_SIDE, round(side * side / max(right - left, bottom - top)))
    whole = render(root, scaled)
    box = content(whole)
    return lambda: render(root, scaled).crop(box), whole.crop(box)


def drawing(root: ET.Element, side: int) -> Image.Image:
    """The drawing, cropped to its content, with a long side of about `side` pixels."""
    return frame(root, side)[1]


def groups(root: ET.Element) -> list[list[ET.Element]]:
    """The top groups bottom to top, below any group that wraps all; loose shapes between groups count as one."""
    node = root
    while len(drawn := [child for child in node if child.tag in DRAWN]) == 1 and drawn[0].tag == SVG + "g":
        node = drawn[0]
    runs: list[list[ET.Element]] = []
    for child in drawn:
        if runs and child.tag != SVG + "g" and runs[-1][-1].tag != SVG + "g":
            runs[-1].append(child)
        else:
            runs.append([child])
    return runs


def scene(root: ET.Element, side: int, most: int = 6) -> list[Image.Image]:
    """The top groups, each alone on the canvas of the whole: at least 2 and at most `most` layers, bottom to top.

    Groups that nothing shows of are dropped, tiny ones are joined to their neighbour. Raises `DrawingError` unless the
    layers flatten to the rendered whole (mean premultiplied difference below half a level).
    """
    runs = groups(root)
    if not 2 <= len(runs) <= 24 or sum(run[0].tag == SVG + "g" for run in runs) < 2:
        raise DrawingError(f"{len(runs)} top groups")
    again, whole = frame(root, side)
    layers = []
    for run in runs:
        hidden = [element for other in runs if other is not run for element in other]
        styles = [element.get("style") for element in hidden]
        for element, style in zip(hidden, styles, strict=True):
            element.set("style", f"{style};display:none" if style else "display:none")
        layers.append(again())
        for element, style in zip(hidden, styles, strict=True):
            element.attrib.pop("style")
            if style is not None:
                element.set("style", style)
    layers = _join(_visible(layers), most)
    if len(layers) < 2:
        raise DrawingError("fewer than two layers show")
    if (error := _difference(flatten(layers), whole)) > 0.5:
        raise DrawingError(f"the groups do not make the whole (mean difference {error:.2f})")
    return layers


def flatten(layers: list[Image.Image]) -> Image.Image:
    """Layers of one size, bottom to top, put together on transparency."""
    canvas = Image.new("RGBA", layers[0].size)
    for layer in layers:
        canvas = Image.alpha_composite(canvas, layer)
    return canvas


def _area(layer: Image.Image) -> float:
    return float(np.asarray(layer)[..., 3].mean() / 255)


def _visible(layers: list[Image.Image]) -> list[Image.Image]:
    """Only the layers of which at least 4 % shows."""
    kept: list[Image.Image] = []
    clear = np.ones(layers[0].size[::-1])
    for layer in reversed(layers):
        alpha = np.asarray(layer)[..., 3] / 255
        if (clear * alpha).sum() > max(1, 0.04 * alpha.sum()):
            kept.insert(0, layer)
            clear = clear * (1 - alpha)
    return kept


def _join(layers: list[Image.Image], most: int) -> list[Image.Image]:
    """Join the smallest layer to its neighbour until none is tiny and there are at most `most`."""
    layers = list(layers)
    while len(layers) > 1:
        smallest = min(range(len(layers)), key=lambda index: _area(layers[index]))
        if len(layers) <= most and _area(layers[smallest]) > 0.008:
            break
        low = max(0, smallest - 1)
        layers[low : low + 2] = [flatten(layers[low : low + 2])]
    return layers


def _difference(a: Image.Image, b: Image.Image) -> float:
    first, second = (np.asarray(image, np.float32) for image in (a, b))
    first, second = (np.append(x[..., :3] * x[..., 3:] / 255, x[..., 3:], axis=-1) for x in (first, second))
    return float(np.abs(first - second).mean())


def _number(text: str) -> float:
    found = re.fullmatch(r"\s*(-?[0-9.]+(?:[eE][+-]?\d+)?)\s*([a-z]*)\s*", text)
    if found is None or found[2] not in UNITS:
        raise DrawingError(f"no size in {text!r}")
    return float(found[1]) * UNITS[found[2]]
