from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from safetensors.torch import save_file  # noqa: E402

from unfuse.model.int8 import Int8Linear, quantised  # noqa: E402
from unfuse.model.layered import Layered, Prompt  # noqa: E402
from unfuse.model.placement import Transformer  # noqa: E402
from unfuse.model.reuse import Reuse  # noqa: E402

CHECKPOINT = Path(__file__).parent / "data/qwen_layered_tiny/checkpoint"
ELSEWHERE: Any = ["precomputed", "streamed", "disk"]
INT8: Any = "int8"  # the one that rounds


def sample(layered: Layered, count: int = 2, **options: Any) -> Any:
    torch.manual_seed(0)
    width = layered.transformer.model.params.text_width
    prompt, negative = (
        Prompt(torch.randn(count, tokens, width), torch.ones(count, tokens, dtype=torch.bool)) for tokens in (5, 2)
    )
    condition = torch.randn(count, 16, 4, 6)
    noise = layered.noise(range(count), 3, 32, 48)
    return layered.sample(noise, condition, prompt, negative, **{"steps": 3, **options})


@pytest.fixture(scope="module")
def plain() -> Layered:
    return Layered(CHECKPOINT)


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Changes of a modulation and of an attention."""
    path = tmp_path_factory.mktemp("lora") / "lora.safetensors"
    torch.manual_seed(1)
    rows = {"transformer_blocks.1.img_mod.1": 288, "transformer_blocks.2.attn.to_q": 48}
    save_file(
        {f"{m}.lora_A.weight": torch.randn(1, 48) for m in rows}
        | {f"{m}.lora_B.weight": torch.randn(n, 1) for m, n in rows.items()},
        path,
    )
    return path


@pytest.mark.parametrize("placement", ELSEWHERE)
def test_every_placement_gives_the_same(plain: Layered, placement: Any) -> None:
    other = Layered(CHECKPOINT, placement=placement)
    for steps in (3, 2):  # another schedule, other modulations
        torch.testing.assert_close(sample(other, steps=steps), sample(plain, steps=steps), atol=1e-5, rtol=0)


@pytest.mark.parametrize("placement", ELSEWHERE)
def test_every_placement_has_the_loras(plain: Layered, placement: Any, lora: Path) -> None:
    whole, other = (Layered(CHECKPOINT, placement=p, loras=[(lora, 0.1)]) for p in ("whole", placement))
    expected = sample(whole)
    torch.testing.assert_close(sample(other), expected, atol=1e-5, rtol=0)
    assert (expected - sample(plain)).abs().max() > 1e-3


def test_bfloat16_placements_agree_within_its_rounding() -> None:
    whole, streamed = (Layered(CHECKPOINT, dtype=torch.bfloat16, placement=p) for p in ("whole", "streamed"))
    expected = sample(whole)
    assert (sample(streamed) - expected).abs().mean() < 0.02 * expected.abs().mean()


def test_int8_is_the_rounded_weights_own_answer(plain: Layered) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(24, 10)
    weight, scale = quantised(linear.weight.detach())
    small = Int8Linear(linear)
    small.load_state_dict({"weight": weight, "scale": scale, "bias": linear.bias.detach()}, assign=True)
    x = torch.randn(3, 4, 24)
    rounded = torch.nn.functional.linear(x, weight * scale[:, None], linear.bias)
    torch.testing.assert_close(small(x), rounded, atol=1e-5, rtol=0)
    assert int(weight.abs().amax(dim=1).min()) == 127
    assert float((weight * scale[:, None] - linear.weight.detach()).abs().max()) <= float(scale.max()) / 2 + 1e-7

    expected = sample(plain)
    error = (sample(Layered(CHECKPOINT, placement=INT8)) - expected).abs().mean() / expected.abs().mean()
    assert 0 < float(error) < 0.02


def test_compiled_blocks_answer_the_same(plain: Layered) -> None:
    if not shutil.which("c++"):
        pytest.skip("torch.compile needs a C++ compiler")
    torch.testing.assert_close(sample(Layered(CHECKPOINT, compiled=True)), sample(plain), atol=1e-4, rtol=0)


def test_what_is_elsewhere_takes_no_room() -> None:
    folder = CHECKPOINT / "transformer"
    whole, precomputed, streamed = (Transformer(folder, placement=p) for p in ("whole", "precomputed", "streamed"))
    parts = {n: t.numel() for n, t in whole.model.state_dict().items()}
    modulation = sum(numel for name, numel in parts.items() if ".modulation." in name)
    outside = sum(numel for name, numel in parts.items() if not name.startswith("blocks."))

    def here(transformer: Transformer) -> int:
        return sum(p.numel() for p in transformer.model.parameters() if not p.is_meta)

    assert here(whole) == sum(parts.values())
    assert here(precomputed) == here(whole) - modulation
    assert here(streamed) == outside
    blocks: Any = streamed.model.blocks
    a_block = (here(precomputed) - outside) // len(whole.model.blocks)
    assert [sum(p.numel() for p in place.block.parameters()) for place in blocks.places] == [a_block] * 2


def test_blocks_come_in_order_whatever_is_given_up() -> None:
    transformer = Transformer(CHECKPOINT / "transformer", placement="streamed")
    blocks: Any = transformer.model.blocks
    bias = "image.qkv.bias"
    expected = [transformer.block(i)[bias] for i in range(len(blocks))]
    assert not any(torch.equal(one, other) for one, other in pairwise(expected))
    for taken in (3, 1, 1, 2, 3, 3):
        for i, block in zip(range(taken), blocks, strict=False):
            assert torch.equal(block.get_parameter(bias), expected[i])


def test_guidance_on_an_interval(plain: Layered) -> None:
    guided, unguided = sample(plain), sample(plain, guidance=1.0 + 1e-9, normalise=False)
    assert torch.equal(sample(plain, interval=(0.0, 1.0)), guided)
    torch.testing.assert_close(sample(plain, interval=(2.0, 3.0)), unguided, atol=1e-5, rtol=0)
    some = sample(plain, interval=(0.0, 0.9))
    assert (some - guided).abs().max() > 1e-3
    assert (some - unguided).abs().max() > 1e-3


def test_step_cache(plain: Layered) -> None:
    full = sample(plain, steps=8)
    assert torch.equal(sample(plain, steps=8, reuse=1e-12), full)
    assert [(row.passes, row.reused) for row in plain.reused] == [(8, 0), (8, 0)]
    cached = sample(plain, steps=8, reuse=0.6)
    assert [row.passes for row in plain.reused] == [8, 8]
    assert all(0 < row.reused < 8 and 0 < row.largest < 0.6 for row in plain.reused)
    error = float((cached - full).abs().mean() / full.abs().mean())
    assert 0 < error < 0.2


def test_step_cache_of_streamed_blocks(plain: Layered) -> None:
    streamed = Layered(CHECKPOINT, placement="streamed")
    torch.testing.assert_close(
        sample(streamed, steps=8, reuse=0.6), sample(plain, steps=8, reuse=0.6), atol=1e-5, rtol=0
    )


def test_reuse_by_hand() -> None:
    reuse = Reuse(0.5)
    one = torch.ones(1, 2, 3)
    assert reuse.rest_for(one) is None
    reuse.keep(7 * one)
    rest = reuse.rest_for(1.25 * one)
    assert rest is not None
    assert torch.equal(rest, 7 * one)
    assert reuse.rest_for(1.75 * one) is None
    reuse.keep(9 * one)
    assert reuse.rest_for(torch.ones(1, 9, 3)) is None  # another picture
    assert (reuse.passes, reuse.reused, reuse.largest) == (4, 1, 0.25)
