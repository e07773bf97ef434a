"""Designs made of drawn ones on the device: parts stay whole, hints and JPEG are what the CPU's libraries give."""

from __future__ import annotations

import io
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parts import tiny_pack
from PIL import Image

from unfuse.corpus.compose import NOISE, READABLE, weather
from unfuse.errors import UnfuseError
from unfuse.saliency import Saliency, session
from unfuse.train import jpeg, loop, remix, slots, weights
from unfuse.train.onnx_graph import Graph
from unfuse.train.stage import TrainParams, Want
from unfuse.train.stages import STAGES


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pack(tmp_path_factory.mktemp("pack"))


@pytest.fixture(scope="module")
def designs(pack: Path) -> tuple[torch.Tensor, torch.Tensor]:
    found = slots.designs(Want(pack, "train", 0, 0, 0, 6, 96))
    return torch.from_numpy(found["slots"]), torch.from_numpy(found["owner"])


@pytest.fixture(scope="module")
def drawn(designs: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return designs[0]


def test_the_first_copies_are_the_drawn_designs(designs: tuple[torch.Tensor, torch.Tensor]) -> None:
    drawn, owner = designs
    pictures, made, whose = remix.remixed(drawn, owner, 3, np.random.default_rng(0))
    b = len(drawn)
    assert made.shape[0] == pictures.shape[0] == 3 * b
    assert torch.equal((made[:b].permute(0, 1, 3, 4, 2) * 255).round().byte(), drawn)
    assert torch.equal(whose[:b], owner)
    assert torch.equal(remix.flat(made), pictures)
    assert (made[:, 0, 3] > 0.999).all(), "a background has no holes"
    assert not torch.allclose(pictures[:b], pictures[b : 2 * b])


def test_the_same_numbers_make_the_same_designs(designs: tuple[torch.Tensor, torch.Tensor]) -> None:
    first, again, other = (remix.remixed(*designs, 2, np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_weather_is_as_rough_on_the_device_as_on_the_cpu() -> None:
    grey = np.full((1500, 16, 16, 3), 128 / 255, np.float32)  # on which only noise shows
    rng = np.random.default_rng(0)
    drawn = np.stack([weather(picture, rng) for picture in grey])
    made = remix.weathered(torch.from_numpy(grey).permute(0, 3, 1, 2), rng).permute(0, 2, 3, 1).numpy()
    cpu, device = (found.std((1, 2, 3)) for found in (drawn, made))
    assert (cpu > 1e-3).mean() == pytest.approx((device > 1e-3).mean(), abs=0.06)  # four standard deviations
    assert 0.5 * NOISE[0] < (cpu > 1e-3).mean() < 1.2 * NOISE[0]  # JPEG takes some of it away
    for spread in (cpu, device):
        assert NOISE[1][1] / 2 < spread.max() < NOISE[1][1] * 1.1


def test_objects_stay_where_they_are_to_each_other(designs: tuple[torch.Tensor, torch.Tensor]) -> None:
    same, owner = (x.clone() for x in designs)
    same[:, 2], owner[:, 2] = same[:, 3], owner[:, 3]
    _, made, whose = remix.remixed(same, owner, 4, np.random.default_rng(3))
    assert torch.equal(made[:, 2], made[:, 3])
    assert torch.equal(whose[:, 2], whose[:, 3])
    assert made[:, 3, 3].amax((1, 2)).max() > 0.9


def test_owners_move_with_what_they_own() -> None:
    """Two things side by side in one slot, red and blue: wherever they went, each is still its owner's."""
    slot = torch.zeros(4, 1, 64, 64, 4, dtype=torch.uint8)
    slot[:, :, 16:48, 12:32] = torch.tensor([255, 0, 0, 255], dtype=torch.uint8)
    slot[:, :, 16:48, 32:52] = torch.tensor([0, 0, 255, 255], dtype=torch.uint8)
    owner = (slot[..., 0] > 0).byte() + 2 * (slot[..., 2] > 0).byte()
    part = slot.permute(0, 1, 4, 2, 3).float() / 255
    moved, whose = remix.taken(part, owner, 2, np.random.default_rng(5), 1.0)
    for picture, owned in zip(moved[:, 0], whose[:, 0], strict=True):
        sure = (picture[3] > 0.99) & (picture[:3].amax(0) > 0.99)
        first, second = (picture[:3].argmax(0)[sure & (owned == which)] for which in (1, 2))
        assert first.numel() > 50
        assert second.numel() > 50
        assert len(first.unique()) == len(second.unique()) == 1  # of one colour each, whatever the channels became
        assert first[0] != second[0]


def test_a_turn_is_a_turn_on_any_picture() -> None:
    """In pixels, both axes keep one length and their right angle, on a wide picture too."""
    rng = np.random.default_rng(0)
    for matrix in remix.moves(50, 1, rng, ratio=64 / 128):
        area = matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]
        across = torch.tensor([matrix[0, 0], matrix[1, 0] * 0.5])  # of an axis's step, in pixels of one length
        down = torch.tensor([matrix[0, 1], matrix[1, 1] * 0.5]) / 0.5
        assert across.norm().item() == pytest.approx(down.norm().item(), rel=1e-5)
        assert (across @ down).item() == pytest.approx(0, abs=1e-5)
        assert abs(area.item()) == pytest.approx(across.norm().item() ** 2, rel=1e-5)


@pytest.mark.parametrize(("ink", "ground"), [(0.5, 0.5), (0.1, 0.05), (0.9, 0.95), (0.45, 0.55), (0.8, 0.2)])
def test_text_can_be_read(ink: float, ground: float) -> None:
    text = torch.full((1, 1, 4, 8, 8), ink)
    text[:, :, 3] = 1
    made = remix.readable(text, torch.full((1, 3, 8, 8), ground))
    assert abs(made[0, 0, 0, 0, 0].item() - ground) >= READABLE
    if abs(ink - ground) >= READABLE:
        assert torch.equal(made, text)


@pytest.mark.parametrize("quality", [40, 75, 93])
def test_jpeg_is_the_librarys(quality: int, drawn: torch.Tensor) -> None:
    picture = remix.flat(drawn[:1].permute(0, 1, 4, 2, 3) / 255)
    levels = (picture[0].permute(1, 2, 0) * 255).round().byte().numpy()
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    theirs = np.asarray(Image.open(file), np.float64)
    ours = jpeg.compressed(torch.from_numpy(levels).permute(2, 0, 1)[None] / 255, torch.tensor([float(quality)]))
    lost = np.abs(theirs - levels).mean()
    assert np.abs(ours[0].permute(1, 2, 0).numpy() * 255 - theirs).mean() < 0.15 * lost + 0.5


def test_the_hints_network_answers_as_in_onnxruntime() -> None:
    model = (files("unfuse") / "weights" / "saliency.onnx").read_bytes()
    x = np.random.default_rng(0).standard_normal((2, 3, 64, 96), np.float32)
    (theirs,) = session(model, 1).run(["saliency"], {"picture": x})
    ours = Graph(model, "cpu")(torch.from_numpy(x)).numpy()
    assert np.abs(ours - theirs).max() < 1e-4


@pytest.mark.parametrize("side", [32, 160])
def test_the_hint_is_the_engines(side: int, drawn: torch.Tensor) -> None:
    pictures = remix.flat(drawn[:2].permute(0, 1, 4, 2, 3) / 255)
    ours = remix.salient(pictures, side).numpy()
    theirs = Saliency(threads=1)(pictures.permute(0, 2, 3, 1).numpy(), side)
    assert np.abs(ours - theirs).max() < 0.02


def test_a_remixed_run_resumes_exactly_and_knows_its_stages(pack: Path, tmp_path: Path) -> None:
    params = TrainParams(
        data=pack, out=tmp_path / "a", size="tiny", steps=4, batch=4, side=32, remix=2, validation=2, save_every=2
    )
    rows: list[dict[str, Any]] = []
    loop.train(slots.STAGE, params, rows.append)
    halved = replace(params, out=tmp_path / "b")
    loop.train(slots.STAGE, halved, rows.append, until=2)
    loop.train(slots.STAGE, halved, rows.append)
    straight, resumed = (weights.weights_of(p.out) for p in (params, halved))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    with pytest.raises(UnfuseError, match="multiple of 3"):
        loop.train(slots.STAGE, replace(params, remix=3), rows.append)
    with pytest.raises(UnfuseError, match="does not remix"):
        loop.train(STAGES["vae"], params, rows.append)
