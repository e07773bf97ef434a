from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from unfuse.engines.qwen_door import PLANS  # noqa: E402
from unfuse.errors import EngineError  # noqa: E402
from unfuse.model import plan as planning  # noqa: E402
from unfuse.model.checkpoint import load_transformer, load_vae  # noqa: E402
from unfuse.model.mmdit import MMDiTParams  # noqa: E402
from unfuse.model.plan import GB, Found, Sizes  # noqa: E402

CHECKPOINT = Path(__file__).parent / "data/qwen_layered_tiny/checkpoint"
PUBLISHED = Sizes(  # bfloat16, from the published shapes
    text=int(16.6 * GB),
    vae=int(0.09 * GB),
    blocks=int(27.2 * GB),
    blocks_int8=int(13.6 * GB),
    modulation=int(13.6 * GB),
    outside=int(0.1 * GB),
    depth=60,
    table=int(0.22 * GB),
)
WORK = int(1.3 * GB)
AMPLE = int(500 * GB)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sizes_are_those_of_the_loaded_parts(dtype: Any) -> None:
    sizes = planning.sizes(CHECKPOINT, dtype)
    transformer, vae = load_transformer(CHECKPOINT / "transformer"), load_vae(CHECKPOINT / "vae")
    assert sizes.transformer == sum(p.numel() for p in transformer.parameters()) * dtype.itemsize
    assert sizes.vae == sum(p.numel() for p in vae.parameters()) * dtype.itemsize
    modulation = sum(p.numel() for n, p in transformer.named_parameters() if ".modulation." in n)
    assert sizes.modulation == modulation * dtype.itemsize
    assert sizes.depth == len(transformer.blocks)


def test_a_broken_header_is_named(tmp_path: Path) -> None:
    folder = shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")
    shard = folder / "vae/diffusion_pytorch_model-00002-of-00003.safetensors"
    shard.write_bytes(b"12")
    with pytest.raises(EngineError, match=r"00002-of-00003\.safetensors is broken"):
        planning.sizes(folder, torch.float32)


@pytest.mark.parametrize(
    ("gpu", "ram", "name", "device"),
    [
        (141, 200, "whole", "cuda"),
        (48, 200, "swapped", "cuda"),
        (32, 64, "precomputed", "cuda"),
        (24, 64, "int8", "cuda"),
        (16, 64, "streamed", "cuda"),
        (12, 64, "streamed", "cuda"),
        (12, 20, "disk", "cuda"),
        (1, 64, "whole", "cpu"),
        (1, 50, "swapped", "cpu"),
        (1, 32, "precomputed", "cpu"),
        (1, 20, "int8", "cpu"),
    ],
)
def test_the_first_plan_that_fits_is_chosen(gpu: float, ram: float, name: str, device: str) -> None:
    found = Found(int(gpu * GB), int(ram * GB))
    chosen = planning.choose(planning.plans(PUBLISHED, WORK, "cuda", found), found)
    assert (chosen.name, chosen.device) == (name, device)
    assert chosen.text_device == ("cpu" if device == "cpu" or gpu < 17 else "cuda")
    assert chosen.text_stays == (name == "whole")


def test_nothing_fits_or_a_name_is_given() -> None:
    found = Found(0, int(2 * GB))
    plans = planning.plans(PUBLISHED, WORK, "cpu", found)
    with pytest.raises(EngineError, match=r"no plan fits into 0\.0 GB of GPU memory and 2\.0 GB of RAM"):
        planning.choose(plans, found)
    assert planning.choose(plans, found, "disk").name == "disk"
    with pytest.raises(EngineError, match="'streamed' is unknown here: one of whole, swapped, precomputed, int8, disk"):
        planning.choose(plans, found, "streamed")
    assert tuple(planning.ABOUT) == PLANS


def test_every_plan_needs_less_of_the_device_than_the_one_before() -> None:
    found = Found(AMPLE, AMPLE)
    small_text = replace(PUBLISHED, text=1)
    on_gpu = [plan.gpu for plan in planning.plans(small_text, WORK, "cuda", found) if plan.device == "cuda"]
    assert on_gpu == sorted(on_gpu, reverse=True)


def test_the_table_marks_the_chosen_one() -> None:
    found = Found(int(24 * GB), int(64 * GB))
    plans = planning.plans(PUBLISHED, WORK, "cuda", found)
    lines = planning.table(PUBLISHED, WORK, plans, found, planning.choose(plans, found), CHECKPOINT)
    assert lines[0].startswith("needs: text encoder 16.6 GB, transformer 40.9 GB (modulation 13.6)")
    assert [line[:10] for line in lines if line.startswith(">")] == ["> int8    "]
    assert len(lines) == 2 + len(plans)


def test_flops_are_those_of_the_published_model() -> None:
    """About 205 TFLOP for a pass of four layers at 640 x 640."""
    tokens = planning.tokens_of(8, (640, 640), 5)
    assert tokens == 9600
    assert planning.flops(MMDiTParams(), tokens) == pytest.approx(205.4e12, rel=0.05)


def test_free_ram_is_a_number_of_bytes() -> None:
    assert 0 < planning.free_ram() < 2**63 - 1


def test_the_cpu_time_is_told() -> None:
    config = json.loads((CHECKPOINT / "transformer/config.json").read_text())
    assert config["num_layers"] == 3
    assert "on this CPU about" in planning.cpu_time(CHECKPOINT, torch.float32, (64, 48), 3, 2)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "a second"),
        (59, "59 seconds"),
        (600, "10 minutes"),
        (5e4, "14 hours"),
        (4e5, "5 days"),
        (1e8, "1157 days"),
    ],
)
def test_times_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert planning.duration(seconds) == said
