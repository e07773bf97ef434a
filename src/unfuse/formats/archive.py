"""Zip files of pictures, and the care that those of others need.

Times are fixed, so the same stack gives the same bytes. Nothing is ever unpacked to the disk; a member is read only
where something names it, and only up to the size that it may have.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import BinaryIO

from unfuse.errors import FormatError
from unfuse.formats import manifest

MOST_MEMBERS = 10_000
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can say


def add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Put a file into an archive; PNGs are stored, they do not get smaller, and so is a mimetype."""
    info = zipfile.ZipInfo(name, EPOCH)
    info.create_system = 3  # Unix, whatever the system: attributes below, and the same bytes everywhere
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.compress_type = zipfile.ZIP_STORED if name.endswith((".png", "mimetype")) else zipfile.ZIP_DEFLATED
    archive.writestr(info, data)


@contextmanager
def reading(file: BinaryIO, *, what: str, max_pixels: int) -> Iterator[manifest.Read]:
    """What gives an archive's files by name, each up to so many bytes.

    Raises FormatError for a zip that is broken, has members that leave their place, or would expand to more than
    `max_pixels` can need.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = _members(archive, what, most_bytes=8 * manifest.LAYERS_TO_CANVAS * max_pixels)

            def member(name: str, most: int) -> bytes:
                if name not in members:
                    raise FormatError(f"{what} lacks {name!r}, which it needs: give one as it was saved")
                with archive.open(members[name]) as opened:
                    data = opened.read(most + 1)
                if len(data) > most:
                    raise FormatError(f"{name!r} in {what} is larger than the {most:,} bytes that fit there")
                return data

            yield member
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
        # RuntimeError is how zipfile says encrypted, or a kind of compression that it does not know
        why = manifest.short(error)
        raise FormatError(f"{what} is not a zip, or is cut short ({why}): save or download it again") from error


def _members(archive: zipfile.ZipFile, what: str, most_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """The archive's files by name, after a look at the headers of all of them."""
    infos = archive.infolist()
    if len(infos) > MOST_MEMBERS:
        raise FormatError(f"{what} has {len(infos):,} members, the limit is {MOST_MEMBERS:,}")
    expanded = sum(info.file_size for info in infos)
    if expanded > most_bytes:
        raise FormatError(f"{what} would expand to {expanded:,} bytes, the limit is {most_bytes:,}")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = PurePosixPath(info.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in info.filename:
            raise FormatError(f"{what} has a member that leaves its place: {info.filename!r}")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise FormatError(f"{what} has a member that is a link: {info.filename!r}")
        if info.filename in members:
            raise FormatError(f"{what} has two members called {info.filename!r}")
        members[info.filename] = info
    return members
