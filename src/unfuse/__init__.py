"""unfuse: one flat picture in, a stack of editable transparent layers out, and back again exactly.

import unfuse
stack = unfuse.decompose("poster.png", layers=4)
stack.save("poster.psd")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from unfuse.decomposition import decompose as decompose
    from unfuse.decomposition import decompose_many as decompose_many
    from unfuse.edits import edit as edit
    from unfuse.errors import Cancelled as Cancelled
    from unfuse.errors import UnfuseError as UnfuseError
    from unfuse.formats import read as load
    from unfuse.generation import generate as generate
    from unfuse.layers import Box as Box
    from unfuse.layers import Layer as Layer
    from unfuse.layers import LayerStack as LayerStack

# Where each public name lives. Names are brought when they are first used, so that importing unfuse costs nothing.
PUBLIC = {
    "decompose": ("unfuse.decomposition", "decompose"),
    "decompose_many": ("unfuse.decomposition", "decompose_many"),
    "load": ("unfuse.formats", "read"),
    "generate": ("unfuse.generation", "generate"),
    "edit": ("unfuse.edits", "edit"),
    "Layer": ("unfuse.layers", "Layer"),
    "LayerStack": ("unfuse.layers", "LayerStack"),
    "Box": ("unfuse.layers", "Box"),
    "UnfuseError": ("unfuse.errors", "UnfuseError"),
    "Cancelled": ("unfuse.errors", "Cancelled"),
}

__all__ = [
    "Box",
    "Cancelled",
    "Layer",
    "LayerStack",
    "UnfuseError",
    "decompose",
    "decompose_many",
    "edit",
    "generate",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'unfuse' has no attribute {name!r}: it has {', '.join(__all__)}")
    module, attribute = PUBLIC[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value
