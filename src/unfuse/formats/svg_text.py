"""Words of SVG's `<text>` (https://www.w3.org/TR/SVG2/text.html), read: each line with its place and style.

A line is a `<text>`, or a `<tspan>` in it that has a place of its own, as Inkscape writes lines.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from lxml import etree

from unfuse import affine
from unfuse.boxes import IDENTITY, Affine
from unfuse.formats.said import Said, block
from unfuse.layers import Layer
from unfuse.textblock import ALIGNS, Align, TextBlock, aligned
from unfuse.typefaces import WEIGHTS

SVG = "{http://www.w3.org/2000/svg}"
SPACE = "{http://www.w3.org/XML/1998/namespace}space"
ANCHORS: dict[str, Align] = dict(zip(("start", "middle", "end"), ALIGNS, strict=True))
STEP = re.compile(r"(matrix|translate|scale|rotate|skewX|skewY)\s*\(([^)]*)\)")
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
SIZE = 16.0  # pixels, where nothing says how large letters are
Property = Callable[[etree._Element, str], str]


def read(drawing: etree._Element, page: Affine, layer: Layer, own: Property) -> TextBlock | None:
    """What a drawing of nothing but text says; None where letters follow a path. page: what the view box does."""
    texts = list(drawing.iter(f"{SVG}text"))
    if any(True for _ in drawing.iter(f"{SVG}textPath")):
        return None
    lines = [line for text in texts for line in _lines(text, page, own)]
    if not lines:
        return None
    anchor = ANCHORS.get(_inherited(texts[0], "text-anchor", own), "left")
    said = block(lines, anchor, layer)
    return TextBlock(said.lines, aligned(said.lines) or "left") if anchor == "left" else said


def _lines(text: etree._Element, page: Affine, own: Property) -> Iterator[Said]:
    way = page
    for element in [*reversed(list(text.iterancestors())), text]:
        way = affine.then(transform(element.get("transform", "")), way)
    place, string, style = _place(text, (0.0, 0.0)), text.text or "", text
    for span in text:
        if span.tag == f"{SVG}tspan" and (span.get("x") or span.get("y")):
            yield from _line(string, place, style, way, own)
            place, string, style = _place(span, place), "", span
        string += "".join(str(part) for part in span.itertext()) if isinstance(span.tag, str) else ""
        string += span.tail or ""
    yield from _line(string, place, style, way, own)


def _line(string: str, place: tuple[float, float], style: Any, way: Affine, own: Property) -> Iterator[Said]:
    kept = _inherited(style, SPACE, lambda element, key: element.get(key, "")) == "preserve"
    string = re.sub(r"\s", " ", string) if kept else " ".join(string.split())
    said = _numbers(_inherited(style, "font-size", own))
    weight = _inherited(style, "font-weight", own)
    family = _inherited(style, "font-family", own).split(",")[0].strip(" '\"")
    color = _color(_inherited(style, "fill", own))
    if string.strip():
        heavy = int(weight) if weight.isdecimal() else WEIGHTS.get(weight, 400)
        generic = family in ("", "serif", "sans-serif", "monospace")
        yield Said(string, *place, said[0] if said else SIZE, color, heavy, "" if generic else family, way)


def transform(value: str) -> Affine:
    """The attribute `transform` (CSS Transforms Level 1, 8)."""
    whole = IDENTITY
    for name, inside in STEP.findall(value):
        numbers = _numbers(inside)
        x, y = [*numbers, 0.0, 0.0][:2]
        if name == "matrix" and len(numbers) == 6:
            a, b, c, d, e, f = numbers
            step: Affine = (a, c, e, b, d, f)
        elif name == "translate":
            step = affine.shift(x, y)
        elif name == "scale":
            step = (x, 0.0, 0.0, 0.0, numbers[1] if len(numbers) > 1 else x, 0.0)
        elif name == "rotate":
            at = (numbers[1], numbers[2]) if len(numbers) == 3 else (0.0, 0.0)
            step = affine.about(*at, affine.turn(x))
        else:
            slant = math.tan(math.radians(x))
            step = (1.0, slant if name == "skewX" else 0.0, 0.0, slant if name == "skewY" else 0.0, 1.0, 0.0)
        whole = affine.then(step, whole)
    return whole


def _place(element: etree._Element, before: tuple[float, float]) -> tuple[float, float]:
    x, y = (_numbers(element.get(key, "")) for key in "xy")
    return x[0] if x else before[0], y[0] if y else before[1]


def _inherited(element: etree._Element, key: str, own: Property) -> str:
    """A property of an element, or of the nearest one around it that has it."""
    return next((value for each in (element, *element.iterancestors()) if (value := own(each, key))), "")


def _numbers(value: str) -> list[float]:
    return [float(number) for number in NUMBER.findall(value)]


def _color(value: str) -> tuple[int, int, int]:
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(value)[:3]
    except ValueError:  # none, a gradient, or the colour of something else
        return 0, 0, 0
    return red, green, blue
