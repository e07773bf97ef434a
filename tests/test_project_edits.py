"""A project keeps what its layers were made from, and its history, as if it had never been written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import unfuse
from unfuse.composite import flatten
from unfuse.errors import FormatError
from unfuse.formats import manifest
from unfuse.layers import Box, Layer, LayerStack


def edited() -> LayerStack:
    rng = np.random.default_rng(0)
    layers = [
        Layer(name, "object", Box(x, x, x + 20, x + 16), rng.integers(0, 256, (16, 20, 4)).astype(np.uint8))
        for name, x in (("A", 2), ("B", 12), ("C", 30))
    ]
    stack = LayerStack((48, 40), tuple(layers)).rotate("A", degrees=20).recolor("A", color="#0a5").move("B", x=3)
    return stack.drop_shadow("B", blur=2).canvas(width=60, height=40, layout="keep").remove("C").undo()


@pytest.mark.parametrize("name", ["a.zip", "a"])
def test_edits_and_history_come_back(tmp_path: Path, name: str) -> None:
    before = edited()
    before.save(tmp_path / name)
    after = unfuse.load(tmp_path / name)
    assert np.array_equal(flatten(after), flatten(before))
    assert after.notes == ()
    for one, other in zip(before, after, strict=True):
        assert (one.original is None) == (other.original is None)
        assert one.original is None or other.original is None or one.original.transform == other.original.transform
    for edit in ({"op": "reset", "layer": "A"}, {"op": "rotate", "layer": "A", "degrees": -20}):
        assert np.array_equal(flatten(unfuse.edit(after, [edit])), flatten(unfuse.edit(before, [edit])))
    assert np.array_equal(flatten(after.redo()), flatten(before.redo()))
    while before.past:
        before, after = before.undo(), after.undo()
        assert before.size == after.size
        assert np.array_equal(flatten(before), flatten(after))
    assert not after.past
    assert after.future[-1].edits == before.future[-1].edits


def test_each_picture_is_kept_once(tmp_path: Path) -> None:
    stack = edited()
    files = dict(manifest.pack(stack, "cropped"))
    states = [stack.layers, *(state.layers for state in (*stack.past, *stack.future))]
    pixels = {id(layer.pixels) for layers in states for layer in layers}
    assert len([name for name in files if name.endswith(".png")]) - 1 == len(pixels)
    assert manifest.members(manifest.parse(files[manifest.MANIFEST], what="it")) == set(files)


def test_a_layer_that_was_painted_keeps_the_paint(tmp_path: Path) -> None:
    stack = edited()
    stack.save(tmp_path / "a")
    file = tmp_path / "a" / "00 A.png"
    painted = np.array(Image.open(file))
    painted[5, 5] = (9, 8, 7, 255)
    Image.fromarray(painted).save(file)
    after = unfuse.load(tmp_path / "a")
    assert after["A"].original is None
    assert after["B"].original is not None
    assert "'00 A.png' was painted" in after.notes[0]
    assert np.array_equal(after["A"].to_canvas(after.size), painted)


def test_a_look_that_is_none_is_refused(tmp_path: Path) -> None:
    files = dict(manifest.pack(edited(), "cropped"))
    for old, new, message in ((b'"recolor"', b'"recolour"', "did you mean"), (b"#0a5", b"#0ax", "color")):
        broken = files | {manifest.MANIFEST: files[manifest.MANIFEST].replace(old, new)}
        with pytest.raises(FormatError, match=message):
            manifest.unpack(lambda name, most: broken[name], what="it", max_pixels=10_000)  # noqa: B023


def test_a_history_that_is_too_large_is_left_out_with_a_note() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 4)).astype(np.uint8)
    stack = LayerStack((20, 20), (Layer("A", "object", Box(0, 0, 20, 20), pixels),))
    for i in range(40):
        stack = stack.recolor("A", color=f"#{i + 100:06x}")
    files = dict(manifest.pack(stack, "cropped"))
    assert len(files) == 2 + 2 + 16  # the layer and its original, and no more states than there is room for
    after = manifest.unpack(lambda name, most: files[name], what="it", max_pixels=20 * 20)
    assert after.past == after.future == ()
    assert "nothing can be undone" in after.notes[0]
    assert len(manifest.unpack(lambda name, most: files[name], what="it", max_pixels=10_000).past) == 16
