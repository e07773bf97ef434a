"""Native size: alphas that follow the picture, hidden colour without ghosts, and the picture back exactly."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from unfuse.pixels import Levels, to_float
from unfuse.recompose import weights
from unfuse.refine import on_grey, peel, refine, solve, spread


def composed(layers: NDArray[np.float32]) -> NDArray[np.float32]:
    out = np.zeros((*layers.shape[1:3], 3), np.float32)
    for layer in layers:
        out = layer[..., 3:] * layer[..., :3] + (1 - layer[..., 3:]) * out
    return out


@dataclass(frozen=True)
class Design:
    """True layers `l h w 4` float32: a textured gradient, a disc with a soft shadow, a glass panel, text."""

    layers: NDArray[np.float32]

    @property
    def picture(self) -> NDArray[np.float32]:
        flat = np.floor(composed(self.layers) * 255 + 0.5) / 255
        return np.concatenate([flat, np.ones_like(flat[..., :1])], -1).astype(np.float32)

    def at(self, bucket: int) -> NDArray[np.float32]:
        """The layers as a perfect engine would give them."""
        rgb = self.layers[..., :3] * self.layers[..., 3:]
        small = [
            cv2.resize(np.dstack([c, a]), (bucket, bucket), interpolation=cv2.INTER_AREA)
            for c, a in zip(rgb, self.layers[..., 3], strict=True)
        ]
        stack = np.stack(small)
        stack[..., :3] /= np.maximum(stack[..., 3:], 1e-4)
        return stack.clip(0, 1)


@pytest.fixture(scope="module")
def design() -> Design:
    side = 512
    ys, xs = np.mgrid[0:side, 0:side].astype(np.float32) / side
    noise = cv2.GaussianBlur(np.random.default_rng(0).random((side, side), dtype=np.float32), (0, 0), 3)
    layers = np.zeros((4, side, side, 4), np.float32)
    layers[0, ..., 0], layers[0, ..., 1], layers[0, ..., 2] = 0.3 + 0.4 * xs, 0.5 + 0.3 * ys, 0.7
    layers[0, ..., :3] += (noise - 0.5)[..., None] * 0.5
    layers[0, ..., 3] = 1
    disc = np.clip((0.22 - np.hypot(ys - 0.5, xs - 0.45)) * side + 0.5, 0, 1)
    shade = cv2.GaussianBlur(np.roll(disc, 12, 0), (0, 0), 8) * 0.5
    alpha = disc + (1 - disc) * shade
    layers[1, ..., 0] = 0.85 * disc / np.maximum(alpha, 1e-6)
    layers[1, ..., 3] = alpha
    layers[2, 300:420, 200:480] = (1, 1, 1, 0.5)
    image = Image.new("L", (side, side))
    ImageDraw.Draw(image).text((256, 90), "Headline", font=ImageFont.load_default(90), fill=255, anchor="mm")
    ImageDraw.Draw(image).text((330, 360), "small print 14:30", font=ImageFont.load_default(20), fill=255, anchor="mm")
    layers[3, ..., :3], layers[3, ..., 3] = (0.1, 0.15, 0.35), np.asarray(image, np.float32) / 255
    return Design(layers.clip(0, 1))


def soft_iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.minimum(a, b).sum() / np.maximum(a, b).sum())


def error(picture: NDArray[np.float32], layers: Levels, most: int) -> float:
    """The largest difference from the picture in levels, alpha included, colour where there is alpha."""
    alphas = layers[..., 3].astype(np.float64) / most
    seen = 1 - np.prod(1 - alphas, axis=0)
    share = weights(alphas.astype(np.float32)) / np.maximum(seen, 1e-9)
    colour = (share[..., None] * layers[..., :3].astype(np.float64)).sum(0)
    truth = np.rint(picture.astype(np.float64) * most)
    shown = picture[..., 3] > 0
    off = [np.abs(np.floor(seen * most + 0.5) - truth[..., 3]).max()]
    if shown.any():
        off.append(np.abs(np.floor(colour + 0.5) - truth[..., :3])[shown].max())
    return float(max(off))


@pytest.mark.parametrize(("bucket", "least"), [(128, (0.96, 0.95, 0.93)), (256, (0.98, 0.97, 0.97))])
def test_alphas_follow_the_picture(design: Design, bucket: int, least: tuple[float, ...]) -> None:
    got = to_float(refine(design.picture, design.at(bucket)))
    for i, at_least in enumerate(least, start=1):
        assert soft_iou(got[i, ..., 3], design.layers[i, ..., 3]) > at_least
        plain = cv2.resize(design.at(bucket)[i, ..., 3], (512, 512), interpolation=cv2.INTER_LINEAR)
        assert soft_iou(got[i, ..., 3], design.layers[i, ..., 3]) > soft_iou(plain, design.layers[i, ..., 3])


def test_an_unsure_engine_is_made_sure(design: Design) -> None:
    weak = design.at(192)
    weak[1:, ..., 3] = 0.03 + 0.88 * weak[1:, ..., 3]  # haze everywhere, never quite opaque
    got = to_float(refine(design.picture, weak))
    disc = np.hypot(*(np.mgrid[0:512, 0:512] / 512 - np.array([0.5, 0.45])[:, None, None])) < 0.2
    assert got[1, ..., 3][disc].min() > 0.99
    assert (got[1:, :40, :40, 3] == 0).all()


def test_taking_the_top_layer_off_leaves_no_ghost(design: Design) -> None:
    got = to_float(refine(design.picture, design.at(256)))
    around = cv2.dilate((design.layers[3, ..., 3] > 0).astype(np.uint8), np.ones((13, 13), np.uint8)) > 0
    ghost = np.abs(composed(got[:-1]) - composed(design.layers[:-1]))[around].mean() * 255
    assert ghost < 2.5


def on_plain(tint: float = 0, thin: float = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A dark disc on plain blue at 384 px, and an engine's answer at 96 whose blue is off and whose disc is smaller."""
    ys, xs = np.mgrid[0:384, 0:384].astype(np.float32) - 191.5
    disc = np.clip(110 - np.hypot(ys, xs) + 0.5, 0, 1)[..., None]
    blue, dark = np.array([0.4, 0.6, 0.9], np.float32), np.array([0.1, 0.05, 0.2], np.float32)
    flat = np.floor((disc * dark + (1 - disc) * blue) * 255 + 0.5) / 255
    picture = np.dstack([flat, np.ones_like(disc)]).astype(np.float32)
    ys, xs = np.mgrid[0:96, 0:96].astype(np.float32) - 47.5
    layers = np.ones((2, 96, 96, 4), np.float32)
    layers[0, ..., :3], layers[1, ..., :3] = blue + tint, dark
    layers[1, ..., 3] = np.clip(110 / 4 - thin - np.hypot(ys, xs) + 0.5, 0, 1)
    return picture, layers


@pytest.mark.parametrize(("tint", "thin"), [(0, 0), (0.06, 0), (-0.06, 0), (0, 0.4), (0, 0.8)])
def test_hidden_colour_goes_on_from_what_is_seen(tint: float, thin: float) -> None:
    picture, layers = on_plain(tint, thin)
    got = refine(picture, layers)
    truth = np.array([0.4, 0.6, 0.9]) * 255
    assert np.abs(got[0, ..., :3] - truth).max() < 2  # nothing tells that a disc was here


def test_of_two_equal_layers_the_upper_has_the_picture_s_pixels() -> None:
    picture, layers = on_plain()
    got = refine(picture, layers[[0, 1, 1]])
    inside = np.s_[130:250, 130:250]
    assert np.array_equal(got[2][inside], np.floor(picture * 255 + 0.5)[inside])
    assert (got[1][inside][..., 3] == 255).all()


def test_a_transparent_picture_stays_so() -> None:
    picture, layers = on_plain()
    disc = (picture[..., 2] < 0.5).astype(np.float32)
    picture[..., 3] = np.rint(cv2.GaussianBlur(disc, (0, 0), 3) * 255) / 255
    got = refine(picture, layers)  # the engine saw a background; there is none
    assert error(picture, got, 255) == 0
    assert (got[..., 3] <= np.rint(picture[..., 3] * 255)).all()
    assert (got[0, :40, :40] == 0).all()


def test_rows_can_be_peeled_one_by_one(design: Design) -> None:
    picture = design.picture
    plans = solve(picture, design.at(128))
    whole = peel(on_grey(picture), plans, 0, 512)
    for top, bottom in [(0, 1), (100, 333), (511, 512)]:
        rows, same = peel(on_grey(picture[top:bottom]), plans, top, 512), whole[:, top:bottom]
        np.testing.assert_array_equal(rows[..., 3], same[..., 3])
        np.testing.assert_array_equal(rows * (rows[..., 3:] > 0), same * (same[..., 3:] > 0))


def test_noise_of_an_engine_does_not_reach_the_layers(design: Design) -> None:
    rng = np.random.default_rng(0)
    layers = design.at(256)
    layers[..., 3] = [cv2.GaussianBlur(alpha, (0, 0), 0.7) for alpha in layers[..., 3]]
    layers = (layers + rng.normal(0, 0.03, layers.shape).astype(np.float32)).clip(0, 1)
    got = to_float(refine(design.picture, layers))
    for i, at_least in enumerate((0.95, 0.95, 0.93), start=1):
        assert soft_iou(got[i, ..., 3], design.layers[i, ..., 3]) > at_least
    assert (got[1:, :40, :40, 3] == 0).all()


def test_what_one_layer_owns_is_the_picture_to_the_bit(design: Design) -> None:
    picture = design.picture
    got = refine(picture, design.at(256))
    owned = design.layers[1, ..., 3] == 1
    owned &= design.layers[2:, ..., 3].max(0) == 0
    owned = cv2.erode(owned.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    assert np.array_equal(got[1][owned], np.floor(picture * 255 + 0.5)[owned])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 16),
    native=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    bucket=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    depth=st.sampled_from([8, 16]),
    answer=st.sampled_from(["noise", "empty", "full", "nan", "inf", "equal", "hard"]),
    opaque=st.booleans(),
)
def test_whatever_the_engine_answers_the_picture_comes_back(
    seed: int, count: int, native: tuple[int, int], bucket: tuple[int, int], depth: int, answer: str, opaque: bool
) -> None:
    rng = np.random.default_rng(seed)
    most = 2**depth - 1
    picture = (rng.integers(0, most, (*native, 4), endpoint=True) / most).astype(np.float32)
    picture[..., 3] = 1 if opaque else rng.choice([0, 85 / 255, 1], native)
    layers = rng.random((count, *bucket, 4), dtype=np.float32)
    if answer == "equal":
        layers[:] = layers[0]
    elif answer == "hard":
        layers = np.rint(layers)
    elif answer != "noise":
        layers[..., 3] = {"empty": 0, "full": 1, "nan": np.nan, "inf": np.inf}[answer]
    got = refine(picture, layers, depth=8 if depth == 8 else 16)
    assert got.dtype == (np.uint8 if depth == 8 else np.uint16)
    assert got.shape == (count, *native, 4)
    assert error(picture, got, most) == 0


@pytest.mark.parametrize("size", [(1, 1), (200, 12000)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    picture = np.concatenate([rng.integers(0, 256, (*size, 3)) / 255, np.ones((*size, 1))], -1).astype(np.float32)
    got = refine(picture, rng.random((3, 16, 64, 4), dtype=np.float32))
    assert error(picture, got, 255) == 0


def test_push_pull_keeps_what_is_known_and_continues_it() -> None:
    weight = np.zeros((33, 48), np.float32)
    weight[:, :10] = 1
    values = np.broadcast_to(np.array([0.2, 0.5, 0.9], np.float32), (33, 48, 3))
    np.testing.assert_allclose(spread(values, weight), values, atol=1e-4)
    steps = np.where(np.arange(48) < 5, 0.2, 0.8).astype(np.float32) * np.ones((33, 1), np.float32)
    got = spread(steps, weight)
    np.testing.assert_allclose(got[:, :10], steps[:, :10], atol=1e-4)
    assert ((got > 0.19) & (got < 0.81)).all()
