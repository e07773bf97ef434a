"""Decompose a folder of designs with the embedded engine, and write what an evaluator reads.

    python benchmarks/designs.py DESIGNS OUT [--layers truth|auto|N]

DESIGNS/<id>/image.png with DESIGNS/<id>/meta.json (its "layers" give the true count); or a folder of pictures. Writes
OUT/<id>/0.png, 1.png, ... (full canvas, straight alpha, bottom to top) and seconds.txt, and prints for each design the
number of layers, the recomposition error in 8-bit levels and the seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

import unfuse
from unfuse import composite, pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("designs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", default="truth")
    parser.add_argument("--engine", default="embedded")
    args = parser.parse_args()
    found = sorted(args.designs.glob("*/image.png")) or sorted(
        p for p in args.designs.iterdir() if p.suffix in (".png", ".jpg", ".webp")
    )
    worst, seconds = 0, []
    for file in found:
        name = file.parent.name if file.name == "image.png" else file.stem
        count = (
            args.layers
            if args.layers != "truth"
            else len(json.loads((file.parent / "meta.json").read_text())["layers"])
        )
        began = time.perf_counter()
        stack = unfuse.decompose(file, layers=count if count == "auto" else int(count), engine=args.engine)
        seconds.append(time.perf_counter() - began)
        source = pixels.quantise(pixels.read(file).pixels, 8)
        difference = np.abs(composite.flatten(stack).astype(int) - source).max()
        worst = max(worst, int(difference))
        folder = args.out / name
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.png"):
            old.unlink()
        for i, layer in enumerate(stack):
            layer.to_image(stack.size).save(folder / f"{i}.png", compress_level=1)
        (folder / "seconds.txt").write_text(f"{seconds[-1]:.3f}\n")
        print(
            f"{name:24s} {len(stack):2d} layers  off by at most {difference}  {seconds[-1]:.2f} s  "
            + "; ".join(x.name for x in stack),
            flush=True,
        )
    print(f"{len(found)} pictures, recomposition off by at most {worst}, {np.mean(seconds):.2f} s on average")


if __name__ == "__main__":
    main()
