"""OpenRaster, .ora (https://www.openraster.org, version 0.0.6): what Krita, GIMP, MyPaint and others exchange.

A zip whose first member, stored, says what it is; `stack.xml` says how PNGs in `data/` lie, top layer first. All of our
blend modes but exclusion are in the specification; Krita takes that under its own name. Groups are isolated.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, BinaryIO

from lxml import etree

from unfuse.composite import flatten
from unfuse.errors import FormatError
from unfuse.formats import archive, manifest
from unfuse.formats.foreign import Pictures, at_one_depth, check_canvas, passing, with_background
from unfuse.formats.names import clean
from unfuse.formats.xml import parse
from unfuse.layers import BLEND_MODES, Box, Layer, LayerStack, Pixels, to_8_bit
from unfuse.pixels import quantise, resize, to_float
from unfuse.saving import write_flat

MIMETYPE = b"image/openraster"
THUMBNAIL = 256  # the longest side, by the specification
OPS = {mode: f"svg:{mode}" for mode in BLEND_MODES} | {"normal": "svg:src-over", "exclusion": "krita:exclusion"}
MODES = {op: mode for mode, op in OPS.items()} | {"svg:exclusion": "exclusion"}


def write(stack: LayerStack, file: BinaryIO, suffix: str) -> tuple[str, ...]:
    """Write the stack; PNGs at its depth, at their places, with profile and resolution."""
    root = etree.Element("image", version="0.0.6", w=str(stack.size[0]), h=str(stack.size[1]))
    root.set("xres", str(round(stack.dpi)))
    root.set("yres", str(round(stack.dpi)))
    whole = flatten(stack)
    with zipfile.ZipFile(file, "w") as target:
        archive.add(target, "mimetype", MIMETYPE)
        pictures = list(_elements(etree.SubElement(root, "stack"), stack.layers, "data/"))
        archive.add(target, "stack.xml", etree.tostring(root, xml_declaration=True, encoding="UTF-8"))
        for name, pixels in pictures:
            archive.add(target, name, _png(pixels, stack))
        archive.add(target, "mergedimage.png", _png(whole, stack))
        archive.add(target, "Thumbnails/thumbnail.png", _png(_thumbnail(whole), stack.replace(icc=None)))
    words = [repr(layer.name) for layer in stack.walk() if layer.text]
    return (f"OpenRaster has no text: the words of {', '.join(words)} are only pictures",) if words else ()


def read(file: BinaryIO, *, what: str, max_pixels: int) -> LayerStack:
    """The stack in an OpenRaster file. Raises FormatError for a broken, hostile or too large one."""
    with archive.reading(file, what=what, max_pixels=max_pixels) as member:
        if member("mimetype", 1 << 10).strip() != MIMETYPE:
            raise FormatError(f"{what} is a zip, but not an OpenRaster file: its mimetype is another")
        root = parse(member("stack.xml", manifest.LARGEST_MANIFEST), what=f"'stack.xml' in {what}")
        size = _whole(root, "w", what), _whole(root, "h", what)
        check_canvas(size, what=what, max_pixels=max_pixels)
        reader = _Reader(member, what, Pictures(what, max_pixels))
        layers = at_one_depth(layer for top in root.findall("stack") for layer in reader.layers(top))
        return LayerStack(
            size=size,
            layers=with_background(layers, Box(0, 0, *size)),
            depth=16 if layers and layers[0].depth == 16 else 8,
            icc=reader.pictures.icc,
            dpi=float(dpi) if (dpi := root.get("xres", "")).isdecimal() and 0 < int(dpi) < 100_000 else 72.0,
            notes=tuple(reader.notes),
        )


@dataclass
class _Reader:
    member: manifest.Read
    what: str
    pictures: Pictures
    notes: list[str] = field(default_factory=list)

    def layers(self, parent: etree._Element, deep: int = 0) -> list[Layer]:
        """What is in a <stack>, bottom to top."""
        if deep > 100:
            raise FormatError(f"{self.what} has groups in groups, more than 100 deep")
        layers: list[Layer] = []
        for element in reversed(parent):
            if element.tag == "stack":
                layers += self.group(element, deep)
            elif element.tag == "layer":
                layers.append(self.raster(element))
            elif isinstance(element.tag, str):
                self.notes.append(f"{_name(element)!r} is a {element.tag}, which unfuse does not know: it was left out")
        return layers

    def group(self, element: etree._Element, deep: int) -> list[Layer]:
        name = _name(element)
        if not (inside := self.layers(element, deep + 1)):
            self.notes.append(f"group {name!r} is empty: it was left out")
            return []
        if self.place(element) != (0, 0):
            self.notes.append(f"group {name!r} has an offset, which the specification dropped: it was left out")
        group = Layer.group(name, inside, **self.fields(element))
        isolated = element.get("isolation") == "isolate" or group.opacity < 1 or group.blend_mode != "normal"
        return [group] if isolated else passing(group, self.notes)

    def raster(self, element: etree._Element) -> Layer:
        left, top = self.place(element)
        src = element.get("src", "")
        pixels = self.pictures.read(src, self.member(src, 9 * self.pictures.max_pixels))
        box = Box(left, top, left + pixels.shape[1], top + pixels.shape[0])
        return Layer(_name(element), "object", box, pixels, **self.fields(element))

    def place(self, element: etree._Element) -> tuple[int, int]:
        try:
            left, top = (round(float(element.get(key, "0"))) for key in ("x", "y"))
        except (ValueError, OverflowError) as error:
            raise FormatError(f"{_name(element)!r} in {self.what} has no place: {manifest.short(error)}") from error
        if max(abs(left), abs(top)) > 1 << 30:
            raise FormatError(f"{_name(element)!r} in {self.what} lies at {left}, {top}: that is too far off")
        return left, top

    def fields(self, element: etree._Element) -> dict[str, Any]:
        op = element.get("composite-op", "svg:src-over")
        mode = MODES.get(op) or MODES.get(f"svg:{op.partition(':')[2]}")
        if mode is None:
            self.notes.append(f"{_name(element)!r} has the blend mode {op}: it became normal")
        try:
            opacity = min(1.0, max(0.0, float(element.get("opacity", "1"))))
        except ValueError:
            opacity = 1.0
        return {
            "opacity": opacity if opacity == opacity else 1.0,
            "blend_mode": mode or "normal",
            "visible": element.get("visibility") != "hidden",
            "locked": element.get("edit-locked") == "true",
        }


def _elements(parent: etree._Element, layers: Iterable[Layer], folder: str) -> Iterator[tuple[str, Pixels]]:
    """Put layers into a <stack>, and say each PNG that they need."""
    for index, layer in enumerate(reversed(tuple(layers))):
        element = etree.SubElement(parent, "stack" if layer.pixels is None else "layer", name=clean(layer.name))
        element.set("opacity", str(layer.opacity))
        element.set("visibility", "visible" if layer.visible else "hidden")
        element.set("composite-op", OPS[layer.blend_mode])
        if layer.locked:
            element.set("edit-locked", "true")
        if layer.pixels is None:
            element.set("isolation", "isolate")
            yield from _elements(element, layer.layers, f"{folder}{index:03}/")
        else:
            src = f"{folder}{index:03}.png"
            for key, value in (("x", str(layer.box.left)), ("y", str(layer.box.top)), ("src", src)):
                element.set(key, value)
            yield src, layer.pixels


def _thumbnail(whole: Pixels) -> Pixels:
    height, width = whole.shape[:2]
    scale = min(1, THUMBNAIL / max(width, height))
    return quantise(resize(to_float(to_8_bit(whole)), (max(1, round(width * scale)), max(1, round(height * scale)))), 8)


def _png(pixels: Pixels, stack: LayerStack) -> bytes:
    file = BytesIO()
    write_flat(file, pixels, icc=stack.icc, dpi=stack.dpi, suffix=".png")
    return file.getvalue()


def _name(element: etree._Element) -> str:
    name = element.get("name", "")
    return name if name.strip() else "Layer"


def _whole(root: etree._Element, key: str, what: str) -> int:
    value = root.get(key, "")
    if root.tag != "image" or not value.isdecimal() or len(value) > 9:
        raise FormatError(f"'stack.xml' in {what} does not say how large the picture is: {key} is {value!r}")
    return int(value)
