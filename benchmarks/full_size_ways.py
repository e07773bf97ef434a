"""The ways that full_size.py measures: a table of levers, and what builds each of them on random weights.

The engine's own code does the work: `placement.Transformer` reads the weights, `Layered.sample` takes the steps. What
the engine does not have is marked so: diffusers' transformer (in the engine's sampler), guidance in one batch, and
matrix products in float8.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from einops import repeat
from safetensors.torch import save_file
from torch import Tensor, nn

from unfuse.flow import euler, guide, schedule
from unfuse.model import plan
from unfuse.model.checkpoint import fill, shapes_of, transformer_names
from unfuse.model.layered import Layered, Prompt, level
from unfuse.model.mmdit import MMDiT, MMDiTParams
from unfuse.model.placement import Placement, Transformer
from unfuse.model.text import together
from unfuse.model.vae import VAE, VIDEO_ONLY, VAEParams, fold
from unfuse.tokens import PATCH, pack, position_ids, unpack

PROMPT_TOKENS, NEGATIVE_TOKENS = 256, 6  # a caption, and the engine's negative prompt of one space
GUIDANCE = 4.0
FLOAT8 = torch.float8_e4m3fn
FLOAT8_MOST = 448.0

OnStep = Callable[[int, Tensor], None]
Sample = Callable[[OnStep], Tensor]


@dataclass(frozen=True)
class Lever:
    """One row. whole: every step is really run, for steps that do not all cost the same; else a few of them are.

    float8: weights stored so and read as numbers ("file"), or multiplied so ("products"). reuse: the cache's threshold,
    None for the one that is asked for. cap: whether the allocator is held to a small card. under: the aim, in seconds.
    exact: whether the aims for bfloat16 are its. minutes: a guess for an H200, before anything was measured.
    """

    name: str
    about: str
    minutes: float
    source: Literal["ours", "diffusers"] = "ours"
    placement: Placement = "whole"
    compiled: bool = False
    float8: Literal["file", "products"] | None = None
    one_batch: bool = False
    steps: int | None = None
    guidance: float = GUIDANCE
    interval: tuple[float, float] = (0.0, 1.0)
    shift: float | None = None
    reuse: float | None = 0.0
    cap: bool = False
    whole: bool = False
    under: float | None = None
    exact: bool = False

    @property
    def build(self) -> tuple[Any, ...]:
        """What its model depends on; rows that agree here share one."""
        return self.source, self.placement, self.compiled, self.float8, self.cap


SOME: Any = {"interval": (0.2, 0.9)}
FEW: Any = {"steps": 8, "guidance": 1.0, "shift": 3.0, "whole": True, "under": 3}
CACHED: Any = {"reuse": None, "whole": True}
LEAN: Any = {"placement": "precomputed"}
QUICK: Any = {"placement": "precomputed", "compiled": True}
FLOAT8S: Any = {"float8": "products", "under": 20}
ROWS = (
    Lever("diffusers", "the reference's transformer, eager", 0.6, source="diffusers"),
    Lever("diffusers_compiled", "its own compile", 2.5, source="diffusers", compiled=True),
    Lever("eager", "ours, no lever: two passes a step, all weights in place", 0.5, exact=True),
    Lever("one_batch", "guidance in one batch, not in the engine", 0.3, one_batch=True, exact=True),
    Lever("interval", "guidance from 0.2 to 0.9 only", 0.6, **SOME, whole=True),
    Lever("cached", "the step cache", 0.6, **CACHED, under=13),
    Lever("cached_bound", "the step cache with nothing refused", 0.1, reuse=float("inf"), whole=True),
    Lever("few_steps", "8 steps, guidance 1, shift 3", 0.1, **FEW),
    Lever("precomputed", "modulation ahead, its weights dropped", 0.5, **LEAN, exact=True),
    Lever("compiled", "blocks by torch.compile", 2.5, compiled=True, exact=True),
    Lever("int8", "weights in int8, products as before", 1.5, placement="int8"),
    Lever("fp8_file", "weights read from a float8 file, products as before", 4, float8="file", under=20),
    Lever("fp8", "products in float8, not in the engine", 0.7, **LEAN, **FLOAT8S),
    Lever("streamed", "blocks from RAM", 2.5, placement="streamed"),
    Lever("card_int8", "int8 in the memory of a small card", 2, placement="int8", cap=True),
    Lever("card_streamed", "blocks from RAM, in the memory of a small card", 2.5, placement="streamed", cap=True),
    Lever("both", "precomputed and compiled", 2.5, **QUICK, exact=True),
    Lever("all", "precomputed, compiled, interval and step cache", 3, **QUICK, **SOME, **CACHED, under=13),
    Lever("all_few", "precomputed, compiled, few steps", 0.2, **QUICK, **FEW),
    Lever("all_fp8", "precomputed, compiled, float8 products (not in the engine)", 2.5, **QUICK, **FLOAT8S),
    Lever(
        "all_card",
        "int8, compiled, interval and step cache in a small card",
        3.5,
        placement="int8",
        compiled=True,
        cap=True,
        **SOME,
        **CACHED,
    ),
)
LEVERS = {lever.name: lever for lever in ROWS}


class Random:
    """A transformer's tensors by their published names, as `Weights` reads them; the same ones at every reading."""

    path = Path("random weights")

    def __init__(self, params: MMDiTParams, device: str, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        with torch.device("meta"):
            shapes = shapes_of(MMDiT(params))
        self.files: dict[str, Any] = {}  # name -> shape
        for name, (rows, *rest) in shapes.items():
            stored = transformer_names(name)
            self.files.update(dict.fromkeys(stored, (rows // len(stored), *rest)))

    def read(self, name: str) -> Tensor:
        shape = self.files[name]
        if len(shape) == 1:
            return torch.full(shape, float(name.endswith("weight")), device=self.device, dtype=self.dtype)
        generator = torch.Generator(self.device).manual_seed(zlib.crc32(name.encode()))
        weight = torch.empty(shape, device=self.device, dtype=self.dtype)
        return weight.normal_(0, shape[-1] ** -0.5, generator=generator)


@dataclass(frozen=True)
class Model:
    """Sizes and inputs that all rows share: noise `1 l c h w`, condition `1 c h w`, prompts."""

    params: MMDiTParams
    vae: VAEParams
    device: str
    dtype: torch.dtype
    side: int
    slots: int
    steps: int
    reuse: float
    condition: Tensor
    prompt: Prompt
    negative: Prompt

    @classmethod
    def of(cls, params: MMDiTParams, vae: VAEParams, device: str, side: int, layers: int, **more: Any) -> Model:
        generator = torch.Generator().manual_seed(1)
        width, grid = params.text_width or 0, side // vae.factor
        texts = [torch.randn(1, n, width, generator=generator) for n in (PROMPT_TOKENS, NEGATIVE_TOKENS)]
        prompt, negative = (Prompt(states, torch.ones(states.shape[:2], dtype=torch.bool)) for states in texts)
        condition = torch.randn(1, vae.latent, grid, grid, generator=generator).to(device)
        dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
        return cls(
            params, vae, device, dtype, side, layers + 1, condition=condition, prompt=prompt, negative=negative, **more
        )

    @property
    def grid(self) -> int:
        """Tokens along a side."""
        return self.side // (self.vae.factor * PATCH)

    @property
    def parameters(self) -> int:
        """Numbers in the transformer's weights."""
        with torch.device("meta"):
            return sum(weight.numel() for weight in MMDiT(self.params).parameters())

    def levels(self, lever: Lever) -> list[float]:
        """The noise levels of a row's steps."""
        return list(schedule(lever.steps or self.steps, self.grid**2, lever.shift).tolist()[:-1])

    def flops(self, lever: Lever) -> float:
        """Of a row's whole denoise, were no pass left out by the cache."""
        image = (self.slots + 1) * self.grid**2
        pass_, other = (plan.flops(self.params, image + n - plan.TEXT_TOKENS) for n in (PROMPT_TOKENS, NEGATIVE_TOKENS))
        low, high = lever.interval
        guided = sum(low <= sigma <= high for sigma in self.levels(lever)) if lever.guidance != 1 else 0
        return len(self.levels(lever)) * pass_ + guided * other


class Bench(Layered):
    """The engine's pipeline around a transformer that is not a checkpoint's, and a VAE with random weights."""

    def __init__(self, model: Model, transformer: Any) -> None:
        self.device, self.dtype, self.reused, self.transformer = model.device, model.dtype, [], transformer
        torch.manual_seed(0)
        self.vae = VAE(model.vae).to(model.device, model.dtype).eval().requires_grad_(False)


def build(lever: Lever, model: Model) -> Bench:
    """The model of a row, random weights read in the engine's way."""
    store = Random(model.params, model.device, model.dtype)
    if lever.source == "diffusers":
        return Bench(model, Theirs(model, store, lever.compiled))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_config(model.params, folder / "config.json")
        weights: Any = store
        if lever.float8 == "file":
            weights = folder / "float8.safetensors"
            write_float8(store, weights)
        transformer = Transformer(
            folder, model.device, model.dtype, lever.placement, file=weights, compiled=lever.compiled
        )
    if lever.float8 == "products":
        for block in transformer.model.blocks:
            to_float8(block)
    return Bench(model, transformer)


def sampler(lever: Lever, model: Model, bench: Bench) -> Sample:
    """A row's denoise: it tells each step, and answers with the latents `1 l c h w`."""
    noise = bench.noise([0], model.slots, model.side, model.side)
    if lever.one_batch:
        return lambda on_step: in_one_batch(model, bench, noise, on_step)
    return lambda on_step: bench.sample(
        noise,
        model.condition,
        model.prompt,
        None if lever.guidance == 1 else model.negative,
        steps=lever.steps or model.steps,
        guidance=lever.guidance,
        interval=lever.interval,
        shift=lever.shift,
        reuse=model.reuse if lever.reuse is None else lever.reuse,
        on_step=on_step,
    )


@torch.inference_mode()
def in_one_batch(model: Model, bench: Bench, noise: Tensor, on_step: OnStep) -> Tensor:
    """`Layered.sample`, but prompt and negative prompt are a batch of two, the shorter one padded."""
    fixed, size = pack(model.condition[:, None]), (model.grid, model.grid)
    places = repeat(torch.from_numpy(position_ids(model.slots, *size)).to(model.device), "n a -> b n a", b=2)
    states, mask = together([model.prompt.states[0], model.negative.states[0]])
    states, mask = states.to(model.device, model.dtype), mask.to(model.device)
    sigmas = schedule(model.steps, model.grid**2).tolist()
    bench.transformer.prepare(torch.stack([level(sigma, model.dtype) for sigma in sigmas[:-1]]))

    def velocity(x: Tensor, sigma: float) -> Tensor:
        tokens = repeat(torch.cat([x, fixed], dim=1).to(model.dtype), "one n d -> (b one) n d", b=2)
        both = bench.transformer(tokens, places, level(sigma, model.dtype), states, mask)[:, : x.shape[1]].float()
        return guide(both[:1], both[1:], GUIDANCE, normalise=True)

    x = euler(velocity, pack(noise), sigmas, lambda step, x0: on_step(step, unpack(x0, *size)))
    return unpack(x, *size)


class Theirs:
    """diffusers' transformer in the place of `Transformer`, with the same weights."""

    def __init__(self, model: Model, store: Random, compiled: bool) -> None:
        from diffusers import QwenImageTransformer2DModel

        self.model = model
        params = model.params
        with torch.device("meta"):
            theirs = QwenImageTransformer2DModel(
                in_channels=params.in_features,
                out_channels=params.out_features // PATCH**2,
                num_layers=params.depth,
                attention_head_dim=params.width // params.heads,
                num_attention_heads=params.heads,
                joint_attention_dim=params.text_width,
                axes_dims_rope=params.axes,
                use_additional_t_cond=params.kinds > 0,
                use_layer3d_rope=True,
            )
        theirs = theirs.to(model.dtype)
        theirs.load_state_dict({name: store.read(name) for name in store.files}, assign=True)
        theirs.pos_embed = type(theirs.pos_embed)(theta=10000, axes_dim=list(params.axes), scale_rope=True)
        self.theirs: Any = theirs.eval().requires_grad_(False)
        if compiled:
            self.theirs.compile_repeated_blocks(fullgraph=True)

    def prepare(self, levels: Tensor) -> None:
        """Nothing is computed ahead."""

    def __call__(self, tokens: Tensor, ids: Tensor, level: Tensor, text: Tensor, *_: None) -> Tensor:
        velocity: Tensor = self.theirs(
            hidden_states=tokens,
            timestep=level.to(tokens.device).expand(len(tokens)),
            encoder_hidden_states=text,
            encoder_hidden_states_mask=None,
            img_shapes=[[(1, self.model.grid, self.model.grid)] * (self.model.slots + 1)],
            additional_t_cond=torch.zeros(1, dtype=torch.long, device=tokens.device),
            return_dict=False,
        )[0]
        return velocity


class Float8Linear(nn.Module):
    """`x ... i` to `... o` in float8 on both sides, a scale for every row of the weights and every token."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = float8(linear.weight)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        rounded, scale = float8(x.reshape(-1, x.shape[-1]))
        y: Tensor = torch._scaled_mm(
            *(rounded, self.weight.T), scale_a=scale, scale_b=self.scale.T, out_dtype=x.dtype, use_fast_accum=True
        )
        return y.reshape(*x.shape[:-1], -1) + self.bias


def float8(x: Tensor) -> tuple[Tensor, Tensor]:
    """`n d` as float8, and the scale `n 1` float32 of each row."""
    scale = (x.abs().amax(dim=-1, keepdim=True).float() / FLOAT8_MOST).clamp_min(1e-12)
    return (x.float() / scale).to(FLOAT8), scale


def to_float8(block: nn.Module) -> None:
    """Put a `Float8Linear` in place of every linear layer whose weights are here."""
    for name, linear in list(block.named_modules()):
        if isinstance(linear, nn.Linear) and not linear.weight.is_meta:
            block.set_submodule(name, Float8Linear(linear))


def write_float8(store: Random, path: Path) -> None:
    """All weights in one file as other tools store them: matrices in float8, a scale beside each."""
    state: dict[str, Tensor] = {}
    for name in store.files:
        weight = store.read(name)
        if weight.ndim == 2:
            scale = weight.abs().amax().float() / FLOAT8_MOST
            state[f"{name.removesuffix('.weight')}.scale_weight"] = scale.cpu()
            weight = (weight.float() / scale).to(FLOAT8)
        state[name] = weight.cpu()
    save_file(state, path)


def write_config(params: MMDiTParams, path: Path) -> None:
    """The published `config.json` of a transformer."""
    config = {
        "num_attention_heads": params.heads,
        "attention_head_dim": params.width // params.heads,
        "num_layers": params.depth,
        "in_channels": params.in_features,
        "out_channels": params.out_features // PATCH**2,
        "axes_dims_rope": params.axes,
        "joint_attention_dim": params.text_width,
        "use_additional_t_cond": params.kinds > 0,
        "use_layer3d_rope": True,
    }
    path.write_text(json.dumps(config), encoding="utf-8")


def vaes(model: Model) -> dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]]:
    """Encoding and decoding one frame: folded to 2D, and as published in 3D by diffusers, with the same weights."""
    torch.manual_seed(0)
    pixels = torch.rand(1, model.vae.channels, model.side, model.side).to(model.device, model.dtype) * 2 - 1
    latent = model.condition.to(model.dtype)
    try:
        from diffusers import AutoencoderKLQwenImage
    except ImportError:
        vae = VAE(model.vae).to(model.device, model.dtype).eval().requires_grad_(False)
        return {"folded": (lambda: vae.encode(pixels).mean, lambda: vae.decode(latent).clamp(-1, 1))}
    theirs: Any = AutoencoderKLQwenImage(
        base_dim=model.vae.base,
        z_dim=model.vae.latent,
        dim_mult=list(model.vae.multipliers),
        num_res_blocks=model.vae.res_blocks,
        input_channels=model.vae.channels,
    )
    theirs = theirs.to(model.device, model.dtype).eval().requires_grad_(False)
    with torch.device("meta"):
        empty = VAE(model.vae)
    folded = fill(empty, Held(theirs.state_dict()), take=fold, device=model.device, dtype=model.dtype)
    return {
        "not folded (diffusers)": (
            lambda: theirs.encode(pixels[:, :, None]).latent_dist.mode()[:, :, 0],
            lambda: theirs.decode(latent[:, :, None], return_dict=False)[0][:, :, 0],
        ),
        "folded": (lambda: folded.encode(pixels).mean, lambda: folded.decode(latent).clamp(-1, 1)),
    }


class Held:
    """A state of the published VAE, as `Weights` reads it."""

    path = Path("random weights")

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.files: dict[str, Any] = {name: tensor for name, tensor in state.items() if VIDEO_ONLY not in name}

    def read(self, name: str) -> Tensor:
        tensor: Tensor = self.files[name]
        return tensor
