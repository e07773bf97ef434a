"""Text boxes of a slide: one a paragraph, turned as the text is, without insets, each line where it was."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from lxml import etree
from pptx.dml.color import RGBColor
from pptx.enum.text import MSO_ANCHOR, PP_ALIGN
from pptx.oxml.ns import qn
from pptx.util import Emu, Pt

from unfuse.textblock import TextBlock, TextLine

POINT = 12_700  # EMU
ALIGN = {"left": PP_ALIGN.LEFT, "center": PP_ALIGN.CENTER, "right": PP_ALIGN.RIGHT}
ABOVE = 0.8  # of a line's height, that PowerPoint puts above the baseline
UNKNOWN = "Arial"  # where the family is not known
BOLD = 600


def boxes(shapes: Any, text: TextBlock, unit: float, opacity: float) -> Iterator[Any]:
    """Put a text on a slide; unit: EMU a pixel."""
    for paragraph in text.paragraphs:
        yield _box(shapes, paragraph, unit, opacity)


def _box(shapes: Any, text: TextBlock, unit: float, opacity: float) -> Any:
    """One text box; its lines do not wrap, so that a font of other widths moves no line."""
    angle = text.lines[0].angle
    level = _turned(text, -angle)
    left, _, right, _ = level.bounds
    pitch = _pitch(level.lines)
    top = level.lines[0].origin[1] - ABOVE * pitch
    height = pitch * len(level.lines)
    x, y = _turn(((left + right) / 2, top + height / 2), angle)
    box = shapes.add_textbox(
        *(Emu(round(v * unit)) for v in (x - (right - left) / 2, y - height / 2, right - left, height))
    )
    box.rotation = angle % 360
    frame = box.text_frame
    frame.margin_left = frame.margin_top = frame.margin_right = frame.margin_bottom = 0
    frame.word_wrap, frame.vertical_anchor = False, MSO_ANCHOR.TOP
    for number, line in enumerate(level.lines):
        paragraph = frame.paragraphs[0] if number == 0 else frame.add_paragraph()
        paragraph.alignment, paragraph.line_spacing = ALIGN[text.align], Pt(pitch * unit / POINT)
        _run(paragraph, line, unit, opacity)
    return box


def _run(paragraph: Any, line: TextLine, unit: float, opacity: float) -> None:
    run = paragraph.add_run()
    run.text = line.string
    run.font.size = Pt(max(1, line.size * unit / POINT))
    run.font.bold, run.font.name = line.weight >= BOLD, line.font or UNKNOWN
    rgb: Any = RGBColor  # has no types
    run.font.color.rgb = rgb(*line.color)
    for script in ("a:ea", "a:cs"):  # the family of Chinese, and of right-to-left letters
        etree.SubElement(run.font._element, qn(script)).set("typeface", line.font or UNKNOWN)
    if opacity < 1:
        etree.SubElement(run.font._element.find(f".//{qn('a:srgbClr')}"), qn("a:alpha")).set(
            "val", str(round(opacity * 100_000))
        )


def _pitch(lines: tuple[TextLine, ...]) -> float:
    """How far baselines are apart, in pixels."""
    if len(lines) < 2:
        return 1.2 * lines[0].size
    return max(1.0, (lines[-1].origin[1] - lines[0].origin[1]) / (len(lines) - 1))


def _turned(text: TextBlock, degrees: float) -> TextBlock:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return text.transformed((cos, -sin, 0.0, sin, cos, 0.0))


def _turn(point: tuple[float, float], degrees: float) -> tuple[float, float]:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return point[0] * cos - point[1] * sin, point[0] * sin + point[1] * cos
