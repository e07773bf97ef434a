"""Captions: a sentence or more on what a design shows, from a model where one is at hand, else from what is known.

A captioner is whatever takes a picture and its layers and answers a text; `captioner` finds one by name. The paper
captions with Qwen2.5-VL (section 3.4); the offline one reads names, kinds, texts, colours and places off the layers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from unfuse import naming
from unfuse.errors import FormatError, require
from unfuse.layers import Layer

if TYPE_CHECKING:
    from unfuse.model.text import TextEncoder

OFFLINE = "offline"
MOST = 12  # things that an offline caption lists
SIDE = 1024  # pixels at which a model sees the picture
PLAIN_NAMES = {
    *("layer", "group", "shape", "rectangle", "ellipse", "background", "copy", "path", "image", "img", "vector"),
    *("smart", "object"),
}


class Captioner(Protocol):
    """Says what a design shows. picture: `h w 4` uint8, straight alpha; layers: plain, bottom to top."""

    def __call__(self, picture: NDArray[np.uint8], layers: Sequence[Layer]) -> str: ...


def captioner(name: str) -> Captioner:
    """`offline`, or a folder with Qwen2.5-VL in it.

    Raises FormatError for anything else, MissingExtra where transformers or torch is not installed.
    """
    if name == OFFLINE:
        return offline
    folder = Path(name)
    if not any((folder / file).is_file() for file in ("config.json", "text_encoder/config.json")):
        raise FormatError(f"captioner {name!r} is neither 'offline' nor a folder with Qwen2.5-VL's config.json in it")
    return Model(name)


def offline(picture: NDArray[np.uint8], layers: Sequence[Layer]) -> str:
    """A caption without a model: shape, background, what stands on it from the bottom up, and what it says."""
    height, width = picture.shape[:2]
    form = "square" if 0.95 < width / height < 1.05 else "wide" if width > height else "tall"
    parts = [f"A {form} design of {len(layers)} layer{'s' * (len(layers) != 1)}"]
    things, texts = [], []
    for layer in layers:
        told = naming.describe(np.asarray(layer.to_canvas((width, height)), np.uint8), layer.kind)
        told = told[0].lower() + told[1:]
        if layer.kind == "background":
            parts[0] += f" on a {told}" if told[0] not in "aeiou" else f" on an {told}"
        elif layer.kind == "text":
            texts.append(said(layer))
        else:
            things.append(f"{named} ({told})" if (named := real_name(layer.name)) else told)
    if things:
        parts.append(f"It shows {_listed(things)}")
    if texts:
        parts.append("It says " + _listed([f"“{text}”" for text in texts]))
    return ". ".join(parts) + "."


def said(layer: Layer) -> str:
    """What a text layer says; Photoshop names text layers by their text."""
    if layer.text is not None:
        return " ".join(line.string for line in layer.text.lines)
    return " ".join(layer.name.split())


def real_name(name: str) -> str:
    """A layer's name where someone gave it one, else nothing: 'Layer 12 copy' says nothing."""
    words = [word for word in name.lower().replace("_", " ").replace("-", " ").split() if not word.isdecimal()]
    return "" if not words or all(word.rstrip("0123456789") in PLAIN_NAMES for word in words) else name.strip()


def _listed(things: list[str]) -> str:
    shown = things[:MOST]
    rest = len(things) - len(shown)
    if rest:
        return f"{', '.join(shown)} and {rest} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


class Model:
    """Qwen2.5-VL with the prompt that Qwen-Image-Layered was trained with, from a local folder; nothing is fetched.

    The folder is the model's own, or a Qwen-Image-Layered checkpoint, which has it inside. It is loaded when the first
    caption is asked for, once in each process.
    """

    def __init__(self, folder: str, max_tokens: int = 512) -> None:
        """Check that the libraries are there; a caption has at most `max_tokens`."""
        for library in ("torch", "transformers"):
            require(library, "qwen", "a model that captions")
        self.folder, self.max_tokens = Path(folder), max_tokens
        self.encoder: TextEncoder | None = None

    def __call__(self, picture: NDArray[np.uint8], layers: Sequence[Layer]) -> str:
        """The likeliest caption of the picture over white."""
        from PIL import Image

        if self.encoder is None:
            self.encoder = self.load()
        image = Image.fromarray(picture)
        flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        flat.thumbnail((SIDE, SIDE))
        return " ".join(self.encoder.caption(flat, max_tokens=self.max_tokens).split())

    def load(self) -> TextEncoder:
        import torch

        from unfuse.model.text import TextEncoder

        device, precision = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
        if (self.folder / "text_encoder").is_dir():
            return TextEncoder(self.folder, device, precision)
        self.place = tempfile.TemporaryDirectory()  # the checkpoint's layout around a model that stands alone
        for part in ("text_encoder", "tokenizer", "processor"):
            (Path(self.place.name) / part).symlink_to(self.folder.resolve(), target_is_directory=True)
        return TextEncoder(Path(self.place.name), device, precision)
