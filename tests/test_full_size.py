"""benchmarks/full_size.py at the tests' sizes: what its rows must agree in, and that what fails is a row."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SAME = 1e-5  # relative, of what only rounds otherwise in float32


@pytest.fixture
def full_size(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setitem(sys.modules, "diffusers", None)  # as where it is not installed
    return importlib.import_module("full_size")


def rows(full_size: Any, levers: str, path: Path, *options: str) -> dict[str, Any]:
    full_size.main(["--tiny", "--steps", "6", "--repeats", "1", "--levers", levers, "--json", str(path), *options])
    return {row["lever"]: row for row in json.loads(path.read_text())["rows"]}


def test_rows_that_must_agree_do(full_size: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    levers = ["eager", "one_batch", "cached", "few_steps", "precomputed", "streamed", "card_streamed"]
    found = rows(full_size, ",".join(levers), tmp_path / "a.json", "--reuse", "0")
    assert list(found) == levers
    assert [row["error"] for row in found.values()] == [None] * len(levers)
    assert found["eager"]["difference"] == found["cached"]["difference"] == found["few_steps"]["difference"] == 0
    assert 0 < found["one_batch"]["difference"] < SAME
    assert all(found[name]["difference"] < SAME for name in ("precomputed", "streamed", "card_streamed"))
    assert [name for name, row in found.items() if row["really_run"]] == ["cached", "few_steps"]
    for name, row in found.items():
        steps = 8 if name == "few_steps" else 6
        assert row["denoise"] == pytest.approx(steps * row["step"])
        assert row["denoise"] > 0
        assert set(row["aims"].values()) <= {None}  # they are the full size's
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert [line.split(" | ")[0].removeprefix("| ") for line in table[2:9]] == levers
    assert len({line.count("|") for line in table[:9]}) == 1


def test_the_step_cache_counts(full_size: Any, tmp_path: Path) -> None:
    off = rows(full_size, "cached,cached_bound", tmp_path / "a.json", "--reuse", "1e-12")
    assert (off["cached"]["difference"], off["cached"]["reused"], off["cached"]["passes"]) == (0, 0, 12)
    assert (off["cached_bound"]["reused"], off["cached_bound"]["passes"]) == (10, 12)
    assert off["cached_bound"]["difference"] > SAME


def test_levers_that_round_say_so(full_size: Any, tmp_path: Path) -> None:
    found = rows(full_size, "interval,int8,fp8_file,fp8", tmp_path / "a.json")
    for name, most in (("interval", 0.5), ("int8", 0.02), ("fp8_file", 0.1), ("fp8", 0.1)):
        assert found[name]["error"] is None
        assert 1e-4 < found[name]["difference"] < most


def test_what_fails_is_a_row_and_the_rest_goes_on(
    full_size: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = rows(full_size, "diffusers,eager", tmp_path / "a.json")
    assert "diffusers" in found["diffusers"]["error"]
    assert found["diffusers"]["step"] is None
    assert found["eager"]["difference"] == 0
    assert "**failed**" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        full_size.main(["--tiny", "--levers", "nothing"])
    assert "nothing; known: vae, diffusers" in capsys.readouterr().err


def test_aims_are_judged(full_size: Any) -> None:
    levers, row = full_size.LEVERS, full_size.Row
    theirs = {"diffusers": row("diffusers", "", denoise=40.0)}
    quick = row("eager", "", denoise=30.0, of_floor=1.15)
    assert list(full_size.aims(levers["eager"], quick, theirs, 24).values()) == [True, True]
    slow = row("eager", "", denoise=32.0, of_floor=1.25)
    assert list(full_size.aims(levers["eager"], slow, theirs, 24).values()) == [False, False]
    assert list(full_size.aims(levers["eager"], quick, {}, 24).values()) == [True, None]
    assert list(full_size.aims(levers["eager"], row("eager", ""), theirs, 24).values()) == [None, None]
    assert full_size.aims(levers["fp8"], row("fp8", "", denoise=19.0), {}, 24) == {"under 20 s": True}
    assert full_size.aims(levers["card_int8"], row("card_int8", "", peak=24.1), {}, 24) == {"within 24 GB": False}
    # 100 passes of 0.3 s; one that is reused takes 0.05 s: (30 - 13) / 0.25 = 68 of them reach 13 s
    most = row("cached_bound", "", denoise=2 * 0.3 + 98 * 0.05, passes=100, reused=98)
    assert full_size.bound(most, row("eager", "", denoise=30.0)) == 68


def test_the_full_size_is_the_published_one(full_size: Any) -> None:
    from unfuse.model.mmdit import MMDiTParams
    from unfuse.model.vae import VAEParams

    model = full_size.Model.of(MMDiTParams(), VAEParams(), "cpu", side=640, layers=4, steps=50, reuse=0.1)
    assert round(model.parameters / 1e9, 2) == 20.43
    passes = {name: model.flops(full_size.LEVERS[name]) / 205.6e12 for name in ("eager", "few_steps", "interval")}
    assert passes["few_steps"] == pytest.approx(8, rel=0.001)
    assert passes["eager"] == pytest.approx(98, rel=0.01)  # the negative prompt is short
    assert passes["few_steps"] < passes["interval"] < passes["eager"]
