"""The film of a stack as it builds up: frames, times, sizes, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence
from stacks import everything

from unfuse import formats
from unfuse.composite import flatten
from unfuse.errors import FormatError
from unfuse.layers import LayerStack

STACK = everything(8, transparent=True)
SHOWN = [layer for layer in STACK if layer.visible]


def test_a_webp_shows_each_layer_as_it_comes(tmp_path: Path) -> None:
    assert formats.write(STACK, tmp_path / "a.webp", seconds=0.2) == ()
    with Image.open(tmp_path / "a.webp") as image:
        assert image.n_frames == len(SHOWN)  # type: ignore[attr-defined]
        times, frames = [], []
        for page in ImageSequence.Iterator(image):
            frames.append(np.asarray(page.convert("RGBA")).astype(int))
            times.append(page.info["duration"])
    assert times == [200] * (len(SHOWN) - 1) + [600]
    for count, frame in enumerate(frames, 1):
        expected = flatten(STACK.replace(layers=tuple(SHOWN[:count]))).astype(int)
        seen = expected[..., 3] > 0
        assert np.abs(frame - expected)[seen].max() <= 1


def test_a_gif_is_over_white_and_ends_with_the_whole(tmp_path: Path) -> None:
    assert formats.write(STACK, tmp_path / "a.gif", longest=60) == ("colours were reduced to 256",)
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.size, image.n_frames) == ((60, 40), len(SHOWN))  # type: ignore[attr-defined]
        image.seek(len(SHOWN) - 1)
        last = np.asarray(image.convert("RGB")).astype(float)
    flat = flatten(STACK).astype(float)
    white = (flat[..., :3] * flat[..., 3:] + 255 * (255 - flat[..., 3:])) / 255
    small = white.reshape(40, 2, 60, 2, 3).mean(axis=(1, 3))
    assert np.abs(last - small).mean() < 8  # 256 colours, dithered


def test_a_picture_stays_a_picture(tmp_path: Path) -> None:
    formats.write(STACK, tmp_path / "a.webp")
    with Image.open(tmp_path / "a.webp") as image:
        assert getattr(image, "n_frames", 1) == 1
    with pytest.raises(FormatError, match=r"seconds is for films: a \.png is one picture"):
        formats.write(STACK, tmp_path / "a.png", seconds=1)


@pytest.mark.parametrize("options", [{"seconds": 0}, {"seconds": float("nan")}, {"longest": 1}, {"longest": 10**6}])
def test_what_is_out_of_range_is_refused(tmp_path: Path, options: dict[str, float]) -> None:
    with pytest.raises(FormatError, match="it must be"):
        formats.write(STACK, tmp_path / "a.gif", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_stack_without_layers_is_one_empty_frame(tmp_path: Path) -> None:
    formats.write(LayerStack((20, 20), ()), tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as image:
        assert image.convert("RGB").getpixel((3, 3)) == (255, 255, 255)


def test_a_film_needs_ffmpeg_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("ffmpeg"):
        formats.write(STACK, tmp_path / "a.mp4", seconds=0.1)
        assert (tmp_path / "a.mp4").read_bytes()[4:8] == b"ftyp"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FormatError, match=r"needs ffmpeg, which is not installed here: install it, or write \.gif"):
        formats.write(STACK, tmp_path / "b.mp4")
