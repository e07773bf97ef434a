"""What is written as a flat picture, and what ours and other readers see in it."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from test_pixels import SRGB, U8, U16, levels_of, opaque

from unfuse.errors import PictureError
from unfuse.pixels import read, to_float, to_image
from unfuse.saving import replacing, write_flat


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".tif", ".webp"])
def test_there_and_back(tmp_path: Path, suffix: str) -> None:
    for levels in (U8, opaque(U8), U16, opaque(U16)):
        path = tmp_path / f"a{suffix}"
        write_flat(path, levels)
        picture = read(path)
        if levels.dtype == np.uint16 and suffix == ".webp":
            levels = np.asarray(to_image(levels))
        assert picture.depth == 8 * levels.itemsize
        np.testing.assert_array_equal(levels_of(picture), levels)
    assert [p.name for p in tmp_path.iterdir()] == [f"a{suffix}"]


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".jpg", ".bmp"])
def test_resolution_comes_back(suffix: str) -> None:
    for levels in (U8, U16):
        for dpi in (72.0, 96.0, 299.0, 300.0, 1200.0):
            file = io.BytesIO()
            write_flat(file, levels, dpi=dpi, suffix=suffix)
            assert read(file.getvalue()).dpi == dpi


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("alpha", [True, False])
def test_other_readers_agree_on_16_bit(suffix: str, alpha: bool) -> None:
    levels = U16 if alpha else opaque(U16)
    file = io.BytesIO()
    write_flat(file, levels, icc=SRGB, dpi=150, suffix=suffix)
    other = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_UNCHANGED)
    assert other is not None
    np.testing.assert_array_equal(other[..., 2::-1], levels[..., :3])
    assert other.shape[2] == (4 if alpha else 3)
    image = Image.open(file)
    np.testing.assert_array_equal(np.asarray(image), levels[..., : other.shape[2]] >> 8)
    assert image.info["icc_profile"] == SRGB
    assert suffix == ".png" or image.tag_v2.get(338) == ((2,) if alpha else None)  # type: ignore[attr-defined]
    assert image.info["dpi"] == pytest.approx((150, 150), abs=0.02)


def test_no_alpha_means_white() -> None:
    levels = np.full((16, 16, 4), (200, 0, 100, 51), np.uint8)  # a fifth of it, and four fifths of white
    for suffix, tolerance in ((".bmp", 0), (".jpg", 3)):
        for given in (levels, levels.astype(np.uint16) * 257):
            file = io.BytesIO()
            write_flat(file, given, suffix=suffix)
            expected = np.broadcast_to((244, 204, 224, 255), (16, 16, 4))
            np.testing.assert_allclose(levels_of(read(file.getvalue())), expected, atol=tolerance)


def test_lossy_formats_stay_close() -> None:
    ramp = opaque(np.dstack([np.tile(np.linspace(0, 255, 64), (64, 1))] * 4).astype(np.uint8))
    for suffix in (".jpg", ".avif"):
        file = io.BytesIO()
        write_flat(file, ramp, suffix=suffix.upper())
        assert np.abs(levels_of(read(file.getvalue())) - ramp.astype(int)).max() <= 4
    half = ramp.copy()
    half[:32, :, 3] = 0
    file = io.BytesIO()
    write_flat(file, half, suffix=".avif")
    assert np.abs(levels_of(read(file.getvalue()))[..., 3] - half[..., 3].astype(int)).max() <= 4


def test_bmp_has_no_profile_so_its_pixels_are_srgb() -> None:
    swapped = bytearray(SRGB)  # sRGB with the tags of its red and blue primaries exchanged
    red, blue = swapped.index(b"rXYZ"), swapped.index(b"bXYZ")
    swapped[red : red + 4], swapped[blue : blue + 4] = b"bXYZ", b"rXYZ"
    file = io.BytesIO()
    write_flat(file, np.full((4, 4, 4), (255, 0, 0, 255), np.uint8), icc=bytes(swapped), suffix=".bmp")
    np.testing.assert_allclose(levels_of(read(file.getvalue()))[0, 0], (0, 0, 255, 255), atol=2)


def test_wrong_wishes_are_refused(tmp_path: Path) -> None:
    for suffix in (".xyz", "", ".gif"):
        with pytest.raises(
            PictureError, match=r"use one of \.png, \.jpg, \.jpeg, \.webp, \.avif, \.tif, \.tiff, \.bmp"
        ):
            write_flat(tmp_path / f"a{suffix}", U8)
    with pytest.raises(PictureError, match="cannot be saved as ''"):
        write_flat(io.BytesIO(), U8)
    for wrong in (U8[..., :3], to_float(U8), U8[0]):
        with pytest.raises(PictureError, match="give h w 4, uint8 or uint16"):
            write_flat(tmp_path / "a.png", wrong)  # type: ignore[arg-type]
    with pytest.raises(PictureError, match=r"16384 x 1 pixels cannot be saved as \.webp .*use \.png"):
        write_flat(tmp_path / "a.webp", np.zeros((1, 16384, 4), np.uint8))
    with pytest.raises(PictureError, match="cannot be written"):
        write_flat(tmp_path / "no" / "such" / "a.png", U8)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(PictureError, match=r"folder\.png cannot be written"):
        write_flat(tmp_path / "folder.png", U8)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.png"]


def test_nothing_is_half_written(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_flat(path, U8)
    before = path.read_bytes()

    def interrupted() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    link = tmp_path / "link.png"
    link.symlink_to(path)
    write_flat(link, U16)
    assert link.is_symlink()
    assert read(path).depth == 16
    write_flat(os.devnull, U8, suffix=".png")
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize(
    ("levels", "suffix"),
    [(U8, s) for s in (".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff")] + [(U16, ".png"), (U16, ".tiff")],
)
def test_a_profile_is_written_back_to_the_byte(levels: NDArray[Any], suffix: str) -> None:
    file = io.BytesIO()
    write_flat(file, levels, icc=SRGB, dpi=300, suffix=suffix)
    picture = read(file.getvalue())
    assert picture.icc == SRGB
    assert picture.dpi == (72 if suffix in (".webp", ".avif") else 300)
    again = io.BytesIO()
    write_flat(again, levels, icc=picture.icc, dpi=picture.dpi, suffix=suffix)
    assert read(again.getvalue()).icc == SRGB
