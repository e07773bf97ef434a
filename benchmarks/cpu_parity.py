"""Our code beside the reference pipeline's on a CPU: same checkpoint, same inputs, outputs compared, ratio of times.

    pip install diffusers==0.42.1
    python benchmarks/cpu_parity.py [CHECKPOINT] [--side 256] [--layers 4] [--repeats 5] [--bfloat16] [--compiled]

Without a checkpoint it takes the tests' tiny model, whose times are mostly overhead. Each line is one part: the fewest
CPU seconds of the repeats of each, taken in turn so that a busy machine slows both, and the largest difference of the
answers. --compiled runs the transformer's blocks by torch.compile on both sides as well.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unfuse.model.layered import Layered
from unfuse.tokens import position_ids

TINY = Path(__file__).parents[1] / "tests/data/qwen_layered_tiny/checkpoint"
PROMPT_TOKENS = 32

Parts = dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, default=TINY)
    parser.add_argument("--side", type=int, default=256, help="of the picture; a multiple of 16")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    dtype = torch.bfloat16 if options.bfloat16 else torch.float32
    print(f"{options.side} x {options.side}, {options.layers} layers, {dtype}, {torch.get_num_threads()} threads")
    print(f"{'part':<12} {'ours':>10} {'diffusers':>10} {'ratio':>6} {'difference':>11}")
    eager = parts(options.checkpoint, dtype, options.side, options.layers, compiled=False)
    again = parts(options.checkpoint, dtype, options.side, options.layers, compiled=True) if options.compiled else {}
    if again:
        eager["compiled"] = again["transformer"]
    for name, (ours, theirs) in eager.items():
        times, difference = measure(ours, theirs, options.repeats)
        print(f"{name:<12} {times[0]:8.4f} s {times[1]:8.4f} s {times[1] / times[0]:6.2f} {difference:11.1e}")


def parts(checkpoint: Path, dtype: torch.dtype, side: int, layers: int, compiled: bool) -> Parts:
    """Each part as it is called here and there; compiled: the transformer's blocks."""
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

    ours = Layered(checkpoint, dtype=dtype, compiled=compiled)
    load: dict[str, Any] = {"torch_dtype": dtype, "local_files_only": True}
    vae = AutoencoderKLQwenImage.from_pretrained(checkpoint / "vae", **load).eval()
    transformer = QwenImageTransformer2DModel.from_pretrained(checkpoint / "transformer", **load).eval()
    if compiled:
        transformer.compile_repeated_blocks(fullgraph=True)
    torch.manual_seed(0)
    grid, slots, params = side // 16, layers + 1, ours.transformer.model.params
    tokens = torch.randn(1, (slots + 1) * grid**2, params.in_features, dtype=dtype)
    text = torch.randn(1, PROMPT_TOKENS, params.text_width or 0, dtype=dtype)
    sigma = torch.tensor(0.7, dtype=dtype)
    ids = torch.from_numpy(position_ids(slots, grid, grid))[None]
    pixels = torch.rand(1, 4, side, side, dtype=dtype) * 2 - 1
    latent = torch.randn(1, ours.vae.params.latent, side // 8, side // 8, dtype=dtype)
    return {
        "transformer": (
            lambda: ours.transformer(tokens, ids, sigma, text, None, None),
            lambda: transformer(
                hidden_states=tokens,
                timestep=sigma[None],
                encoder_hidden_states=text,
                encoder_hidden_states_mask=None,
                img_shapes=[[(1, grid, grid)] * (slots + 1)],
                additional_t_cond=torch.zeros(1, dtype=torch.long),
                return_dict=False,
            )[0],
        ),
        "VAE encode": (
            lambda: ours.vae.encode(pixels).mean,
            lambda: vae.encode(pixels[:, :, None]).latent_dist.mode()[:, :, 0],
        ),
        "VAE decode": (
            lambda: ours.vae.decode(latent).clamp(-1, 1),
            lambda: vae.decode(latent[:, :, None], return_dict=False)[0][:, :, 0],
        ),
    }


@torch.inference_mode()
def measure(
    ours: Callable[[], Tensor], theirs: Callable[[], Tensor], repeats: int
) -> tuple[tuple[float, float], float]:
    """Fewest CPU seconds of both, and how far their answers are apart at most."""
    difference = float((ours() - theirs()).abs().max())
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for call, times in zip((ours, theirs), spent, strict=True):
            start = time.process_time()
            call()
            times.append(time.process_time() - start)
    return (min(spent[0]), min(spent[1])), difference


if __name__ == "__main__":
    main()
