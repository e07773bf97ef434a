"""The whole life of a model, tiny, on a CPU in a minute: what a full run does, with the same commands.

    python examples/life.py FOLDER

corpus from ten parts -> vae -> text-to-rgb -> text-to-layers -> image-to-layers -> evaluate -> export -> decompose

Nothing here decomposes well: it is trained for seconds. It shows the way, and that every step of it works.
"""

from __future__ import annotations

import io
import json
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unfuse import cli

TINY = ("--size", "tiny", "--side", "32", "--layers", "3", "--batch", "8", "--validation", "4")


def unfuse(*arguments: str | Path) -> str:
    """A command of unfuse, as one would type it, without a new process for each; what it prints."""
    began, said = time.monotonic(), io.StringIO()
    with redirect_stdout(said):
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            if end.code:
                raise
    print(f"{time.monotonic() - began:5.1f} s  unfuse {' '.join(map(str, arguments))}", flush=True)
    return said.getvalue()


def parts(root: Path) -> Path:
    """Ten parts in the layout of `unfuse corpus build`: six things, two photographs, two fonts."""
    root.mkdir(parents=True)
    rows = []
    face = ImageFont.load_default(20)
    assert isinstance(face, ImageFont.FreeTypeFont)
    for split, colours in (("train", ("crimson", "navy", "gold")), ("valid", ("teal", "purple", "orange"))):
        for i, colour in enumerate(colours):
            image = Image.new("RGBA", (64, 64))
            pen = ImageDraw.Draw(image)
            if i == 0:
                pen.ellipse((6, 8, 56, 54), fill=colour)
            elif i == 1:
                pen.rectangle((6, 8, 56, 54), fill=colour)
            else:
                pen.pieslice((6, 8, 56, 54), 20, 300, fill=colour)
            image.save(root / f"{split}{i}.png")
            rows.append({"file": f"{split}{i}.png", "kind": "object", "split": split, "license": "CC0-1.0"})
        noise = np.random.default_rng(len(rows)).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC).save(root / f"{split}.png")
        (root / f"{split}.ttf").write_bytes(face.font_bytes)
        rows.append({"file": f"{split}.png", "kind": "photo", "split": split, "license": "CC0-1.0"})
        rows.append({"file": f"{split}.ttf", "kind": "font", "split": split, "license": "CC0-1.0"})
    (root / "pack.json").write_text(json.dumps({"parts": rows}))
    return root


def designs(root: Path) -> Path:
    """Two designs with their true layers, in the layout of `unfuse evaluate`."""
    for number in range(2):
        home = root / f"{number}"
        home.mkdir(parents=True)
        ground = Image.new("RGBA", (64, 48), ("seagreen", "khaki")[number])
        thing = Image.new("RGBA", (64, 48))
        ImageDraw.Draw(thing).ellipse((14 + 8 * number, 10, 40 + 8 * number, 36), fill="crimson")
        ground.save(home / "0.png")
        thing.save(home / "1.png")
        Image.alpha_composite(ground, thing).convert("RGB").save(home / "image.png")
        (home / "meta.json").write_text(json.dumps({"template": "card"}))
    return root


def main(root: Path) -> None:
    """Everything, one command after the other, in the folder `root`."""
    pack, runs = parts(root / "pack"), root / "runs"
    quick = ("--rate", "0.004", "--warmup", "5")
    unfuse("train", "vae", "--pack", pack, "-o", runs / "vae", *TINY, *quick, "--steps", "40")
    start = runs / "vae"
    for stage in ("text-to-rgb", "text-to-layers", "image-to-layers"):
        more = ("--sheet-every", "12") if stage == "image-to-layers" else ()
        options = ("--steps", "12", *quick, *more)
        unfuse("train", stage, "--pack", pack, "--start", start, "-o", runs / stage, *TINY, *options)
        start = runs / stage
    rgba = root / "rgba"
    rgba.mkdir()
    for file in pack.glob("*[0-9].png"):
        (rgba / file.name).write_bytes(file.read_bytes())
    unfuse("evaluate", "vae", rgba, "--model", runs / "vae", "-o", root / "vae-report")
    unfuse("export", start, root / "mine")
    engine = ("--engine", f"trained:{root / 'mine'}", "--steps", "4")
    told = json.loads(unfuse("evaluate", designs(root / "designs"), *engine, "-o", root / "report", "--json"))
    assert told["about"]["count"] == 2
    picture = root / "designs/0/image.png"
    told = json.loads(unfuse("decompose", picture, "-n", "2", *engine, "-o", root / "layers", "--json"))
    assert told["recomposition"]["max"] <= 1
    losses = [json.loads(line)["loss"] for line in (runs / "vae/metrics.jsonl").read_text().splitlines()]
    assert np.mean(losses[-5:]) < 0.8 * losses[0], "the VAE learned nothing"
    print(f"{len(told['layers'])} layers in {root / 'layers'}; {root / 'report/index.html'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
