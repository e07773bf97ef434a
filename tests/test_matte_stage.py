"""The stage `matte`: things that are found in drawn designs with what is true of them, and what ships."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from parts import tiny_pack, trained_on

from unfuse.cells import CELL
from unfuse.corpus.compose import Drawn
from unfuse.layers import Kind
from unfuse.model.unet import MATTENET, MATTES, TOLD, UNet
from unfuse.recompose import weights
from unfuse.train import export, matte
from unfuse.train.stage import TrainParams, Want

SHIPPED = Path(__file__).parents[1] / "src" / "unfuse" / "weights" / "matte.onnx"
SIDE = 48


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tiny_pack(tmp_path_factory.mktemp("pack"))


def square(kind: Kind, top: int, left: int, bottom: int, right: int, alpha: float = 1.0) -> Drawn:
    """A layer of a plain colour."""
    rgba = np.zeros((SIDE, SIDE, 4), np.float32)
    rgba[top:bottom, left:right] = (0.8, 0.2, 0.1, alpha)
    return Drawn(rgba, kind, "square")


def mask(top: int, left: int, bottom: int, right: int) -> NDArray[np.float32]:
    seen = np.zeros((SIDE, SIDE), np.float32)
    seen[top:bottom, left:right] = 1
    return seen


BACKGROUND = square("background", 0, 0, SIDE, SIDE)
PANEL, DISC, WORDS = square("decoration", 4, 4, 40, 40), square("object", 10, 10, 26, 26), square("text", 30, 8, 34, 36)


def test_the_same_want_is_the_same_things_however_it_is_cut(pack: Path) -> None:
    want = Want(pack, "train", 0, 5, 0, 6, 64)
    whole = matte.batch(want)
    parts = [matte.batch(replace(want, first=first, count=3)) for first in (0, 3)]
    for name, array in whole.items():
        assert np.array_equal(array, np.concatenate([part[name] for part in parts]))
    height, width = whole["patch"].shape[1:3]
    assert whole["matte"].shape[1:3] == (height, width)
    assert whole["told"].shape[1:] == (height // CELL, width // CELL, TOLD)
    assert height % MATTENET.stride == width % MATTENET.stride == 0


def true_of(seen: NDArray[np.float32], layers: list[Drawn]) -> matte.Truth:
    alphas = np.stack([layer.rgba[..., 3] for layer in layers])
    return matte.truth_of(seen, [layer.kind for layer in layers], alphas, weights(alphas))


def test_a_fragment_shows_all_of_its_thing_and_two_things_show_both() -> None:
    layers = [BACKGROUND, PANEL, DISC, WORDS]
    assert np.array_equal(true_of(mask(4, 4, 9, 12), layers).alpha, PANEL.rgba[..., 3])
    most = np.minimum(mask(4, 4, 40, 40), 1 - mask(30, 8, 34, 36))
    both = true_of(most, layers).alpha
    assert np.array_equal(both, np.maximum(PANEL.rgba[..., 3], DISC.rgba[..., 3]))
    panel = np.minimum(most, 1 - mask(10, 10, 26, 26))
    assert np.array_equal(true_of(panel, layers).alpha, PANEL.rgba[..., 3])  # below the disc too


def test_what_covers_a_thing_is_what_lies_on_it_and_what_lies_apart_does_not_count() -> None:
    apart = square("object", 42, 42, 47, 47)
    truth = true_of(mask(4, 4, 9, 40), [BACKGROUND, PANEL, DISC, WORDS, apart])
    on_it = np.maximum(DISC.rgba[..., 3], WORDS.rgba[..., 3])
    assert np.array_equal(truth.covers, on_it)
    assert np.array_equal(truth.counts, 1 - apart.rgba[..., 3])
    upper = true_of(mask(10, 10, 26, 26), [BACKGROUND, PANEL, DISC])
    assert not upper.covers.any()
    assert upper.counts.all()


def test_what_shows_nothing_but_the_background_has_no_matte() -> None:
    truth = true_of(mask(42, 0, 48, 48), [BACKGROUND, PANEL, DISC])
    assert not truth.alpha.any()
    assert not truth.counts.any()


def test_what_shows_letters_has_them_only_where_it_shows_nothing_else() -> None:
    layers = [BACKGROUND, PANEL, DISC, WORDS]
    assert np.array_equal(true_of(mask(30, 8, 34, 36), layers).alpha, WORDS.rgba[..., 3])
    most = np.minimum(mask(4, 4, 40, 40), 1 - mask(10, 10, 26, 26))
    assert np.array_equal(true_of(most, layers).alpha, PANEL.rgba[..., 3])


def test_another_look_is_the_same_in_other_colours(pack: Path) -> None:
    arrays = matte.batch(Want(pack, "train", 0, 1, 0, 3, 64))
    other = matte.varied(arrays, np.random.default_rng(4))
    for name, array in arrays.items():
        colours = 3 if name == "patch" else 0
        assert np.array_equal(np.sort(array[..., :colours], -1), np.sort(other[name][..., :colours], -1))
        assert np.array_equal(array[..., colours:], other[name][..., colours:])
    assert not np.array_equal(arrays["patch"], other["patch"])


@pytest.mark.parametrize("box", [(0, 0, 10, 40), (20, 30, 48, 48), (10, 10, 12, 12), (0, 0, 48, 48)])
def test_a_box_is_shaped_within_the_canvas_and_keeps_what_it_had(box: tuple[int, int, int, int]) -> None:
    for size in ((128, 128), (96, 192)):
        top, left, bottom, right = matte.shaped(box, (SIDE, SIDE), size)
        assert 0 <= top <= box[0] < box[2] <= bottom <= SIDE
        assert 0 <= left <= box[1] < box[3] <= right <= SIDE


def test_a_thing_is_seen_alone_in_a_batch() -> None:
    torch.manual_seed(0)
    net = UNet(matte.SIZES["tiny"]).eval()
    things, told = torch.rand(2, 6, 64, 96) * 2 - 1, torch.rand(2, TOLD, 16, 24) * 2 - 1
    with torch.inference_mode():
        both = net(things, told)
        assert both.shape == (2, len(MATTES), 64, 96)
        for i in range(2):
            one = net(things[i : i + 1], told[i : i + 1])
            torch.testing.assert_close(both[i : i + 1], one, atol=1e-5, rtol=1e-5)


def test_the_loss_knows_the_truth(pack: Path) -> None:
    arrays = {k: torch.from_numpy(v) for k, v in matte.batch(Want(pack, "valid", 0, 0, 0, 4, 64)).items()}
    arrays["matte"] = ((arrays["matte"] > 127) * 255).byte()
    truth = matte.inputs(arrays)[2][:, :2]
    knows: Any = lambda *_: 40 * truth - 20  # noqa: E731
    errs: Any = lambda *_: 20 - 40 * truth  # noqa: E731
    assert float(matte.loss(knows, arrays)["loss"]) < 1e-3
    assert float(matte.loss(errs, arrays)["l1"]) > 0.99
    assert float(matte.loss(errs, arrays)["covers"]) > 1
    assert matte.validate(knows, arrays)["iou"] > 0.999


def test_what_ships_is_what_is_trained(pack: Path, tmp_path: Path) -> None:
    net = UNet(MATTENET)
    net.load_state_dict(export.state_of(SHIPPED))
    session = onnxruntime.InferenceSession(SHIPPED.read_bytes(), providers=["CPUExecutionProvider"])
    for size in ((128, 128), (64, 224)):
        patch, told = torch.rand(1, 6, *size) * 2 - 1, torch.rand(1, TOLD, size[0] // CELL, size[1] // CELL) * 2 - 1
        with torch.inference_mode():
            ours = net.eval()(patch, told).numpy()
        given = {"patch": patch.numpy(), "told": told.numpy()}
        np.testing.assert_allclose(session.run(["matte"], given)[0], ours, atol=5e-3)
    how = TrainParams(pack, tmp_path / "on", steps=1, batch=2, rate=0.0, side=64, start=SHIPPED, validation=2, ema=0.0)
    kept, again = trained_on("matte", how)
    assert all(torch.equal(tensor, again[name]) for name, tensor in kept.items())
