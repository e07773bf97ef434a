"""What bytes without a name are: told by how they begin, and for zips by what is in them."""

from __future__ import annotations

import re
import zipfile
from io import BytesIO

PICTURE = "picture"
MAGIC = (  # what a file begins with; the first that fits
    (b"8BPS\0\1", ".psd"),
    (b"8BPS\0\2", ".psb"),
    (b"II*\0", ".tiff"),
    (b"MM\0*", ".tiff"),
    (b"\x89PNG\r\n\x1a\n", PICTURE),
    (b"\xff\xd8\xff", PICTURE),
    (b"GIF8", PICTURE),
    (b"BM", PICTURE),
)
RIFF = re.compile(rb"RIFF....WEBP", re.DOTALL)
AVIF = re.compile(rb"....ftypavi[fs]", re.DOTALL)
SVG = re.compile(rb"(\xef\xbb\xbf)?\s*<(\?xml|!--|!DOCTYPE\s+svg|svg|[a-z]+:svg)")
ROOT = re.compile(rb"<([a-z]+:)?svg[\s>]")
HEAD = 1 << 16  # bytes in which an SVG's root is looked for
ZIPPED = (("[Content_Types].xml", ".pptx"), ("stack.xml", ".ora"))


def sniff(data: bytes) -> str | None:
    """The suffix of a format that can be read, 'picture' for a flat picture, None for anything else."""
    if data.startswith(b"PK\x03\x04"):
        return _zipped(data)
    if RIFF.match(data) or AVIF.match(data):
        return PICTURE
    if SVG.match(data) and ROOT.search(data, 0, HEAD):
        return ".svg"
    return next((kind for start, kind in MAGIC if data.startswith(start)), None)


def layered(data: bytes) -> str:
    """The suffix of the format that data has layers in; nothing for a picture, which a TIFF may be, and for others."""
    kind = sniff(data)
    return "" if kind in (None, PICTURE, ".tiff") else kind


def _zipped(data: bytes) -> str:
    """The format of a zip by the file in it that only this format has; else a project, whose reader says what lacks."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, ValueError, OSError):
        return ".zip"
    return next((suffix for name, suffix in ZIPPED if name in names), ".zip")
