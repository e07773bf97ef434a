"""The way back from Photoshop files: raster layers and groups; everything else becomes a note.

A record list is bottom to top: a group is a divider, what is in it, and then the group's own record. What our model
does not have is baked where that keeps the look (masks, clipping, fill opacity, groups that pass through), and named in
the notes where it does not (effects, adjustments, foreign blend modes). Nothing is left out silently.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from psd_tools.compression import PSDDecompressionWarning
from psd_tools.constants import BlendMode, ChannelID, Clipping, ColorMode, Resource, SectionDivider, Tag
from psd_tools.psd import PSD
from psd_tools.psd.adjustments import ADJUSTMENT_TYPES
from psd_tools.psd.header import FileHeader
from psd_tools.psd.layer_and_mask import ChannelData, ChannelDataList, LayerRecord, MaskData

from unfuse.composite import flatten
from unfuse.errors import FormatError, StackError
from unfuse.formats import manifest, psd_text_reader, said
from unfuse.formats.foreign import passing, with_background
from unfuse.layers import Box, Kind, Layer, LayerStack
from unfuse.pixels import to_float

logging.getLogger("psd_tools").addHandler(logging.NullHandler())  # its warnings become our notes and errors

MODES = {
    "normal": BlendMode.NORMAL,
    "multiply": BlendMode.MULTIPLY,
    "screen": BlendMode.SCREEN,
    "overlay": BlendMode.OVERLAY,
    "darken": BlendMode.DARKEN,
    "lighten": BlendMode.LIGHTEN,
    "color-dodge": BlendMode.COLOR_DODGE,
    "color-burn": BlendMode.COLOR_BURN,
    "hard-light": BlendMode.HARD_LIGHT,
    "soft-light": BlendMode.SOFT_LIGHT,
    "difference": BlendMode.DIFFERENCE,
    "exclusion": BlendMode.EXCLUSION,
    "hue": BlendMode.HUE,
    "saturation": BlendMode.SATURATION,
    "color": BlendMode.COLOR,
    "luminosity": BlendMode.LUMINOSITY,
}
MERGED = "Merged picture"
OURS = "unfuse"  # the writer that our own files name
ALIKE = 2.0  # levels of 255 that two programs' rounding may be apart
LOCK_ALL = 1 << 31
TRANSPARENCY, USER_MASK = int(ChannelID.TRANSPARENCY_MASK), int(ChannelID.USER_LAYER_MASK)
Record = tuple[LayerRecord, ChannelDataList]
NAMES = {mode: name for name, mode in MODES.items()}

TEXT = {Tag.TYPE_TOOL_OBJECT_SETTING, Tag.TYPE_TOOL_INFO}
FILLS = {Tag.SOLID_COLOR_SHEET_SETTING, Tag.GRADIENT_FILL_SETTING, Tag.PATTERN_FILL_SETTING}
SMART = {Tag.SMART_OBJECT_LAYER_DATA1, Tag.SMART_OBJECT_LAYER_DATA2, Tag.PLACED_LAYER1, Tag.PLACED_LAYER2}
VECTOR_MASKS = {Tag.VECTOR_MASK_SETTING1, Tag.VECTOR_MASK_SETTING2}
ARTBOARDS = {Tag.ARTBOARD_DATA1, Tag.ARTBOARD_DATA2, Tag.ARTBOARD_DATA3}
EFFECTS = {
    Tag.EFFECTS_LAYER,
    Tag.OBJECT_BASED_EFFECTS_LAYER_INFO,
    Tag.OBJECT_BASED_EFFECTS_LAYER_INFO_V0,
    Tag.OBJECT_BASED_EFFECTS_LAYER_INFO_V1,
}
REMARKS = (
    (FILLS, "is a shape or a fill: it came in as pixels"),
    (ARTBOARDS, "is an artboard: it came in as a group, its background was left out"),
    (SMART, "is a smart object: it came in as pixels"),
    (EFFECTS, "has layer effects: they were left out"),
)


def read(file: BinaryIO, *, what: str, max_pixels: int) -> LayerStack:
    """The stack in a PSD or PSB: RGB, 8 or 16 bit. Raises FormatError for others, for broken and too large files."""
    try:
        header = FileHeader.read(file)
        _check_header(header, what, max_pixels)
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("error", PSDDecompressionWarning)  # a broken channel would become black
            psd = PSD.read(file)
            return Reader(header, tuple(_records(psd)), what, max_pixels).stack(psd)
    except FormatError:
        raise
    except Exception as error:  # psd-tools fails in its own way at each place where a file may be broken
        why = manifest.short(f"{type(error).__name__} {error}")
        raise FormatError(f"{what} is not a PSD, or is broken or cut short ({why}): save it again") from error


@dataclass
class _Siblings:
    """The layers of a group so far, and the one that a clipped layer above them is clipped to."""

    layers: list[Layer] = field(default_factory=list)
    base: Layer | None = None


@dataclass
class Reader:
    header: FileHeader
    records: tuple[Record, ...]
    what: str
    max_pixels: int
    notes: list[str] = field(default_factory=list)
    differs: bool = False  # whether the layers may look other than in the program that wrote them

    def layers(self) -> tuple[Layer, ...]:
        """The layers of the records."""
        self.check_sizes()
        return with_background(tuple(self.tree()), self.canvas)

    def stack(self, psd: PSD) -> LayerStack:
        self.check_sizes()
        layers = self.layers() if self.records else (self.merged(psd),)
        resolution = psd.image_resources.get_data(Resource.RESOLUTION_INFO)
        return LayerStack(
            size=self.canvas.size,
            layers=(*layers, *(self.seen(psd, layers) if self.records else ())),
            depth=16 if self.header.depth == 16 else 8,
            icc=psd.image_resources.get_data(Resource.ICC_PROFILE),
            dpi=(resolution.horizontal / 65536 if resolution else 0) or 72.0,
            notes=tuple(self.notes),
        )

    def seen(self, psd: PSD, layers: tuple[Layer, ...]) -> list[Layer]:
        """How the whole looked where it was saved, hidden, where the layers do not or may not look so."""
        version = psd.image_resources.get_data(Resource.VERSION_INFO)
        if (version and not version.has_composite) or (not self.differs and (not version or version.writer == OURS)):
            return []
        merged = self.merged(psd).replace(name=MERGED, kind="object", visible=False)
        if not self.differs:  # not that we knew, but Photoshop blends text otherwise, and more that no file says
            assert merged.pixels is not None
            flat = to_float(flatten(LayerStack(self.canvas.size, layers, 16 if merged.depth == 16 else 8)))
            over_white = flat[..., :3] * flat[..., 3:] + 1 - flat[..., 3:]
            away = 255 * np.abs(over_white - to_float(merged.pixels[..., :3])).max()
            if away <= ALIKE:
                return []
            self.notes.append(f"it looks different from where it was saved, by up to {away:.0f} levels of 255")
        self.notes.append(f"how it looked where it was saved is in the hidden layer {MERGED!r}")
        return [merged]

    def lose(self, note: str) -> None:
        """Note what may make the whole look different."""
        self.notes.append(note)
        self.differs = True

    def check_sizes(self) -> None:
        areas = [rectangle for record, _ in self.records for rectangle in (record, record.mask_data) if rectangle]
        total = sum(max(0, area.width) * max(0, area.height) for area in areas)
        if not areas:  # then every channel of the merged picture is decoded, four make a layer
            total = self.header.width * self.header.height * self.header.channels // 4
        if total > (limit := manifest.LAYERS_TO_CANVAS * self.max_pixels):
            raise FormatError(f"{self.what} has {total:,} pixels in all layers, the limit is {limit:,}")

    def merged(self, psd: PSD) -> Layer:
        """A file without layers is its merged picture."""
        box = self.canvas
        planes: Any = psd.image_data.get_data(self.header)
        colour = [_levels(plane, self.header.depth).reshape(box.height, box.width) for plane in planes[:3]]
        return Layer("Background", "background", box, np.dstack([*colour, self.opaque(box)]))

    def tree(self) -> list[Layer]:
        """Layers bottom to top, out of the flat list of records."""
        groups = [_Siblings()]
        for record, channels in self.records:
            divider = _divider(record)
            if divider == SectionDivider.BOUNDING_SECTION_DIVIDER:
                groups.append(_Siblings())
                continue
            if divider in (SectionDivider.OPEN_FOLDER, SectionDivider.CLOSED_FOLDER):
                made = self.group(record, channels, groups.pop().layers)
            else:
                made = self.raster(record, channels)
            siblings = groups[-1]  # an IndexError says that a group ends without a beginning
            if record.clipping == Clipping.NON_BASE:
                made = [self.clipped(layer, siblings.base) for layer in made]
            else:
                siblings.base = made[0] if len(made) == 1 else None
            siblings.layers += made
        (whole,) = groups  # a ValueError says that a group begins without an end
        return whole.layers

    def raster(self, record: LayerRecord, channels: ChannelDataList) -> list[Layer]:
        """The layer of a record; none where it has no pixels of its own."""
        name, tags, box = _name(record), set(record.tagged_blocks), _box(record)
        if tags & set(ADJUSTMENT_TYPES) - FILLS:
            self.lose(f"{name!r} is an adjustment layer: it was left out, the whole may look different")
            return []
        if box.width < 1 or box.height < 1:
            if Tag.TYPE_TOOL_OBJECT_SETTING in tags:
                return self.lettered(record)
            fill = ", it is computed: the whole may look different" if tags & FILLS else ""
            (self.lose if fill else self.notes.append)(f"{name!r} has no pixels: it was left out{fill}")
            return []
        planes = _planes(record, channels)
        colour = [self.levels(planes[index], box) for index in range(3)]
        alpha = self.levels(planes[TRANSPARENCY], box) if TRANSPARENCY in planes else self.opaque(box)
        kind: Kind = "text" if tags & TEXT else "object"
        layer = Layer(box=box, pixels=np.dstack([*colour, alpha]), kind=kind, **self.fields(record))
        text = psd_text_reader.read(record.tagged_blocks, layer, self.notes)
        return [self.masked(layer, record, planes).replace(text=text)]

    def lettered(self, record: LayerRecord) -> list[Layer]:
        """A text that its writer left for others to draw."""
        fields = self.fields(record)
        nothing = Layer(box=Box(0, 0, 1, 1), pixels=np.zeros((1, 1, 4), np.uint8), kind="text", **fields)
        text = psd_text_reader.read(record.tagged_blocks, nothing, self.notes)
        try:
            box, pixels = said.draw(text) if text else (nothing.box, None)
        except StackError as error:
            self.lose(f"the text of {nothing.name!r} cannot be set: {error}")
            return []
        if pixels is None:
            self.lose(f"{nothing.name!r} has no pixels: it was left out")
            return []
        if box.width * box.height > manifest.LAYERS_TO_CANVAS * self.max_pixels:
            raise FormatError(f"{self.what} has a text of {box.width}x{box.height} pixels, which is too large")
        self.lose(f"the text of {nothing.name!r} has no pixels: it was set anew, and may look different")
        depth: Any = pixels if self.header.depth == 8 else pixels.astype(np.uint16) * np.uint16(257)
        layer = nothing.replace(box=box, pixels=depth)
        return [layer.replace(text=psd_text_reader.read(record.tagged_blocks, layer, []))]  # where its ink is now

    def group(self, record: LayerRecord, channels: ChannelDataList, inside: list[Layer]) -> list[Layer]:
        """The group of a record; what is in it instead, where only that looks the same."""
        name = _name(record)
        if not inside:
            self.notes.append(f"group {name!r} is empty: it was left out")
            return []
        group = Layer(kind="group", box=inside[0].box, layers=tuple(inside), **self.fields(record))
        group = self.masked(group, record, _planes(record, channels))
        return passing(group, self.notes) if _mode(record) == BlendMode.PASS_THROUGH else [group]

    def fields(self, record: LayerRecord) -> dict[str, Any]:
        name, tags, mode = _name(record), set(record.tagged_blocks), _mode(record)
        self.notes += [f"{name!r} {remark}" for marks, remark in REMARKS if tags & marks]
        self.differs |= bool(tags & EFFECTS)
        if tags & VECTOR_MASKS and not tags & FILLS and record.mask_data is None:  # else it is in pixels or mask
            self.lose(f"{name!r} has a vector mask: it was left out")
        if mode not in NAMES and mode != BlendMode.PASS_THROUGH:
            self.lose(f"{name!r} has the blend mode {mode.name.lower().replace('_', ' ')}: it became normal")
        return {
            "name": name,
            "opacity": record.opacity / 255 * record.tagged_blocks.get_data(Tag.BLEND_FILL_OPACITY, 255) / 255,
            "blend_mode": NAMES.get(mode, "normal"),
            "visible": record.flags.visible,
            "locked": bool(record.tagged_blocks.get_data(Tag.PROTECTED_SETTING, 0) & LOCK_ALL),
        }

    def masked(self, layer: Layer, record: LayerRecord, planes: dict[int, ChannelData]) -> Layer:
        """The layer with its user mask in its alpha; a group's goes into each layer in it."""
        mask = record.mask_data
        if mask is None or USER_MASK not in planes or mask.flags.mask_disabled:
            return layer
        self.notes.append(f"{layer.name!r} has a mask: it was put into its alpha")
        if mask.flags.parameters_applied:
            self.lose(f"{layer.name!r} has a mask with density or feather: these were left out")
        box = _box(mask)
        # A mask without pixels of its own is the same everywhere.
        levels = self.levels(planes[USER_MASK], box) if box.width > 0 and box.height > 0 else np.zeros((0, 0))
        return _times(layer, levels, box, mask.background_color * (257 if self.header.depth == 16 else 1))

    def clipped(self, layer: Layer, base: Layer | None) -> Layer:
        """The layer shown only where `base` shows, the one below that it is clipped to."""
        if base is None:
            self.lose(f"{layer.name!r} is clipped to what is not one layer now: it shows everywhere")
            return layer
        self.notes.append(f"{layer.name!r} is clipped to {base.name!r}: that was put into its alpha")
        alpha = base.to_canvas(self.canvas.size)[..., 3]
        shown = layer.replace(opacity=layer.opacity * base.opacity, visible=layer.visible and base.visible)
        return _times(shown, alpha, self.canvas, 0)

    @property
    def canvas(self) -> Box:
        return Box(0, 0, self.header.width, self.header.height)

    def opaque(self, box: Box) -> NDArray[Any]:
        """`h w` of the largest level at the file's depth."""
        dtype = np.uint8 if self.header.depth == 8 else np.uint16
        return np.full((box.height, box.width), np.iinfo(dtype).max, dtype)

    def levels(self, data: ChannelData, box: Box) -> NDArray[Any]:
        """`h w` of one plane."""
        plane = data.get_data(box.width, box.height, self.header.depth, self.header.version)
        return _levels(plane, self.header.depth).reshape(box.height, box.width)


def _check_header(header: FileHeader, what: str, max_pixels: int) -> None:
    if header.color_mode != ColorMode.RGB or header.depth not in (8, 16):
        kind = f"{header.color_mode.name.lower()} with {header.depth} bits"
        raise FormatError(f"{what} is {kind} a channel: save it as RGB with 8 or 16 bits")
    if header.width * header.height > max_pixels:
        raise FormatError(f"{what} is {header.width}x{header.height} pixels, the limit is {max_pixels:,}")


def _records(psd: PSD) -> Iterator[Record]:
    section = psd.layer_and_mask_information
    deep = section.tagged_blocks.get_data(Tag.LAYER_16) if section.tagged_blocks else None
    info = deep or section.layer_info
    if info is not None:
        yield from zip(info.layer_records, info.channel_image_data, strict=True)


def _planes(record: LayerRecord, channels: ChannelDataList) -> dict[int, ChannelData]:
    return {int(info.id): data for info, data in zip(record.channel_info, channels, strict=True)}


def _box(rectangle: LayerRecord | MaskData) -> Box:
    return Box(rectangle.left, rectangle.top, rectangle.right, rectangle.bottom)


def _name(record: LayerRecord) -> str:
    name = str(record.tagged_blocks.get_data(Tag.UNICODE_LAYER_NAME) or record.name).rstrip("\0")
    return name if name.strip() else "Layer"


def _divider(record: LayerRecord) -> SectionDivider | None:
    blocks = record.tagged_blocks
    setting = blocks.get_data(Tag.NESTED_SECTION_DIVIDER_SETTING) or blocks.get_data(Tag.SECTION_DIVIDER_SETTING)
    return setting.kind if setting else None


def _mode(record: LayerRecord) -> BlendMode:
    """Of a group the divider has it: the record says normal of one that passes through."""
    setting = record.tagged_blocks.get_data(Tag.SECTION_DIVIDER_SETTING)
    return setting.blend_mode if setting and setting.blend_mode else record.blend_mode


def _levels(plane: bytes, depth: int) -> NDArray[Any]:
    return np.frombuffer(plane, np.uint8) if depth == 8 else np.frombuffer(plane, ">u2").astype(np.uint16)


def _times(layer: Layer, mask: NDArray[Any], box: Box, outside: int) -> Layer:
    """The layer with its alpha multiplied by a mask `h w` that lies at `box` and is `outside` around it."""
    if layer.pixels is None:
        return layer.replace(layers=tuple(_times(inner, mask, box, outside) for inner in layer.layers))
    top = np.iinfo(layer.pixels.dtype).max
    factor = np.full((layer.box.height, layer.box.width), outside, np.uint32)
    if common := layer.box.intersection(box):
        factor[common.within(layer.box)] = mask[common.within(box)]
    pixels = layer.pixels.copy()
    pixels[..., 3] = (pixels[..., 3] * factor + top // 2) // top
    return layer.replace(pixels=pixels, text=layer.text)
