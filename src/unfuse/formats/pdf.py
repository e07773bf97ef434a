"""PDF 1.7 (ISO 32000): one page whose layers can be switched in a viewer, as optional content.

Opacity, blend modes and isolated groups are PDF's own (11.3.5, 11.6.6), so a viewer composes what `flatten` does. Each
layer is a lossless picture with a soft mask, cropped, at its place. A layer with text shows its picture too, and has
its words over it, in letters that show nothing: they can be found, selected and copied, and nothing looks different.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import pikepdf
from numpy.typing import NDArray
from pikepdf import Array, Dictionary, Name

from unfuse.formats import live
from unfuse.formats.names import clean
from unfuse.layers import Layer, LayerStack
from unfuse.textblock import TextLine

LARGEST = 14_400  # points: a page's side, by Annex C
SMALLEST = 3
CANVAS = Name("/DeviceRGB")


def write(stack: LayerStack, file: BinaryIO, suffix: str, *, text: live.Text = "live") -> tuple[str, ...]:
    """Write the stack at its resolution; `text` says whether layers with text can be searched, or are pictures."""
    live.check(text)
    pdf = pikepdf.new()
    unit = min(max(72 / stack.dpi, SMALLEST / min(stack.size)), LARGEST / max(stack.size))
    width, height = (side * unit for side in stack.size)
    writer = _Writer(pdf, stack, text)
    content, resources, order = writer.content(stack.layers)
    flip = f"{unit:.6f} 0 0 {-unit:.6f} 0 {height:.4f} cm\n".encode()  # from here on in pixels, from the top down
    page = Dictionary(
        Type=Name("/Page"),
        MediaBox=Array([0, 0, round(width, 4), round(height, 4)]),
        Group=writer.isolated(),
        Resources=resources,
        Contents=pdf.make_stream(flip + content),
    )
    pdf.pages.append(pikepdf.Page(pdf.make_indirect(page)))
    shown = Dictionary(Order=order, OFF=Array(writer.off), Locked=Array(writer.locked), ListMode=Name("/AllPages"))
    pdf.Root.OCProperties = Dictionary(OCGs=Array(writer.groups), D=shown)
    pdf.Root.PageMode = Name("/UseOC")
    pdf.docinfo["/Producer"] = "unfuse"
    pdf.save(file, static_id=True, min_version="1.7")
    return ()


@dataclass
class _Writer:
    pdf: pikepdf.Pdf
    stack: LayerStack
    text: live.Text
    groups: list[Any] = field(default_factory=list)
    off: list[Any] = field(default_factory=list)
    locked: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.space: Any = CANVAS
        if self.stack.icc is not None:
            profile = self.pdf.make_stream(self.stack.icc, N=3, Alternate=CANVAS)
            self.space = self.pdf.make_indirect(Array([Name("/ICCBased"), profile]))

    def content(self, layers: Iterable[Layer]) -> tuple[bytes, Dictionary, Array]:
        """What draws layers, bottom to top, the resources it needs, and their list for a viewer, top to bottom."""
        parts: list[str] = []
        names: dict[str, dict[str, Any]] = {"XObject": {}, "ExtGState": {}, "Properties": {}, "Font": {}}
        order: list[Any] = []
        for index, layer in enumerate(layers):
            group = self.group(layer)
            names["Properties"][f"/L{index}"] = group
            mode = Name("/" + "".join(part.capitalize() for part in layer.blend_mode.split("-")))
            names["ExtGState"][f"/S{index}"] = Dictionary(ca=layer.opacity, CA=layer.opacity, BM=mode)
            inside: list[Any] = []
            if layer.pixels is None:
                names["XObject"][f"/X{index}"], inside = self.form(layer)
                matrix = ""
            else:
                names["XObject"][f"/X{index}"] = self.picture(layer.pixels)
                box = layer.box
                matrix = f"{box.width} 0 0 {-box.height} {box.left} {box.bottom} cm "
            parts.append(f"/OC /L{index} BDC\nq /S{index} gs {matrix}/X{index} Do Q\n")
            if layer.text and self.text == "live":
                for number, line in enumerate(layer.text.lines):
                    font = f"/F{index}x{number}"
                    names["Font"][font], words = self.words(line, font)
                    parts.append(words)
            parts.append("EMC\n")
            order = [group, *([Array(inside)] if inside else []), *order]
        resources = Dictionary({f"/{kind}": Dictionary(named) for kind, named in names.items() if named})
        return "".join(parts).encode(), resources, Array(order)

    def group(self, layer: Layer) -> Any:
        """The optional content group of a layer."""
        made = self.pdf.make_indirect(Dictionary(Type=Name("/OCG"), Name=pikepdf.String(clean(layer.name))))
        self.groups.append(made)
        if not layer.visible:
            self.off.append(made)
        if layer.locked:
            self.locked.append(made)
        return made

    def isolated(self) -> Dictionary:
        return Dictionary(Type=Name("/Group"), S=Name("/Transparency"), I=True, K=False, CS=self.space)

    def form(self, layer: Layer) -> tuple[Any, list[Any]]:
        """A group as a form that is composed on its own, and the list of what is in it."""
        content, resources, order = self.content(layer.layers)
        box = Array([layer.box.left, layer.box.top, layer.box.right, layer.box.bottom])
        fields = {"Type": Name("/XObject"), "Subtype": Name("/Form"), "BBox": box}
        return self.pdf.make_stream(content, **fields, Resources=resources, Group=self.isolated()), list(order)

    def picture(self, pixels: Any) -> Any:
        """An image and its soft mask, which is left out where all is opaque."""
        image = self.samples(pixels[..., :3], self.space)
        if pixels[..., 3].min() < np.iinfo(pixels.dtype).max:
            image.SMask = self.samples(pixels[..., 3:], Name("/DeviceGray"))
        return image

    def samples(self, levels: NDArray[Any], space: Any) -> Any:
        """`h w c` at its own depth, each row as its difference from the one above, deflated."""
        height, width, channels = levels.shape
        bits = 8 * levels.itemsize
        rows = np.frombuffer(levels.astype(levels.dtype.newbyteorder(">")).tobytes(), np.uint8).reshape(height, -1)
        filtered = np.full((height, 1 + rows.shape[1]), 2, np.uint8)
        filtered[:, 1:] = rows
        filtered[1:, 1:] -= rows[:-1]
        predictor = Dictionary(Predictor=15, Colors=channels, BitsPerComponent=bits, Columns=width)
        return self.pdf.make_stream(
            zlib.compress(filtered.tobytes(), 6),
            Type=Name("/XObject"),
            Subtype=Name("/Image"),
            Width=width,
            Height=height,
            BitsPerComponent=bits,
            ColorSpace=space,
            Filter=Name("/FlateDecode"),
            DecodeParms=predictor,
        )

    def words(self, line: TextLine, name: str) -> tuple[Any, str]:
        """A font whose letters show nothing and are as wide as the line needs, and what sets the line in it."""
        said = clean(line.string)
        letters = sorted(set(said))[:255]  # the codes that a font of this kind has
        codes = {letter: code for code, letter in enumerate(letters, 1)}
        wide = 1000 * line.width / (line.size * len(said))
        rows = "".join(f"<{code:02x}> <{letter.encode('utf-16-be').hex()}>\n" for letter, code in codes.items())
        unicode = CMAP.format(count=len(codes), rows=rows)
        font = Dictionary(
            Type=Name("/Font"),
            Subtype=Name("/Type3"),
            FontBBox=Array([0, -250, 1000, 1000]),
            FontMatrix=Array([0.001, 0, 0, 0.001, 0, 0]),
            CharProcs=Dictionary({"/nothing": self.pdf.make_stream(f"{wide:.3f} 0 d0".encode())}),
            Encoding=Dictionary(Type=Name("/Encoding"), Differences=Array([1, *[Name("/nothing")] * len(codes)])),
            FirstChar=1,
            LastChar=len(codes),
            Widths=Array([round(wide, 3)] * len(codes)),
            Resources=Dictionary(),
            ToUnicode=self.pdf.make_stream(unicode.encode()),
        )
        shown = "".join(f"{codes[letter]:02x}" for letter in said if letter in codes)
        (x, y), (left, top), (right, down) = line.origin, line.quad[0], line.quad[1]
        c, s = ((right - left) / line.width, (down - top) / line.width) if line.width else (1.0, 0.0)
        red, green, blue = (level / 255 for level in line.color)
        return self.pdf.make_indirect(font), (
            f"q BT {red:.4f} {green:.4f} {blue:.4f} rg {name} {line.size:.4f} Tf "
            f"{c:.6f} {s:.6f} {s:.6f} {-c:.6f} {x:.4f} {y:.4f} Tm <{shown}> Tj ET Q\n"
        )


CMAP = """/CIDInit /ProcSet findresource begin 12 dict begin begincmap
/CIDSystemInfo << /Registry (Adobe) /Ordering (UCS) /Supplement 0 >> def /CMapName /Adobe-Identity-UCS def
/CMapType 2 def 1 begincodespacerange <00> <ff> endcodespacerange
{count} beginbfchar
{rows}endbfchar endcmap CMapName currentdict /CMap defineresource pop end end"""
