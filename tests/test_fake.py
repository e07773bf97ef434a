"""The whole way from a picture to a stack, with the engine that needs no weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import unfuse
from unfuse.composite import flatten
from unfuse.engines import Step
from unfuse.errors import Cancelled, EngineError
from unfuse.layers import LayerStack, Pixels


def ramp(width: int = 96, height: int = 64, seed: int = 0) -> NDArray[np.uint8]:
    """A picture `h w 3` of all brightnesses, in colours that the seed picks."""
    x, y = np.linspace(0, 1, width), np.linspace(0, 1, height)[:, None]
    light = ((2 * x + y) / 3)[..., None] ** np.random.default_rng(seed).uniform(0.7, 1.4, 3)
    return (light * 255 + 0.5).astype(np.uint8)


def off_by(stack: LayerStack, picture: Pixels) -> int:
    """The largest difference in levels of the flattened stack from `h w 3|4`; colour counts where it shows."""
    got, full = flatten(stack).astype(np.int64), np.iinfo(picture.dtype).max
    expected = np.full(got.shape, full, np.int64)
    expected[..., : picture.shape[2]] = picture
    difference = np.abs(got - expected)
    difference[expected[..., 3] == 0, :3] = 0
    return int(difference.max())


def content(stack: LayerStack) -> list[Any]:
    """All that a decomposition decides: ids are new each time, everything else must be the same."""
    layers = [
        (x.name, x.kind, x.box, x.opacity, x.blend_mode, x.visible, None if x.pixels is None else x.pixels.tobytes())
        for x in stack.walk()
    ]
    return [stack.size, stack.depth, stack.provenance, stack.notes, layers]


@pytest.mark.parametrize("count", range(1, 17))
def test_as_many_layers_as_asked_for(count: int) -> None:
    stack = unfuse.decompose(ramp(), layers=count, engine="fake")
    assert len(stack) == count
    assert stack.notes == ()
    assert [layer.kind for layer in stack] == ["background"] + ["object"] * (count - 1)
    assert len({layer.name for layer in stack}) == count
    assert off_by(stack, ramp()) <= 1


def test_the_stack_says_how_it_was_made() -> None:
    stack = unfuse.decompose(ramp(), layers=2, engine="fake", seed=7, steps=3, prompt="a ramp")
    about = stack.provenance
    assert (about.engine, about.seed, about.steps, about.prompt) == ("fake", 7, 3, "a ramp")
    assert about.version == unfuse.__version__
    assert len(about.source_sha256) == 64
    assert stack.size == (96, 64)


def test_a_plain_picture_is_one_layer_and_says_so() -> None:
    plain = np.full((40, 30, 3), 128, np.uint8)
    stack = unfuse.decompose(plain, layers=5, engine="fake")
    assert [layer.name for layer in stack] == ["Grey background"]
    assert stack.notes == ("asked for 5 layers, found 1",)
    assert off_by(stack, plain) <= 1


def test_input_alpha_comes_back() -> None:
    picture = np.dstack([ramp(), np.linspace(0, 255, 96 * 64).reshape(64, 96).astype(np.uint8)])
    picture[:, :10, 3] = 0
    assert off_by(unfuse.decompose(picture, layers=4, engine="fake"), picture) <= 1


def test_sixteen_bits_come_back() -> None:
    picture = ramp().astype(np.uint16) * np.uint16(257)
    picture[::2] += np.uint16(100) * (picture[::2] < 60_000)  # between the 8-bit levels
    stack = unfuse.decompose(picture, layers=4, engine="fake")
    assert stack.depth == 16
    assert off_by(stack, picture) <= 257  # one 8-bit level


def test_steps_are_told_in_order() -> None:
    told: list[Step] = []
    unfuse.decompose(ramp(), layers=2, engine="fake", on_step=told.append)
    assert [(s.step, s.steps) for s in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(s.preview is not None and s.preview.shape == (43, 64, 4) for s in told)
    told.clear()
    unfuse.decompose(ramp(), layers=2, engine="fake", steps=2, on_step=told.append)
    assert [(s.step, s.steps) for s in told] == [(1, 2), (2, 2)]


def test_a_step_that_raises_stops_the_work() -> None:
    told: list[int] = []

    def stop(step: Step) -> None:
        told.append(step.step)
        if step.step == 2:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled, match="stopped"):
        unfuse.decompose(ramp(), layers=2, engine="fake", on_step=stop)
    assert told == [1, 2]


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_many_equal_one_by_one_whatever_their_sizes(batch: int) -> None:
    sizes = [(96, 64), (64, 96), (192, 128), (50, 50), (96, 64), (48, 32), (7, 3)]
    pictures = [ramp(*size, seed=i) for i, size in enumerate(sizes)]
    many = unfuse.decompose_many(pictures, layers=3, engine="fake", batch=batch)
    alone = [unfuse.decompose(picture, layers=3, engine="fake") for picture in pictures]
    assert [stack.size for stack in many] == sizes
    assert [content(stack) for stack in many] == [content(stack) for stack in alone]


def test_no_pictures_are_no_stacks() -> None:
    assert unfuse.decompose_many([], layers=3, engine="fake") == []


@pytest.mark.parametrize("layers", [2, 4, "auto"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_splitting_a_layer_keeps_the_picture(layers: Any, which: int) -> None:
    stack = unfuse.decompose(ramp(), layers=3, engine="fake")
    old = stack[which]
    after = stack.split(which, layers, engine="fake")
    group = after[which]
    assert (group.kind, group.name, group.id, group.box) == ("group", old.name, old.id, old.box)
    assert 2 <= len(group.layers) <= (3 if layers == "auto" else layers)
    assert [x.id for x in after] == [x.id for x in stack]
    assert off_by(after, flatten(stack)) <= 1
    for one, other in zip(after, stack, strict=True):
        assert one is other or one is group


def test_splitting_what_is_one_thing_changes_nothing() -> None:
    stack = unfuse.decompose(np.full((40, 30, 3), 128, np.uint8), layers=1, engine="fake")
    assert stack.split(0, 3, engine="fake") is stack


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "layers=0: say 1 to 16, or 'auto'"),
        ({"layers": 17}, "layers=17: say 1 to 16"),
        ({"layers": -1}, "layers=-1: say"),
        ({"layers": 2.5}, "layers=2.5: say"),
        ({"layers": "many"}, "layers='many': say"),
        ({"steps": 0}, "steps=0: say 1 or more"),
        ({"steps": -3}, "steps=-3: say 1 or more"),
        ({"engine": "fakes"}, "engine 'fakes' is unknown: say one of embedded, qwen, trained, fake"),
        ({"engine": ""}, "engine '' is unknown"),
        ({"engine": "fake:folder"}, "engine 'fake:folder': say fake alone"),
        ({"engine": "qwen"}, "engine 'qwen': say qwen:FOLDER"),
    ],
)
def test_what_the_engine_cannot_do_is_said_with_the_cure(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError) as error:
        unfuse.decompose(ramp(), **{"layers": 2, "engine": "fake", **options})
    assert message in str(error.value)
