"""PowerPoint: one slide in the picture's proportions, each layer a cropped picture at its place (ECMA-376).

A slide has opacity but no blend modes, and no opacity of groups. What cannot be said is baked so that the slide looks
as the stack does: a layer with a blend mode is merged with all below it in its group, and a group with opacity becomes
one picture; everything else stays a picture of its own. Hidden layers are there, hidden, save in what is baked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO

from pptx import Presentation
from pptx.oxml.ns import qn
from pptx.util import Emu

from unfuse.composite import flatten
from unfuse.errors import FormatError
from unfuse.formats import pptx_text
from unfuse.formats.live import Text, check, live
from unfuse.formats.names import clean
from unfuse.formats.pptx_reader import PIXEL, read
from unfuse.layers import Layer, LayerStack, to_8_bit
from unfuse.saving import write_flat

__all__ = ["read", "write"]

SHORTEST, LONGEST = 914_400, 51_206_400  # a slide's side: 1 to 56 inches
LARGEST_PICTURE = 80_000_000  # pixels; python-pptx opens pictures with Pillow, which warns of bombs above 89 million
BLANK = 6  # the default template's layout without placeholders


def write(stack: LayerStack, file: BinaryIO, suffix: str, text: Text = "picture") -> tuple[str, ...]:
    """Write the stack as a presentation of one slide, at 96 pixels an inch where that gives a slide PowerPoint takes.

    Larger pictures are scaled down and smaller ones up; one longer than 56 times its height keeps its shape on a slide
    that is one inch high. With `text="live"` layers that say something become text boxes; by default they are pictures,
    because a slide must look the same on machines that lack the font.
    """
    check(text)
    unit = _unit(stack.size)
    presentation = Presentation()
    presentation.slide_width, presentation.slide_height = (Emu(max(SHORTEST, round(x * unit))) for x in stack.size)
    presentation.core_properties.author = presentation.core_properties.last_modified_by = "unfuse"
    slide = presentation.slides.add_slide(presentation.slide_layouts[BLANK])
    notes: list[str] = []
    _add(slide.shapes, _expressible(stack.layers, stack, notes), stack, unit, Lively(text, notes))
    presentation.save(file)
    return (*notes, *(("PowerPoint has 8 bits a channel: 16 were rounded",) if stack.depth == 16 else ()))


def _unit(size: tuple[int, int]) -> float:
    """EMU a pixel."""
    if max(size) * PIXEL > LONGEST:
        return LONGEST / max(size)
    return max(PIXEL, min(SHORTEST / min(size), LONGEST / max(size)))


def _expressible(layers: Iterable[Layer], stack: LayerStack, notes: list[str]) -> Iterator[Layer]:
    """Layers, bottom to top, that look the same with every blend mode normal and every group's opacity 1."""
    siblings = list(layers)
    blended = [index for index, layer in enumerate(siblings) if layer.visible and layer.blend_mode != "normal"]
    top = blended[-1] + 1 if blended else 0
    if merged := [layer for layer in siblings[:top] if layer.visible]:
        name = " + ".join(layer.name for layer in merged)
        notes.append(f"PowerPoint has no blend modes: {name!r} became one picture")
        yield Layer.from_canvas(name, "object", flatten(stack.replace(layers=tuple(merged))))
    for layer in (*(layer for layer in siblings[:top] if not layer.visible), *siblings[top:]):
        if layer.pixels is not None:
            yield layer
        elif layer.opacity < 1:
            notes.append(f"PowerPoint has no opacity of groups: {layer.name!r} became one picture")
            baked = Layer.from_canvas(layer.name, "object", layer.to_canvas(stack.size))
            yield baked.replace(opacity=layer.opacity, visible=layer.visible, locked=layer.locked)
        else:
            yield layer.replace(layers=tuple(_expressible(layer.layers, stack, notes)))


@dataclass(frozen=True)
class Lively:
    """Whether texts are text boxes, and where to say why one is not."""

    text: Text
    notes: list[str]


def _add(shapes: Any, layers: Iterable[Layer], stack: LayerStack, unit: float, lively: Lively) -> None:
    """Put layers on a slide or into a group shape, bottom to top as PowerPoint stacks shapes."""
    for layer in layers:
        if layer.pixels is None:
            shape = shapes.add_group_shape()
            _add(shape.shapes, layer.layers, stack, unit, lively)
            made = [(shape, shape._element.nvGrpSpPr.cNvPr)]
        elif text := live(layer, lively.text, lively.notes):
            made = [(box, box._element.nvSpPr.cNvPr) for box in pptx_text.boxes(shapes, text, unit, layer.opacity)]
        else:
            shape = _picture(shapes, layer, stack, unit)
            made = [(shape, shape._element.nvPicPr.cNvPr)]
        for shape, properties in made:
            shape.name = clean(layer.name)
            properties.set("descr", clean(layer.name))
            if not layer.visible:
                properties.set("hidden", "1")


def _picture(shapes: Any, layer: Layer, stack: LayerStack, unit: float) -> Any:
    assert layer.pixels is not None
    if (area := layer.pixels.shape[0] * layer.pixels.shape[1]) > LARGEST_PICTURE:
        raise FormatError(
            f"layer {layer.name!r} has {area:,} pixels, a picture on a slide has at most {LARGEST_PICTURE:,}: "
            "write .psd or .zip"
        )
    file = BytesIO()
    write_flat(file, to_8_bit(layer.pixels), icc=stack.icc, dpi=stack.dpi, suffix=".png")
    left, top, right, bottom = (round(x * unit) for x in layer.box)  # edges, so that neighbours still touch
    picture = shapes.add_picture(file, Emu(left), Emu(top), Emu(right - left), Emu(bottom - top))
    if layer.opacity < 1:
        blip = picture._element.blipFill.find(qn("a:blip"))
        blip.append(blip.makeelement(qn("a:alphaModFix"), {"amt": str(round(layer.opacity * 100_000))}))
    if layer.locked:
        locks = picture._element.find(f".//{qn('a:picLocks')}")
        for what in ("noMove", "noResize", "noRot"):
            locks.set(what, "1")
    return picture
