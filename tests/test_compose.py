"""The composer: true layers that put together are the picture, repeatable, of every kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from parts import tiny_pack

from unfuse.corpus import draw
from unfuse.corpus.compose import Drawn, Pack, compose, flat
from unfuse.layers import Kind
from unfuse.model.slots import SLOTS
from unfuse.train.slots import batch, slot_of, targets


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return Pack.open(tiny_pack(tmp_path_factory.mktemp("pack")), "train")


def test_layers_are_straight_rgba_on_an_opaque_background(pack: Pack) -> None:
    kinds = set()
    for seed in range(40):
        layers = compose(pack, np.random.default_rng(seed), (64, 96))
        kinds |= {layer.kind for layer in layers}
        assert layers[0].kind == "background"
        assert (layers[0].rgba[..., 3] == 1).all()
        for layer in layers:
            assert layer.rgba.shape == (64, 96, 4)
            assert layer.rgba.dtype == np.float32
            assert layer.rgba.min() >= 0
            assert layer.rgba.max() <= 1
    assert kinds == {"background", "decoration", "object", "text"}


def test_the_same_seed_draws_the_same_design(pack: Pack) -> None:
    first, again = (compose(pack, np.random.default_rng(5), (64, 64)) for _ in range(2))
    assert all(np.array_equal(a.rgba, b.rgba) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(flat(first), flat(compose(pack, np.random.default_rng(6), (64, 64))))


def test_over_agrees_with_porter_and_duff() -> None:
    rng = np.random.default_rng(1)
    top, bottom = rng.random((2, 8, 8, 4)).astype(np.float32)
    got = draw.over(top, bottom)
    a = top[..., 3:] + bottom[..., 3:] * (1 - top[..., 3:])
    colour = (top[..., :3] * top[..., 3:] + bottom[..., :3] * bottom[..., 3:] * (1 - top[..., 3:])) / a
    np.testing.assert_allclose(got[..., 3:], a, atol=1e-6)
    np.testing.assert_allclose(got[..., :3], colour, atol=1e-5)


def square(left: int, kind: Kind) -> Drawn:
    alpha = np.zeros((32, 32), np.float32)
    alpha[8:24, left : left + 12] = 1
    return Drawn(draw.solid((32, 32), (1, 0, 0), alpha), kind, kind)


def names(*layers: Drawn) -> list[str]:
    """The slots of layers that lie on a black background."""
    back = Drawn(draw.solid((32, 32), (0, 0, 0)), "background", "background")
    return [SLOTS[i] for i in slot_of([back, *layers])][1:]


def test_slots_follow_from_what_can_be_seen() -> None:
    assert names(square(0, "decoration"), square(4, "object"), square(4, "text")) == ["decoration", "object", "text"]
    assert names(square(0, "object"), square(6, "object")) == ["object behind", "object"]
    assert names(square(0, "object"), square(20, "object")) == ["object", "object"]
    assert names(square(0, "object"), square(6, "decoration")) == ["object behind", "object"]
    assert names(square(0, "object"), square(20, "decoration")) == ["object", "decoration"]


def test_targets_put_together_are_the_picture_where_the_order_of_slots_is_the_order_of_layers(pack: Pack) -> None:
    checked = 0
    for seed in range(30):
        layers = compose(pack, np.random.default_rng(seed), (48, 48))
        order = slot_of(layers)
        if order == sorted(order):
            whole = np.zeros((48, 48, 3), np.float32)
            for slot in targets(layers):
                whole = slot[..., :3] * slot[..., 3:] + whole * (1 - slot[..., 3:])
            np.testing.assert_allclose(whole, flat(layers), atol=2e-3)
            checked += 1
    assert checked > 5


def test_a_batch_depends_on_its_arguments_alone(tmp_path: Path) -> None:
    root = tiny_pack(tmp_path)
    first, again, other = (batch(root, "train", 0, step, count=2, side=32) for step in (3, 3, 4))
    assert all(np.array_equal(first[k], again[k]) for k in first)
    assert not np.array_equal(first["picture"], other["picture"])
    assert first["slots"].shape[:2] == (2, len(SLOTS))
