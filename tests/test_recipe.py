"""Recipes: what a file says is what is done, and what is wrong in it is said with its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unfuse import recipe
from unfuse.composite import flatten
from unfuse.errors import StackError
from unfuse.layers import Box, Layer, LayerStack

YAML = """
# for the summer
version: 1
edits:
  - {op: move, layer: Badge, x: 3}  # to the right
  - op: recolor
    layer: Badge
    color: "#e4002b"
"""


def stack(name: str = "Badge") -> LayerStack:
    pixels = np.full((8, 8, 4), 90, np.uint8)
    layers = (
        Layer("Back", "background", Box(0, 0, 16, 16), np.full((16, 16, 4), 255, np.uint8)),
        Layer(name, "object", Box(2, 2, 10, 10), pixels),
    )
    return LayerStack((16, 16), layers)


def test_yaml_and_json_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(YAML)
    text = '{"version": 1, "edits": [{"op": "move", "layer": "Badge", "x": 3},'
    (tmp_path / "r.json").write_text(text + '{"op": "recolor", "layer": "Badge", "color": "#e4002b"}]}')
    ours, other = recipe.read(tmp_path / "r.yaml"), recipe.read(tmp_path / "r.json")
    assert ours == other
    expected = stack().move("Badge", x=3).recolor("Badge", color="#e4002b")
    assert np.array_equal(flatten(recipe.run(stack(), ours)), flatten(expected))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("edits: [{op: movee, layer: A}]", "edit 1 of 1: there is no op 'movee' \\(did you mean 'move'"),
        ("edits: [{op: move, layer: A, colour: 3}]", "move has no field 'colour'"),
        ("edit: []", "no field 'edit' \\(did you mean 'edits'"),
        ("version: 2\nedits: []", "version 2"),
        ("", r"its edits are missing: they must be a list, such as \[{op: move, layer: Badge, x: 10}\]"),
        ("# only a remark", "its edits are missing"),
        ("edits:", "its edits are missing"),
        ("edits: {}", "they must be a list"),
        ("{op: move, layer: A}", r"the single {'layer': 'A', 'op': 'move'}: put it into a list, as in \[{op: move"),
        ("edits: {op: move, layer: A}", "put it into a list"),
        ("edits:\n  - {op: move, layer: A\n  - x", "line 3"),
        ("edits: [{op: move, layer: A, x: 1, x: 2}]", "'x' is given twice"),
        ("hello", "its edits are 'hello': they must be a list, such as"),
        ("[{? [a] : b}]", "line 1, column 5: \\['a'\\] is no name: names are texts"),
        ("[{op: move, layer: A, x: .nan}]", "move: the field 'x' is nan: numbers must be finite"),
        ("[{op: curves, layer: A, points: [[0, 0], [1, .inf]]}]", "inf.*numbers must be finite"),
        ("[move]", "'move' is not an edit: it must be like"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
    ],
)
def test_what_a_recipe_refuses(text: str, message: str) -> None:
    with pytest.raises(StackError, match=message):
        recipe.parse(text)


def test_the_fingerprint_is_of_what_shows_not_of_ids() -> None:
    made = recipe.Recipe(recipe.parse(YAML).edits, recipe.fingerprint(stack()))
    assert recipe.run(stack(), made).notes == ()
    other = stack().opacity("Back", value=0.5)
    assert "made for another stack" in recipe.run(other, made).notes[0]


def test_differences_say_what_would_change() -> None:
    before = stack()
    after = recipe.run(before, recipe.parse(YAML)).rename("Back", name="Wall").reorder("Wall", to="top")
    assert recipe.differences(before, after) == [
        "Badge: box (2, 2, 10, 10) becomes (5, 2, 13, 10)",
        "Badge: pixels",
        "Back: name Back becomes Wall",
        "order: Badge, Wall",
    ]
    assert recipe.differences(before, before.remove("Badge")) == ["Badge: removed"]


def test_pictures_are_found_from_the_recipes_folder(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "#f00").save(tmp_path / "red.png")
    (tmp_path / "r.yaml").write_text("- {op: replace_picture, layer: Badge, picture: red.png}\n")
    after = recipe.run(stack(), recipe.read(tmp_path / "r.yaml"))
    assert np.array_equal(after["Badge"].to_canvas((16, 16))[2:10, 2:10], np.full((8, 8, 4), (255, 0, 0, 255)))
    (tmp_path / "r.yaml").write_text("- {op: replace_picture, layer: Badge, picture: blue.png}\n")
    with pytest.raises(StackError, match=r"replace_picture: the picture: .*blue.png: there is no such file"):
        recipe.run(stack(), recipe.read(tmp_path / "r.yaml"))
