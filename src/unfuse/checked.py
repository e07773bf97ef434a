"""What the fields of layers and stacks may hold, looked at when they are made. Each raises StackError, in one line."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unfuse.boxes import Box
from unfuse.errors import StackError

Pixels = NDArray[np.uint8] | NDArray[np.uint16]  # h w 4, straight alpha, full range of the type

DEPTHS = {np.dtype(np.uint8): 8, np.dtype(np.uint16): 16}


def text(what: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise StackError(f"{what} is {value!r}: it must be a text that is not empty")
    return value


def opacity(named: str, value: object) -> float:
    if not isinstance(value, int | float | np.floating) or not 0 <= value <= 1:  # NaN fails the comparison
        raise StackError(f"the opacity of layer {named!r} is {value!r}: it must be a number from 0 to 1")
    return float(value)


def _integers(value: Any, count: int) -> tuple[int, ...] | None:
    try:
        numbers = tuple(operator.index(number) for number in value)
    except TypeError:
        return None
    return numbers if len(numbers) == count else None


def box_of(named: str, value: object) -> Box:
    numbers = _integers(value, 4)
    box = Box(*numbers) if numbers else Box(0, 0, 0, 0)
    if box.width < 1 or box.height < 1:
        raise StackError(
            f"the box of layer {named!r} is {value!r}: it must be four whole numbers left, top, right, bottom with "
            "left < right and top < bottom"
        )
    return box


def size_of(value: object) -> tuple[int, int]:
    numbers = _integers(value, 2)
    if numbers is None or min(numbers) < 1:
        raise StackError(f"the stack's size is {value!r}: it must be (width, height), whole numbers of at least 1")
    return numbers[0], numbers[1]


def pixels_of(named: str, value: object, box: Box) -> Pixels:
    expected = (box.height, box.width, 4)
    if not isinstance(value, np.ndarray) or value.dtype not in DEPTHS or value.shape != expected:
        given = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise StackError(
            f"the pixels of layer {named!r} are {given}: its box {tuple(box)} needs uint8 or uint16 of shape {expected}"
        )
    pixels: Pixels = np.ascontiguousarray(value)
    pixels.flags.writeable = False
    return pixels
