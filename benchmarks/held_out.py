"""Draw designs of held-out parts with true layers, as `unfuse evaluate` takes them: to choose by.

    python benchmarks/held_out.py PACK OUT [--count 60] [--seed 2] [--side 512]

PACK is what `unfuse corpus build` made. Its held-out parts are never trained on; the same seed draws the same designs.
The public designs are not for choosing by.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from unfuse.corpus.compose import compose, flat
from unfuse.train.data import RATIOS, levels, opened


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--side", type=int, default=512, help="of a square of a design's area")
    args = parser.parse_args()
    pack, drawn = opened(args.pack, "valid"), 0
    for number in range(10 * args.count):
        rng = np.random.default_rng([args.seed, number])
        ratio = RATIOS[int(rng.integers(len(RATIOS)))]
        layers = compose(pack, rng, (round(args.side * ratio[0]), round(args.side * ratio[1])))
        if len(layers) < 3:  # what is little more than its background says little
            continue
        folder = args.out / f"{args.seed}-{drawn:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        for i, layer in enumerate(layers):
            Image.fromarray(levels(layer.rgba)).save(folder / f"{i:02d}.webp", lossless=True, exact=True, method=0)
        Image.fromarray(levels(flat(layers))).save(folder / "image.png")
        about = {"template": "composed", "layers": [{"kind": layer.kind, "name": layer.name} for layer in layers]}
        (folder / "meta.json").write_text(json.dumps(about, indent=1) + "\n")
        drawn += 1
        if drawn == args.count:
            return


if __name__ == "__main__":
    main()
