"""Trained weights to the ONNX files that ship, and SlotNet's back.

The file holds its weights as float16 with a cast to float32 behind each: half the size, and what runs is what was
tested. `state_of` reads them back into torch, so that training can go on from the shipped file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from unfuse.cells import CELL
from unfuse.ink import HEIGHT
from unfuse.model.layerflow import described
from unfuse.model.slots import STRIDE, SlotNet, SlotNetParams
from unfuse.model.unet import UNet, UNetParams
from unfuse.saving import replacing
from unfuse.tokens import position_ids
from unfuse.train.weights import about_of, weights_of

BIG = 256  # weights with fewer numbers stay float32


def export(checkpoint: Path, out: Path, card: dict[str, Any]) -> None:
    """The averaged weights of a checkpoint folder to `out` (.onnx), the model card beside it (.json)."""
    net, trace = built(about_of(checkpoint))
    net.load_state_dict(weights_of(checkpoint))
    model = halved(trace(net.eval())).SerializeToString()
    sha256 = hashlib.sha256(model).hexdigest()
    numbers = sum(weight.numel() for weight in net.parameters())
    about = {"file": out.name, "sha256": sha256, "parameters": numbers, **card}
    with replacing(out) as file:
        file.write(model)
    with replacing(out.with_suffix(".json")) as file:
        file.write((json.dumps(about, indent=1, ensure_ascii=False) + "\n").encode())


def built(about: dict[str, Any]) -> tuple[nn.Module, Callable[[Any], onnx.ModelProto]]:
    """The untrained network of a run's JSON, and what makes a graph of it."""
    if about["stage"] == "slots":
        return SlotNet(described(SlotNetParams, about["model"])), traced
    return UNet(described(UNetParams, about["model"])), PATCHES[about["stage"]]


def traced_patch(net: UNet, answer: str, height: int) -> onnx.ModelProto:
    """A network that looks at one patch, as an ONNX graph. answer: its name. height: of the patch, 0 for any."""
    free = torch.export.Dim.AUTO
    patch = torch.zeros(1, net.params.inputs, height or 4 * net.params.stride, 10 * net.params.stride)
    grid = {3: free} if height else {2: free, 3: free}
    told = torch.zeros(1, net.params.told, patch.shape[2] // CELL, patch.shape[3] // CELL)
    program = torch.onnx.export(
        net,
        (patch, told) if net.params.told else (patch,),
        dynamo=True,
        optimize=False,
        input_names=["patch", "told"][: 2 if net.params.told else 1],
        output_names=[answer],
        dynamic_shapes=(grid, grid) if net.params.told else (grid,),
        opset_version=20,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


PATCHES: dict[str, Callable[[UNet], onnx.ModelProto]] = {
    "ink": lambda net: traced_patch(net, "ink", HEIGHT),
    "matte": lambda net: traced_patch(net, "matte", 0),
}


def traced(net: SlotNet) -> onnx.ModelProto:
    """The network as an ONNX graph: batch, number of slots, height and width are dynamic, position ids an input."""
    rows, columns = 8, 10
    ids = position_ids(net.params.slots + 1, rows, columns).reshape(net.params.slots + 2, rows * columns, 3)[1:]
    seen = torch.zeros(2, 4, rows * STRIDE, columns * STRIDE)
    example = (seen[:, :3], seen[:, 3:], torch.from_numpy(ids).expand(2, -1, -1, -1))
    free = torch.export.Dim.DYNAMIC
    grid = {0: free, 2: free, 3: free}
    program = torch.onnx.export(
        net,
        example,
        dynamo=True,
        optimize=False,  # keeps the names of the weights; onnxruntime optimises when it loads
        input_names=["picture", "salient", "ids"],
        output_names=["alpha", "colour", "relations"],
        dynamic_shapes=(grid, grid, {0: free, 1: free, 2: free}),
        opset_version=20,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with its large weights stored as float16, each followed by a cast."""
    graph = model.graph
    small, casts = [], []
    for weight in graph.initializer:
        if weight.data_type == TensorProto.FLOAT and np.prod(weight.dims) >= BIG:
            name = weight.name
            small.append(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
        else:
            small.append(weight)
    nodes = [*casts, *graph.node]
    del graph.initializer[:], graph.node[:], graph.value_info[:], graph.metadata_props[:]
    for node in nodes:
        del node.metadata_props[:]  # stack traces of the exporting machine
    graph.initializer.extend(small)
    graph.node.extend(nodes)
    return model


def state_of(file: Path) -> dict[str, Tensor]:
    """The weights in an exported file, by their names in its network, float32 (rounded to float16 where they were)."""
    weights = onnx.load(file).graph.initializer
    return {
        w.name.removesuffix(".half"): torch.from_numpy(numpy_helper.to_array(w).astype(np.float32)) for w in weights
    }
