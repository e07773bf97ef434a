"""Tuning the published model, on the tiny checkpoint of its layout: it learns, and what it learned loads back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("transformers")

from unfuse.corpus.records import Record  # noqa: E402
from unfuse.corpus.shards import write_records  # noqa: E402
from unfuse.engines.qwen import Qwen  # noqa: E402
from unfuse.errors import UnfuseError  # noqa: E402
from unfuse.layers import Box, Layer  # noqa: E402
from unfuse.model.checkpoint import Weights  # noqa: E402
from unfuse.model.layerflow import LayerFlow, QwenReader  # noqa: E402
from unfuse.model.placement import Transformer  # noqa: E402
from unfuse.model.vae import fold  # noqa: E402
from unfuse.train import finetune, flow, loop, publish, weights  # noqa: E402
from unfuse.train.stage import TrainParams  # noqa: E402
from unfuse.train.stages import STAGES  # noqa: E402

CHECKPOINT = Path(__file__).parent / "data/qwen_layered_tiny/checkpoint"
SIZE = (48, 48)


def record(key: str, shift: int) -> Record:
    """A red square on blue."""
    ground = np.zeros((*SIZE, 4), np.uint8)
    ground[...] = (20, 40, 200, 255)
    square = np.zeros((20, 20, 4), np.uint8)
    square[...] = (230, 30, 30, 255)
    picture = ground.copy()
    picture[shift : shift + 20, 10:30] = square
    layers = (
        Layer("sky", "background", Box(0, 0, *SIZE), ground),
        Layer("tile", "object", Box(10, shift, 30, shift + 20), square),
    )
    return Record(key, picture, layers, "a red tile on blue")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("records")
    write_records(root, [record(f"{i:08x}{'0' * 8}", 4 + 8 * i) for i in range(3)])
    return root


def params(records: Path, out: Path, **changes: Any) -> TrainParams:
    usual: dict[str, Any] = {"model": CHECKPOINT, "steps": 30, "batch": 4, "side": 48, "validation": 2, "warmup": 5}
    return TrainParams(records, out, **{**usual, "rate": 1e-2, "weight_decay": 0.0, "precision": "float32", **changes})


def tune(how: TrainParams) -> list[float]:
    losses: list[float] = []
    loop.train(STAGES["finetune"], how, lambda row: losses.append(row["loss"]))
    return losses


def test_a_lora_learns_and_loads_back_and_changes_only_what_it_should(records: Path, tmp_path: Path) -> None:
    how = params(records, tmp_path / "run", lora=4)
    losses = tune(how)
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert all(name.endswith((".up", ".down")) for name in weights.weights_of(how.out))
    file = publish.publish(how.out, tmp_path / "mine.safetensors", CHECKPOINT)
    plain = Transformer(CHECKPOINT / "transformer").model.state_dict()
    changed = Transformer(CHECKPOINT / "transformer", loras=[(file, 1.0)]).model.state_dict()
    learned = weights.weights_of(how.out)
    for name, before in plain.items():
        module = f"mmdit.{name.removesuffix('.weight')}"
        if f"{module}.up" in learned:
            up, down = learned[f"{module}.up"], learned[f"{module}.down"]
            torch.testing.assert_close(changed[name] - before, torch.cat(list(up @ down)), atol=1e-5, rtol=0)
            dead = (
                name.startswith("blocks.2.text.") and "qkv" not in name
            )  # what the last block says of text is not read
            assert dead or (changed[name] - before).abs().max() > 1e-4
        else:
            assert torch.equal(changed[name], before), name


def test_the_engine_with_the_lora_is_the_model_that_was_trained(records: Path, tmp_path: Path) -> None:
    how = params(records, tmp_path / "run", lora=4, steps=3, rate=0.1, warmup=1)
    tune(how)
    file = publish.publish(how.out, tmp_path / "mine.safetensors", CHECKPOINT)
    net = finetune.load(how)
    finetune.begin(net, weights.weights_of(how.out))
    picture = np.random.default_rng(0).random((1, 48, 64, 4), dtype=np.float32)
    pixels = torch.from_numpy(picture).permute(0, 3, 1, 2) * 2 - 1
    trained = net.eval().sample(["a tile"], 3, (48, 64), picture=pixels, steps=2, seeds=[5])
    engine = Qwen(CHECKPOINT, area=48 * 64, device="cpu", guidance=1.0, loras=[file])
    (answer,) = engine.decompose(picture, [2], prompts=["a tile"], steps=2, seeds=[5])
    ours = trained[0, 1:].permute(0, 2, 3, 1).numpy() / 2 + 0.5
    np.testing.assert_allclose(answer.pixels, ours, atol=1e-3)
    (without,) = Qwen(CHECKPOINT, area=48 * 64, device="cpu", guidance=1.0).decompose(
        picture, [2], prompts=["a tile"], steps=2, seeds=[5]
    )
    assert np.abs(without.pixels - answer.pixels).max() > 0.02


def test_tuning_all_weights_makes_a_checkpoint_that_the_engine_runs(records: Path, tmp_path: Path) -> None:
    how = params(records, tmp_path / "run", steps=3, rate=1e-3)
    tune(how)
    kept = weights.weights_of(how.out)
    assert all(name.startswith("mmdit.") for name in kept)
    folder = publish.publish(how.out, tmp_path / "tuned", CHECKPOINT)
    state = Transformer(folder / "transformer").model.state_dict()
    assert all(torch.equal(state[name], kept[f"mmdit.{name}"].to(torch.bfloat16).float()) for name in state)
    picture = np.random.default_rng(0).random((1, 48, 64, 4), dtype=np.float32)
    engine = Qwen(folder, area=48 * 64, device="cpu")
    (answer,) = engine.decompose(picture, [2], prompts=["a tile"], steps=1, seeds=[0])
    assert answer.pixels.shape == (2, 48, 64, 4)


def test_stop_and_resume_of_a_lora_equals_a_straight_run(records: Path, tmp_path: Path) -> None:
    straight = params(records, tmp_path / "straight", steps=3, lora=2)
    tune(straight)
    halved = replace(straight, out=tmp_path / "halved")
    loop.train(STAGES["finetune"], halved, lambda row: None, until=2)
    tune(halved)
    ours, theirs = weights.weights_of(straight.out, "net."), weights.weights_of(halved.out, "net.")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(UnfuseError, match="a LoRA from a LoRA of the same rank"):
        tune(params(records, tmp_path / "other", start=straight.out))


def test_captions_are_read_by_the_published_encoder(records: Path) -> None:
    net = LayerFlow(finetune.sizes(CHECKPOINT), CHECKPOINT)
    assert isinstance(net.encoder, QwenReader)
    states, mask = net.read(["a red tile on blue", "two words", "a red tile on blue"])
    assert mask.sum(1).tolist()[0] > mask.sum(1).tolist()[1]
    assert torch.equal(states[0], states[2])
    assert states.shape[2] == 32


def test_a_vae_goes_out_as_it_came_in() -> None:
    """Folded to 2D and back: what a still picture meets is ours, the rest the published one's."""
    ours = weights.weights_of(CHECKPOINT / "vae")
    changed = {name: tensor + 1 for name, tensor in ours.items()}
    whole = publish.unfolded(changed, Weights(CHECKPOINT / "vae"))
    for name, tensor in changed.items():
        torch.testing.assert_close(fold(name, whole[name]).float(), tensor, atol=0.02, rtol=0)
    conv, before = whole["encoder.conv_in.weight"], Weights(CHECKPOINT / "vae").read("encoder.conv_in.weight")
    assert torch.equal(conv[:, :, :-1], before[:, :, :-1])


def test_a_full_stage_starts_from_the_published_folder(records: Path, tmp_path: Path) -> None:
    how = params(records, tmp_path / "run", start=CHECKPOINT)
    net = finetune.build(how)
    flow.begin(net, weights.weights_of(CHECKPOINT))
    tuned = finetune.load(how).state_dict()
    assert all(torch.equal(tensor, tuned[name]) for name, tensor in net.state_dict().items())
    only = weights.weights_of(CHECKPOINT / "transformer")
    flow.begin(net, {name: tensor + 1 for name, tensor in only.items()})
    assert torch.equal(net.state_dict()["mmdit.image_in.bias"], tuned["mmdit.image_in.bias"] + 1)


def test_without_a_checkpoint_it_says_what_it_needs(records: Path, tmp_path: Path) -> None:
    with pytest.raises(UnfuseError, match="finetune needs --model FOLDER"):
        tune(params(records, tmp_path / "run", model=None))
