"""Two processes do what one does: DDP and FSDP2 over gloo, on the CPU."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from parts import tiny_pack  # noqa: E402

from unfuse.train import loop, weights  # noqa: E402
from unfuse.train.stage import TrainParams  # noqa: E402
from unfuse.train.stages import STAGES  # noqa: E402

PROGRAM = """
import sys, torch
from pathlib import Path
from unfuse.train import loop, parallel
from unfuse.train.stage import TrainParams
from unfuse.train.stages import STAGES

if __name__ == "__main__":
    torch.set_num_threads(1)
    pack, out = map(Path, sys.argv[1:])
    for kind in ("ddp", "fsdp"):
        how = TrainParams(pack, out / kind, size="tiny", steps=2, batch=4, accumulate=2, side=32, layers=3, warmup=1,
                          validation=2, sheet_every=2, precision="float32", parallel=kind)
        if kind == "fsdp":  # and go on, from one file
            loop.train(STAGES["image-to-layers"], how, lambda row: None, until=1)
        loop.train(STAGES["image-to-layers"], how, lambda row: None)
    parallel.leave()
"""


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    pack = tiny_pack(tmp_path / "pack")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    started = [
        subprocess.Popen(
            [sys.executable, str(program), str(pack), str(tmp_path)],
            env={**os.environ, **both, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    alone = TrainParams(
        pack, tmp_path / "alone", size="tiny", steps=2, batch=4, side=32, layers=3, warmup=1, validation=2,
        precision="float32",
    )  # fmt: skip
    loop.train(STAGES["image-to-layers"], alone, lambda row: None)
    for process in started:
        _, told = process.communicate(timeout=900)
        assert process.returncode == 0, told
    for kind in ("ddp", "fsdp"):
        out = replace(alone, out=tmp_path / kind).out
        assert compare(alone.out, out, "optimizer.") < 1e-5
        assert compare(alone.out, out, "net.") < 1e-4  # AdamW divides the smallest gradients by themselves
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        ours = [json.loads(line) for line in (alone.out / "metrics.jsonl").read_text().splitlines()]
        assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in ours], abs=1e-4)
        assert [path.name for path in (out / "sheets").iterdir()] == ["0000002.png"]


def compare(one: Path, other: Path, which: str) -> float:
    ours, theirs = weights.weights_of(one, which), weights.weights_of(other, which)
    assert ours.keys() == theirs.keys()
    return max(float((ours[name].float() - theirs[name].float()).abs().max()) for name in ours)
