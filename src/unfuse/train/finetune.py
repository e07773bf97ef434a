"""The stage `finetune`: the published model on one's own records, all of its weights or a LoRA of them.

Loss and data are those of `image-to-layers`: the flow-matching error over the whole and all layers, kind 0, as the
published weights were tuned (dossier: DiffSynth-Studio does the same). The VAE and the text encoder stay as they are.

LoRA (arXiv 2106.09685): W' = W + (alpha / rank) * up @ down with alpha = rank, `up` starting at 0, so that the model
begins as the published one. Where a weight of ours stacks three published ones, each has its own pair. What is saved
has the names that diffusers and peft use, and loads into `unfuse.engines.qwen` and other programs alike.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from einops import einsum, rearrange
from safetensors.torch import save
from torch import Tensor, nn

from unfuse.errors import UnfuseError
from unfuse.model.checkpoint import load_transformer, load_vae, transformer_names, transformer_params, vae_params
from unfuse.model.layerflow import LayerFlow, LayerFlowParams
from unfuse.saving import replacing
from unfuse.train import flow
from unfuse.train.stage import Stage, TrainParams

TUNED = ("qkv", "out", "mlp_in", "mlp_out")  # the linear maps of both streams; modulation can be computed ahead


class LowRank(nn.Module):
    """A frozen linear map and what is learned beside it; k published maps are stacked in it.

    down `k r i` starts as a linear map does, up `k o r` at 0.
    """

    def __init__(self, base: nn.Linear, rank: int, stacked: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        out = base.out_features // stacked
        self.down = nn.Parameter(torch.randn(stacked, rank, base.in_features) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(stacked, out, rank))

    def forward(self, x: Tensor) -> Tensor:
        low = einsum(x, self.down.to(x.dtype), "... i, k r i -> ... k r")
        change = rearrange(einsum(low, self.up.to(x.dtype), "... k r, k o r -> ... k o"), "... k o -> ... (k o)")
        result: Tensor = self.base(x) + change
        return result


def add_low_rank(net: LayerFlow, rank: int) -> None:
    """Freeze the transformer and put low-rank maps beside its linear ones."""
    net.requires_grad_(False)
    for name, module in list(net.mmdit.named_modules()):
        parent, _, leaf = name.rpartition(".")
        if name.startswith("blocks.") and leaf in TUNED and isinstance(module, nn.Linear):
            stacked = len(transformer_names(f"{name}.weight"))
            setattr(net.mmdit.get_submodule(parent), leaf, LowRank(module, rank, stacked))


def checkpoint_of(params: TrainParams) -> Path:
    """The published checkpoint to tune."""
    if params.model is None:
        raise UnfuseError("finetune needs --model FOLDER, a published checkpoint of Qwen-Image-Layered")
    return params.model


def sizes(folder: Path) -> LayerFlowParams:
    """What the published configs describe."""
    vae, mmdit = vae_params(folder / "vae/config.json"), transformer_params(folder / "transformer/config.json")
    return LayerFlowParams(vae, mmdit, "qwen")


def build(params: TrainParams) -> LayerFlow:
    """The published model without its weights."""
    folder = checkpoint_of(params)
    net = LayerFlow(sizes(folder), folder)
    if params.lora is not None:
        add_low_rank(net, params.lora)
    return net


def load(params: TrainParams) -> LayerFlow:
    """The published model with its weights: those that learn in float32, under a LoRA the others in the run's."""
    folder = checkpoint_of(params)
    with torch.device("meta"):
        net = LayerFlow(sizes(folder), folder)
    kept = getattr(torch, params.precision) if params.lora is not None else torch.float32
    net.vae.load_state_dict(load_vae(folder / "vae").state_dict(), assign=True)
    net.mmdit.load_state_dict(load_transformer(folder / "transformer", dtype=kept).state_dict(), assign=True)
    net.mmdit.requires_grad_(True)
    if params.lora is not None:
        add_low_rank(net, params.lora)
    return net


def begin(net: LayerFlow, weights: dict[str, Tensor]) -> None:
    """Go on from another tuning of the same kind."""
    missing, unknown = net.load_state_dict(weights, strict=False)
    learned = {name for name, weight in net.named_parameters() if weight.requires_grad}
    if unknown or learned & set(missing):
        raise UnfuseError("--start is a run of another kind: start a LoRA from a LoRA of the same rank, or from none")


def save_lora(weights: dict[str, Tensor], out: Path) -> None:
    """The low-rank maps in a run's weights (`mmdit....down`, `.up`) as a file of diffusers' and peft's names."""
    tensors: dict[str, Tensor] = {}
    rank = 0
    for name, down in weights.items():
        if not name.endswith(".down"):
            continue
        module = name.removesuffix(".down")
        up, rank = weights[f"{module}.up"], down.shape[1]
        for i, published in enumerate(transformer_names(f"{module.removeprefix('mmdit.')}.weight")):
            target = f"transformer.{published.removesuffix('.weight')}"
            tensors |= {f"{target}.lora_A.weight": down[i].contiguous(), f"{target}.lora_B.weight": up[i].contiguous()}
    if not tensors:
        raise UnfuseError("this run tuned all weights and has no LoRA in it: export it to a folder")
    about = json.dumps({"transformer.r": rank, "transformer.lora_alpha": rank})
    with replacing(out) as file:
        file.write(save(tensors, metadata={"format": "pt", "lora_adapter_metadata": about}))


STAGE = Stage(
    "finetune", "the published model on own records: all weights, or a LoRA", build, flow.decomposed, flow.loss,
    flow.validate, begin, flow.sheet, load=load, lean=True,
)  # fmt: skip
