"""Whatever an engine answers, the layers flatten to the picture."""

from __future__ import annotations

import numpy as np
import pytest
from einops import einsum
from hypothesis import given, settings
from hypothesis import strategies as st

from unfuse import composite
from unfuse.layers import Layer, LayerStack
from unfuse.pixels import Levels
from unfuse.recompose import recompose, weights


def flattened(layers: Levels) -> Levels:
    height, width = layers.shape[1:3]
    stack = tuple(Layer.from_canvas(str(i), "object", layer) for i, layer in enumerate(layers))
    return composite.flatten(LayerStack((width, height), stack, depth=8 if layers.dtype == np.uint8 else 16))


def apart(flat: Levels, picture: Levels) -> int:
    """The largest difference in levels; colour counts where there is alpha."""
    difference = np.abs(flat.astype(np.int64) - picture)
    difference[picture[..., 3] == 0, :3] = 0
    return int(difference.max())


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 16),
    size=st.tuples(st.integers(1, 70), st.integers(1, 7)),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    hard=st.booleans(),
    opaque=st.booleans(),
)
def test_any_layers_flatten_to_the_picture(
    seed: int, count: int, size: tuple[int, int], dtype: type, hard: bool, opaque: bool
) -> None:
    rng = np.random.default_rng(seed)
    most = np.iinfo(dtype).max
    picture: Levels = rng.integers(0, most, (*size, 4), endpoint=True).astype(dtype)
    picture[..., 3] = most if opaque else rng.choice([0, 1, most // 3, most - 1, most], size)
    if hard:
        picture[..., :3] = rng.choice([0, most], (*size, 3))
    layers = rng.random((count, *size, 4), dtype=np.float32)
    if hard:
        layers[..., 3] = rng.choice([0, 0.004, 0.5, 0.996, 1], layers.shape[:-1])
    assert apart(flattened(recompose(picture, layers)), picture) == 0


def test_a_pixel_that_one_layer_owns_is_the_picture_s_own() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (40, 50, 4), dtype=np.uint8)
    picture[..., 3] = 255
    layers = rng.random((3, 40, 50, 4), dtype=np.float32)
    owner = rng.integers(0, 3, (40, 50))
    layers[..., 3] = np.arange(3)[:, None, None] == owner
    got = recompose(picture, layers)
    for i in range(3):
        assert np.array_equal(got[i][owner == i], picture[owner == i])
    hidden = got[0][owner > 0].astype(int) - layers[0][owner > 0] * 255
    assert np.abs(hidden[:, :3]).max() <= 0.5 + 1e-3  # hidden colour is the engine's


def test_alphas_of_an_opaque_picture_are_kept() -> None:
    layers = np.random.default_rng(1).random((4, 9, 9, 4), dtype=np.float32)
    layers[0, ..., 3] = 1
    whole = np.floor(einsum(weights(layers[..., 3]), layers[..., :3], "l h w, l h w c -> h w c") * 255 + 0.5)
    picture = np.dstack([whole, np.full((9, 9), 255)]).astype(np.uint8)
    got = recompose(picture, layers)
    assert (got[0, ..., 3] == 255).all()
    assert np.array_equal(got[1:, ..., 3], np.floor(layers[1:, ..., 3] * 255 + 0.5))


def test_colours_move_no_more_than_they_must() -> None:
    layers = np.zeros((2, 1, 1, 4), np.float32)
    layers[0, ..., :3], layers[1, ..., :3], layers[1, ..., 3] = 0.2, 0.6, 0.5
    got = recompose(np.array([[[112, 112, 112, 255]]], np.uint8), layers)  # 0.4 is 102: ten levels are missing
    assert np.abs(got[:, 0, 0, 0].astype(int) - [61, 163]).max() <= 1


def test_weights_add_up_to_the_composed_alpha() -> None:
    alpha = np.random.default_rng(2).random((5, 6, 7), dtype=np.float32)
    np.testing.assert_allclose(weights(alpha).sum(0), 1 - np.prod(1 - alpha, axis=0), atol=1e-6)


def test_a_layer_that_would_repaint_what_it_hides_is_opaque_instead() -> None:
    layers = np.zeros((2, 1, 1, 4), np.float32)
    layers[0, ..., :3], layers[1, ..., :3], layers[1, ..., 3] = 0.1, 1, 0.95  # white at 0.95 over nearly black
    got = recompose(np.full((1, 1, 4), 255, np.uint8), layers)
    assert got[1, 0, 0].tolist() == [255, 255, 255, 255]
    assert got[0, 0, 0, 0] == 26  # and not the white that would have filled the gap


@pytest.mark.parametrize("size", [(1, 1), (12, 2000)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    picture = np.random.default_rng(3).integers(0, 256, (*size, 4), dtype=np.uint8)
    layers = np.random.default_rng(4).random((3, *size, 4), dtype=np.float32)
    assert apart(flattened(recompose(picture, layers)), picture) == 0
