"""Reading: what a picture says, and where. RapidOCR finds and reads lines; what they look like is measured here.

RapidOCR (Apache-2.0, the extra `text`) brings its models along: PP-OCRv6 for Latin letters, Chinese and digits. They
are named by their files, so that it has nothing to look for on a network. A picture is read once: whoever asks again
for the same pixels gets the same lines.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfuse.boxes import Box
from unfuse.errors import MissingExtra, require
from unfuse.ink import ROOM, inks
from unfuse.layers import to_8_bit
from unfuse.textblock import Point, Quad, TextBlock, TextLine, aligned

LARGEST = 1280  # pixels: the longer side at which lines are looked for
SMALLEST = 320  # pixels: the shorter side to which small pictures are brought up to look for lines
SURE = 0.6  # a line that was read with less confidence is none
UPRIGHT = 1.5  # a box so many times as high as wide holds a line that runs up or down
FLAT = 8  # pixels: what is lower cannot be read
LEVEL = 0.12  # a line that rises by less of its height over its length is level: boxes are not that exact
AGREE, HALF = 0.4, 0.5  # of ink and alpha, shared over all; what counts as covered
KEPT = 8  # pictures whose lines are remembered

# Where ink begins and ends above and below the baseline, in ems, as most sans-serif families have it.
CAP, X, ASCENDER, DESCENDER, IDEOGRAPH, DROP = 0.72, 0.53, 0.74, -0.2, 0.85, -0.08
# Twice the area over the outline, in ems, of Inter's letters by weight.
STEM = {100: 0.021, 200: 0.04, 300: 0.06, 400: 0.079, 500: 0.093, 600: 0.107, 700: 0.122, 800: 0.136, 900: 0.154}

_known: OrderedDict[bytes, tuple[TextLine, ...]] = OrderedDict()
_lock = Lock()


def is_available() -> bool:
    """Whether the extra that reads is installed; nothing is imported."""
    return importlib.util.find_spec("rapidocr") is not None


def name() -> str:
    """What reads, with its version."""
    require("rapidocr", "text", "reading text")
    return f"rapidocr {importlib.metadata.version('rapidocr')}"


def lines(picture: NDArray[Any]) -> tuple[TextLine, ...]:
    """The lines of text in a picture, top to bottom: `h w 3` or `h w 4`, uint8, or float 0 to 1; sRGB, straight alpha.

    Quads are those of the ink, in pixels of the picture, and may be turned by any angle; size, weight and colour are
    measured. Raises MissingExtra where RapidOCR is not installed.
    """
    levels = _opaque(picture)
    key = hashlib.sha256(repr(levels.shape).encode() + levels.tobytes()).digest()
    with _lock:  # one picture at a time: they would only share the processor
        if key not in _known:
            _known[key] = _read(levels)
        _known.move_to_end(key)
        while len(_known) > KEPT:
            _known.popitem(last=False)
        return _known[key]


def quoted(caption: str, picture: NDArray[Any]) -> str:
    """A caption with what is read in the picture `h w 3` and not yet said; the caption alone where nothing can read."""
    unsaid = [line.string for line in lines(picture) if line.string not in caption] if is_available() else []
    listed = ", ".join(f'"{string}"' for string in dict.fromkeys(unsaid))
    return f"{caption} The text reads {listed}." if unsaid else caption


def _opaque(picture: NDArray[Any]) -> NDArray[np.uint8]:
    """`h w 3` uint8. What is transparent becomes white, or black where the rest is bright."""
    values = picture.astype(np.float32) / (255 if picture.dtype == np.uint8 else 1)
    if values.shape[-1] == 4:
        alpha = values[..., 3:]
        bright = float((values[..., :3] * alpha).sum() / max(3 * float(alpha.sum()), 1e-6)) > 0.5
        values = values[..., :3] * alpha + (1 - alpha) * (0 if bright else 1)
    return np.floor(values * 255 + 0.5).clip(0, 255).astype(np.uint8)


@lru_cache(maxsize=1)
def _reader() -> Any:
    rapidocr = require("rapidocr", "text", "reading text")
    models: dict[str, Any] = {"Det.limit_side_len": SMALLEST}
    for part, pattern in (("Det", "_det_"), ("Rec", "_rec_"), ("Cls", "_cls_")):
        found = sorted(x.name for x in files("rapidocr").joinpath("models").iterdir() if pattern in x.name)
        if not found:
            raise MissingExtra("this RapidOCR brings no models: pip install -U 'unfuse[text]'")
        models[f"{part}.model_path"] = str(files("rapidocr").joinpath("models", found[-1]))
    return rapidocr.RapidOCR(params={"Global.log_level": "critical", **models})


def _read(picture: NDArray[np.uint8]) -> tuple[TextLine, ...]:
    import cv2

    reader = _reader()
    scale = min(1.0, LARGEST / max(picture.shape[:2]))
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture
    if min(small.shape[:2]) < 2 * FLAT:
        return ()
    boxes = reader(small[..., ::-1].copy(), use_det=True, use_cls=False, use_rec=False).boxes
    found = []
    for box in () if boxes is None else np.asarray(boxes, np.float64) / scale:
        if line := _line(reader, picture, box):
            found.append(line)
    return tuple(sorted(_joined(found), key=lambda line: (line.quad[0][1], line.quad[0][0])))


def _line(reader: Any, picture: NDArray[np.uint8], box: NDArray[np.float64]) -> TextLine | None:
    """The line in a box of four corners, left top first, or None where nothing can be read."""
    across, down = math.dist(box[0], box[1]), math.dist(box[0], box[3])
    if min(across, down) < FLAT:
        return None
    if abs(box[1, 1] - box[0, 1]) + abs(box[2, 1] - box[3, 1]) < 2 * LEVEL * down:
        box = _level(box)
    turns = (0,) if down < UPRIGHT * across else (1, 3)  # a line that runs up or down may do either
    tries = []
    for turn in turns:
        corners = np.roll(box, -turn, axis=0)
        patch = upright(picture, corners)
        answer = reader(patch[..., ::-1].copy(), use_det=False, use_cls=False, use_rec=True)
        if answer.txts:
            tries.append((float(answer.scores[0]), answer.txts[0].strip(), corners, patch))
    confidence, string, corners, patch = max(tries, key=lambda each: each[0], default=(0.0, "", box, picture))
    if confidence < SURE or not any(character.isalnum() for character in string):
        return None
    wide = roomy(corners)
    patch = upright(picture, wide)
    seen = inks(patch)[0] > HALF
    return measured(string, wide, patch, seen, confidence) if seen.any() else None


def upright(picture: NDArray[Any], corners: NDArray[np.float64]) -> NDArray[Any]:
    """What lies in a turned rectangle, `h w c`, turned upright; its corners are given left top first, clockwise."""
    import cv2

    width, height = _size(corners)
    rows, columns = (slice(max(0, int(corners[:, i].min()) - 2), int(corners[:, i].max()) + 3) for i in (1, 0))
    picture = np.ascontiguousarray(picture[rows, columns])
    corners = corners - (columns.start, rows.start)
    to = np.array([(0, 0), (width, 0), (0, height)], np.float32)
    way = cv2.getAffineTransform(corners[[0, 1, 3]].astype(np.float32) - 0.5, to - 0.5)
    patch: NDArray[Any] = cv2.warpAffine(picture, way, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return patch.reshape(height, width, -1)


def letters(picture: NDArray[np.uint8], corners: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which pixels of `upright(picture, corners)` are letters of the line there."""
    width, height = _size(corners)
    room = round(ROOM * height)
    sure: NDArray[np.bool_] = inks(upright(picture, roomy(corners)))[0] > HALF
    return sure[room : room + height, room : room + width]


def measured(
    string: str, corners: NDArray[np.float64], patch: NDArray[Any], letters: NDArray[Any], confidence: float = 1.0
) -> TextLine:
    """A line whose letters are the pixels `h w` of the upright patch `h w 3` uint8 that lies at `corners`."""
    import cv2

    rows, columns = np.flatnonzero(letters.any(axis=1)), np.flatnonzero(letters.any(axis=0))
    if not rows.size:
        rows, columns = np.arange(patch.shape[0]), np.arange(patch.shape[1])
    low, high = reach(string)
    tall = float(rows[-1] + 1 - rows[0])
    size = tall / (high - low)
    strong = letters.astype(np.uint8)
    inner = cv2.erode(strong, np.ones((3, 3), np.uint8)).astype(bool)
    inner = inner if inner.any() else letters if letters.any() else np.ones_like(letters)
    color = np.median(patch[inner][:, :3], axis=0)
    return TextLine(
        string=string,
        quad=_within(corners, patch.shape, (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)),
        size=size,
        color=(int(color[0]), int(color[1]), int(color[2])),
        baseline=high / (high - low),
        weight=weight(strong, size),
        confidence=min(1.0, confidence),
    )


def texts(
    found: Sequence[TextLine], layers: NDArray[Any], kinds: Sequence[str], picture: NDArray[Any]
) -> list[TextBlock | None]:
    """What each of `l h w 4` full-canvas layers says, straight alpha, of the lines found in the picture `h w 3|4`.

    A line belongs to the layer whose alpha looks most like its ink, text layers first; there it is measured anew. What
    looks like none of them, such as letters that are one with what they lie on, stays unsaid.
    """
    said: dict[int, list[TextLine]] = {}
    levels = _opaque(picture)
    for line in found:
        corners = np.array(line.quad)
        ink = letters(levels, corners)
        best, owner, mask = AGREE, -1, ink
        for index in range(1, len(layers)):
            alpha = _alpha(layers[index], corners) > HALF
            share = float((ink & alpha).sum() / max(1, (ink | alpha).sum()))
            share += 0.3 if kinds[index] == "text" and 0.02 < alpha.mean() < 0.9 else 0
            if share > best:
                best, owner, mask = share, index, alpha
        if owner > 0:
            patch = to_8_bit(upright(layers[owner], corners))[..., :3]
            said.setdefault(owner, []).append(measured(line.string, corners, patch, mask, line.confidence))
    width = layers.shape[2]
    return [block(said[index], width) if index in said else None for index in range(len(layers))]


def colored(text: TextBlock, pixels: NDArray[Any], box: Box) -> TextBlock:
    """The text with the colours that its letters have in a layer's pixels `h w 4` over `box`."""

    def anew(line: TextLine) -> TextLine:
        patch = upright(pixels, np.array(line.quad) - (box.left, box.top))
        strong = patch[..., 3] > 0.9 * patch[..., 3].max()
        color = np.median(to_8_bit(patch)[strong][:, :3], axis=0)
        return replace(line, color=(int(color[0]), int(color[1]), int(color[2])))

    return replace(text, lines=tuple(anew(line) for line in text.lines))


def block(lines: Sequence[TextLine], width: int) -> TextBlock:
    """Lines as one text. A single line is centred where it is in the middle of a canvas so wide, else flush left or
    right, where it is nearer.
    """
    ordered = tuple(sorted(lines, key=lambda line: (line.quad[0][1], line.quad[0][0])))
    if align := aligned(ordered):
        return TextBlock(ordered, align)
    xs = [x for x, _ in ordered[0].quad]
    left, right = min(xs), width - max(xs)
    if abs(left - right) < 0.06 * width:
        return TextBlock(ordered, "center")
    return TextBlock(ordered, "right" if right < 0.25 * left else "left")


def roomy(corners: NDArray[np.float64], share: float = ROOM) -> NDArray[np.float64]:
    """The corners of a line, with a share of its height as room around."""
    width, height = math.dist(corners[0], corners[1]), math.dist(corners[0], corners[3])
    x, y = (corners[1] - corners[0]) / width, (corners[3] - corners[0]) / height
    wide: NDArray[np.float64] = corners + share * height * np.array([-x - y, x - y, x + y, y - x])
    return wide


def _alpha(layer: NDArray[Any], corners: NDArray[np.float64]) -> NDArray[np.float32]:
    """Alpha `h w` in 0 to 1 of a full-canvas layer in a turned rectangle."""
    return np.asarray(upright(layer[..., 3:], corners)[..., 0] / np.iinfo(layer.dtype).max, np.float32)


def reach(string: str) -> tuple[float, float]:
    """How far below and above the baseline the ink of a line reaches, in ems, in most families."""
    low, high = 0.0, X
    for character in string:
        if is_ideograph(character):
            low, high = min(low, DROP), max(high, IDEOGRAPH)
        elif character.isupper() or character.isdigit():
            high = max(high, CAP)
        elif character.islower() and character not in "acegmnopqrsuvwxyz":
            high = max(high, ASCENDER)
        if character in "gjpqy":
            low = min(low, DESCENDER)
        elif character in ",;Q":
            low = min(low, DESCENDER / 2)
        elif character in "()[]{}|/":
            low, high = min(low, DESCENDER / 2), max(high, ASCENDER)
        elif character in "!?&%#$'\"":
            high = max(high, CAP)
    return low, high


def is_ideograph(character: str) -> bool:
    """Whether a character is as wide as it is high: Chinese, Japanese, Korean."""
    code = ord(character)
    return 0x2E80 <= code <= 0x9FFF or 0xAC00 <= code <= 0xD7AF or 0xF900 <= code <= 0xFAFF or code >= 0x20000


def weight(letters: NDArray[np.uint8], size: float) -> int:
    """The weight of letters `h w` of 0 and 1, in hundreds: twice their area over their outline is their stroke."""
    import cv2

    outlines, _ = cv2.findContours(letters, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    length = sum(cv2.arcLength(outline, closed=True) for outline in outlines)
    stroke = 2 * float(letters.sum()) / max(float(length), 1.0) / size
    found = float(np.interp(stroke, list(STEM.values()), list(STEM)))
    return int(min(900, max(100, 100 * round(found / 100))))


def _joined(found: list[TextLine]) -> list[TextLine]:
    """The same lines, pieces that follow each other on one line put together."""
    result: list[TextLine] = []
    for line in sorted(found, key=lambda each: each.quad[0][0]):
        for index, before in enumerate(result):
            if (joined := _join(before, line)) is not None:
                result[index] = joined
                break
        else:
            result.append(line)
    return result


def _join(one: TextLine, other: TextLine) -> TextLine | None:
    """Both as one line, if the other goes on where the one ends; None if not."""
    if abs(one.angle) > 20 or abs(one.angle - other.angle) > 4:
        return None
    low, high = sorted((one.size, other.size))
    gap = math.dist(one.quad[1], other.quad[0]) if other.quad[0][0] > one.quad[1][0] else 0.0
    middle = [sum(y for _, y in line.quad) / 4 for line in (one, other)]
    apart = np.abs(np.subtract(one.color, other.color)).max()
    tilt = math.tan(math.radians(one.angle)) * (other.quad[0][0] - one.quad[1][0])
    if high > 1.4 * low or gap > 0.6 * high or abs(middle[1] - middle[0] - tilt) > 0.25 * high or apart > 60:
        return None
    if other.quad[0][0] < one.quad[0][0] + 0.7 * one.width:  # one above the other, or the same twice
        return None
    space = "" if is_ideograph(one.string[-1]) or is_ideograph(other.string[0]) else " "
    return replace(
        one,
        string=one.string + space + other.string,
        quad=(one.quad[0], other.quad[1], other.quad[2], one.quad[3]),
        size=high,
        confidence=min(one.confidence, other.confidence),
    )


def _level(box: NDArray[np.float64]) -> NDArray[np.float64]:
    (left, top), (right, bottom) = box.min(axis=0), box.max(axis=0)
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _size(corners: NDArray[np.float64]) -> tuple[int, int]:
    """Width and height of a turned rectangle in whole pixels."""
    across = max(math.dist(corners[0], corners[1]), math.dist(corners[3], corners[2]))
    down = max(math.dist(corners[0], corners[3]), math.dist(corners[1], corners[2]))
    return max(1, round(across)), max(1, round(down))


def _within(corners: NDArray[np.float64], shape: tuple[int, ...], part: tuple[int, int, int, int]) -> Quad:
    """Corners on the canvas of the part left, top, right, bottom of the patch that lies at `corners`."""
    left, top, right, bottom = part
    x, y = (corners[1] - corners[0]) / shape[1], (corners[3] - corners[0]) / shape[0]

    def at(across: int, down: int) -> Point:
        point = corners[0] + across * x + down * y
        return float(point[0]), float(point[1])

    return at(left, top), at(right, top), at(right, bottom), at(left, bottom)
