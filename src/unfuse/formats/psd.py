"""Photoshop files, .psd and .psb, through the records of psd-tools (Adobe Photoshop File Formats Specification, 2019).

Records are written here rather than through psd-tools' `PSDImage`, which composes the preview again in float, takes
names for Mac Roman and turns the alpha of an RGB document into a mask. The merged preview is our own `flatten`. Layers
lie cropped at their place, a plane a channel, alpha first. 16-bit layers go into block Lr16, as Photoshop has it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from psd_tools.constants import BlendMode, ChannelID, ColorMode, Compression, Resource, SectionDivider, Tag
from psd_tools.psd import PSD
from psd_tools.psd.header import FileHeader
from psd_tools.psd.image_data import ImageData
from psd_tools.psd.image_resources import ImageResource, ImageResources, VersionInfo
from psd_tools.psd.layer_and_mask import (
    ChannelData,
    ChannelDataList,
    ChannelImageData,
    ChannelInfo,
    GlobalLayerMaskInfo,
    LayerAndMaskInformation,
    LayerFlags,
    LayerInfo,
    LayerInfoBlock,
    LayerRecord,
    LayerRecords,
)
from psd_tools.psd.tagged_blocks import TaggedBlock, TaggedBlocks

from unfuse.composite import flatten
from unfuse.errors import FormatError
from unfuse.formats import psd_text
from unfuse.formats.live import Text, check, live
from unfuse.formats.names import clean
from unfuse.formats.psd_reader import LOCK_ALL, MODES, OURS, Record, read
from unfuse.layers import Layer, LayerStack, Pixels

__all__ = ["read", "write"]

PSD_SIDE = 30_000  # pixels; what is larger needs the large document format, PSB
PSB_SIDE = 300_000
PSD_BYTES = 1_900_000_000  # of all planes together: a .psd must stay under 2 GB
PLANES = (ChannelID.TRANSPARENCY_MASK, ChannelID.CHANNEL_0, ChannelID.CHANNEL_1, ChannelID.CHANNEL_2)
EMPTY = [ChannelData() for _ in PLANES]


def write(stack: LayerStack, file: BinaryIO, suffix: str, text: Text = "live") -> tuple[str, ...]:
    """Write the stack; a PSB where the suffix says so, a side has more than 30,000 pixels or planes exceed 2 GB.

    A layer that says something becomes a type layer, with its pixels as they are; with `text="picture"` only pixels.
    """
    check(text)
    if max(stack.size) > PSB_SIDE:
        raise FormatError(
            f"a canvas of {stack.size} pixels is too large for Photoshop: a side has at most {PSB_SIDE:,}"
        )
    merged = flatten(stack)
    transparent = bool((merged[..., 3] < np.iinfo(merged.dtype).max).any())
    version = 2 if suffix == ".psb" or _is_large(stack) else 1
    header = FileHeader(
        version=version,
        channels=4 if transparent else 3,
        height=stack.size[1],
        width=stack.size[0],
        depth=stack.depth,
        color_mode=ColorMode.RGB,
    )
    notes: list[str] = []
    layer_records = records(stack.layers, version, text, notes)
    PSD(
        header=header,
        image_resources=_resources(stack),
        layer_and_mask_information=_layers(layer_records, stack.depth, transparent),
        image_data=_merged(merged, header),
    ).write(file)
    return tuple(notes)


def _is_large(stack: LayerStack) -> bool:
    layers = (layer.pixels.nbytes for layer in stack.walk() if layer.pixels is not None)
    return max(stack.size) > PSD_SIDE or sum(layers) + stack.size[0] * stack.size[1] * stack.depth // 2 > PSD_BYTES


def _resources(stack: LayerStack) -> ImageResources:
    resolution = min(round(stack.dpi * 65536), 2**32 - 1)  # 16.16 fixed point, pixels an inch, shown in inches
    resources: dict[Resource, Any] = {
        Resource.RESOLUTION_INFO: struct.pack(">IHHIHH", resolution, 1, 1, resolution, 1, 1),
        Resource.VERSION_INFO: VersionInfo(has_composite=True, writer=OURS, reader=OURS),
    }
    if stack.icc is not None:
        resources[Resource.ICC_PROFILE] = stack.icc
    items: Any = [(key, ImageResource(key=key, data=data)) for key, data in resources.items()]
    return ImageResources(items)


def _merged(merged: Pixels, header: FileHeader) -> ImageData:
    """The preview. Where it is transparent Photoshop keeps its colour laid over white, and readers undo that."""
    if header.channels == 4:
        full = np.iinfo(merged.dtype).max
        alpha = merged[..., 3:].astype(np.float64) / full
        merged = merged.copy()
        merged[..., :3] = np.floor(merged[..., :3] * alpha + full * (1 - alpha) + 0.5)
    data = ImageData(compression=Compression.RLE)
    data.set_data([_plane(merged[..., index]) for index in range(header.channels)], header)
    return data


def layer_info(kind: type[LayerInfo], records: list[Record], transparent: bool) -> LayerInfo:
    """The section that has the records and, behind them, their planes."""
    rows: Any = [record for record, _ in records]
    planes: Any = [channels for _, channels in records]
    return kind(
        # Below 0 says that the fourth channel of the merged preview is the transparency of the whole.
        layer_count=-len(records) if transparent else len(records),
        layer_records=LayerRecords(rows),
        channel_image_data=ChannelImageData(planes),
    )


def _layers(records: list[Record], depth: int, transparent: bool) -> LayerAndMaskInformation:
    info = layer_info(LayerInfo if depth == 8 else LayerInfoBlock, records, transparent)
    if depth == 8:
        return LayerAndMaskInformation(info, GlobalLayerMaskInfo(), TaggedBlocks())
    blocks = {Tag.SAVING_MERGED_TRANSPARENCY16: b""} if transparent else {}
    return LayerAndMaskInformation(LayerInfo(), GlobalLayerMaskInfo(), _blocks({Tag.LAYER_16: info, **blocks}))


def records(layers: Iterable[Layer], version: int, text: Text, notes: list[str]) -> list[Record]:
    """The records bottom to top; a group is a divider, what is in it, and then the group's own record."""
    made: list[Record] = []
    for layer in layers:
        if layer.pixels is None:
            end = LayerRecord(
                name="</Layer group>", tagged_blocks=_blocks(_divider(SectionDivider.BOUNDING_SECTION_DIVIDER))
            )
            made += [_with_channels(end, EMPTY), *records(layer.layers, version, text, notes)]
            record = _record(layer, _divider(SectionDivider.OPEN_FOLDER, MODES[layer.blend_mode]))
            made.append(_with_channels(record, EMPTY))
        else:
            block = live(layer, text, notes)
            if block and len(block.paragraphs) > 1:
                notes.append(f"the text of {layer.name!r} is several texts: Photoshop sees its picture")
            record = _record(layer, psd_text.blocks(block))
            record.left, record.top, record.right, record.bottom = layer.box
            made.append(_with_channels(record, [_channel(layer.pixels[..., index], version) for index in (3, 0, 1, 2)]))
    return made


def _record(layer: Layer, blocks: dict[Tag, bytes]) -> LayerRecord:
    name = clean(layer.name)
    utf16 = name.encode("utf-16-be")
    luni = struct.pack(">I", len(utf16) // 2) + utf16
    blocks = blocks | {Tag.UNICODE_LAYER_NAME: luni + bytes(-len(luni) % 4)}
    if layer.locked:
        blocks |= {Tag.PROTECTED_SETTING: struct.pack(">I", LOCK_ALL)}
    return LayerRecord(
        blend_mode=MODES[layer.blend_mode],
        opacity=int(layer.opacity * 255 + 0.5),
        flags=LayerFlags(visible=layer.visible),
        name=name.encode("macroman", "replace").decode("macroman")[:255],
        tagged_blocks=_blocks(blocks),
    )


def _channel(levels: NDArray[Any], version: int) -> ChannelData:
    """One plane, `h w`: runs of bytes, or zip for 16 bits, which have none. Krita 5 misreads zip with prediction."""
    depth = levels.itemsize * 8
    data = ChannelData(Compression.RLE if depth == 8 else Compression.ZIP)
    data.set_data(_plane(levels), levels.shape[1], levels.shape[0], depth, version)
    return data


def _plane(levels: NDArray[Any]) -> bytes:
    return levels.astype(levels.dtype.newbyteorder(">")).tobytes()


def _with_channels(record: LayerRecord, channels: Any) -> Record:
    record.channel_info = [ChannelInfo(plane) for plane in PLANES]  # their lengths are set when written
    return record, ChannelDataList(channels)


def _divider(kind: SectionDivider, mode: BlendMode = BlendMode.NORMAL) -> dict[Tag, bytes]:
    return {Tag.SECTION_DIVIDER_SETTING: struct.pack(">I4s4s", kind.value, b"8BIM", mode.value)}


def _blocks(data: Mapping[Tag, Any]) -> TaggedBlocks:
    items: Any = [(tag, TaggedBlock(key=tag, data=value)) for tag, value in data.items()]
    return TaggedBlocks(items)
