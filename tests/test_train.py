"""The loop: learns, stops and resumes as if it had not stopped, hands its weights on, exports what it trained."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from parts import tiny_pack

from unfuse.errors import UnfuseError
from unfuse.model.slots import SlotNet, SlotNetParams
from unfuse.tokens import position_ids
from unfuse.train import export, loop, slots
from unfuse.train.flow import LayerFlow
from unfuse.train.stages import STAGES, stage

TINY = SlotNetParams(
    channels=(8, 8, 16, 24), slot_channels=(16, 8, 8), kernel=4, width=24, heads=2, depth=2, axes=(4, 4, 4)
)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tiny_pack(tmp_path_factory.mktemp("pack"))


def tiny_stage() -> loop.Stage:
    return replace(STAGES["slots"], model=lambda: SlotNet(TINY))


def run(of: loop.Stage, params: loop.TrainParams, until: int | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def report(row: dict[str, Any]) -> None:
        rows.append(row)
        if row["step"] == until:
            os.kill(os.getpid(), signal.SIGTERM)

    loop.train(of, params, report)
    return rows


def first_batch(root: Path, split: str, seed: int, step: int, count: int, side: int) -> loop.Arrays:
    """The same designs in every step."""
    return slots.batch(root, split, seed, 0, count, side)


def test_the_loss_falls_on_designs_seen_again(pack: Path, tmp_path: Path) -> None:
    params = loop.TrainParams(
        pack, tmp_path / "a", steps=60, batch=2, side=32, rate=5e-3, warmup=5, validation=2, save_every=60
    )
    rows = run(replace(tiny_stage(), batch=first_batch), params)
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]
    assert [json.loads(line)["step"] for line in (tmp_path / "a/metrics.jsonl").read_text().splitlines()] == list(
        range(1, 61)
    )


@pytest.mark.parametrize("of", [tiny_stage, lambda: STAGES["layers"]])
def test_stop_and_resume_equals_a_straight_run(of: Callable[[], loop.Stage], pack: Path, tmp_path: Path) -> None:
    straight = loop.TrainParams(
        pack, tmp_path / "straight", steps=6, batch=2, side=32, warmup=2, validation=2, save_every=6
    )
    run(of(), straight)
    halved = replace(straight, out=tmp_path / "halved")
    assert len(run(of(), halved, until=2)) < 6
    run(of(), halved)
    ours, theirs = loop.weights_of(straight.out, "net."), loop.weights_of(halved.out, "net.")
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_a_vae_run_hands_its_weights_to_the_layers_stage(pack: Path, tmp_path: Path) -> None:
    first = loop.TrainParams(pack, tmp_path / "vae", steps=2, batch=2, side=32, validation=2)
    run(STAGES["vae"], first)
    second = replace(first, out=tmp_path / "layers", start=first.out)
    run(STAGES["layers"], second)
    trained, kept = loop.weights_of(first.out), loop.weights_of(second.out)
    assert all(torch.equal(v, kept[f"vae.{k}"]) for k, v in trained.items())


def test_sampling_gives_the_whole_and_the_layers() -> None:
    net = LayerFlow().eval()
    picture = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    frames = net.sample(picture, slots=3, steps=2, seed=1)
    assert frames.shape == (2, 4, 4, 32, 48)
    assert torch.equal(frames, net.sample(picture, slots=3, steps=2, seed=1))
    assert not torch.equal(frames, net.sample(picture, slots=3, steps=2, seed=2))


def test_an_unknown_stage_lists_the_known_ones() -> None:
    with pytest.raises(UnfuseError, match="vae, layers, slots"):
        stage("slot")


def test_export_is_the_same_network_at_every_shape_and_reads_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = SlotNet(TINY).eval()
    for module in net.modules():  # trained running means are neither 0 nor 1
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    for weight in net.parameters():  # what ships is rounded to float16, so that both sides run the same weights
        if weight.numel() >= export.BIG:
            weight.data = weight.data.half().float()
    file = tmp_path / "net.onnx"
    onnx.save(export.halved(export.traced(net)), file)
    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    for b, layers, rows, columns in ((1, 5, 2, 3), (3, 5, 4, 2), (2, 2, 3, 3)):
        seen = torch.rand(b, 4, 16 * rows, 16 * columns, generator=torch.Generator().manual_seed(b)) * 2 - 1
        picture, salient = seen[:, :3], seen[:, 3:]
        ids = position_ids(TINY.slots + 1, rows, columns).reshape(TINY.slots + 2, rows * columns, 3)
        ids = ids[[*range(1, layers + 1), -1]]
        batch = torch.from_numpy(ids).expand(b, -1, -1, -1)
        with torch.inference_mode():
            expected = net(picture, salient, batch)
        feed = {"picture": picture, "salient": salient, "ids": batch}
        got = session.run(["alpha", "colour"], {name: value.numpy() for name, value in feed.items()})
        for ours, theirs in zip(expected, got, strict=True):
            np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-4)
    state = export.state_of(file, TINY)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked"))


def test_slots_see_the_picture_alone_in_a_batch() -> None:
    torch.manual_seed(0)
    net = SlotNet(TINY).eval()
    pictures, salient = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 1, 32, 32) * 2 - 1
    with torch.inference_mode():
        both = net(pictures, salient, slots.ids_for(pictures))
        alone = [net(p[None], s[None], slots.ids_for(p[None])) for p, s in zip(pictures, salient, strict=True)]
    for i in range(2):
        for ours, theirs in zip(both, alone[i], strict=True):
            torch.testing.assert_close(ours[i : i + 1], theirs, atol=1e-5, rtol=1e-5)
