"""Names: known answers for colour, shape and place, and no two alike."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from unfuse.layers import Kind
from unfuse.naming import COLOURS, describe, names

HEIGHT, WIDTH = 90, 120
RED, BLUE, BLACK, WHITE = ((215, 35, 40), (40, 100, 220), (0, 0, 0), (255, 255, 255))


def painted(rgb: tuple[int, int, int], alpha: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A layer of one colour with an alpha `h w` in 0..1."""
    layer = np.empty((HEIGHT, WIDTH, 4), np.uint8)
    layer[..., :3] = rgb
    layer[..., 3] = np.round(alpha * 255)
    return layer


def panel(left: int, top: int, right: int, bottom: int) -> NDArray[np.float64]:
    alpha = np.zeros((HEIGHT, WIDTH))
    alpha[top:bottom, left:right] = 1
    return alpha


def circle(x: float, y: float, radius: float) -> NDArray[np.float64]:
    rows, columns = np.arange(HEIGHT)[:, None], np.arange(WIDTH)
    return np.where((columns - x) ** 2 + (rows - y) ** 2 <= radius**2, 1.0, 0.0)


def fading(most: float) -> NDArray[np.float64]:
    """Nothing at the top, `most` at the bottom."""
    return np.broadcast_to(most * np.linspace(0, 1, HEIGHT)[:, None] ** 2, (HEIGHT, WIDTH))


@pytest.mark.parametrize(
    ("rgb", "alpha", "kind", "name"),
    [
        (RED, circle(99.5, 14.5, 12), "decoration", "Red circle, top right"),
        (WHITE, panel(30, 25, 90, 65), "decoration", "White panel, centre"),
        (BLACK, panel(0, 75, WIDTH, HEIGHT), "decoration", "Black band, bottom"),
        (BLACK, panel(0, 0, 20, HEIGHT), "decoration", "Black band, left"),
        (BLACK, fading(0.55), "decoration", "Black veil, bottom"),
        (WHITE, fading(0.2), "decoration", "Faint veil, bottom"),
        (WHITE, np.ones((HEIGHT, WIDTH)), "decoration", "White band"),
        (RED, np.maximum(panel(10, 10, 60, 20), panel(10, 10, 20, 60)), "decoration", "Red shape, top left"),
        (BLUE, panel(40, 5, 80, 15), "text", "Blue text, top"),
        (BLUE, circle(20, 70, 12), "object", "Blue object, bottom left"),
        (BLUE, np.ones((HEIGHT, WIDTH)), "background", "Blue background"),
    ],
)
def test_known_answers(rgb: tuple[int, int, int], alpha: NDArray[np.float64], kind: Kind, name: str) -> None:
    assert describe(painted(rgb, alpha), kind) == name


@pytest.mark.parametrize("term", COLOURS)
def test_every_colour_term_names_its_own_colour(term: str) -> None:
    assert describe(painted(COLOURS[term], panel(30, 25, 90, 65)), "object") == f"{term.capitalize()} object, centre"


def test_the_places_are_the_thirds_of_the_canvas() -> None:
    places = [
        [describe(painted(RED, circle(x, y, 10)), "object").partition(", ")[2] for x in (20, 60, 100)]
        for y in (15, 45, 75)
    ]
    assert places == [
        ["top left", "top", "top right"],
        ["left", "centre", "right"],
        ["bottom left", "bottom", "bottom right"],
    ]


def test_many_colours_are_colourful_and_half_of_one_is_that_colour() -> None:
    layer = painted(RED, np.ones((HEIGHT, WIDTH)))
    for i, term in enumerate(("yellow", "green", "blue", "purple")):
        layer[:, 24 * i : 24 * (i + 1), :3] = COLOURS[term]
    assert describe(layer, "background") == "Colourful background"
    layer[:, : WIDTH // 2, :3] = COLOURS["teal"]
    assert describe(layer, "background") == "Teal background"


def test_colour_that_does_not_show_does_not_count() -> None:
    layer = painted(RED, panel(30, 25, 90, 65))
    layer[layer[..., 3] == 0, :3] = BLUE
    assert describe(layer, "object") == "Red object, centre"


def test_a_layer_that_shows_nothing_has_a_name_too() -> None:
    assert describe(painted(RED, np.zeros((HEIGHT, WIDTH))), "decoration").startswith("Faint veil")


def test_repeated_names_are_numbered() -> None:
    dot, other = painted(RED, circle(99.5, 14.5, 12)), painted(BLUE, circle(99.5, 14.5, 12))
    kinds: list[Kind] = ["decoration"] * 4
    assert names(np.stack([dot, other, dot, dot]), kinds) == [
        "Red circle, top right",
        "Blue circle, top right",
        "Red circle, top right (2)",
        "Red circle, top right (3)",
    ]


def test_sixteen_bits_are_called_as_eight_are() -> None:
    layers = np.stack([painted(RED, np.ones((HEIGHT, WIDTH))), painted(BLUE, fading(0.55))])
    kinds: list[Kind] = ["background", "decoration"]
    assert names(layers.astype(np.uint16) * np.uint16(257), kinds) == names(layers, kinds)
    assert names(layers, kinds) == ["Red background", "Blue veil, bottom"]
