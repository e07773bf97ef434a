"""Nodes for ComfyUI: take a picture apart, edit the layers by a recipe, flatten them, save a PSD.

Copy or link this folder into ComfyUI's `custom_nodes` as `unfuse`, and `pip install unfuse` in its environment.
A stack travels between nodes as `UNFUSE_STACK`, an `unfuse.LayerStack`: cropped layers, 8 bits, nothing is lost.

ComfyUI's pictures are tensors `b h w c` in 0 to 1; its masks `b h w`, 1 where a picture is transparent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import unfuse
from unfuse import engines, formats, recipe
from unfuse.layers import LayerStack

STACK, CATEGORY = "UNFUSE_STACK", "image/unfuse"
RECIPE = 'version: 1\nedits:\n  - {op: recolor, layer: 1, color: "#e4002b"}\n'


class Decompose:
    """A picture, or a batch of them, to stacks."""

    CATEGORY, FUNCTION = CATEGORY, "run"
    RETURN_TYPES, RETURN_NAMES = (STACK,), ("stack",)
    OUTPUT_IS_LIST: ClassVar = (True,)  # one for each picture of the batch

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """What the node asks for."""
        settings = {
            "image": ("IMAGE",),
            "layers": ("INT", {"default": 0, "min": 0, "max": 16, "tooltip": "0: as many as the picture needs"}),
            "engine": (list(engines.TABLE), {"default": "embedded"}),
            "seed": ("INT", {"default": 0, "min": 0, "max": 2**32 - 1}),
        }
        caption = (
            "STRING",
            {"default": "", "multiline": True, "tooltip": "a caption of the whole picture"},
        )
        return {"required": settings, "optional": {"mask": ("MASK",), "prompt": caption}}

    def run(
        self, image: Any, layers: int, engine: str, seed: int = 0, mask: Any = None, prompt: str = ""
    ) -> tuple[list[LayerStack]]:
        """Take every picture apart."""
        pictures = np.asarray(image.cpu())
        if mask is not None:
            shown = 1 - np.broadcast_to(np.asarray(mask.cpu()), pictures.shape[:3])
            pictures = np.concatenate((pictures[..., :3], shown[..., None]), axis=-1)
        return (
            [
                unfuse.decompose(levels(each), layers or "auto", engine=engine, seed=seed, prompt=prompt)
                for each in pictures
            ],
        )


class Edit:
    """A stack after the edits of a recipe, in YAML or JSON."""

    CATEGORY, FUNCTION = CATEGORY, "run"
    RETURN_TYPES, RETURN_NAMES = (STACK,), ("stack",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """What the node asks for."""
        return {"required": {"stack": (STACK,), "recipe": ("STRING", {"default": RECIPE, "multiline": True})}}

    def run(self, stack: LayerStack, recipe: str) -> tuple[LayerStack]:
        """Run all edits, or none."""
        return (unfuse.edit(stack, parse(recipe)),)


class Flatten:
    """A stack put together, and its layers: pictures and masks."""

    CATEGORY, FUNCTION = CATEGORY, "run"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE", "MASK", "IMAGE", "MASK"), ("image", "mask", "layers", "layer masks")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """What the node asks for."""
        return {"required": {"stack": (STACK,)}}

    def run(self, stack: LayerStack) -> tuple[Any, Any, Any, Any]:
        """The whole as a batch of one; the layers, bottom to top and on the full canvas, as a batch."""
        return (*tensors([stack.flatten()]), *tensors([layer.to_image(stack.size) for layer in stack]))


class SavePSD:
    """A stack as a file in ComfyUI's output folder; the suffix of the name says the format."""

    CATEGORY, FUNCTION = CATEGORY, "run"
    RETURN_TYPES, OUTPUT_NODE = (), True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """What the node asks for."""
        return {"required": {"stack": (STACK,), "name": ("STRING", {"default": "layers.psd"})}}

    def run(self, stack: LayerStack, name: str) -> dict[str, Any]:
        """Write the file under a name that is free."""
        wanted = Path(name).name or "layers.psd"  # a name, not a way out of the folder
        path = folder() / (wanted if formats.find(wanted).suffixes else f"{wanted}.psd")
        path.parent.mkdir(parents=True, exist_ok=True)
        number, free = 1, path
        while free.exists():
            number, free = number + 1, path.with_stem(f"{path.stem}_{number + 1}")
        stack.save(free)
        return {"ui": {"text": [str(free)]}}


def parse(text: str) -> list[Any]:
    """The edits of a recipe."""
    return list(recipe.parse(text).edits)


def folder() -> Path:
    """Where ComfyUI keeps what it makes; without ComfyUI, `output` here."""
    try:
        import folder_paths
    except ImportError:
        return Path("output")
    return Path(folder_paths.get_output_directory())


def levels(picture: Any) -> Any:
    """`h w c` in 0 to 1 as 8 bits, rounded half up, as ComfyUI's own files have it to within half a level."""
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def tensors(pictures: list[Any]) -> tuple[Any, Any]:
    """PIL images of one size as ComfyUI's picture and mask."""
    import torch

    pixels = np.stack([np.asarray(each.convert("RGBA"), dtype=np.float32) / 255 for each in pictures])
    return torch.from_numpy(pixels[..., :3].copy()), torch.from_numpy(1 - pixels[..., 3])


NODES = {"Decompose": Decompose, "EditRecipe": Edit, "Flatten": Flatten, "SavePSD": SavePSD}
TITLES = {"Decompose": "Decompose", "EditRecipe": "Edit by recipe", "Flatten": "Flatten", "SavePSD": "Save PSD"}
NODE_CLASS_MAPPINGS = {f"Unfuse{name}": node for name, node in NODES.items()}
NODE_DISPLAY_NAME_MAPPINGS = {f"Unfuse{name}": f"{title} (unfuse)" for name, title in TITLES.items()}
