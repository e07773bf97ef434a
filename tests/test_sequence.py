"""Several processes on one picture: what they end with together is what one alone ends with.

Run by torchrun, this file is one of the processes (gloo, on the CPU).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from safetensors.torch import load_file, save_file  # noqa: E402

from unfuse.errors import EngineError  # noqa: E402
from unfuse.model.layered import Layered, Prompt  # noqa: E402

CHECKPOINT = Path(__file__).parent / "data/qwen_layered_tiny/checkpoint"

# Names of cases: how the pictures are made. 3 slots of 2 x 3 tokens and a condition are 24 tokens, 3 of 3 x 3 without
# one are 27; texts of 5 and 2 tokens, and heads, of which there are 3, do not part evenly in two either.
CASES: dict[str, dict[str, Any]] = {
    "guided": {},
    "unguided": {"guidance": 1.0},
    "uneven": {"guidance": 1.0, "size": (48, 48), "condition": False},
    "masked": {"guidance": 1.0, "masked": True},
    "cached": {"guidance": 1.0, "steps": 6, "reuse": 0.6},
    "interval": {"steps": 6, "reuse": 0.6, "interval": (0.0, 0.9)},
    "streamed": {"guidance": 1.0, "placement": "streamed"},
}
CASES_OF: dict[int, list[str]] = {2: list(CASES), 3: ["guided", "uneven"], 4: ["guided"]}


def sample(case: str) -> tuple[Any, list[tuple[int, int]]]:
    """Latents of a case, and the tokens `(image, text)` that went through this process's first block in each pass."""
    options = {"steps": 2, "size": (32, 48), "condition": True, "masked": False, **CASES[case]}
    (height, width), conditioned, masked = options.pop("size"), options.pop("condition"), options.pop("masked")
    layered = Layered(CHECKPOINT, placement=options.pop("placement", "whole"))
    torch.manual_seed(0)
    text = layered.transformer.model.params.text_width
    prompt, negative = (Prompt(torch.randn(2, t, text), torch.ones(2, t, dtype=torch.bool)) for t in (5, 2))
    if masked:
        prompt.mask[0, 3:] = False
    condition = torch.randn(2, 16, height // 8, width // 8) if conditioned else None
    seen: list[tuple[int, int]] = []
    inside, read = layered.transformer.model.image_in, layered.transformer.model.text_in
    inside.register_forward_pre_hook(lambda _, given: seen.append((given[0].shape[1], 0)))
    read.register_forward_pre_hook(lambda _, given: seen.append((0, given[0].shape[1])))
    guided = options.get("guidance") != 1.0
    noise = layered.noise([0, 1], 3, height, width)
    return layered.sample(noise, condition, prompt, negative if guided else None, **options), seen


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What each process of two, three and four ends with, by their number."""
    made = {}
    for count in CASES_OF:
        out = tmp_path_factory.mktemp(f"of{count}")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", __file__]
        done = subprocess.run(
            [*command, str(out)],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        made[count] = [load_file(out / f"{rank}.safetensors") for rank in range(count)]
    return made


@pytest.mark.parametrize(("count", "case"), [(count, case) for count, cases in CASES_OF.items() for case in cases])
def test_together_as_alone(ends: Any, count: int, case: str) -> None:
    alone, _ = sample(case)
    for end in ends[count]:
        assert torch.equal(end[f"{case}.latents"], ends[count][0][f"{case}.latents"])
    torch.testing.assert_close(ends[count][0][f"{case}.latents"], alone, atol=1e-4, rtol=0)


def test_each_process_has_its_part(ends: Any) -> None:
    """Two that are guided see all tokens of one pass a step; two that share a pass see half of its tokens."""

    def seen(count: int, rank: int, case: str) -> list[list[int]]:
        both = ends[count][rank][f"{case}.seen"].tolist()  # two steps, and in each the image and the text
        return [[image for image, _ in both if image], [text for _, text in both if text]]

    assert [seen(2, rank, "guided") for rank in range(2)] == [[[24, 24], [5, 5]], [[24, 24], [2, 2]]]
    assert [seen(2, rank, "uneven") for rank in range(2)] == [[[14, 14], [3, 3]], [[13, 13], [2, 2]]]
    assert seen(4, 1, "guided") == [[12, 12], [2, 2]]
    assert seen(4, 2, "guided") == [[12, 12], [1, 1]]
    assert seen(3, 0, "guided") == [[8, 8, 8, 8], [2, 1, 2, 1]]


def test_more_processes_than_heads_are_refused() -> None:
    from unfuse.model.sequence import Share, Team

    team = Team.__new__(Team)
    team.share = Share(None, 0, 4)
    with pytest.raises(EngineError, match="4 processes share a pass, and the model has 3 heads"):
        team.share_of(3)


def test_two_processes_of_the_command_line_write_one_stack(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    import unfuse
    from unfuse.engines import load

    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "x.png")
    engine = f"qwen:{CHECKPOINT}"
    arguments = ["decompose", "x.png", "-n", "2", "--prompt", "a hat", "--engine", engine, "--steps", "1", "--no-text"]
    code = f"from unfuse import cli; cli.main({[*arguments, '--set', 'area=3072', '-o', 'x.zip', '--json']!r})"
    (tmp_path / "one.py").write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "one.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 1  # the first process tells
    alone = load(engine, area=3072)
    expected = unfuse.decompose(tmp_path / "x.png", 2, prompt="a hat", engine=alone, steps=1, text=False)
    for layer, other in zip(unfuse.load(tmp_path / "x.zip"), expected, strict=True):
        assert np.abs(layer.to_canvas((64, 48)).astype(int) - other.to_canvas((64, 48))).max() <= 1


def one_of_several(out: Path) -> None:
    """What each process of the fixture does."""
    torch.distributed.init_process_group("gloo")
    about: dict[str, Any] = {}
    for case in CASES_OF[torch.distributed.get_world_size()]:
        about[f"{case}.latents"], seen = sample(case)
        about[f"{case}.seen"] = torch.tensor(seen)
    save_file(about, out / f"{torch.distributed.get_rank()}.safetensors")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    one_of_several(Path(sys.argv[1]))
