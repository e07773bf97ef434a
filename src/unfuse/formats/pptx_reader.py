"""Reading PowerPoint: the pictures and text boxes of one slide become layers, groups stay groups.

Pictures keep all their pixels: the layer shows them at the slide's size, cropped, turned and flipped as they are there,
and `reset` gives them back. Text is set anew in the closest typeface that is there, and stays text. Charts, tables,
drawn shapes and whatever else is on the slide are left out, each with a note.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from pptx import Presentation
from pptx.enum.text import MSO_ANCHOR, PP_ALIGN
from pptx.oxml.ns import qn

from unfuse import affine, typefaces, typeset
from unfuse.boxes import IDENTITY, Affine, Box
from unfuse.errors import FormatError, StackError
from unfuse.formats import archive
from unfuse.formats.foreign import Pictures, at_one_depth, check_canvas, with_background
from unfuse.formats.manifest import LAYERS_TO_CANVAS, short
from unfuse.layers import Layer, LayerStack
from unfuse.render import transformed
from unfuse.textblock import Align, Quad, TextBlock, TextLine

PIXEL = 9525  # English Metric Units of a pixel, at 96 an inch
POINT = 12_700
FINEST = 4  # how many times 96 pixels an inch a canvas has at most
COVERS = 0.25  # of the slide: how large a picture must be for its pixels to say how fine the canvas is
SIZE = 18.0  # points, where nothing says how large letters are
ALIGNS: dict[Any, Align] = {PP_ALIGN.CENTER: "center", PP_ALIGN.RIGHT: "right"}


def read(file: BinaryIO, *, what: str, max_pixels: int, slide: int | None = None) -> LayerStack:
    """The layers of a slide, by number from 1; of several, the first unless one is chosen. Raises FormatError."""
    data = file.read()
    with archive.reading(BytesIO(data), what=what, max_pixels=max_pixels) as member:
        member("[Content_Types].xml", 1 << 24)
    try:
        presentation = Presentation(BytesIO(data))
        slides = list(presentation.slides)
        number = _number(slide, len(slides), what)
        size = int(presentation.slide_width or 0), int(presentation.slide_height or 0)
        ours = presentation.core_properties.author == "unfuse"
        reader = _Reader(what, Pictures(what, max_pixels), max_pixels, ours)
        if len(slides) > 1 and slide is None:
            reader.notes.append(
                f"it has {len(slides)} slides: the first was read; say which with slide, 1 to {len(slides)}"
            )
        return reader.stack(slides[number - 1], size)
    except FormatError:
        raise
    except Exception as error:  # python-pptx fails in its own way at each place where a file may be broken
        why = short(f"{type(error).__name__} {error}")
        raise FormatError(f"{what} is not a presentation, or is broken ({why}): save it again") from error


def _number(slide: int | None, count: int, what: str) -> int:
    if count == 0:
        raise FormatError(f"{what} has no slides")
    if slide is not None and not 1 <= slide <= count:
        raise FormatError(f"slide is {slide}: {what} has slides 1 to {count}")
    return slide or 1


@dataclass
class _Reader:
    what: str
    pictures: Pictures
    max_pixels: int
    ours: bool
    unit: float = 1 / PIXEL  # pixels of an EMU
    shown: float = 0.0  # pixels of all layers so far
    notes: list[str] = field(default_factory=list)

    def stack(self, slide: Any, size: tuple[int, int]) -> LayerStack:
        self.unit = self.finest(slide.shapes, size)
        width, height = (max(1, round(side * self.unit)) for side in size)
        check_canvas((width, height), what=self.what, max_pixels=self.max_pixels)
        if slide._element.cSld.find(qn("p:bg")) is not None:
            self.notes.append("the slide's background was left out: it is not a picture on the slide")
        layers = at_one_depth(self.layers(slide.shapes, IDENTITY))
        return LayerStack(
            size=(width, height),
            layers=with_background(layers, Box(0, 0, width, height)),
            depth=16 if layers and layers[0].depth == 16 else 8,
            icc=self.pictures.icc,
            dpi=self.unit * 914_400,
            notes=tuple(self.notes),
        )

    def finest(self, shapes: Any, size: tuple[int, int]) -> float:
        """Pixels of an EMU: as fine as the finest large picture, from 96 an inch on; of ours, as the widest one has."""
        units = [(0, 1 / PIXEL)]
        for shape in shapes:
            if (picture := _image(shape)) and (self.ours or shape.width * shape.height >= COVERS * size[0] * size[1]):
                wide, _ = self.pictures.check(shape.name, picture.blob)
                units.append((shape.width, wide * (1 - shape.crop_left - shape.crop_right) / shape.width))
        finest = max(units)[1] if self.ours else min(max(unit for _, unit in units), FINEST / PIXEL)
        return finest if size[0] * size[1] * finest**2 <= self.max_pixels else 1 / PIXEL

    def layers(self, shapes: Any, outer: Affine) -> list[Layer]:
        """What is on a slide or in a group, bottom to top; `outer` takes its EMU to the slide's."""
        layers: list[Layer] = []
        for shape in shapes:
            name = shape.name if shape.name.strip() else "Layer"
            properties = shape._element.find(f".//{qn('p:cNvPr')}")
            fields = {"visible": properties is None or properties.get("hidden") != "1"}
            if hasattr(shape, "shapes"):
                inside = self.layers(shape.shapes, affine.then(_inner(shape), outer))
                layers += [Layer.group(name, inside, **fields)] if inside else []
            elif image := _image(shape):
                layers += self.picture(name, shape, image, outer, fields)
            elif shape.has_text_frame and shape.text_frame.text.strip():
                layers += self.text(name, shape, outer, fields)
            elif not shape.is_placeholder:
                kind = str(shape.shape_type).partition(" ")[0].lower().replace("_", " ")
                self.notes.append(f"{name!r} ({kind}) was left out: only pictures and text are read")
        return layers

    def picture(self, name: str, shape: Any, image: Any, outer: Affine, fields: dict[str, Any]) -> list[Layer]:
        try:
            pixels = self.pictures.read(name, image.blob)
        except FormatError as error:
            if self.pictures.taken * 2 > self.max_pixels * LAYERS_TO_CANVAS:
                raise
            self.notes.append(f"{name!r} was left out: {error}")
            return []
        height, width = pixels.shape[:2]
        left, top = max(0, round(shape.crop_left * width)), max(0, round(shape.crop_top * height))
        right, bottom = (
            width - max(0, round(shape.crop_right * width)),
            height - max(0, round(shape.crop_bottom * height)),
        )
        if left >= right or top >= bottom:
            self.notes.append(f"{name!r} is cropped to nothing: it was left out")
            return []
        cropped: Any = np.ascontiguousarray(pixels[top:bottom, left:right])
        blip = shape._element.find(f".//{qn('a:blip')}")
        for effect in blip if blip is not None else ():
            if effect.tag == qn("a:alphaModFix"):
                fields["opacity"] = min(1.0, max(0.0, int(effect.get("amt", "100000")) / 100_000))
            elif effect.tag != qn("a:extLst"):
                self.notes.append(f"{name!r} has the effect {effect.tag.rpartition('}')[2]}: it was left out")
        locks = shape._element.find(f".//{qn('a:picLocks')}")
        fields["locked"] = locks is not None and locks.get("noMove") == "1"
        return self.placed(Layer(name, "object", Box(0, 0, *cropped.shape[1::-1]), cropped, **fields), shape, outer)

    def text(self, name: str, shape: Any, outer: Affine, fields: dict[str, Any]) -> list[Layer]:
        """A text box: set at the size of its canvas, then turned as it is there."""
        scale = self.unit * (abs(outer[0]) or 1)
        try:
            block, face = _set(shape, scale)
        except (StackError, OSError) as error:
            self.notes.append(f"the text of {name!r} cannot be set: {error}")
            return []
        lines, weight, colour = block
        box, ink = typeset.draw(lines, face, weight)
        pixels = np.zeros((*ink.shape, 4), np.uint8)
        pixels[..., :3] = colour
        pixels[..., 3] = ink * 255 + 0.5
        said = tuple(_line(line, colour, weight, face.family) for line in lines)
        align = ALIGNS.get(shape.text_frame.paragraphs[0].alignment, "left")
        self.notes.append(f"the text of {name!r} was set anew in {face.family}: it may look different")
        layer = Layer(name, "text", box, pixels, text=TextBlock(said, align), **fields)
        centre = shape.width * scale / 2, shape.height * scale / 2
        x, y = _apply(outer, shape.left, shape.top)
        turned = affine.about(*centre, affine.turn(shape.rotation or 0.0))
        return [transformed(layer, affine.then(turned, affine.shift(x * self.unit, y * self.unit)))]

    def placed(self, layer: Layer, shape: Any, outer: Affine) -> list[Layer]:
        """A picture where the slide shows it; to the bit where that is its own size."""
        width, height = layer.box.size
        flip = shape._element.find(f".//{qn('a:xfrm')}")
        signs = [-1.0 if flip is not None and flip.get(key) == "1" else 1.0 for key in ("flipH", "flipV")]
        there = (shape.width / width, 0.0, shape.left, 0.0, shape.height / height, shape.top)
        centre = shape.left + shape.width / 2, shape.top + shape.height / 2
        for linear in ((signs[0], 0.0, 0.0, signs[1]), affine.turn(shape.rotation or 0.0)):
            there = affine.then(there, affine.about(*centre, linear))
        there = affine.then(affine.then(there, outer), (self.unit, 0.0, 0.0, 0.0, self.unit, 0.0))
        corners = affine.bounds(layer.box, there)
        self.shown += max(1.0, corners.size[0]) * max(1.0, corners.size[1])
        if self.shown > (limit := LAYERS_TO_CANVAS * self.max_pixels):
            raise FormatError(f"{self.what} shows more than {limit:,} pixels in all layers, the limit")
        if placed := affine.place(layer.pixels, layer.box, there) if layer.pixels is not None else None:
            return [layer.replace(box=placed[0], pixels=placed[1])]
        if min(corners.size) < 1e-6:
            self.notes.append(f"{layer.name!r} has no width or no height: it was left out")
            return []
        return [transformed(layer, there)]


def _image(shape: Any) -> Any:
    """The embedded picture of a shape, or None."""
    try:
        return shape.image if hasattr(shape, "crop_left") and shape.width and shape.height else None
    except (ValueError, KeyError, AttributeError):  # linked, or an empty placeholder
        return None


def _inner(group: Any) -> Affine:
    """What takes places in a group to where the group lies (ECMA-376 Part 1, 20.1.7.5)."""
    frame = group._element.grpSpPr.find(qn("a:xfrm"))
    if frame is None or frame.find(qn("a:chExt")) is None:
        return IDENTITY
    at, size = (
        [int(frame.find(qn(f"a:{tag}")).get(key)) for key in keys]
        for tag, keys in (("off", "xy"), ("ext", ("cx", "cy")))
    )
    inner, extent = (
        [int(frame.find(qn(f"a:{tag}")).get(key)) for key in keys]
        for tag, keys in (("chOff", "xy"), ("chExt", ("cx", "cy")))
    )
    x, y = (outside / inside if inside else 1.0 for outside, inside in zip(size, extent, strict=True))
    return x, 0.0, at[0] - x * inner[0], 0.0, y, at[1] - y * inner[1]


def _apply(transform: Affine, x: float, y: float) -> tuple[float, float]:
    a, b, c, d, e, f = transform
    return a * x + b * y + c, d * x + e * y + f


def _set(
    shape: Any, scale: float
) -> tuple[tuple[list[typeset.SetLine], int, tuple[int, int, int]], typefaces.Typeface]:
    """The lines of a text box within it, at its own place, and what they are set in."""
    frame = shape.text_frame
    text = frame.text.replace("\v", "\n").strip("\n")
    runs = [run for paragraph in frame.paragraphs for run in paragraph.runs if run.text.strip()]
    font = runs[0].font if runs else frame.paragraphs[0].font
    weight = 700 if font.bold else 400
    colour = tuple(font.color.rgb) if font.color and font.color.type is not None and font.color.type == 1 else (0, 0, 0)
    typefaces.check_shaping(text)
    face = typefaces.nearest_to(font.name or "", weight, text)
    size = (font.size.pt if font.size else SIZE) * POINT * scale
    align = ALIGNS.get(frame.paragraphs[0].alignment, "left")
    style = typeset.Style(face, weight, size, align=align)
    left, top = (float(inset) * scale for inset in (frame.margin_left, frame.margin_top))
    right, bottom = shape.width * scale - frame.margin_right * scale, shape.height * scale - frame.margin_bottom * scale
    lines = text.split("\n")
    if frame.word_wrap is not False and right > left:
        lines = typeset.broken(text, typeset.measure(face, weight), (right - left) / size)
    widest = max(typeset.measure(face, weight)(line) for line in lines) * size
    high = ((len(lines) - 1) * style.pitch + 0.75) * size
    middles = {MSO_ANCHOR.MIDDLE: (top + bottom) / 2, MSO_ANCHOR.BOTTOM: bottom - 0.25 * size - high / 2}
    middle = middles.get(frame.vertical_anchor, top + 0.25 * size + high / 2)
    place = typeset.Place(left, max(right, left + widest), 2 * high + size, middle)
    return (typeset.fit("\n".join(lines), style, place), weight, (colour[0], colour[1], colour[2])), face


def _line(line: typeset.SetLine, colour: tuple[int, int, int], weight: int, family: str) -> TextLine:
    left, top, right, bottom = line.ink
    quad: Quad = ((left, top), (right, top), (right, bottom), (left, bottom))
    baseline = (line.y - top) / max(bottom - top, 1e-6)
    return TextLine(line.string, quad, line.size, colour, baseline, weight, family)
