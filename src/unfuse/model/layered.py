"""The published pipeline over tensors: pictures to latents, noise to layers, latents to pictures.

Source: Qwen-Image-Layered (arXiv 2512.15603) and its released pipeline. This is the door for programs; the one for
people is `engines.qwen`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor

from unfuse.errors import EngineError
from unfuse.flow import euler, guide, schedule
from unfuse.model.checkpoint import check, load_vae, read_json
from unfuse.model.placement import Placement, Transformer
from unfuse.model.reuse import Reuse
from unfuse.model.sequence import team
from unfuse.tokens import pack, position_ids, unpack

SCHEDULER = {"use_dynamic_shifting": True, "time_shift_type": "linear", "shift": 1.0, "shift_terminal": False}
TILE = 1024  # pixels of the side; what is larger is decoded in tiles


class Prompt(NamedTuple):
    """What `TextEncoder.encode` makes of a batch of prompts: states `b t d`, and their mask `b t`, False at padding."""

    states: Tensor
    mask: Tensor


class Layered:
    """VAE and transformer of a published checkpoint. Raises EngineError when the folder is not one, or not whole."""

    def __init__(
        self,
        checkpoint: Path,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        placement: Placement = "whole",
        loras: Sequence[tuple[Path, float]] = (),
        file: Path | None = None,
        compiled: bool = False,
    ) -> None:
        """file, compiled: as `Transformer` has them."""
        check_scheduler(checkpoint)
        self.device, self.dtype = device, dtype
        self.reused: list[Reuse] = []  # of the last sample: the prompt's passes, the negative prompt's
        self.vae = load_vae(checkpoint / "vae", device, dtype)
        self.transformer = Transformer(checkpoint / "transformer", device, dtype, placement, loras, file, compiled)

    @torch.inference_mode()
    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures `b h w 4` in 0..1, straight alpha, to normalised latents `b c h/8 w/8` float32."""
        pixels = rearrange(pictures.to(self.device, self.dtype), "b h w c -> b c h w") * 2 - 1
        return self.vae.normalise(self.vae.encode(pixels).mean).float()

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents `l c h/8 w/8` to pictures `l h w 4` float32 in 0..1.

        One at a time, and large ones in tiles, to bound memory.
        """
        raw = self.vae.denormalise(latents.to(self.device, self.dtype))
        pixels = torch.cat([self.vae.decode(frame[None], TILE).float().clamp(-1, 1) for frame in raw])
        return rearrange(pixels, "l c h w -> l h w c") / 2 + 0.5

    def noise(self, seeds: Sequence[int], slots: int, height: int, width: int) -> Tensor:
        """Noise `b l c h/8 w/8`, each picture's from its own seed; made on the CPU, so that no device changes it."""
        shape = (slots, self.vae.params.latent, height // self.vae.params.factor, width // self.vae.params.factor)
        made = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(made).to(self.device)

    @torch.inference_mode()
    def sample(
        self,
        noise: Tensor,
        condition: Tensor | None,
        prompt: Prompt,
        negative: Prompt | None = None,
        *,
        steps: int = 50,
        guidance: float = 4.0,
        normalise: bool = True,
        interval: tuple[float, float] = (0.0, 1.0),
        shift: float | None = None,
        reuse: float = 0.0,
        on_step: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """All slots of a batch at once: noise `b l c h w` and condition `b c h w` to clean latents `b l c h w`.

        Slot 0 is the whole, the layers follow bottom to top. condition: None for text to layers, where its tokens are
        absent and all else is the same: places, schedule, guidance (section 3.3, stage 2). guidance 1 needs no negative
        prompt and runs the transformer once a step instead of twice. interval: the noise levels, both ends included, at
        which there is guidance. shift: of the schedule, instead of the natural one. reuse: the threshold of the
        first-block cache, 0 for none (see `reuse`); `reused` tells of it afterwards. on_step: told the steps done and
        the estimate of the clean latents.
        """
        if guidance != 1 and negative is None:
            raise EngineError(f"guidance {guidance} needs a negative prompt; without one, use guidance 1")
        slots, (rows, columns) = noise.shape[1], (side // 2 for side in noise.shape[-2:])
        fixed = pack(noise[:, :0] if condition is None else condition[:, None])  # b n d, or b 0 d
        ids = torch.from_numpy(position_ids(slots, rows, columns)).to(self.device)
        ids = ids[: slots * rows * columns + fixed.shape[1]]  # the condition is the last

        sigmas = schedule(steps, rows * columns, shift).tolist()
        levels = {sigma: level(sigma, self.dtype) for sigma in sigmas[:-1]}
        self.transformer.prepare(torch.stack(list(levels.values())))
        together = team(guided=negative is not None)  # None: this process works alone
        share = None if together is None else together.share_of(self.transformer.model.params.heads)
        mean = None if share is None else share.mean
        self.reused = [Reuse(reuse, mean) for _ in range(1 if negative is None else 2)] if reuse else []

        def predict(x: Tensor, sigma: float, text: Prompt, row: int) -> Tensor:
            tokens = torch.cat([x, fixed], dim=1).to(self.dtype)  # b (l+1 n) d
            places = repeat(ids, "n a -> b n a", b=len(x))
            states = text.states.to(self.device, self.dtype)
            mask = None if text.mask.all() else text.mask.to(self.device)
            cache = self.reused[row] if self.reused else None
            v = self.transformer(tokens, places, levels[sigma], states, mask, cache, share)
            return v[:, : x.shape[1]].float()

        halves = together if together is not None and together.halves == 2 else None

        def velocity(x: Tensor, sigma: float) -> Tensor:
            if negative is None or not interval[0] <= sigma <= interval[1]:
                v = predict(x, sigma, prompt, 0)
                return v if halves is None else halves.from_first(v)
            if halves is None:
                both = [predict(x, sigma, prompt, 0), predict(x, sigma, negative, 1)]
            else:
                both = halves.both(predict(x, sigma, (prompt, negative)[halves.half], halves.half))
            return guide(both[0], both[1], guidance, normalise)

        def told(step: int, x: Tensor) -> None:
            if on_step is not None:
                on_step(step, unpack(x, rows, columns))

        return unpack(euler(velocity, pack(noise), sigmas, told), rows, columns)


def check_scheduler(checkpoint: Path) -> None:
    """Raise EngineError where the schedule is another than the release's."""
    path = checkpoint / "scheduler/scheduler_config.json"
    check(read_json(path), SCHEDULER, path)


def level(sigma: float, dtype: torch.dtype) -> Tensor:
    """Sigma as the release's transformer gets it: in bfloat16 a thousand times sigma is rounded, then divided."""
    return (torch.tensor(sigma) * 1000).to(dtype) / 1000
