"""Files without a name: every readable format is known by what it holds."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stacks import everything

from unfuse import formats
from unfuse.composite import flatten
from unfuse.errors import FormatError
from unfuse.formats.sniff import PICTURE, sniff

READ = [suffix for row in formats.FORMATS if row.reads for suffix in row.suffixes]


@pytest.mark.parametrize("suffix", READ)
def test_every_readable_format_is_known(suffix: str, tmp_path: Path) -> None:
    formats.write(everything(), tmp_path / f"a{suffix}")
    data = (tmp_path / f"a{suffix}").read_bytes()
    assert sniff(data) == {".tif": ".tiff"}.get(suffix, suffix)
    named, nameless = formats.read(tmp_path / f"a{suffix}"), formats.read_bytes(data, what="it")
    assert [layer.name for layer in nameless.walk()] == [layer.name for layer in named.walk()]
    np.testing.assert_array_equal(flatten(nameless), flatten(named))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "BMP", "GIF"])
def test_a_picture_is_one_layer(kind: str) -> None:
    file = BytesIO()
    everything().flatten().convert("RGB").save(file, kind)
    assert sniff(file.getvalue()) == PICTURE
    (layer,) = formats.read_bytes(file.getvalue(), what="it")
    assert (layer.name, layer.kind) == ("Picture", "background")
    with Image.open(file) as picture:
        np.testing.assert_array_equal(layer.pixels[..., :3], np.asarray(picture.convert("RGB")))  # type: ignore[index]


@pytest.mark.parametrize("suffix", READ)
def test_a_file_without_a_byte_is_empty_in_every_format(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.touch()
    with pytest.raises(FormatError, match=rf"a\{suffix} is empty \(0 bytes\): save or download it again$"):
        formats.read(path)
    with pytest.raises(FormatError, match=r"^it is empty \(0 bytes\)"):
        formats.read_bytes(b"", what="it")


@pytest.mark.parametrize(
    "data", [b"hello", b"%PDF-1.7", b"<html><body>", b"<?xml version='1.0'?><a/>", b"RIFF1234AVI "]
)
def test_anything_else_is_refused_with_what_can_be_read(data: bytes) -> None:
    with pytest.raises(
        FormatError, match=r"it begins with b'.*: it must be \.zip, \.psd, .*\.ora.*PNG, JPEG"
    ) as caught:
        formats.read_bytes(data, what="it")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "start", [b"PK\3\4", b"8BPS\0\1", b"II*\0", b"<svg ", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM"]
)
def test_what_only_begins_so_is_refused_in_one_line(start: bytes) -> None:
    with pytest.raises(FormatError, match="it") as caught:
        formats.read_bytes(start + b"\0\7 nothing of the kind", what="it")
    assert "\n" not in str(caught.value)
