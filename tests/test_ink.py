"""Ink against known answers: letters set in the bundled font, on a picture, beside what has their colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from unfuse.ink import ROOM, inks

ROOT = Path(__file__).parents[1]
FONT = ROOT / "src" / "unfuse" / "fonts" / "Inter.ttf"
FIELD = ROOT / "examples" / "field.jpg"


def patch(size: int, ink: str = "#101820", outline: str = "") -> tuple[Image.Image, NDArray[np.bool_]]:
    """A line of text upright on a photograph, `ROOM` around it, and which pixels are its letters."""
    font = ImageFont.truetype(FONT, size)
    font.set_variation_by_axes([600])
    words = "Summer Market"
    left, top, right, bottom = font.getbbox(words)
    room = round(ROOM * (bottom - top))
    area = (round(right - left) + 2 * room, round(bottom - top) + 2 * room)
    at = (room - left, room - top)
    picture = Image.open(FIELD).convert("RGB").resize(area).point(lambda level: 130 + level // 2)
    mask = Image.new("L", area)
    ImageDraw.Draw(mask).text(at, words, 255, font)
    pen = max(1, size // 16) if outline else 0
    ImageDraw.Draw(picture).text(at, words, ink, font, stroke_width=pen, stroke_fill=outline or None)
    return picture, np.asarray(mask) > 127


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("size", [16, 40, 120])
def test_letters_at_any_size(size: int) -> None:
    picture, truth = patch(size)
    letters, outlined = inks(np.asarray(picture)) > 0.5
    assert letters.shape == truth.shape
    assert iou(letters, truth) > (0.75 if size == 16 else 0.85)
    assert iou(outlined, truth) > (0.7 if size == 16 else 0.8)


def test_what_stands_beside_letters_in_their_colour_is_no_letter() -> None:
    picture, truth = patch(48)
    width, height = picture.size
    ImageDraw.Draw(picture).rectangle((width - 60, 0, width, height), "#101820")  # like a dark figure that they touch
    letters = inks(np.asarray(picture))[0] > 0.5
    assert letters[:, -50:].mean() < 0.1
    assert iou(letters[:, :-70], truth[:, :-70]) > 0.8


def test_an_outline_goes_along() -> None:
    picture, truth = patch(64, "#ffffff", "#101820")
    letters, outlined = inks(np.asarray(picture)) > 0.5
    assert iou(letters, truth) > 0.7
    dark = np.asarray(picture).max(-1) < 60
    assert (outlined & dark).sum() > 0.7 * dark.sum()
    assert (letters & dark).sum() < 0.3 * dark.sum()
    assert (letters & ~outlined).sum() < 0.05 * letters.sum()
