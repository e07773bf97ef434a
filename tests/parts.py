"""A tiny parts pack, drawn here: enough for the composer, for tests of training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont


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
