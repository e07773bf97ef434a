"""XML of others, without what XML can do to who reads it: no entities of its own, nothing from elsewhere."""

from __future__ import annotations

import re

from lxml import etree

from unfuse.errors import FormatError
from unfuse.formats.manifest import short

LARGEST = 256 << 20  # bytes; pictures inside an SVG count
ORDINARY = 10_000_000  # bytes of one attribute or text, beyond which libxml2 wants to be asked
ENCODING = re.compile(rb"<\?xml[^>]*?encoding=[\"']([\w-]+)")
ENCODINGS = {"utf-8", "us-ascii", "iso-8859-1", "windows-1252"}


def parse(data: bytes, *, what: str) -> etree._Element:
    """The root of a document. Raises FormatError where it is broken, too large, or declares entities."""
    if len(data) > LARGEST:
        raise FormatError(f"{what} is larger than {LARGEST:,} bytes of XML")
    declared = ENCODING.match(data[:200].lstrip(b"\xef\xbb\xbf"))
    encoding = declared[1].decode().lower() if declared else "utf-8"
    try:
        if encoding not in ENCODINGS:
            raise ValueError(f"its encoding is {encoding}: save it as UTF-8")
        text = data.decode(encoding)
        if "<!ENTITY" in text:  # looked for before anything is parsed: each can stand for a billion others
            raise FormatError(f"{what} declares entities of its own: save it without them")
        parser = etree.XMLParser(
            encoding="utf-8", resolve_entities=False, no_network=True, huge_tree=len(data) > ORDINARY
        )
        return etree.fromstring(text.encode(), parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise FormatError(f"{what} is not XML that can be read ({short(error)}): save or download it again") from error
