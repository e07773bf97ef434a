"""The loop: learns, stops and resumes as if it had not stopped, hands its weights on, exports what it trained."""

from __future__ import annotations

import json
import os
import signal
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
from unfuse.model.layerflow import LayerFlow
from unfuse.model.slots import Lateral, SlotNet
from unfuse.tokens import position_ids
from unfuse.train import export, flow, loop, slots, weights
from unfuse.train.stage import Arrays, Stage, TrainParams, Want
from unfuse.train.stages import STAGES, stage

TINY = slots.SIZES["tiny"]


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tiny_pack(tmp_path_factory.mktemp("pack"))


def params(pack: Path, out: Path, **changes: Any) -> TrainParams:
    small: dict[str, Any] = {"size": "tiny", "steps": 3, "batch": 2, "side": 32, "layers": 3, "warmup": 2}
    return TrainParams(pack, out, **{**small, "validation": 2, "save_every": 100, **changes})


def run(of: Stage, how: TrainParams, until: int | None = None, by: int = signal.SIGTERM) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def report(row: dict[str, Any]) -> None:
        rows.append(row)
        if row["step"] == until:
            os.kill(os.getpid(), by)

    loop.train(of, how, report)
    return rows


def first_batch(want: Want) -> Arrays:
    """The same designs in every step."""
    return STAGES["vae"].batch(replace(want, step=0))


def stirred() -> LayerFlow:
    """A tiny model in which nothing is 0 any more, so that all that goes in matters."""
    torch.manual_seed(0)
    net = LayerFlow(flow.SIZES["tiny"]).eval()
    for weight in net.mmdit.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.2)
    return net


def difference(one: Path, other: Path, which: str = "net.") -> float:
    ours, theirs = weights.weights_of(one, which), weights.weights_of(other, which)
    assert ours.keys() == theirs.keys()
    return max(float((ours[name].float() - theirs[name].float()).abs().max()) for name in ours)


def test_the_loss_falls_on_designs_seen_again(pack: Path, tmp_path: Path) -> None:
    how = params(pack, tmp_path / "a", steps=60, rate=5e-3, warmup=5, seed=3)
    rows = run(replace(STAGES["vae"], batch=first_batch), how)
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]
    assert [json.loads(line)["step"] for line in (tmp_path / "a/metrics.jsonl").read_text().splitlines()] == list(
        range(1, 61)
    )


def test_batches_are_kept_and_gone_through_again(pack: Path, tmp_path: Path) -> None:
    drawn = params(pack, tmp_path / "drawn")
    run(STAGES["slots"], drawn)
    for reuse in (3, 1):
        kept = replace(drawn, out=tmp_path / f"kept {reuse}", reuse=reuse)
        run(STAGES["slots"], kept)
        first = {file.name: file.read_bytes() for file in (kept.out / "batches").iterdir()}
        assert len(first) == reuse
        same = difference(drawn.out, kept.out) == difference(drawn.out, kept.out, "optimizer.") == 0
        assert same == (reuse == drawn.steps)
        run(STAGES["slots"], replace(kept, steps=5))
        assert {file.name: file.read_bytes() for file in (kept.out / "batches").iterdir()} == first
    with pytest.raises(UnfuseError, match="reuse is -1"):
        replace(drawn, reuse=-1)


@pytest.mark.parametrize(
    ("name", "by"), [("slots", signal.SIGTERM), ("vae", signal.SIGINT), ("image-to-layers", signal.SIGINT)]
)
def test_stop_and_resume_equals_a_straight_run(name: str, by: int, pack: Path, tmp_path: Path) -> None:
    straight = params(pack, tmp_path / "straight")
    run(STAGES[name], straight)
    halved = replace(straight, out=tmp_path / "halved")
    assert len(run(STAGES[name], halved, until=1, by=by)) < 3
    run(STAGES[name], halved)
    for which in ("net.", "ema.", "optimizer."):
        assert difference(straight.out, halved.out, which) == 0


@pytest.mark.parametrize("name", ["vae", "text-to-rgba", "image-to-layers"])
def test_a_batch_in_parts_learns_what_the_batch_learns(name: str, pack: Path, tmp_path: Path) -> None:
    whole = params(pack, tmp_path / "whole", steps=2, batch=4, precision="float32")
    run(STAGES[name], whole)
    parts = replace(whole, out=tmp_path / "parts", accumulate=2)
    run(STAGES[name], parts)
    assert difference(whole.out, parts.out, "optimizer.") < 1e-5
    gradient = weights.weights_of(whole.out, "optimizer.")
    assert max(float(m.abs().max()) for k, m in gradient.items() if k.endswith("exp_avg")) > 1e-3


def test_muon_stops_and_resumes_too_and_is_told_from_adamw(pack: Path, tmp_path: Path) -> None:
    of = STAGES["slots"]
    straight = params(pack, tmp_path / "straight", optimizer="muon")
    run(of, straight)
    halved = replace(straight, out=tmp_path / "halved")
    run(of, halved, until=1)
    run(of, halved)
    for which in ("net.", "ema.", "optimizer."):
        assert difference(straight.out, halved.out, which) == 0
    kept = {key.rpartition(".")[0]: key.rpartition(".")[2] for key in weights.weights_of(straight.out, "optimizer.")}
    assert kept["stem.to4.0.weight"] == "momentum"
    assert all(kept[name] != "momentum" for name in kept if name.startswith(of.ends))
    with pytest.raises(UnfuseError, match=r"by --optimizer muon: go on with that, or begin a new run, --start"):
        run(of, replace(halved, optimizer="adamw", steps=9))


def test_rates() -> None:
    def rates(schedule: Any) -> list[float]:
        how = TrainParams(Path(), Path(), steps=8, warmup=2, decay=0.5, rate=1.0, schedule=schedule)
        return [round(loop.rate_at(step, how), 4) for step in range(8)]

    assert rates("constant") == [0.5, 1, 1, 1, 1, 1, 1, 1]
    assert rates("linear") == [0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert rates("cosine") == [0.5, 1, 1, 1, 1, 0.8536, 0.5, 0.1464]


def test_a_vae_run_hands_its_weights_and_statistics_to_the_flow(pack: Path, tmp_path: Path) -> None:
    first = params(pack, tmp_path / "vae", steps=2, sheet_every=2)
    run(STAGES["vae"], first)
    assert (first.out / "sheets/0000002.png").stat().st_size > 1000
    second = replace(first, out=tmp_path / "rgb", start=first.out, sheet_every=0)
    run(STAGES["text-to-rgb"], second)
    trained, kept = weights.weights_of(first.out), weights.weights_of(second.out)
    assert all(torch.equal(v, kept[f"vae.{k}"]) for k, v in trained.items())
    measured, used = weights.about_of(first.out)["latent_mean"], weights.about_of(second.out)["model"]["vae"]
    assert used["latent_mean"] == measured
    assert flow.build(replace(second, start=None)).params == flow.build(second).params  # it knows them by itself now
    third = replace(second, out=tmp_path / "layers", start=second.out, steps=1, sheet_every=1, rate=0.0)
    run(STAGES["image-to-layers"], third)
    assert difference(second.out, third.out, "ema.") == 0
    assert (third.out / "sheets/0000001.png").stat().st_size > 1000


def test_slots_of_a_flow_begin_with_the_whole(pack: Path, tmp_path: Path) -> None:
    want = Want(pack, "train", 0, 0, 0, 4, 32, 3)
    arrays = flow.decomposed(want)
    assert arrays["slots"].shape[0] == len(arrays["count"]) == 4
    for slots_of_one, count in zip(arrays["slots"].astype(np.float64) / 255, arrays["count"], strict=True):
        flat = np.zeros_like(slots_of_one[0, ..., :3])
        for layer in slots_of_one[1:count]:
            flat = layer[..., :3] * layer[..., 3:] + flat * (1 - layer[..., 3:])
        assert np.abs(flat - slots_of_one[0, ..., :3]).max() < 2 / 255
        assert not slots_of_one[count:].any()
    cut = flow.decomposed(replace(want, first=2, count=2))
    assert (cut["picture"] == arrays["picture"][2:]).all()
    assert (cut["key"] == arrays["key"][2:]).all()


def test_pictures_of_a_batch_have_their_own_number_of_layers(pack: Path) -> None:
    """The loss of a mixed batch is the mean of its pictures', each alone."""
    net = stirred()
    want = Want(pack, "train", 1, 0, 0, 4, 32, 3)
    arrays = loop.tensors(flow.decomposed(want))
    assert len(set(arrays["count"].tolist())) > 1
    with torch.no_grad():
        mixed = flow.loss(net, arrays)["loss"]
        alone = [
            flow.loss(net, loop.tensors(flow.decomposed(replace(want, first=i, count=1))))["loss"] for i in range(4)
        ]
    torch.testing.assert_close(mixed, torch.stack(alone).mean())


def test_sampling_gives_the_whole_and_the_layers() -> None:
    net = stirred()
    picture = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    frames = net.sample(["a", "b"], 4, (32, 48), picture=picture, steps=2)
    assert frames.shape == (2, 4, 4, 32, 48)
    assert torch.equal(frames, net.sample(["a", "b"], 4, (32, 48), picture=picture, steps=2))
    for change in ({"seeds": [2, 3]}, {"guidance": 3.0}, {"picture": None}, {"captions": ["a", "longer"]}):
        asked: dict[str, Any] = {"captions": ["a", "b"], "picture": picture, "guidance": 1.0, **change}
        assert not torch.equal(frames, net.sample(slots=4, size=(32, 48), steps=2, **asked))
    alone = net.sample(["b"], 4, (32, 48), picture=picture[1:], steps=2, seeds=[1])
    torch.testing.assert_close(frames[1:], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "huge"}, "size 'huge' is unknown to stage slots: say one of tiny, small"),
        ({"batch": 3, "accumulate": 2}, "batch 3 cannot be cut into 1 processes x 2 parts"),
        ({"start": Path("nowhere")}, "--start nowhere is no run's folder"),
        ({"parallel": "ddp"}, "--parallel ddp needs torchrun"),
    ],
)
def test_what_cannot_go_well_is_refused(changes: dict[str, Any], message: str, pack: Path, tmp_path: Path) -> None:
    with pytest.raises(UnfuseError, match=message):
        run(STAGES["slots"], params(pack, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_an_unknown_stage_lists_the_known_ones() -> None:
    with pytest.raises(UnfuseError, match="vae, text-to-rgb, text-to-rgba, text-to-layers, image-to-layers, finetune"):
        stage("slot")


def test_export_is_the_same_network_at_every_shape_and_reads_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = SlotNet(TINY).eval()
    for module in net.modules():  # trained running means are neither 0 nor 1
        if isinstance(module, Lateral):  # which says nothing at first
            module.mix.weight.data.normal_(0, 0.1)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    for weight in net.parameters():  # what ships is rounded to float16, so that both sides run the same weights
        if weight.numel() >= export.BIG:
            weight.data = weight.data.half().float()
    file = tmp_path / "net.onnx"
    onnx.save(export.halved(export.traced(net)), file)
    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    for b, layers, rows, columns in ((1, 5, 2, 3), (3, 5, 4, 2), (2, 2, 3, 5)):
        seen = torch.rand(b, 4, 16 * rows, 16 * columns, generator=torch.Generator().manual_seed(b)) * 2 - 1
        picture, salient = seen[:, :3], seen[:, 3:]
        ids = position_ids(TINY.slots + 1, rows, columns).reshape(TINY.slots + 2, rows * columns, 3)
        ids = ids[[*range(1, layers + 1), -1]]
        batch = torch.from_numpy(ids).expand(b, -1, -1, -1)
        with torch.inference_mode():
            expected = net(picture, salient, batch)
        feed = {"picture": picture, "salient": salient, "ids": batch}
        got = session.run(["alpha", "colour", "relations"], {name: value.numpy() for name, value in feed.items()})
        for ours, theirs in zip(expected, got, strict=True):
            np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-4)
    again = SlotNet(TINY)
    again.load_state_dict(export.state_of(file))
    kept = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in kept.items())


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
