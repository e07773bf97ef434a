"""SVG (https://www.w3.org/TR/SVG2/) with a group for each layer, as Inkscape has them, and a picture in it.

Opacity, blend modes and isolated groups are CSS (Compositing and Blending Level 1), so that every viewer composes what
`flatten` does. Pictures lie cropped at their place, inside the file. A layer with text is `<text>`, a line each, as
wide as its line, whatever font is there.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from io import BytesIO
from typing import Any, BinaryIO

from lxml import etree

from unfuse.formats import live
from unfuse.formats.names import clean
from unfuse.formats.svg_reader import HREF, INKSCAPE, NAMESPACES, SODIPODI, read
from unfuse.layers import Layer, LayerStack, Pixels, to_8_bit
from unfuse.saving import write_flat
from unfuse.textblock import TextLine

__all__ = ["read", "write"]


def write(stack: LayerStack, file: BinaryIO, suffix: str, *, text: live.Text = "live") -> tuple[str, ...]:
    """Write the stack; `text` says whether layers with text become live text or pictures."""
    live.check(text)
    width, height = (str(side) for side in stack.size)
    namespaces: dict[Any, str] = {None: NAMESPACES["svg"]} | {k: v for k, v in NAMESPACES.items() if k != "svg"}
    root = etree.Element("svg", nsmap=namespaces, version="1.1", width=width, height=height)
    root.set("viewBox", f"0 0 {width} {height}")
    notes: list[str] = ["SVG has 8 bits a channel: 16 were rounded"] if stack.depth == 16 else []
    _add(root, stack.layers, stack, text, notes)
    etree.ElementTree(root).write(file, xml_declaration=True, encoding="UTF-8", pretty_print=True)
    return tuple(notes)


def _add(parent: etree._Element, layers: Iterable[Layer], stack: LayerStack, text: live.Text, notes: list[str]) -> None:
    for layer in layers:
        group = etree.SubElement(parent, "g", id=f"layer-{layer.id}")
        group.set(f"{INKSCAPE}groupmode", "layer")
        group.set(f"{INKSCAPE}label", clean(layer.name))
        group.set("style", _style(layer))
        if layer.locked:
            group.set(f"{SODIPODI}insensitive", "true")
        etree.SubElement(group, "title").text = clean(layer.name)
        if layer.pixels is None:
            _add(group, layer.layers, stack, text, notes)
        elif block := live.live(layer, text, notes):
            for line in block.lines:
                _text(group, line)
        else:
            image = etree.SubElement(group, "image", x=str(layer.box.left), y=str(layer.box.top))
            image.set("width", str(layer.box.width))
            image.set("height", str(layer.box.height))
            image.set("preserveAspectRatio", "none")
            image.set(HREF, _data(layer.pixels, stack))


def _style(layer: Layer) -> str:
    properties = {"isolation": "isolate"} if layer.pixels is None else {}
    if layer.opacity < 1:
        properties["opacity"] = str(layer.opacity)
    if layer.blend_mode != "normal":
        properties["mix-blend-mode"] = layer.blend_mode
    properties["display"] = "inline" if layer.visible else "none"
    return ";".join(f"{key}:{value}" for key, value in properties.items())


def _text(parent: etree._Element, line: TextLine) -> None:
    x, y = line.origin
    element = etree.SubElement(parent, "text", transform=f"translate({x:.3f} {y:.3f}) rotate({line.angle:.3f})")
    family = f"'{clean(line.font).replace(chr(39), '')}', sans-serif" if line.font else "sans-serif"
    element.set("font-family", family)
    element.set("font-size", f"{line.size:.3f}")
    element.set("font-weight", str(line.weight))
    element.set("fill", "#{:02x}{:02x}{:02x}".format(*line.color))
    element.set("textLength", f"{line.width:.3f}")
    element.set("lengthAdjust", "spacingAndGlyphs")
    element.set("{http://www.w3.org/XML/1998/namespace}space", "preserve")
    element.text = clean(line.string)


def _data(pixels: Pixels, stack: LayerStack) -> str:
    file = BytesIO()
    write_flat(file, to_8_bit(pixels), icc=stack.icc, dpi=stack.dpi, suffix=".png")
    return "data:image/png;base64," + b64encode(file.getvalue()).decode()
