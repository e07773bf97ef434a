"""Type layers of Photoshop, read: the words, their places and their styles, as `psd_text` writes them and as others do.

The layer keeps its pixels. Letters are placed as EngineData says: the transform of the block TySh takes its units to
the canvas, the first baseline of a point text begins at (0, 0), and lines are apart by their leading. A text box breaks
its lines by itself; where, is found with the closest typeface that is here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from psd_tools.constants import Tag
from psd_tools.psd.engine_data import EngineData
from psd_tools.psd.tagged_blocks import TaggedBlocks, TypeToolObjectSetting

from unfuse import affine, typefaces, typeset
from unfuse.boxes import Affine
from unfuse.errors import StackError
from unfuse.formats.psd_text import JUSTIFICATION, OWN, blocks
from unfuse.formats.said import ABOVE, Said, block
from unfuse.layers import Layer
from unfuse.textblock import Align, TextBlock

ALIGNS: dict[int, Align] = {0: "left", 1: "right", 2: "center", 3: "left", 4: "right", 5: "center", 6: "left"}
WIDTHS = (1.1, 0.9, 1.25, 0.8, 1.5)  # how much wider a typeface that stands in may be than the one of a box
BOX = 1  # the shape of a text that has a box to be broken in
DEFAULT_SIZE, DEFAULT_LEADING = 12.0, 1.2
UNSAID = {  # of a style, what a `TextLine` does not have, and the value that is none
    "FauxItalic": (False, "slant"),
    "Underline": (False, "underline"),
    "Strikethrough": (False, "strikethrough"),
    "Tracking": (0, "tracking"),
    "BaselineShift": (0, "shifted baseline"),
    "HorizontalScale": (1, "width of letters"),
    "VerticalScale": (1, "height of letters"),
    "FontCaps": (0, "capitals"),
    "StrokeFlag": (False, "outline of letters"),
}
ITALIC = ("Italic", "Oblique", "Ital", "It")


def read(tags: TaggedBlocks, layer: Layer, notes: list[str]) -> TextBlock | None:
    """The text of a layer, its record's blocks given; None where there is none that can stay text, with a note."""
    setting = tags.get_data(Tag.TYPE_TOOL_OBJECT_SETTING)
    if kept := _own(tags, setting):
        return kept
    if setting is None and Tag.TYPE_TOOL_INFO not in tags:
        return None
    named = repr(layer.name)
    try:
        reader = _Reader(setting)
        if reader.why_not:
            notes.append(f"{named} is a text layer that {reader.why_not}: it came in as pixels")
            return None
        text = block(reader.lines(layer), reader.align, layer)
    except (StackError, AttributeError, KeyError, IndexError, TypeError, ValueError):  # EngineData has no specification
        notes.append(f"{named} is a text layer whose words cannot be read: it came in as pixels")
        return None
    if reader.lost:
        notes.append(f"the text of {named} was read without: {', '.join(reader.lost)}")
    return text


def _own(tags: TaggedBlocks, setting: Any) -> TextBlock | None:
    """What we wrote beside a type layer, as long as nobody has changed the type layer since."""
    data = tags.get_data(OWN)
    try:
        text = TextBlock.from_json(json.loads(bytes(data))) if data else None
    except (StackError, ValueError, KeyError, TypeError):
        return None
    if text is None:
        return None
    written = blocks(text).get(Tag.TYPE_TOOL_OBJECT_SETTING)
    if (written is None) != (setting is None):
        return None
    same = written is None or TypeToolObjectSetting.frombytes(written).tobytes() == setting.tobytes()
    return text if same else None


@dataclass(frozen=True)
class _Run:
    """A part of the text in one style."""

    string: str
    style: dict[str, Any]


class _Reader:
    """One type layer; `lost` is what its pixels show and its text will not say."""

    def __init__(self, setting: TypeToolObjectSetting) -> None:
        data, engine = setting.text_data, setting.text_data[b"EngineData"].value
        if not isinstance(engine, EngineData):
            raise ValueError("its EngineData cannot be read")
        self.engine: Any = engine["EngineDict"]
        resources = engine.get("ResourceDict") or engine["DocumentResources"]
        self.fonts = [_plain(font["Name"]) for font in resources["FontSet"]]
        sheets, normal = resources.get("StyleSheetSet", []), int(_plain(resources.get("TheNormalStyleSheet", 0)))
        self.normal = dict(sheets[normal]["StyleSheetData"]) if normal < len(sheets) else {}
        self.paragraphs: Any = [
            dict(x["ParagraphSheet"]["Properties"]) for x in self.engine["ParagraphRun"]["RunArray"]
        ]
        xx, xy, yx, yy, tx, ty = setting.transform
        self.transform: Affine = (xx, yx, tx, xy, yy, ty)
        self.lost: list[str] = []
        justified = [int(_plain(each.get("Justification", 0))) for each in self.paragraphs]
        self.align: Align = ALIGNS[justified[0]]
        if len(set(justified)) > 1 or justified[0] not in JUSTIFICATION.values():
            self.lost.append("the alignment of paragraphs")
        self.why_not = _why_not(setting, data)

    def lines(self, layer: Layer) -> list[Said]:
        """The lines, in the units of the text; of a text in a box, as many as there is ink for, where the ink is."""
        if self.box is None:
            return self.spaced(None)
        best = self.spaced(1.0)
        if not layer.is_empty:
            ink = affine.bounds(layer.box, affine.inverse(self.transform))
            others = [self.spaced(width) for width in WIDTHS] if len(best) > 1 else []
            best = min([best, *others], key=lambda x: abs(ABOVE * x[0].size + x[-1].y - x[0].y - ink.size[1]))
            down = ink.top + self.above(best[0]) * best[0].size - best[0].y
            best = [replace(line, y=line.y + down) for line in best]
        if len(best) > sum(1 for runs in self.rows() if "".join(run.string for run in runs).strip()):
            self.lose("where its box breaks lines")
        return best

    def above(self, line: Said) -> float:
        """How high the ink of a line stands above its baseline, in ems."""
        try:
            face = typefaces.nearest_to(line.font, line.weight, line.string)
        except StackError:
            return ABOVE
        return -typeset.bounds(face, line.weight, line.string)[1]

    def spaced(self, width: float | None) -> list[Said]:
        """The lines below each other, broken in so many times the width of the box."""
        lines: list[Said] = []
        y = 0.0
        for number, runs in enumerate(self.rows()):
            size, leading = self.measures(runs)
            y += leading if number else (self.box[1] + ABOVE * size if self.box else 0.0)
            if string := "".join(run.string for run in runs).strip():
                lines += self.broken(self.styled(string, runs, y), leading, width)
                y = lines[-1].y
        if not lines:
            raise ValueError("it says nothing")
        return lines

    def rows(self) -> Iterator[list[_Run]]:
        """The runs of each line as it is typed."""
        units = _plain(self.engine["Editor"]["Text"]).encode("utf-16-le", "surrogatepass")
        row: list[_Run] = []
        at = 0
        runs = self.engine["StyleRun"]
        for sheet, length in zip(runs["RunArray"], runs["RunLengthArray"], strict=True):
            string = units[2 * at : 2 * (at + int(_plain(length)))].decode("utf-16-le", "replace")
            at += int(_plain(length))
            style = self.normal | dict(sheet["StyleSheet"]["StyleSheetData"])
            for index, part in enumerate(string.replace("\x03", "\r").replace("\n", "\r").split("\r")):
                if index:
                    yield row
                    row = []
                row = [*row, _Run(part, style)]
        yield row

    @property
    def box(self) -> tuple[float, ...] | None:
        """Left, top, right and bottom of a text that is broken in a box."""
        shape = self.engine["Rendered"]["Shapes"]["Children"][0]["Cookie"]["Photoshop"]
        bounds = shape.get("BoxBounds") if int(_plain(shape.get("ShapeType", 0))) == BOX else None
        return tuple(float(_plain(x)) for x in bounds) if bounds else None

    def measures(self, runs: list[_Run]) -> tuple[float, float]:
        """Size and leading of a line: of the largest style in it."""
        used = [run for run in runs if run.string] or runs
        factor = float(_plain(self.paragraphs[0].get("AutoLeading", DEFAULT_LEADING)))
        sizes = [float(_plain(run.style.get("FontSize", DEFAULT_SIZE))) for run in used]
        leadings = [
            factor * size
            if bool(_plain(run.style.get("AutoLeading", True)))
            else float(_plain(run.style.get("Leading", 0)))
            for run, size in zip(used, sizes, strict=True)
        ]
        return max(sizes), max(leadings)

    def styled(self, string: str, runs: list[_Run], y: float) -> Said:
        """A line in the style of most of its letters."""
        told = [(self.style(run.style), len(run.string.strip())) for run in runs if run.string.strip()]
        counted: Counter[tuple[Any, ...]] = Counter()
        for each, length in told:
            counted[each] += length
        if len(counted) > 1:
            self.lose("several styles in a line")
        (size, color, weight, font), _ = counted.most_common(1)[0]
        for run in runs:
            for key, (none, word) in UNSAID.items():
                if run.string.strip() and _plain(run.style.get(key, none)) != none:
                    self.lose(word)
        left, right = (self.box[0], self.box[2]) if self.box else (0.0, 0.0)
        x = {"left": left, "center": (left + right) / 2, "right": right}[self.align]
        return Said(string, x, y, size, color, weight, font, self.transform)

    def style(self, style: dict[str, Any]) -> tuple[Any, ...]:
        """Size, colour, weight and family."""
        name = self.fonts[int(_plain(style.get("Font", 0)))]
        font, weight = typefaces.family_and_weight(name)
        if any(name.endswith(ending) for ending in ITALIC):
            self.lose("slant")
        if bool(_plain(style.get("FauxBold", False))):
            weight = max(weight, 700)
        return float(_plain(style.get("FontSize", DEFAULT_SIZE))), _color(style.get("FillColor")), weight, font

    def broken(self, line: Said, leading: float, width: float | None) -> list[Said]:
        """A line as its box breaks it, so many times as wide."""
        if self.box is None or width is None:
            return [line]
        try:
            face = typefaces.nearest_to(line.font, line.weight, line.string)
        except StackError:
            return [line]
        wide = width * (self.box[2] - self.box[0])
        strings = typeset.broken(line.string, typeset.measure(face, line.weight), wide / line.size)
        return [replace(line, string=string, y=line.y + i * leading) for i, string in enumerate(strings)]

    def lose(self, what: str) -> None:
        if what not in self.lost:
            self.lost.append(what)


def _why_not(setting: TypeToolObjectSetting, data: Any) -> str:
    """Why a text cannot stay text; "" where it can."""
    if _enum(data, b"Ornt") not in ("", "Hrzn"):
        return "runs from top to bottom"
    if _enum(setting.warp, b"warpStyle") not in ("", "warpNone"):
        return "is warped"
    return ""


def _enum(data: Any, key: bytes) -> str:
    value = data.get(key)
    word = getattr(value, "enum", b"")
    return str(getattr(word, "value", word) if not isinstance(word, bytes) else word.decode("latin-1"))


def _color(color: Any) -> tuple[int, int, int]:
    """SRGB of a colour: grey, RGB or CMYK."""
    if not color:
        return 0, 0, 0
    values = [float(_plain(x)) for x in color["Values"]][1:]
    if len(values) == 1:
        values *= 3
    if len(values) == 4:
        *ink, black = values
        values = [(1 - x) * (1 - black) for x in ink]
    red, green, blue = (min(255, max(0, round(255 * x))) for x in values)
    return red, green, blue


def _plain(value: Any) -> Any:
    """What a value of EngineData holds."""
    return getattr(value, "value", value)
