"""A network in ONNX's form by torch, on any device: the operations that the hint's network is made of.

onnxruntime answers the same on a CPU, and quicker; but a GPU that trains must not wait for a CPU's hints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor
from torch.nn import functional

from unfuse.errors import EngineError

TYPES = {onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.INT64: torch.int64}
Attributes = dict[str, Any]


def conv(given: list[Tensor], a: Attributes) -> Tensor:
    x, weight, bias = given
    return functional.conv2d(x, weight, bias, a["strides"], a["pads"][:2], a["dilations"], a["group"])


def pool(given: list[Tensor], a: Attributes) -> Tensor:
    return functional.max_pool2d(given[0], a["kernel_shape"], a["strides"], ceil_mode=bool(a["ceil_mode"]))


def resize(given: list[Tensor], a: Attributes) -> Tensor:
    size = [int(side) for side in given[3][2:]]
    return functional.interpolate(given[0], size=size, mode="bilinear", align_corners=False)


def cut(given: list[Tensor], a: Attributes) -> Tensor:
    x, first, last, axis = given
    return x[int(first) : int(last)] if int(axis) == 0 else x.narrow(int(axis), int(first), int(last) - int(first))


OPERATIONS: dict[str, Callable[[list[Tensor], Attributes], Tensor]] = {
    "Add": lambda given, a: given[0] + given[1],
    "Cast": lambda given, a: given[0].to(TYPES[a["to"]]),
    "Concat": lambda given, a: torch.cat(given, a["axis"]),
    "Conv": conv,
    "Gather": lambda given, a: given[0].select(a["axis"], int(given[1])),
    "MaxPool": pool,
    "Relu": lambda given, a: given[0].relu(),
    "Resize": resize,
    "Shape": lambda given, a: torch.tensor(given[0].shape),
    "Sigmoid": lambda given, a: given[0].sigmoid(),
    "Slice": cut,
    "Unsqueeze": lambda given, a: given[0].unsqueeze(a["axes"][0]),
}


class Graph:
    """One input, one output. Raises EngineError for an operation that is not in `OPERATIONS`."""

    def __init__(self, model: bytes, device: str) -> None:
        graph = onnx.load_from_string(model).graph
        self.input, self.output = graph.input[0].name, graph.output[0].name
        self.known = {w.name: torch.from_numpy(numpy_helper.to_array(w).copy()).to(device) for w in graph.initializer}
        self.steps: list[tuple[str, list[str], str, Attributes]] = []
        for node in graph.node:
            given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
            if node.op_type == "Constant":
                self.known[node.output[0]] = torch.from_numpy(numpy_helper.to_array(given["value"]).copy())
            elif node.op_type in OPERATIONS:
                self.steps.append((node.op_type, list(node.input), node.output[0], given))
            else:
                raise EngineError(f"operation {node.op_type} is none of {', '.join(OPERATIONS)}: run it by onnxruntime")

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """The output for an input `b c h w`."""
        values = {**self.known, self.input: x, "": torch.empty(0)}
        for operation, names, out, given in self.steps:
            values[out] = OPERATIONS[operation]([values[name] for name in names], given)
        return values[self.output]
