"""The embedded engine: what it makes of slots, and what its shipped weights must at least see."""

from __future__ import annotations

import hashlib
import itertools
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import unfuse
from unfuse import composite, engines
from unfuse.engines import Count, embedded
from unfuse.engines.embedded import Embedded
from unfuse.errors import EngineError


def card(size: tuple[int, int] = (320, 256)) -> Image.Image:
    """A pale design: a red disc with a face, a blue headline."""
    image = Image.new("RGB", size, (236, 226, 205))
    draw = ImageDraw.Draw(image)
    draw.ellipse((110, 110, 210, 210), fill=(215, 40, 45))
    for x in (140, 172):
        draw.ellipse((x, 140, x + 12, 156), fill=(250, 250, 250))
    draw.rectangle((140, 178, 184, 188), fill=(60, 10, 10))
    draw.text((160, 46), "Summer Sale", font=ImageFont.load_default(44), fill=(20, 50, 150), anchor="mm")
    return image


def soft_iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.minimum(a, b).sum() / np.maximum(a, b).sum())


@pytest.fixture(scope="module")
def engine() -> Embedded:
    loaded = engines.load("embedded")
    assert isinstance(loaded, Embedded)
    return loaded


def test_text_and_an_object_on_a_plain_ground_come_apart() -> None:
    picture = card()
    stack = unfuse.decompose(picture, layers=3)
    kinds = [layer.kind for layer in stack]
    assert kinds in [["background", "object", "text"], ["background", "decoration", "text"]]
    pixels = np.asarray(picture, np.float64)
    changed = np.abs(pixels - pixels[0, 0]).max(-1) > 60
    rows = np.arange(256)[:, None]
    disc, words = changed & (rows > 95), changed & (rows <= 95)
    alphas = [np.asarray(layer.to_image(stack.size))[..., 3] / 255 for layer in stack]
    assert alphas[1][disc].mean() > 0.95  # the disc is whole, face and all
    assert soft_iou(alphas[1], disc.astype(float)) > 0.55  # with some haze around it: today's weights reach 0.63
    assert soft_iou(alphas[2], words.astype(float)) > 0.6
    background = np.asarray(stack[0].to_image(stack.size), np.float64)[..., :3]
    assert np.abs(background - pixels[0, 0])[disc].mean() < 12  # no ghost is left behind


@pytest.mark.parametrize("layers", [1, 2, 5, 16, "auto"])
def test_any_number_of_layers_flattens_back(layers: Count) -> None:
    picture = card()
    stack = unfuse.decompose(picture, layers=layers)
    assert 1 <= len(stack) <= (16 if layers == "auto" else layers)
    assert np.abs(composite.flatten(stack)[..., :3].astype(int) - np.asarray(picture)).max() <= 1


def test_no_layer_is_empty_and_no_two_are_the_same() -> None:
    stack = unfuse.decompose(card(), layers=16)
    alphas = [np.asarray(layer.to_image(stack.size))[..., 3] / 255 for layer in stack]
    assert all(alpha.mean() > 1e-4 for alpha in alphas)
    assert all(soft_iou(a, b) < 0.95 for a, b in itertools.combinations(alphas, 2))


def test_a_batch_is_the_same_to_the_bit_as_one_by_one() -> None:
    pictures = [card(), card((256, 320)), Image.effect_noise((320, 256), 90), card()]
    together = unfuse.decompose_many(pictures, layers=4)
    for stack, picture in zip(together, pictures, strict=True):
        alone = unfuse.decompose(picture, layers=4)
        assert [x.name for x in stack] == [x.name for x in alone]
        same = [
            np.array_equal(a.to_canvas(picture.size), b.to_canvas(picture.size))
            for a, b in zip(stack, alone, strict=True)
        ]
        assert all(same)


def test_splitting_a_layer_keeps_the_picture() -> None:
    stack = unfuse.decompose(card(), layers=2)
    deeper = stack.split(1, layers=3)
    assert deeper[1].kind == "group"
    assert deeper[1].id == stack[1].id
    assert np.abs(composite.flatten(deeper).astype(int) - composite.flatten(stack)).max() <= 1


def test_a_transparent_picture_stays_transparent() -> None:
    picture = card().convert("RGBA")
    alpha = Image.linear_gradient("L").resize(picture.size)
    picture.putalpha(alpha)
    flat = composite.flatten(unfuse.decompose(picture, layers=4)).astype(int)
    truth = np.asarray(picture).astype(int)
    assert np.abs(flat[..., 3] - truth[..., 3]).max() <= 1
    shown = truth[..., 3] > 0
    assert np.abs((flat - truth)[..., :3] * truth[..., 3:] / 255)[shown].max() <= 1


def test_a_main_figure_is_one_layer() -> None:
    """The drinker: hat, face, hands and coat in one, and nothing of the ground beside them."""
    stack = unfuse.decompose(Path(__file__).parents[1] / "examples" / "poster.jpg", text=False)
    alphas = {layer.id: np.asarray(layer.to_image(stack.size))[..., 3] for layer in stack if layer.kind == "object"}
    figure, beside = [(500, 460), (505, 600), (490, 850), (620, 900), (400, 900)], [(500, 60), (120, 760), (880, 700)]
    whole = [alpha for alpha in alphas.values() if all(alpha[y, x] > 250 for x, y in figure)]
    assert len(whole) == 1
    assert not any(whole[0][y, x] for x, y in beside)


def test_provenance_names_the_weights(engine: Embedded) -> None:
    shipped = [(files("unfuse") / "weights" / f"{name}.onnx").read_bytes() for name in ("slots", "matte")]
    assert engine.weights_sha256 == hashlib.sha256(b"".join(shipped)).hexdigest()
    assert [card["sha256"] for card in engine.card().values()] == [hashlib.sha256(x).hexdigest() for x in shipped]
    stack = unfuse.decompose(card(), layers=2, seed=3)
    assert stack.provenance.weights_sha256 == engine.weights_sha256
    assert (stack.provenance.engine, stack.provenance.seed, stack.provenance.steps) == ("embedded", 3, 1)


def test_only_one_step(engine: Embedded) -> None:
    with pytest.raises(EngineError, match="steps=4"):
        unfuse.decompose(card(), steps=4)


@pytest.mark.parametrize("size", [(1, 1), (12000, 200), (640, 480), (7, 4000)])
def test_buckets_are_multiples_of_the_stride_and_keep_the_shape(engine: Embedded, size: tuple[int, int]) -> None:
    width, height = engine.bucket(size)
    stride = embedded.STRIDE * embedded.FINER
    assert width % stride == height % stride == 0
    assert max(width, height) <= embedded.LONGEST * embedded.FINER
    if max(size) / min(size) < 4:
        assert abs(width / height / (size[0] / size[1]) - 1) < 0.1


def test_a_flat_ground_is_the_background_s_and_islands_of_its_colour_are_not() -> None:
    picture = np.full((48, 64, 3), 0.2, np.float32)
    picture[10:40, 10:50] = (0.9, 0.1, 0.1)
    picture[20:30, 20:30] = 0.2  # a hole of the ground's colour that does not reach the rim
    flat = embedded.ground(picture)
    assert flat[2, 2] == flat[45, 60] == 1
    assert flat[15, 15] == flat[25, 25] == 0
    ramp = np.linspace(0, 1, 64, dtype=np.float32)[None, :, None] * np.ones((48, 1, 3), np.float32)
    assert (embedded.ground(ramp) == 0).all()
