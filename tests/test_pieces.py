"""A run in pieces equals one run; what travels is small, checked, and never replaces what it does not belong to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from parts import tiny_pack  # noqa: E402

from unfuse.corpus.records import Record, Records  # noqa: E402
from unfuse.corpus.shards import write_records  # noqa: E402
from unfuse.errors import FormatError, UnfuseError  # noqa: E402
from unfuse.layers import Box, Layer  # noqa: E402
from unfuse.train import carried, loop, pieces, weights  # noqa: E402
from unfuse.train.carried import CARRIES  # noqa: E402
from unfuse.train.stage import TrainParams  # noqa: E402
from unfuse.train.stages import STAGES  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tiny_pack(tmp_path_factory.mktemp("pack"))


def begun(data: Path, out: Path, until: int | None) -> TrainParams:
    params = TrainParams(data, out, size="tiny", steps=4, batch=2, side=32, layers=3, warmup=1, validation=2)
    loop.train(STAGES["vae"], params, lambda row: None, until=until)
    return params


def tell(line: str) -> None:
    said.append(line)


said: list[str] = []


def test_pieces_equal_one_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = begun(data, tmp_path / "straight", None)
    run = begun(data, tmp_path / "run", until=1).out
    monkeypatch.setattr(pieces, "FILE", 300_000)
    job = pieces.pack(run, data, tmp_path / "job", tell)
    assert json.loads((job / "pieces.json").read_text())["exact"]
    assert said[-1] == "the pieces will equal one run"
    files = list(job.glob("piece-*.bin"))
    assert len(files) > 3
    assert max(file.stat().st_size for file in files) <= 300_000
    # there, without unfuse: the job brings it along
    program = [sys.executable, "-P", str(job / "piece.py"), "-o", str(tmp_path / "result"), "--until", "3"]
    as_here = {**os.environ, "OMP_NUM_THREADS": "1"}  # sums of another number of threads round differently
    subprocess.run(program, check=True, cwd=tmp_path, capture_output=True, env=as_here)
    pieces.take(tmp_path / "result", run, tell)
    assert weights.about_of(run)["step"] == 3
    assert weights.about_of(run)["params"]["data"] == str(data)
    job = pieces.pack(run, data, job, tell)
    result = pieces.piece(job, tmp_path / "second", None, None, tell)
    pieces.take(result, run, tell)
    ours, theirs = weights.read(straight.out)[0], weights.read(run)[0]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    with pytest.raises(UnfuseError, match=r"goes on from step 3, and .* is elsewhere \(step 4\)"):
        pieces.take(result, run, tell)


def test_what_is_damaged_is_not_taken(data: Path, tmp_path: Path) -> None:
    run = begun(data, tmp_path / "run", until=1).out
    job = pieces.pack(run, data, tmp_path / "job", tell)
    with pytest.raises(FormatError, match="is a job, not a result"):
        pieces.take(job, run, tell)
    file = job / "piece-00.bin"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(FormatError, match=r"piece-00\.bin is missing or damaged"):
        pieces.piece(job, tmp_path / "result", None, None, tell)
    with pytest.raises(FormatError, match=r"holds no pieces\.json"):
        pieces.take(tmp_path, run, tell)
    with pytest.raises(UnfuseError, match="holds no checkpoint: begin the run here"):
        pieces.pack(tmp_path, data, tmp_path / "other", tell)
    with pytest.raises(FormatError, match="holds other things than a job"):
        pieces.pack(run, data, data, tell)


def test_what_does_not_fit_travels_in_fewer_bits_and_parts(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(data, tmp_path / "run", until=1).out
    tensors, _ = weights.read(run)
    sizes = [carried.bytes_of(carried.narrow(tensors, carry)) for carry in CARRIES]
    assert sizes == sorted(sizes, reverse=True)
    code = pieces.put_code(tmp_path / "code", "vae")
    monkeypatch.setattr(pieces, "TOTAL", pieces.SPARE + code + sizes[2] + 4000)
    monkeypatch.setattr(pieces, "DATA", 4000)
    job = pieces.pack(run, data, tmp_path / "job", tell)
    about = json.loads((job / "pieces.json").read_text())
    assert about["carried"] == "weights in float32, averages in float32, moments in 8-bit"
    assert not about["exact"]
    assert about["parts"][0] < about["parts"][1]
    monkeypatch.setattr(pieces, "TOTAL", pieces.SPARE + code + 1000)
    with pytest.raises(UnfuseError, match=r"the state takes \d+ MiB at least"):
        pieces.pack(run, data, tmp_path / "job", tell)


def test_some_records_travel_where_not_all_fit(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 4), dtype=np.uint8)
    made = [
        Record(f"{i:08x}{'0' * 8}", c, (Layer("one", "background", Box(0, 0, 16, 16), c),), "colours")
        for i, c in enumerate(colours)
    ]
    write_records(tmp_path / "all", made)
    whole = Records.open(tmp_path / "all")
    size = max(row.bytes for row in whole.rows) + 512
    assert pieces.put_data(tmp_path / "all", tmp_path / "some", 3 * size, 0) == (3, 6)
    assert pieces.put_data(tmp_path / "all", tmp_path / "every", 9 * size, 0) == (6, 6)
    some = Records.open(tmp_path / "some")
    assert len(some) == 3
    by_key = {record.key: record for record in whole}
    assert all((record.picture == by_key[record.key].picture).all() for record in some)


@pytest.mark.parametrize("carry", CARRIES, ids=str)
def test_numbers_in_fewer_bits(carry: carried.Carry) -> None:
    torch.manual_seed(0)
    first, second = torch.randn(40, 13) * 1e-3, torch.randn(40, 13).square() * 1e-6
    tensors: dict[str, Any] = {"net.w": torch.randn(40, 13), "ema.w": torch.randn(40, 13), "ema.n": torch.tensor(3)}
    tensors |= {"optimizer.w.exp_avg": first, "optimizer.w.exp_avg_sq": second, "optimizer.w.step": torch.tensor(5.0)}
    back = carried.widen(carried.narrow(tensors, carry), {"w": (40, 13)})
    assert torch.equal(back["net.w"], tensors["net.w"])
    assert back["ema.n"] == 3
    limit = {"float32": 0.0, "bfloat16": 2**-8, "8-bit": 1 / 127}
    assert (back["ema.w"] - tensors["ema.w"]).abs().max() <= limit[carry.averages] * tensors["ema.w"].abs().max()
    if carry.moments == "none":
        assert not [name for name in back if name.startswith("optimizer.")]
        return
    assert back["optimizer.w.step"] == 5
    assert (back["optimizer.w.exp_avg"] - first).abs().max() <= limit[carry.moments] * first.abs().max()
    if carry.moments == "8-bit":
        assert (back["optimizer.w.exp_avg_sq"] >= second * (1 - 1e-6)).all()  # no step becomes longer
        assert ((back["optimizer.w.exp_avg_sq"].sqrt() - second.sqrt()) <= second.sqrt().max() / 254).all()
