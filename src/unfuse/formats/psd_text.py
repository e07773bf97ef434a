"""Type layers of Photoshop: the block TySh, and in it EngineData, Photoshop's own markup of texts and their styles.

The layer keeps its pixels, which every reader shows; Photoshop sets the text anew when it is edited. Written is what
readers need (Adobe Photoshop File Formats Specification, Type tool object setting; EngineData has no specification:
its words are those that psd-tools and ag-psd read). A block of our own beside it has the text as we know it: programs
skip blocks that they do not know, and `psd_text_reader` takes it as long as the type layer is still the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from psd_tools.constants import Tag
from psd_tools.psd import descriptor
from psd_tools.psd.tagged_blocks import TypeToolObjectSetting

from unfuse.textblock import TextBlock, TextLine

JUSTIFICATION = {"left": 0, "right": 1, "center": 2}
OWN: Any = b"uTxt"  # the key of our own block
UNKNOWN = "ArialMT"  # where the family is not known: what every Photoshop has
STYLES = {100: "Thin", 200: "ExtraLight", 300: "Light", 400: "Regular", 500: "Medium", 600: "SemiBold"}
STYLES |= {700: "Bold", 800: "ExtraBold", 900: "Black"}


def blocks(text: TextBlock | None) -> dict[Tag, bytes]:
    """The tagged blocks of a text; only our own for what is several texts, which one type layer cannot be."""
    if text is None:
        return {}
    own = {OWN: json.dumps(text.to_json(), ensure_ascii=False).encode(errors="surrogatepass")}
    return own if len(text.paragraphs) > 1 else own | {Tag.TYPE_TOOL_OBJECT_SETTING: _setting(text).tobytes()}


def _setting(text: TextBlock) -> TypeToolObjectSetting:
    lines = text.lines
    first = lines[0]
    angle = math.radians(first.angle)
    x, y = _start(text)
    return TypeToolObjectSetting(
        version=1,
        transform=(math.cos(angle), math.sin(angle), -math.sin(angle), math.cos(angle), x, y),
        text_version=50,
        text_data=_described(
            b"TxLr",
            {
                b"Txt ": descriptor.String("\r".join(line.string for line in lines)),
                b"textGridding": descriptor.Enumerated(b"textGridding", b"None"),
                b"Ornt": descriptor.Enumerated(b"Ornt", b"Hrzn"),
                b"AntA": descriptor.Enumerated(b"Annt", b"antiAliasSharp"),
                b"TextIndex": descriptor.Integer(0),
                b"EngineData": descriptor.RawData(engine_data(text)),
            },
        ),
        warp_version=1,
        warp=_described(
            b"warp",
            {
                b"warpStyle": descriptor.Enumerated(b"warpStyle", b"warpNone"),
                b"warpValue": descriptor.Double(0.0),
                b"warpPerspective": descriptor.Double(0.0),
                b"warpPerspectiveOther": descriptor.Double(0.0),
                b"warpRotate": descriptor.Enumerated(b"Ornt", b"Hrzn"),
            },
        ),
    )


def engine_data(text: TextBlock) -> bytes:
    """The text in Photoshop's markup: a style run for each line, a paragraph run for all."""
    strings = [f"{line.string}\r" for line in text.lines]
    names = list(dict.fromkeys(font_name(line) for line in text.lines))
    lengths = [len(string.encode("utf-16-be")) // 2 for string in strings]
    paragraph = {"DefaultStyleSheet": 0, "Properties": {"Justification": JUSTIFICATION[text.align]}}
    leadings = _leadings(text.lines)
    sheets = [_style(line, names, leading) for line, leading in zip(text.lines, leadings, strict=True)]
    fonts = [{"Name": Quoted(name), "Script": 0, "FontType": 1, "Synthetic": 0} for name in names]
    resources = {
        "FontSet": fonts,
        "StyleSheetSet": [{"Name": Quoted("Normal"), "StyleSheetData": sheets[0]}],
        "ParagraphSheetSet": [{"Name": Quoted("Normal"), **paragraph}],
        "TheNormalStyleSheet": 0,
        "TheNormalParagraphSheet": 0,
    }
    engine = {
        "Editor": {"Text": Quoted("".join(strings))},
        "ParagraphRun": {
            "RunArray": [{"ParagraphSheet": paragraph, "Adjustments": {"Axis": [1.0, 0.0, 1.0], "XY": [0.0, 0.0]}}],
            "RunLengthArray": [sum(lengths)],
            "IsJoinable": 1,
        },
        "StyleRun": {
            "RunArray": [{"StyleSheet": {"StyleSheetData": sheet}} for sheet in sheets],
            "RunLengthArray": lengths,
            "IsJoinable": 2,
        },
        "GridInfo": {"GridIsOn": False, "ShowGrid": False},
        "AntiAlias": 4,
        "UseFractionalGlyphWidths": True,
        "Rendered": {"Version": 1, "Shapes": {"WritingDirection": 0, "Children": [_shape()]}},
    }
    return b"\n\n" + _marked({"EngineDict": engine, "ResourceDict": resources, "DocumentResources": resources})


def font_name(line: TextLine) -> str:
    """The PostScript name of a line's font, as foundries make it of family and weight."""
    if not line.font:
        return UNKNOWN if line.weight < 600 else "Arial-BoldMT"
    return f"{line.font.replace(' ', '')}-{STYLES[min(900, max(100, 100 * round(line.weight / 100)))]}"


class Quoted(str):
    """A string of the markup; other strings in it are names."""


def _style(line: TextLine, names: list[str], leading: float) -> dict[str, Any]:
    return {
        "Font": names.index(font_name(line)),
        "FontSize": float(line.size),
        "AutoLeading": False,
        "Leading": leading,
        "AutoKerning": True,
        "Tracking": 0,
        "FillColor": {"Type": 1, "Values": [1.0, *(level / 255 for level in line.color)]},
        "FillFlag": True,
        "StrokeFlag": False,
    }


def _shape() -> dict[str, Any]:
    base = {"ShapeType": 0, "TransformPoint0": [1.0, 0.0], "TransformPoint1": [0.0, 1.0], "TransformPoint2": [0.0, 0.0]}
    cookie = {"Photoshop": {"ShapeType": 0, "PointBase": [0.0, 0.0], "Base": base}}
    return {"ShapeType": 0, "Procession": 0, "Lines": {"WritingDirection": 0, "Children": []}, "Cookie": cookie}


def _start(text: TextBlock) -> tuple[float, float]:
    """Where the first baseline begins, is in the middle, or ends, as the text is flush."""
    first = text.lines[0]
    (left, top), (right, bottom), (u, v), (x, y) = first.quad
    share = {"left": 0.0, "center": 0.5, "right": 1.0}[text.align]
    upper = left + share * (right - left), top + share * (bottom - top)
    lower = x + share * (u - x), y + share * (v - y)
    return upper[0] + first.baseline * (lower[0] - upper[0]), upper[1] + first.baseline * (lower[1] - upper[1])


def _leadings(lines: Sequence[TextLine]) -> list[float]:
    """How far each baseline is below the one before, across the lines; the first as far as they are on the average."""
    if len(lines) < 2:
        return [1.2 * lines[0].size]
    angle = math.radians(lines[0].angle)
    down = [y * math.cos(angle) - x * math.sin(angle) for x, y in (line.origin for line in lines)]
    return [abs(down[-1] - down[0]) / (len(lines) - 1), *(abs(b - a) for a, b in pairwise(down))]


def _described(kind: bytes, items: Mapping[bytes, Any]) -> Any:
    block: Any = descriptor.DescriptorBlock  # its own types do not know what its converters take
    return block(items=list(items.items()), name="", classID=kind)


def _marked(value: Any) -> bytes:
    """A value in the markup: dictionaries, lists, numbers, truths and strings."""
    if isinstance(value, dict):
        return b"<<\n" + b"".join(b"/%s %s\n" % (key.encode(), _marked(inner)) for key, inner in value.items()) + b">>"
    if isinstance(value, list):
        return b"[ " + b"".join(_marked(inner) + b" " for inner in value) + b"]"
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, Quoted):
        utf16 = b"\xfe\xff" + str(value).encode("utf-16-be", "replace")
        for byte in (b"\\", b"(", b")"):
            utf16 = utf16.replace(byte, b"\\" + byte)
        return b"(" + utf16 + b")"
    return (f"{value:.5f}" if isinstance(value, float) else str(value)).encode()
