"""Layers as a little-endian TIFF has them, turned into the big-endian records that psd-tools reads.

Photoshop writes the layers of a TIFF in the TIFF's own byte order (Adobe Photoshop TIFF Technical Note 3), PCs little
end first: every number, signature and key is the other way round. The layout is that of the PSD specification,
section Layer info. What the reader asks for is turned; other blocks keep their key, by which they are noted.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unfuse.errors import FormatError

RLE = b"\1\0"  # the kind of compression that has a table of numbers: runs of bytes
MASK = -2  # the channel of the user mask, which has a place of its own


@dataclass
class _Record:
    """A layer's record, turned, around the place where its channels' ids and lengths belong."""

    before: bytes
    after: bytes
    channels: list[tuple[int, int]]
    box: tuple[int, ...]  # top, left, bottom, right
    mask: tuple[int, ...]


def big_endian(layers: bytes, limit: int) -> bytes:
    """The contents of block Layr or Lr16, of at most `limit` pixels in all layers.

    Raises struct.error or FormatError where it is broken or larger.
    """
    source = _Source(layers)
    count = source.number("h")
    records = [_record(source) for _ in range(abs(count))]
    total = sum(_area(box) for record in records for box in (record.box, record.mask))
    if total > limit:
        raise FormatError(f"it has {total:,} pixels in all layers, the limit is {limit:,}")
    heads, planes = [struct.pack(">h", count)], []
    for record in records:
        heads.append(record.before)
        for index, length in record.channels:
            plane = _plane(source.take(length), record.mask if index == MASK else record.box)
            heads.append(struct.pack(">hI", index, len(plane)))
            planes.append(plane)
        heads.append(record.after)
    return b"".join(heads + planes)


def _area(box: tuple[int, ...]) -> int:
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])


class _Source:
    """Little-endian numbers, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, length: int) -> bytes:
        taken = self.data[self.at : self.at + length]
        if len(taken) < length:
            raise FormatError("its layers are cut short")
        self.at += length
        return taken

    def number(self, kind: str) -> int:
        (value,) = struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))
        return int(value)

    @property
    def ends(self) -> bool:
        return self.at >= len(self.data)


def _record(source: _Source) -> _Record:
    box = tuple(source.number("i") for _ in range(4))
    channels = [(source.number("h"), source.number("I")) for _ in range(source.number("H"))]
    keys = source.take(4)[::-1] + source.take(4)[::-1]
    looks = source.take(4)
    extra = _Source(source.take(source.number("I")))
    mask = extra.take(extra.number("I"))
    mask_box: tuple[int, ...] = (0, 0, 0, 0)
    if len(mask) >= 18:
        mask_box = struct.unpack("<4i", mask[:16])
        mask = struct.pack(">4i", *mask_box) + bytes((mask[16], mask[17] & ~0x10, 0, 0))
    else:
        mask = b""
    extra.take(extra.number("I"))  # blending ranges, which nothing asks for
    length = extra.number("B")
    name = bytes((length,)) + extra.take(length)
    name += extra.take(-len(name) % 4)
    inside = struct.pack(">I", len(mask)) + mask + struct.pack(">I", 0) + name + _blocks(extra)
    after = keys + looks + struct.pack(">I", len(inside)) + inside
    return _Record(struct.pack(">4iH", *box, len(channels)), after, channels, box, mask_box)


def _blocks(source: _Source) -> bytes:
    """The tagged blocks of a record; those that are read have their contents turned."""
    out = b""
    while not source.ends:
        signature, key = source.take(4)[::-1], source.take(4)[::-1]
        length = source.number("I")
        data = source.take(length)
        source.take(min(length % 2, len(source.data) - source.at))
        data = TURNED[key](data) if key in TURNED else b"\0\0"
        out += signature + key + struct.pack(">I", len(data)) + data + bytes(len(data) % 2)
    return out


def _words(data: bytes) -> bytes:
    return np.frombuffer(data, np.uint16, len(data) // 2).byteswap().tobytes()


def _name(data: bytes) -> bytes:
    return data[3::-1] + _words(data[4:])


def _divider(data: bytes) -> bytes:
    return b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))


TURNED: dict[bytes, Callable[[bytes], bytes]] = {
    b"luni": _name,
    b"lsct": _divider,
    b"lsdk": _divider,
    b"lspf": _divider,
    b"iOpa": bytes,
}


def _plane(data: bytes, box: tuple[int, ...]) -> bytes:
    """One channel. Only its kind and the lengths of its rows are turned: samples lie big end first in every file."""
    kind, body = _words(data[:2]), data[2:]
    if data[:2] != RLE:
        return kind + body
    table = 2 * max(0, box[2] - box[0])
    return kind + _words(body[:table]) + body[table:]
