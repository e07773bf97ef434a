"""The stage `ink`: lines that are drawn with what is true of them, a network that sees each alone, what ships."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from parts import tiny_pack, trained_on

from unfuse.ink import HEIGHT, ROOM
from unfuse.model.unet import INKNET, UNet
from unfuse.train import export, ink
from unfuse.train.data import opened
from unfuse.train.stage import TrainParams, Want

SHIPPED = Path(__file__).parents[1] / "src" / "unfuse" / "weights" / "ink.onnx"


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tiny_pack(tmp_path_factory.mktemp("pack"))


def test_the_same_want_is_the_same_lines_however_it_is_cut(pack: Path) -> None:
    want = Want(pack, "train", 0, 5, 0, 6, 64)
    whole = ink.batch(want)
    parts = [ink.batch(replace(want, first=first, count=3)) for first in (0, 3)]
    for name, array in whole.items():
        assert np.array_equal(array, np.concatenate([part[name] for part in parts]))
    assert not np.array_equal(
        whole["patch"], ink.batch(replace(want, step=6))["patch"][..., : whole["patch"].shape[2], :]
    )


def test_what_is_said_of_a_line_is_true(pack: Path) -> None:
    arrays = ink.batch(Want(pack, "train", 0, 1, 0, 24, 64))
    letters, outlined = arrays["ink"][:, 0].astype(int), arrays["ink"][:, 1].astype(int)
    assert arrays["patch"].shape[:3] == letters.shape
    assert letters.shape[1] == HEIGHT
    assert (outlined >= letters).all()
    assert (outlined > letters + 100).any(axis=(1, 2)).mean() > 0.02  # some have one
    rows = letters.sum(axis=(0, 2))
    edge = round(0.6 * ROOM / (1 + 2 * ROOM) * HEIGHT)
    assert rows[:edge].sum() + rows[-edge:].sum() < 0.05 * rows.sum()  # the line in the middle, not its neighbours
    assert (letters > 200).any(axis=(1, 2)).mean() > 0.9


def test_letters_are_where_the_picture_changed(pack: Path) -> None:
    drawn = opened(pack, "train")
    below = np.full((80, 300, 3), 0.9, np.float32)
    font = drawn.typeface(drawn.fonts[0], 20)
    for seed in range(8):
        line = ink.written(drawn, np.random.default_rng(seed), font, below, wide=False)
        changed = np.abs(line.picture - below).max(-1) > 0.05
        assert changed[line.letters > 0.9].all()
        assert changed[line.outlined > 0.9].all()


def test_a_line_is_seen_alone_in_a_batch() -> None:
    torch.manual_seed(0)
    net = UNet(ink.SIZES["tiny"]).eval()
    lines = torch.rand(2, 3, HEIGHT, 96) * 2 - 1
    with torch.inference_mode():
        both = net(lines)
        for i in range(2):
            torch.testing.assert_close(both[i : i + 1], net(lines[i : i + 1]), atol=1e-5, rtol=1e-5)


def test_the_loss_knows_the_truth(pack: Path) -> None:
    arrays = {k: torch.from_numpy(v) for k, v in ink.batch(Want(pack, "valid", 0, 0, 0, 4, 64)).items()}
    truth = ink.inputs(arrays)[1]
    hard = (truth > 0.5).float()
    arrays["ink"] = (hard * 255).byte()
    knows: Any = lambda _: 40 * hard - 20  # noqa: E731
    errs: Any = lambda _: 20 - 40 * hard  # noqa: E731
    assert float(ink.loss(knows, arrays)["loss"]) < 1e-3
    assert float(ink.loss(errs, arrays)["overlap"]) > 0.9
    assert ink.validate(knows, arrays)["iou"] > 0.999


def test_what_ships_is_what_is_trained(pack: Path, tmp_path: Path) -> None:
    net = UNet(INKNET)
    net.load_state_dict(export.state_of(SHIPPED))
    session = onnxruntime.InferenceSession(SHIPPED.read_bytes(), providers=["CPUExecutionProvider"])
    for wide in (80, 264):
        line = torch.rand(1, 3, HEIGHT, wide) * 2 - 1
        with torch.inference_mode():
            ours = net.eval()(line).numpy()
        np.testing.assert_allclose(session.run(["ink"], {"patch": line.numpy()})[0], ours, atol=2e-3)
    how = TrainParams(pack, tmp_path / "on", steps=1, batch=2, rate=0.0, start=SHIPPED, validation=2, ema=0.0)
    kept, again = trained_on("ink", how)
    assert all(torch.equal(tensor, again[name]) for name, tensor in kept.items())
