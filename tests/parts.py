"""What tests of training need: a tiny parts pack, drawn here, and a run that goes on from weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from torch import Tensor

    from unfuse.train.stage import TrainParams


def tiny_pack(root: Path) -> Path:
    """Two objects, a photograph and a font for each split, in the layout that `corpus.compose.Pack` reads."""
    rows = []
    rng = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    face = ImageFont.load_default(20)
    assert isinstance(face, ImageFont.FreeTypeFont)
    (root / "face.ttf").write_bytes(face.font_bytes)
    for split in ("train", "valid"):
        for i, colour in enumerate(((220, 40, 40), (40, 90, 220))):
            image = Image.new("RGBA", (64, 64))
            draw = ImageDraw.Draw(image)
            (draw.ellipse if i else draw.rectangle)((6, 10, 56, 52), fill=(*colour, 255))
            image.save(root / f"{split}{i}.png")
            rows.append({"file": f"{split}{i}.png", "kind": "object", "split": split})
        photo = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(photo).resize((160, 120), Image.Resampling.BICUBIC).save(root / f"{split}.png")
        rows.append({"file": f"{split}.png", "kind": "photo", "split": split})
        rows.append({"file": "face.ttf", "kind": "font", "split": split})
    (root / "pack.json").write_text(json.dumps({"parts": rows}))
    return root


def trained_on(stage: str, how: TrainParams) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The exported weights that a run starts from, running means left out, and those that it hands on."""
    from unfuse.train import export, loop
    from unfuse.train.stages import STAGES

    assert how.start is not None
    loop.train(STAGES[stage], how, lambda row: None)
    after = how.out / "again.onnx"
    export.export(how.out, after, {})
    kept = {name: tensor for name, tensor in export.state_of(how.start).items() if "running" not in name}
    return kept, export.state_of(after)
