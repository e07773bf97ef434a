"""Reading SVG: each layer as Inkscape has them, and each group or run of shapes beside them, becomes a layer.

A layer that is one picture at its own size, as we write it, comes back to the bit. Everything else is drawn by resvg,
which reads nothing but what it is given: links to other files are taken out first, and pictures inside the file are
looked up before they are decoded. Groups of layers stay groups.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes

from lxml import etree

from unfuse import typefaces
from unfuse.boxes import Affine
from unfuse.errors import FormatError, require
from unfuse.formats import svg_text
from unfuse.formats.foreign import Pictures, at_one_depth, check_canvas, passing, with_background
from unfuse.formats.manifest import short
from unfuse.formats.xml import parse
from unfuse.layers import BLEND_MODES, Box, Layer, LayerStack
from unfuse.pixels import quantise
from unfuse.pixels import read as read_picture

NAMESPACES = {
    "svg": "http://www.w3.org/2000/svg",
    "xlink": "http://www.w3.org/1999/xlink",
    "inkscape": "http://www.inkscape.org/namespaces/inkscape",
    "sodipodi": "http://sodipodi.sourceforge.net/DTD/sodipodi-0.dtd",
}
SVG, XLINK, INKSCAPE, SODIPODI = (f"{{{space}}}" for space in NAMESPACES.values())
HREF = f"{XLINK}href"
SHAPES = {
    "path",
    "rect",
    "circle",
    "ellipse",
    "line",
    "polyline",
    "polygon",
    "text",
    "image",
    "use",
    "switch",
    "a",
    "svg",
}
UNDRAWN = {"foreignObject", "flowRoot"}
WHOLE = ("filter", "mask", "clip-path")  # a group that has one of these is one layer, with all in it
LAID = ("opacity", "mix-blend-mode", "isolation", "display", "visibility")  # the layer has these, not its pixels
UNITS = {"": 1.0, "px": 1.0, "pt": 96 / 72, "pc": 16.0, "in": 96.0, "cm": 96 / 2.54, "mm": 96 / 25.4, "q": 96 / 101.6}
LENGTH = re.compile(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(px|pt|pc|in|cm|mm|[qQ])?\s*")
MOST_LAYERS = 1000


def read(file: BinaryIO, *, what: str, max_pixels: int) -> LayerStack:
    """The layers of an SVG, at 96 pixels an inch. Raises FormatError for a broken, hostile or too large one, and
    MissingExtra where something has to be drawn and resvg is not installed.
    """
    root = parse(file.read(), what=what)
    if root.tag != f"{SVG}svg":
        raise FormatError(f"{what} is XML, but not an SVG: it begins with {short(root.tag)}")
    size = _canvas(root, what)
    check_canvas(size, what=what, max_pixels=max_pixels)
    reader = _Reader(root, what, size, Pictures(what, max_pixels))
    reader.take_out_links()
    plans = reader.plans(_outermost(root))
    layers = at_one_depth(layer for plan in plans for layer in reader.made(plan))
    return LayerStack(
        size=size,
        layers=with_background(layers, Box(0, 0, *size)),
        depth=16 if layers and layers[0].depth == 16 else 8,
        icc=reader.pictures.icc if not reader.drawn else None,
        dpi=96.0,
        notes=(*reader.notes, *([f"drawings came in as pixels: {', '.join(reader.drawn)}"] if reader.drawn else [])),
    )


@dataclass
class _Plan:
    """A layer to be: a group of others, one picture, or elements to draw, which lie in a <defs> of their own."""

    name: str
    fields: dict[str, Any]
    inside: list[_Plan] = field(default_factory=list)
    isolated: bool = True
    picture: tuple[Box, Any] | None = None
    drawing: etree._Element | None = None


@dataclass
class _Reader:
    root: etree._Element
    what: str
    size: tuple[int, int]
    pictures: Pictures
    notes: list[str] = field(default_factory=list)
    drawn: list[str] = field(default_factory=list)

    def take_out_links(self) -> None:
        """Nothing but what is in the file itself may be looked at, and no picture larger than a stack may be."""
        for element in self.root.iter(etree.Element):
            if _tag(element) in UNDRAWN:
                self.notes.append(f"{_name(element)!r} is a {_tag(element)}, which cannot be drawn: it was left out")
            for key in (HREF, "href"):
                link = element.get(key, "").strip()
                if not link or link.startswith("#") or _tag(element) == "a":
                    continue
                if (data := _embedded(link)) is None:
                    self.notes.append(f"{_name(element)!r} is a link to {short(link)[:80]!r}: it was left out")
                    del element.attrib[key]
                else:
                    self.pictures.check(_name(element), data)

    def plans(self, parent: etree._Element) -> list[_Plan]:
        """What to make of an element's children, bottom to top; shapes side by side are one layer.

        Nothing of them shows any longer, so that one can be drawn at a time, and still all can be referred to.
        """
        plans: list[_Plan] = []
        for elements in list(_runs(parent)):
            first = elements[0]
            name = _name(first) if len(elements) == 1 else f"{len(elements)} shapes"
            plan = _Plan(name, self.fields(first) if len(elements) == 1 else {})
            plan.isolated = _property(first, "isolation") == "isolate"
            plan.picture = self.picture(elements)
            if len(elements) == 1:
                _lay_plainly(first)
            if len(elements) == 1 and _is_group_of_layers(first):
                plan.inside = self.plans(first)
            else:
                plan.drawing = etree.Element(f"{SVG}defs")
                first.addprevious(plan.drawing)
                plan.drawing.extend(elements)
            plans.append(plan)
        if len(plans) > MOST_LAYERS:
            raise FormatError(f"{self.what} has {len(plans)} layers, the limit is {MOST_LAYERS}")
        return plans

    def made(self, plan: _Plan) -> list[Layer]:
        """The layer of a plan; none where nothing shows, several where a group was taken apart."""
        if plan.picture:
            return [Layer(plan.name, "object", *plan.picture, **plan.fields)]
        if plan.drawing is None:
            inside = [layer for inner in plan.inside for layer in self.made(inner)]
            group = [Layer.group(plan.name, inside, **plan.fields)] if inside else []
            passes = not plan.isolated and plan.fields["opacity"] == 1 and plan.fields["blend_mode"] == "normal"
            return [layer for each in group for layer in (passing(each, self.notes) if passes else [each])]
        tags = SHAPES & {_tag(element) for element in plan.drawing.iter(etree.Element)}
        if not tags:
            return []
        layer = Layer.from_canvas(plan.name, "object", self.draw(plan), **plan.fields)
        if layer.is_empty:
            self.notes.append(f"{plan.name!r} shows nothing on the canvas: it was left out")
            return []
        said = svg_text.read(plan.drawing, self.page(), layer, _property) if tags == {"text"} else None
        words = " as text" if said else " with text" * ("text" in tags)
        self.drawn.append(f"{plan.name!r}{words}")
        return [layer.replace(kind="text", text=said) if tags == {"text"} else layer]

    def page(self) -> Affine:
        """What the view box, stretched over the canvas, does to units of the drawing."""
        width, height = self.size
        view = _view(self.root)
        x, y, wide, high = view if len(view) == 4 and min(view[2:]) > 0 else (0.0, 0.0, float(width), float(height))
        return width / wide, 0.0, -x * width / wide, 0.0, height / high, -y * height / high

    def picture(self, elements: list[etree._Element]) -> tuple[Box, Any] | None:
        """Place and pixels, where a layer is nothing but one picture in its own size and place."""
        element = elements[0]
        shown = [child for child in element if isinstance(child.tag, str) and _tag(child) != "title"]
        if not _is_layer(element) or [_tag(child) for child in shown] != ["image"]:
            return None
        (image,) = shown
        box = self.root.get("viewBox", "").replace(",", " ").split()
        plain = {"x", "y", "width", "height", "preserveAspectRatio", "id", HREF, "href"}
        path = [element, *element.iterancestors()]
        if set(image.attrib) - plain or box not in ([], ["0", "0", *(str(side) for side in self.size)]):
            return None
        if any(_property(each, key) for each in path for key in (*WHOLE, "transform")):
            return None
        data = _embedded(image.get(HREF) or image.get("href") or "")
        try:
            left, top, width, height = (int(image.get(key, "0")) for key in ("x", "y", "width", "height"))
        except ValueError:
            return None
        if data is None or self.pictures.check(plan_name := _name(element), data) != (width, height):
            return None
        return Box(left, top, left + width, top + height), self.pictures.read(plan_name, data)

    def draw(self, plan: _Plan) -> Any:
        """`h w 4` uint8 of one drawing alone on the canvas, by resvg."""
        resvg = require("resvg_py", "svg", f"{self.what} holds drawings, and reading it")
        drawing, canvas = plan.drawing, self.root
        assert drawing is not None
        width, height = (str(side) for side in self.size)
        view = {"viewBox": canvas.get("viewBox") or f"0 0 {width} {height}", "preserveAspectRatio": "none"}
        for key, value in ({"width": width, "height": height} | view).items():
            canvas.set(key, value)
        drawing.tag = f"{SVG}g"
        text = any(True for _ in drawing.iter(f"{SVG}text", f"{SVG}use"))
        try:
            spare = typefaces.bundled()  # where no font is installed, words would not show at all
            png = resvg.svg_to_bytes(
                etree.tostring(canvas, encoding="unicode"),
                skip_system_fonts=not text,
                font_files=[spare.path] if text else None,
                font_family=spare.family,
                sans_serif_family=spare.family,
            )
        except Exception as error:  # whatever resvg raises where an SVG is broken
            raise FormatError(f"{plan.name!r} in {self.what} cannot be drawn: {short(error)}") from error
        drawing.tag = f"{SVG}defs"
        return quantise(read_picture(bytes(png), limit_megapixels=1e9).pixels, 8)

    def fields(self, element: etree._Element) -> dict[str, Any]:
        """What a layer has beside its pixels."""
        mode = _property(element, "mix-blend-mode") or "normal"
        if mode not in BLEND_MODES:
            self.notes.append(f"{_name(element)!r} has the blend mode {short(mode)}: it became normal")
        said = _property(element, "opacity") or "1"
        try:
            opacity = float(said.removesuffix("%")) / (100 if said.endswith("%") else 1)
        except ValueError:
            opacity = 1.0
        return {
            "opacity": min(1.0, max(0.0, opacity)) if opacity == opacity else 1.0,
            "blend_mode": mode if mode in BLEND_MODES else "normal",
            "visible": _property(element, "display") != "none" and _property(element, "visibility") != "hidden",
            "locked": element.get(f"{SODIPODI}insensitive") == "true",
        }


def _outermost(root: etree._Element) -> etree._Element:
    """Where the layers are: in the root, or in the one plain group that holds everything in it."""
    parent = root
    while True:
        runs = list(_runs(parent))
        group = runs[0][0] if len(runs) == 1 and _tag(runs[0][0]) == "g" else None
        if group is None or len(list(_runs(group))) < 2 or any(_property(group, key) for key in (*WHOLE, *LAID[:2])):
            return parent
        if _property(group, "display") == "none":
            return parent
        parent = group


def _runs(parent: etree._Element) -> Iterator[list[etree._Element]]:
    """The children that show something: each group alone, shapes that follow each other together."""
    run: list[etree._Element] = []
    for child in parent:
        if _tag(child) in SHAPES:
            run.append(child)
        elif _tag(child) == "g":
            if run:
                yield run
            yield [child]
            run = []
    if run:
        yield run


def _is_layer(element: etree._Element) -> bool:
    return element.get(f"{INKSCAPE}groupmode") == "layer"


def _is_group_of_layers(element: etree._Element) -> bool:
    return any(_is_layer(child) for child in element) and not any(_property(element, key) for key in WHOLE)


def _property(element: etree._Element, key: str) -> str:
    """A CSS property from the style or the attribute of its name; "" where there is none."""
    for part in element.get("style", "").split(";"):
        name, _, value = part.partition(":")
        if name.strip() == key:
            return value.strip()
    return element.get(key, "").strip()


def _lay_plainly(element: etree._Element) -> None:
    """Take from an element what the layer has beside its pixels."""
    for key in LAID:
        element.attrib.pop(key, "")
    parts = [part for part in element.get("style", "").split(";") if part.partition(":")[0].strip() not in LAID]
    element.set("style", ";".join(parts))


def _tag(element: etree._Element) -> str:
    """The name of an SVG element; "" of comments and what belongs to others."""
    return element.tag.removeprefix(SVG) if isinstance(element.tag, str) and element.tag.startswith(SVG) else ""


def _name(element: etree._Element) -> str:
    title = element.findtext(f"{SVG}title") or ""
    for name in (element.get(f"{INKSCAPE}label", ""), title, element.get("id", ""), _tag(element)):
        if name.strip():
            return name
    return "Layer"


def _embedded(link: str) -> bytes | None:
    """The bytes of a picture in a data: link (RFC 2397); None for every other link, and for SVG in SVG."""
    head, comma, body = link.partition(",")
    if not comma or not head.startswith("data:image/") or head.startswith("data:image/svg"):
        return None
    try:
        return b64decode(unquote_to_bytes(body)) if head.endswith(";base64") else unquote_to_bytes(body)
    except Base64Error:
        return None


def _view(root: etree._Element) -> list[float]:
    """The numbers of the view box."""
    return [float(x) for x in re.findall(r"-?[0-9.]+(?:e-?[0-9]+)?", root.get("viewBox", "")) if x.count(".") < 2]


def _canvas(root: etree._Element, what: str) -> tuple[int, int]:
    """Width and height in pixels, 96 an inch; by the view box where the file does not say."""
    view = _view(root)
    sides = []
    for index, key in enumerate(("width", "height")):
        if match := LENGTH.fullmatch(root.get(key, "")):
            sides.append(float(match[1]) * UNITS[(match[2] or "").lower()])
        elif len(view) == 4:
            sides.append(view[2 + index])
        else:
            raise FormatError(f"{what} does not say how large it is: give the <svg> a width and a height in pixels")
    if not all(0 < side < 1e7 for side in sides):
        raise FormatError(f"{what} is {sides[0]:g} x {sides[1]:g} pixels: it must be larger than 0 and less than 1e7")
    return max(1, round(sides[0])), max(1, round(sides[1]))
