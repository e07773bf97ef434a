"""The composer: true layers that put together are the picture, repeatable, of every kind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from parts import tiny_pack
from PIL import Image

from unfuse.corpus import compose as composer
from unfuse.corpus import draw
from unfuse.corpus.compose import Drawn, Pack, compose, flat
from unfuse.layers import Kind
from unfuse.model.slots import SLOTS
from unfuse.train.slots import batch, slot_of, targets
from unfuse.train.stage import Want


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
            for slot in targets(layers)[0]:
                whole = slot[..., :3] * slot[..., 3:] + whole * (1 - slot[..., 3:])
            np.testing.assert_allclose(whole, flat(layers), atol=2e-3)
            checked += 1
    assert checked > 5


def test_a_batch_depends_on_its_arguments_alone(tmp_path: Path) -> None:
    root = tiny_pack(tmp_path)
    first, again, other = (batch(Want(root, "train", 0, step, 0, 2, side=32)) for step in (3, 3, 4))
    assert all(np.array_equal(first[k], again[k]) for k in first)
    assert not np.array_equal(first["picture"], other["picture"])
    assert first["slots"].shape[:2] == (2, len(SLOTS))


def richer(root: Path) -> Pack:
    """The tiny pack with a material and a scene of two layers."""
    tiny_pack(root)
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    ball = np.dstack([(x + 1) * 127, (y + 1) * 127, np.full_like(x, 60)]).astype(np.uint8)
    Image.fromarray(ball).save(root / "matcap.png")
    (root / "scenes" / "one").mkdir(parents=True)
    pack = json.loads((root / "pack.json").read_text())
    pack["parts"].append({"file": "matcap.png", "kind": "matcap", "split": "train"})
    for i, colour in enumerate(((250, 200, 30, 255), (30, 60, 200, 255))):
        part = np.zeros((60, 80, 4), np.uint8)
        part[10 + 10 * i : 40, 10:70] = colour
        Image.fromarray(part).save(root / "scenes" / "one" / f"{i:02}.png")
        pack["parts"].append({"file": f"scenes/one/{i:02}.png", "kind": "scene", "split": "train"})
    (root / "pack.json").write_text(json.dumps(pack))
    return Pack.open(root, "train")


def test_a_scene_keeps_its_layers_over_each_other(tmp_path: Path) -> None:
    pack = richer(tmp_path)
    assert [len(files) for files in pack.scenes] == [2]
    for seed in range(20):
        low, high = composer.scene(pack, np.random.default_rng(seed), (96, 128))
        inside = high.rgba[..., 3] > 0.99
        assert (low.rgba[..., 3][inside] > 0.99).all()  # the upper lies within the lower one
        np.testing.assert_allclose(high.rgba[inside][:, :3].mean(0) * 255, (30, 60, 200), atol=1)


def test_a_solid_shows_its_material_by_where_its_surface_faces() -> None:
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    red_to_the_right, green_downwards = (x + 1) * 127.5, (y + 1) * 127.5
    material = np.dstack([red_to_the_right, green_downwards, np.full_like(x, 60)]).astype(np.uint8)
    mask = draw.blob((120, 120), (60, 60), 50, np.random.default_rng(0), 0.0)
    ball = draw.lit(mask, material, reach=50)
    np.testing.assert_array_equal(ball[..., 3], (mask * 255 + 0.5).astype(np.uint8))
    left, right, top, bottom, middle = (
        ball[p].astype(int) for p in ((60, 15), (60, 105), (15, 60), (105, 60), (60, 60))
    )
    assert left[0] < 90 < 165 < right[0]
    assert top[1] < 90 < 165 < bottom[1]
    assert np.abs(middle[:2] - 127).max() < 12


def test_every_kind_of_part_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = richer(tmp_path)
    for name in ("SOLIDS", "RAISED"):
        monkeypatch.setattr(composer, name, 1.0)
    layers = [layer for seed in range(8) for layer in compose(pack, np.random.default_rng(seed), (160, 160))]
    assert {layer.kind for layer in layers} == {"background", "decoration", "object", "text"}
    for layer in layers:
        assert layer.rgba.dtype == np.float32
        assert 0 <= layer.rgba.min() <= layer.rgba.max() <= 1
