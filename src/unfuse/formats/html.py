"""HTML: one file that shows the stack in any browser, without a network.

Layers can be switched, shown alone, and set in motion; the browser composes them as `flatten` does (CSS Compositing and
Blending Level 1). Nothing is loaded from anywhere: pictures are data, and the page's policy lets no script run but its
own, by its hash. `#picture` after the file's name shows the whole alone, at its size.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator
from hashlib import sha256
from html import escape
from importlib.resources import files
from io import BytesIO
from string import Template
from typing import BinaryIO

from unfuse.formats.names import clean
from unfuse.layers import Layer, LayerStack, Pixels, to_8_bit
from unfuse.pixels import quantise, resize, to_float
from unfuse.saving import write_flat

THUMBNAIL = 72  # pixels of a side: twice what is shown, for fine screens


def write(stack: LayerStack, file: BinaryIO, suffix: str) -> tuple[str, ...]:
    """Write the stack as one page."""
    page, script = (files(__package__).joinpath(name).read_text("utf-8") for name in ("html.html", "html.js"))
    width, height = stack.size
    numbers = {layer.id: f"layer{index}" for index, layer in enumerate(stack.walk())}
    filled = Template(page).substitute(
        title=f"{len(stack)} layers, {width} x {height}",
        about=f"{width} x {height} pixels; the top layer comes first.",
        hash=b64encode(sha256(script.encode()).digest()).decode(),
        script=script,
        width=width,
        height=height,
        ratio=f"{width / height:.6g}",
        pictures="".join(_pictures(stack.layers, stack, numbers)),
        rows="".join(_rows(stack.layers, stack, numbers)),
    )
    file.write(filled.encode())
    return ("HTML has 8 bits a channel: 16 were rounded",) if stack.depth == 16 else ()


def _pictures(layers: Iterable[Layer], stack: LayerStack, numbers: dict[str, str]) -> Iterator[str]:
    """The layers as elements, bottom to top; places in parts of the canvas, so that the whole can be scaled."""
    width, height = stack.size
    for layer in layers:
        off = "" if layer.visible else ' class="off"'
        look = f"opacity:{layer.opacity};mix-blend-mode:{layer.blend_mode}"
        if layer.pixels is None:
            yield f'<div id="{numbers[layer.id]}"{off} style="{look}">\n'
            yield from _pictures(layer.layers, stack, numbers)
            yield "</div>\n"
        else:
            left, top, wide, high = layer.box.left / width, layer.box.top / height, *layer.box.size
            place = f"left:{left:.6%};top:{top:.6%};width:{wide / width:.6%};height:{high / height:.6%}"
            alt = escape(clean(layer.text.string if layer.text else layer.name))
            data = _data(to_8_bit(layer.pixels), stack)
            yield f'<img id="{numbers[layer.id]}"{off} style="{place};{look}" alt="{alt}" src="{data}">\n'


def _rows(layers: Iterable[Layer], stack: LayerStack, numbers: dict[str, str]) -> Iterator[str]:
    """The list of layers, top to bottom."""
    for layer in reversed(tuple(layers)):
        name, number = escape(clean(layer.name)), numbers[layer.id]
        ticked = " checked" if layer.visible else ""
        thumb = f'<span class="thumb"><img alt="" src="{_data(_thumbnail(layer, stack), stack)}"></span>'
        yield f'<li><div class="row"><label><input type="checkbox" data-layer="{number}"{ticked}>'
        yield f'{thumb}<span class="name" title="{name}">{name}</span></label>'
        yield f'<button type="button" data-layer="{number}" aria-pressed="false" aria-label="Solo {name}">Solo</button>'
        yield "</div>"
        if layer.layers:
            yield "<ol>\n"
            yield from _rows(layer.layers, stack, numbers)
            yield "</ol>"
        yield "</li>\n"


def _thumbnail(layer: Layer, stack: LayerStack) -> Pixels:
    pixels = layer.pixels if layer.pixels is not None else layer.to_canvas(stack.size)
    height, width = pixels.shape[:2]
    scale = min(1, THUMBNAIL / max(width, height))
    step = max(1, int(0.25 / scale))  # every fourth pixel of a thumbnail's is enough to average over
    small = to_float(to_8_bit(pixels[::step, ::step]))
    return quantise(resize(small, (max(1, round(width * scale)), max(1, round(height * scale)))), 8)


def _data(pixels: Pixels, stack: LayerStack) -> str:
    file = BytesIO()
    write_flat(file, pixels, icc=stack.icc, dpi=stack.dpi, suffix=".png")
    return "data:image/png;base64," + b64encode(file.getvalue()).decode()
