"""Crello: designs with their elements as pictures, out of a local copy of the public data set (revision 5, parquet).

A row is a design: `canvas_width`, `canvas_height`, and lists of `length` elements from the bottom up, each with its
`type`, its picture in `image`, and its place in pixels of the canvas: the box `left`, `top`, `width`, `height`, turned
by `angle` degrees about its middle, with an `opacity`. Elements are drawn as the data set's own renderer draws them,
but for text, which comes from its picture too, and not from fonts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfuse import pixels
from unfuse.errors import FormatError, require
from unfuse.layers import Box, Kind, Layer, LayerStack

KINDS: dict[str, Kind] = {
    "ColoredBackground": "background",
    "ImageElement": "object",
    "MaskElement": "object",
    "SvgElement": "decoration",
    "TextElement": "text",
}
LISTS = ("type", "left", "top", "width", "height", "angle", "opacity", "image", "text")
COLUMNS = ("id", "canvas_width", "canvas_height", "length", *LISTS)
LICENSE = "CDLA-Permissive-2.0"  # of the data set, by its card
AROUND = 8192  # pixels that an element may reach beyond a side of 0


def rows(path: Path) -> int:
    """How many designs a file holds. Raises FormatError where it is not one of the data set."""
    return int(_open(path).metadata.num_rows)


def read(path: Path, row: int | None, limit_megapixels: float) -> tuple[LayerStack, dict[str, Any]]:
    """The design of a row, and its id, licence and source. Raises FormatError where it is broken or too large."""
    design = _design(path, row or 0)
    names = _type_names(path)
    size = int(design["canvas_width"]), int(design["canvas_height"])
    if min(size) < 1 or size[0] * size[1] > limit_megapixels * 1e6:
        raise FormatError(f"{path}, row {row}: a canvas of {size} pixels, the limit is {limit_megapixels:g} megapixels")
    layers = []
    for i in range(int(design["length"])):
        element = {name: design[name][i] for name in LISTS}
        kind = KINDS[named(element["type"], names, path)]
        place = _place(element, size)
        if place is not None and element["image"] is not None:
            text = " ".join(str(element["text"] or "").split())
            layer = _drawn(element, place, limit_megapixels)
            layers.append(
                Layer(text or named(element["type"], names, path), kind, place, layer, opacity=_opacity(element))
            )
    told = {"id": design["id"], "license": LICENSE, "source": "cyberagent/crello"}
    return LayerStack(size, tuple(layers)), told


def named(value: int | str, names: Sequence[str], path: Path) -> str:
    """An element's type by its name. Raises FormatError for those of other revisions."""
    name = names[value] if isinstance(value, int) and 0 <= value < len(names) else str(value)
    if name not in KINDS:
        raise FormatError(f"{path}: an element of type {name!r}: take revision 5, which has {', '.join(KINDS)}")
    return name


def _open(path: Path) -> Any:
    parquet = require("pyarrow.parquet", "corpus", "reading Crello")
    pyarrow = require("pyarrow", "corpus", "reading Crello")
    try:
        file = parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise FormatError(f"{path} is not a parquet file, or is cut short ({error}): download it again") from error
    if missing := [name for name in COLUMNS if name not in file.schema_arrow.names]:
        raise FormatError(f"{path} lacks the column {missing[0]!r}: take revision 5 of cyberagent/crello")
    return file


@lru_cache(maxsize=2)
def _type_names(path: Path) -> tuple[str, ...]:
    """What the numbers in `type` mean, as the datasets library writes it beside the schema."""
    about = json.loads((_open(path).schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
    feature = about.get("info", {}).get("features", {}).get("type", {})
    return tuple(feature.get("feature", feature).get("names", ()))


def _design(path: Path, row: int) -> dict[str, Any]:
    file = _open(path)
    for group in range(file.metadata.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        if row < count:
            found: dict[str, Any] = _group(path, group).slice(row, 1).to_pylist()[0]
            return found
        row -= count
    raise FormatError(f"{path} has no such row")


@lru_cache(maxsize=1)  # rows of a group are asked for one after the other
def _group(path: Path, group: int) -> Any:
    return _open(path).read_row_group(group, columns=list(COLUMNS))


def _opacity(element: dict[str, Any]) -> float:
    return float(np.clip(element["opacity"], 0, 1))


def _matrix(element: dict[str, Any]) -> NDArray[np.float64]:
    """From the unit square to the canvas: the box, turned about its middle. `2 3`."""
    w, h, angle = float(element["width"]), float(element["height"]), np.radians(float(element["angle"]))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.diag([w, h])
    middle = np.array([float(element["left"]) + w / 2, float(element["top"]) + h / 2])
    return np.column_stack([linear, middle - linear @ [0.5, 0.5]])


def _place(element: dict[str, Any], size: tuple[int, int]) -> Box | None:
    """The pixels of the canvas that an element can reach."""
    matrix = _matrix(element)
    if not np.isfinite(matrix).all() or min(float(element["width"]), float(element["height"])) <= 0:
        return None
    corners = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]]) @ matrix.T
    low, high = np.floor(corners.min(0) + 1e-6), np.ceil(corners.max(0) - 1e-6)
    if (low > size).any() or (high < -AROUND).any():
        return None
    return Box(*(int(n) for n in np.clip([*low, *high], -AROUND, 1 << 20))).intersection(Box(0, 0, *size))


def _drawn(element: dict[str, Any], place: Box, limit_megapixels: float) -> NDArray[np.uint8]:
    """The element's picture, `h w 4`, brought to its place; resampled on premultiplied values."""
    import cv2

    image = element["image"]
    picture = pixels.read(
        image["bytes"] if isinstance(image, dict) else image, limit_megapixels=limit_megapixels
    ).pixels
    height, width = picture.shape[:2]
    smaller = min(width, max(1, round(float(element["width"])))), min(height, max(1, round(float(element["height"]))))
    source = pixels.resize(picture, smaller)
    source[..., :3] *= source[..., 3:]
    to_canvas = _matrix(element) @ np.diag([1 / smaller[0], 1 / smaller[1], 1])
    to_canvas[:, 2] -= (place.left, place.top)
    to_canvas[:, 2] += to_canvas[:, :2] @ [0.5, 0.5] - 0.5  # OpenCV counts from pixels' middles
    drawn = np.asarray(
        cv2.warpAffine(source, to_canvas, place.size, flags=cv2.INTER_LINEAR, borderMode=_border(element)), np.float32
    ).clip(0, 1)
    alpha = drawn[..., 3:]
    colour = np.divide(drawn[..., :3], alpha, out=np.zeros_like(drawn[..., :3]), where=alpha > 1e-4)
    return pixels.quantise(np.concatenate([colour, alpha], -1), 8)


def _border(element: dict[str, Any]) -> int:
    """Upright elements end with their box; turned ones fade out at the edge."""
    import cv2

    return int(cv2.BORDER_CONSTANT if float(element["angle"]) % 90 else cv2.BORDER_REPLICATE)
