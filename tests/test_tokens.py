from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unfuse import tokens


@given(*(st.integers(1, 4) for _ in range(5)))
def test_unpack_is_the_inverse_of_pack(b: int, layers: int, channels: int, rows: int, columns: int) -> None:
    latents = np.random.default_rng(0).standard_normal((b, layers, channels, 2 * rows, 2 * columns))
    packed = tokens.pack(latents)
    assert packed.shape == (b, layers * rows * columns, 4 * channels)
    np.testing.assert_array_equal(tokens.unpack(packed, rows, columns), latents)


def test_features_are_channel_then_row_then_column() -> None:
    latents = np.arange(2 * 4 * 4.0).reshape(1, 1, 2, 4, 4)
    np.testing.assert_array_equal(tokens.pack(latents)[0, 1], [2, 3, 6, 7, 18, 19, 22, 23])  # the upper right patch


def test_positions_are_centred_and_the_condition_is_at_layer_minus_one() -> None:
    ids = tokens.position_ids(slots=3, rows=2, columns=3)
    assert ids.dtype == np.int64
    grid = ids.reshape(4, 2, 3, 3)
    assert grid[:, 0, 0, 0].tolist() == [0, 1, 2, -1]
    assert grid[0, :, 0, 1].tolist() == [-1, 0]
    assert grid[0, 0, :, 2].tolist() == [-2, -1, 0]


@pytest.mark.parametrize(
    ("slots", "rows", "columns", "start"), [(2, 8, 6, 4), (2, 6, 9, 4), (9, 2, 3, 9), (1, 1, 1, 1)]
)
def test_text_starts_behind_the_largest_position(slots: int, rows: int, columns: int, start: int) -> None:
    ids = tokens.position_ids(slots, rows, columns)
    assert tokens.text_start(ids) == start == max(rows // 2, columns // 2, slots)


def test_torch_gets_the_same_numbers() -> None:
    torch = pytest.importorskip("torch")
    latents = np.random.default_rng(1).standard_normal((2, 3, 4, 6, 8))
    packed = tokens.pack(torch.from_numpy(latents))
    np.testing.assert_array_equal(packed.numpy(), tokens.pack(latents))
    np.testing.assert_array_equal(tokens.unpack(packed, 3, 4).numpy(), latents)
    assert tokens.text_start(torch.from_numpy(tokens.position_ids(9, 2, 3))).item() == 9
