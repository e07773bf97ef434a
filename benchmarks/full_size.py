"""The published model's size on one GPU, with random weights: seconds a pass and peak memory, ours beside diffusers'.

    pip install 'unfuse[qwen]' diffusers==0.42.1 && python benchmarks/full_size.py --diffusers | tee full_size.txt

is the one line for an H200: 640 x 640, 4 layers, bfloat16. Further:

    python benchmarks/full_size.py --streamed --cap 24   # the plan for a card of 24 GB, the allocator held to that
    python benchmarks/full_size.py --tiny --diffusers    # on a CPU in a minute: it proves the script only

Every line is one lever alone; the last ones are levers together. A pass is one call of the transformer, half a guided
step, and `50 steps` is a hundred of them; times are medians. The floor is the pass's FLOPs at `--peak` TFLOP/s. Outputs
are compared with the first line's, relative to their mean size. Random weights cost what trained ones do, and say
nothing about pictures.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unfuse.model import plan
from unfuse.model.checkpoint import IN_A_BLOCK, OUTSIDE_BLOCKS, transformer_params, vae_params
from unfuse.model.int8 import to_int8
from unfuse.model.mmdit import MMDiT, MMDiTParams
from unfuse.model.placement import Streamed, empty_block
from unfuse.model.vae import VAE, VAEParams
from unfuse.tokens import position_ids

TINY = Path(__file__).parents[1] / "tests/data/qwen_layered_tiny/checkpoint"
PROMPT_TOKENS = 256
GB = 1e9


@dataclass(frozen=True)
class Work:
    """One pass's inputs."""

    tokens: Tensor
    ids: Tensor
    sigma: Tensor
    text: Tensor
    grid: int
    slots: int


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=640, help="of the picture; a multiple of 16")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", type=float, default=790, help="TFLOP/s that large matrix products reach")
    parser.add_argument("--cap", type=float, help="GB that the allocator may take")
    parser.add_argument("--streamed", action="store_true", help="only the blocks that wait in RAM")
    parser.add_argument("--tiny", action="store_true", help="the tests' model on a CPU, float32")
    parser.add_argument("--diffusers", action="store_true", help="measure the reference too")
    options = parser.parse_args()
    device, dtype = ("cpu", torch.float32) if options.tiny else ("cuda", torch.bfloat16)
    params = transformer_params(TINY / "transformer/config.json") if options.tiny else MMDiTParams()
    if options.cap and device == "cuda":
        torch.cuda.set_per_process_memory_fraction(options.cap * GB / torch.cuda.mem_get_info()[1])
    work = inputs(params, options.side if not options.tiny else 64, options.layers, device, dtype)
    flops = plan.flops(params, work.tokens.shape[1])
    print(f"{sum(p.numel() for p in meta(params).parameters()) / 1e9:.4f} B parameters, {work.tokens.shape[1]} tokens,")
    print(f"{flops / 1e12:.4g} TFLOP a pass, floor {flops / options.peak / 1e12:.3g} s at {options.peak:g} TFLOP/s")
    print(f"{'transformer':<34} {'s a pass':>9} {'50 steps':>9} {'of floor':>9} {'peak GB':>8} {'difference':>11}")
    expected: Tensor | None = None
    ways = transformers(params, work, device, dtype, options.diffusers)
    for name, call in streamed(params, work, device, dtype) if options.streamed else ways:
        seconds, peak, answer = measure(call, options.repeats, device)
        expected = answer if expected is None else expected
        difference = float((answer - expected).abs().mean() / expected.abs().mean())
        of_floor = seconds * options.peak * 1e12 / flops
        print(f"{name:<34} {seconds:9.4f} {100 * seconds:9.1f} {of_floor:9.2f} {peak:8.1f} {difference:11.1e}")
    print(f"{'VAE, one frame':<34} {'s':>9}")
    for name, call in vaes(64 if options.tiny else options.side, device, dtype, options.tiny, options.diffusers):
        print(f"{name:<34} {measure(call, options.repeats, device)[0]:9.4f}")


def meta(params: MMDiTParams) -> MMDiT:
    """The transformer without memory."""
    with torch.device("meta"):
        return MMDiT(params)


def built(params: MMDiTParams, device: str, dtype: torch.dtype) -> MMDiT:
    """The transformer with random weights, the same ones at every call."""
    model = meta(params).to(dtype).to_empty(device=device).eval().requires_grad_(False)
    generator = torch.Generator(device).manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            weight.normal_(0, weight.shape[-1] ** -0.5, generator=generator)
        else:
            weight.fill_(1.0 if "norm" in name else 0.0)
    return model


def inputs(params: MMDiTParams, side: int, layers: int, device: str, dtype: torch.dtype) -> Work:
    """Random tokens of all slots and the condition, and a prompt's states."""
    torch.manual_seed(0)
    grid, slots = side // 16, layers + 1
    return Work(
        tokens=torch.randn(1, (slots + 1) * grid**2, params.in_features).to(device, dtype),
        ids=torch.from_numpy(position_ids(slots, grid, grid)).to(device)[None],
        sigma=torch.tensor([0.7]).to(device, dtype),
        text=torch.randn(1, PROMPT_TOKENS, params.text_width or 0).to(device, dtype),
        grid=grid,
        slots=slots,
    )


def transformers(
    params: MMDiTParams, work: Work, device: str, dtype: torch.dtype, reference: bool
) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Each way to run a pass, one model in memory at a time."""
    if reference:
        theirs = diffusers_transformer(params, device, dtype)
        yield "diffusers", lambda: call_diffusers(theirs, work)
        theirs.compile_repeated_blocks(fullgraph=True)
        yield "diffusers, its own compile", lambda: call_diffusers(theirs, work)
        del theirs
        forget(device)
    model = built(params, device, dtype)
    yield "ours", lambda: call(model, work, None)
    known = modulations(model, work.sigma)
    for block in model.blocks:
        for stream in (block.image, block.text):
            stream.modulation = torch.nn.Identity()
    forget(device)
    yield "ours, modulation computed ahead", lambda: call(model, work, known)
    for block in model.blocks:
        block.compile()
    yield "ours, ahead and compiled", lambda: call(model, work, known)
    for block in model.blocks:
        to_int8(block, block.state_dict())
    forget(device)
    yield "ours, ahead, compiled and int8", lambda: call(model, work, known)


def streamed(
    params: MMDiTParams, work: Work, device: str, dtype: torch.dtype
) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Blocks come from RAM one by one; one block's weights serve as all of them, which costs the copies no less."""
    model = built(replace(params, depth=0), device, dtype)
    model.params = params
    kept = {name: weight.normal_(0, 0.01) for name, weight in empty_block(model, "cpu", dtype).state_dict().items()}
    if device == "cuda":
        kept = {name: weight.pin_memory() for name, weight in kept.items()}
    model.blocks = Streamed(model, lambda _: kept, device, dtype)
    known = torch.randn(params.depth, 2, 6 * params.width).to(device, dtype) / 10
    yield "ours, ahead and streamed", lambda: call(model, work, known)


def call(model: MMDiT, work: Work, known: Tensor | None) -> Tensor:
    """One pass of ours: the velocities `b n d` of all tokens."""
    answer: Tensor = model(work.tokens, work.ids, work.sigma, work.text, None, known=known)
    return answer.float()


def modulations(model: MMDiT, sigma: Tensor) -> Tensor:
    """What every block's modulations answer: `depth 2 6d`."""
    vec = torch.nn.functional.silu(model.embed(sigma))
    rows = [torch.stack([s.modulation.linear(vec)[0] for s in (block.image, block.text)]) for block in model.blocks]
    return torch.stack(rows)


def diffusers_transformer(params: MMDiTParams, device: str, dtype: torch.dtype) -> Any:
    """The reference's transformer with the weights of `built`."""
    from diffusers import QwenImageTransformer2DModel

    with torch.device("meta"):
        theirs = QwenImageTransformer2DModel(
            in_channels=params.in_features,
            out_channels=params.out_features // 4,
            num_layers=params.depth,
            attention_head_dim=params.width // params.heads,
            num_attention_heads=params.heads,
            joint_attention_dim=params.text_width,
            axes_dims_rope=params.axes,
            use_additional_t_cond=params.kinds > 0,
            use_layer3d_rope=True,
        )
    theirs = theirs.to(dtype)
    ours = built(params, device, dtype)
    state: dict[str, Tensor] = {}
    for name, weight in ours.state_dict().items():
        head, _, leaf = name.rpartition(".")
        number, _, inside = head.removeprefix("blocks.").partition(".")
        table, place = (IN_A_BLOCK, inside) if head.startswith("blocks.") else (OUTSIDE_BLOCKS, head)
        before = f"transformer_blocks.{number}." if head.startswith("blocks.") else ""
        for published, part in zip(table[place], weight.chunk(len(table[place])), strict=True):
            state[f"{before}{published}.{leaf}"] = part
    theirs.load_state_dict(state, assign=True)
    theirs.pos_embed = type(theirs.pos_embed)(theta=10000, axes_dim=list(params.axes), scale_rope=True)
    return theirs.eval().requires_grad_(False)


def call_diffusers(theirs: Any, work: Work) -> Tensor:
    """One pass of the reference."""
    answer: Tensor = theirs(
        hidden_states=work.tokens,
        timestep=work.sigma,
        encoder_hidden_states=work.text,
        encoder_hidden_states_mask=None,
        img_shapes=[[(1, work.grid, work.grid)] * (work.slots + 1)],
        additional_t_cond=torch.zeros(1, dtype=torch.long, device=work.tokens.device),
        return_dict=False,
    )[0]
    return answer.float()


def vaes(
    side: int, device: str, dtype: torch.dtype, tiny: bool, reference: bool
) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Encoding and decoding one frame: folded to 2D, and as published."""
    params = vae_params(TINY / "vae/config.json") if tiny else VAEParams()
    vae = VAE(params).to(device, dtype).eval().requires_grad_(False)
    pixels = torch.rand(1, 4, side, side).to(device, dtype) * 2 - 1
    latent = torch.randn(1, params.latent, side // params.factor, side // params.factor).to(device, dtype)
    yield "ours, encode", lambda: vae.encode(pixels).mean
    yield "ours, decode", lambda: vae.decode(latent)
    if reference:
        from diffusers import AutoencoderKLQwenImage

        theirs = AutoencoderKLQwenImage(
            base_dim=params.base,
            z_dim=params.latent,
            dim_mult=list(params.multipliers),
            num_res_blocks=params.res_blocks,
            input_channels=params.channels,
        )
        theirs = theirs.to(device, dtype).eval().requires_grad_(False)
        yield "diffusers, encode", lambda: theirs.encode(pixels[:, :, None]).latent_dist.mode()
        yield "diffusers, decode", lambda: theirs.decode(latent[:, :, None], return_dict=False)[0]


@torch.inference_mode()
def measure(call: Callable[[], Tensor], repeats: int, device: str) -> tuple[float, float, Tensor]:
    """Median seconds, peak GB and the answer; two calls first, which compile and warm up."""
    on_gpu = device == "cuda"
    answer = call()
    call()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    spent = []
    for _ in range(repeats):
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if on_gpu:
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent), torch.cuda.max_memory_allocated() / GB if on_gpu else 0.0, answer.cpu()


def forget(device: str) -> None:
    """Give memory back before the next model comes."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
