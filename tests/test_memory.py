"""What a run will need is known before it begins, and what cannot fit is refused with what would help."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from parts import tiny_pack  # noqa: E402

from unfuse.errors import MissingExtra, UnfuseError  # noqa: E402
from unfuse.model.plan import Found  # noqa: E402
from unfuse.train import finetune, loop, memory, weights  # noqa: E402
from unfuse.train.parallel import Place  # noqa: E402
from unfuse.train.stage import TrainParams  # noqa: E402
from unfuse.train.stages import STAGES  # noqa: E402

CHECKPOINT = Path(__file__).parent / "data/qwen_layered_tiny/checkpoint"


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> TrainParams:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("memory")
    return TrainParams(
        tiny_pack(root / "pack"), root / "run", size="tiny", steps=2, batch=2, side=32, layers=3, warmup=1,
        validation=2, precision="float32",
    )  # fmt: skip


def test_what_is_kept_is_what_autograd_keeps(params: TrainParams) -> None:
    stage = STAGES["vae"]
    arrays = loop.tensors(stage.batch(loop.wants(params, Place(), 0)[0]))
    real = memory.saved(stage, stage.build(params).train(), arrays)
    assert memory.estimate(stage, params, Place()).kept == real > 1e5


def test_weights_and_what_goes_with_them(params: TrainParams) -> None:
    stage = STAGES["vae"]
    count = sum(p.numel() for p in stage.build(params).parameters())
    found = memory.estimate(stage, params, Place())
    assert (found.weights, found.gradients, found.optimizer, found.averages) == tuple(
        4 * count * k for k in (1, 1, 2, 1)
    )
    sharded = memory.estimate(stage, replace(params, parallel="fsdp", batch=4), Place(0, 2))
    assert sharded.optimizer == found.optimizer // 2
    assert sharded.kept == found.kept
    parts = memory.estimate(stage, replace(params, accumulate=2), Place())
    assert parts.kept < 0.6 * found.kept
    flow = memory.estimate(STAGES["image-to-layers"], params, Place())
    assert flow.optimizer < 2 * flow.weights  # the VAE does not learn


def test_a_lora_needs_moments_of_what_learns_alone(params: TrainParams) -> None:
    how = replace(params, model=CHECKPOINT, lora=2)
    lora, whole = (memory.estimate(finetune.STAGE, p, Place()) for p in (how, replace(how, lora=None)))
    assert lora.optimizer < 0.2 * whole.optimizer
    assert lora.averages == lora.gradients
    assert memory.estimate(finetune.STAGE, replace(how, recompute=True), Place()).kept < 0.7 * lora.kept


def test_what_cannot_fit_is_refused_with_a_cure(params: TrainParams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "find", lambda device: Found(0, 1000))
    with pytest.raises(UnfuseError, match=r"are free: take --recompute, or a smaller --side"):
        memory.check(memory.Memory(1, 1, 2, 1, 2000), params, Place())
    with pytest.raises(UnfuseError, match=r"take --lora 32, or --parallel fsdp"):
        memory.check(memory.Memory(500, 500, 1000, 500, 10), replace(params, model=CHECKPOINT), Place())
    memory.check(memory.Memory(1, 1, 2, 1, 900), params, Place())


def test_recomputing_changes_nothing(params: TrainParams, tmp_path: Path) -> None:
    def trained(**changes: Any) -> dict[str, Any]:
        how = replace(params, out=tmp_path / str(len(changes)), **changes)
        loop.train(STAGES["image-to-layers"], how, lambda row: None)
        return weights.weights_of(how.out, "net.")

    ours, theirs = trained(), trained(recompute=True)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in ours)


def test_tensorboard_that_is_not_there_is_named(params: TrainParams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtra, match=r"pip install 'unfuse\[tensorboard\]'"):
        loop.train(STAGES["vae"], replace(params, tensorboard=True), lambda row: None)
