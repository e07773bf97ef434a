"""How well `refine` brings layers back to native size: true stacks, a spoiled bucket, and what comes back.

    python benchmarks/refine.py                      # synthetic designs of about 1200 px, drawn here
    python benchmarks/refine.py --truth DIR          # DIR/<id>/00.webp, 01.webp, ... and image.png
    python benchmarks/refine.py --plain              # bilinear upsampling instead, for comparison
    python benchmarks/refine.py --speed              # time and peak memory only

The engine is played by the truth: brought down to the bucket as it is (`clean`), with alpha blurred by 1 px and 3 %
noise on alpha and colour (`noise`), or wrong in a structured way (`weak`: warped edges, alpha between .03 and .92,
tinted and washed-out colour). Columns: alpha soft IoU; mean alpha error within 6 px of an edge; colour error in levels
where the layer is visible and where it is hidden; error in levels, inside the top layer's outline, after the top layer
is removed; share of glyphs of 12 to 20 px whose own soft IoU is above .5; largest recomposition error in levels;
seconds of processor time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from unfuse.refine import refine

Planes = NDArray[np.floating[Any]]  # h w, h w c or l h w 4 in 0..1
Truth = NDArray[np.uint8]  # l h w 4, straight alpha, bottom to top


@dataclass(frozen=True, eq=False)
class Design:
    """A stack that is known, with the kind of each layer and the boxes of its small glyphs."""

    name: str
    layers: Truth
    kinds: tuple[str, ...]
    glyphs: tuple[tuple[int, ...], ...] = ()  # layer, left, top, right, bottom


def flatten(layers: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.float64]:
    """`h w 4` in levels, straight alpha, before any rounding."""
    top = np.iinfo(layers.dtype).max
    colour, cover = np.zeros((*layers.shape[1:3], 3)), np.zeros((*layers.shape[1:3], 1))
    for layer in layers:
        a = layer[..., 3:] / top
        colour, cover = a * layer[..., :3] + (1 - a) * colour, a + (1 - a) * cover
    return np.concatenate([colour / np.maximum(cover, 1e-12), cover * top], axis=-1)


# --- designs -------------------------------------------------------------------------------------------------------


def texture(rng: np.random.Generator, h: int, w: int, contrast: float) -> Planes:
    """Coloured noise of several octaves, `h w 3` in 0..1: leaves, plaster or clouds by its contrast."""
    out = np.broadcast_to(rng.uniform(0.25, 0.75, 3), (h, w, 3)).astype(np.float32)
    for k in range(1, 9):
        n = 2**k
        octave = rng.normal(0, contrast * 0.75**k, (max(n * h // 1200, 2), max(n * w // 1200, 2), 3))
        out = out + cv2.resize(
            (octave * 0.4 + octave.mean(-1, keepdims=True)).astype(np.float32), (w, h), interpolation=2
        )
    return np.clip(out, 0, 1)


def gradient(rng: np.random.Generator, h: int, w: int) -> Planes:
    corners = rng.uniform(0.05, 1, (2, 2, 3)).astype(np.float32)
    return np.asarray(np.clip(cv2.resize(corners, (w, h), interpolation=cv2.INTER_LINEAR), 0, 1), np.float32)


def blob(rng: np.random.Generator, h: int, w: int, hairs: int = 0) -> Planes:
    """Alpha of a wavy disc somewhere on the canvas, with hair-like strokes leaving its rim."""
    cx, cy, r = rng.uniform(0.3, 0.7) * w, rng.uniform(0.3, 0.7) * h, rng.uniform(0.12, 0.28) * min(h, w)
    t = np.linspace(0, 2 * np.pi, 400)
    wave = 1 + sum(rng.uniform(0, 0.12) * np.sin(k * t + rng.uniform(0, 6)) for k in range(2, 7))
    points = np.stack([cx + r * wave * np.cos(t), cy + r * wave * np.sin(t)], -1)
    big = np.zeros((4 * h, 4 * w), np.uint8)
    cv2.fillPoly(big, [np.round(points * 4).astype(np.int32)], 255)
    for _ in range(hairs):
        k = rng.integers(400)
        u = np.linspace(0, 1, 20)[:, None]
        out = points[k] - (cx, cy)
        bend = np.array([-out[1], out[0]]) * rng.uniform(-0.4, 0.4)
        hair = points[k] + out * u * rng.uniform(0.1, 0.35) + bend * u**2
        cv2.polylines(big, [np.round(hair * 4).astype(np.int32)], False, 255, int(rng.integers(4, 10)))
    return np.asarray(cv2.resize(big, (w, h), interpolation=cv2.INTER_AREA).astype(np.float32) / 255, np.float32)


def panel(rng: np.random.Generator, h: int, w: int) -> Planes:
    image = Image.new("L", (w * 2, h * 2))
    x, y = rng.uniform(0.05, 0.4) * w, rng.uniform(0.05, 0.4) * h
    box = (x * 2, y * 2, (x + rng.uniform(0.3, 0.5) * w) * 2, (y + rng.uniform(0.2, 0.5) * h) * 2)
    ImageDraw.Draw(image).rounded_rectangle(box, radius=int(rng.uniform(0, 80)), fill=255)
    return np.asarray(image.resize((w, h), Image.Resampling.BOX), np.float32) / 255


def text(rng: np.random.Generator, h: int, w: int, sizes: list[int]) -> tuple[Planes, list[tuple[int, ...]]]:
    """Alpha of some lines of text, and the boxes of the glyphs that are at most 20 px."""
    image, boxes = Image.new("L", (w, h)), []
    draw, y = ImageDraw.Draw(image), rng.uniform(0.05, 0.4) * h
    for size in sizes:
        font, x = ImageFont.load_default(size), rng.uniform(0.05, 0.3) * w
        for letter in "Handgloves & quartz 0123".upper() if size > 60 else "Sphinx of black quartz, judge my vow 0123":
            box = draw.textbbox((x, y), letter, font=font)
            draw.text((x, y), letter, font=font, fill=255)
            if size <= 20 and box[2] > box[0] and box[2] < w and box[3] < h:
                boxes.append(tuple(int(v) for v in (box[0], box[1], np.ceil(box[2]), np.ceil(box[3]))))
            x += draw.textlength(letter, font=font)
        y += size * 1.5
    return np.asarray(image, np.float32) / 255, boxes


def shadow(alpha: Planes, rng: np.random.Generator) -> Planes:
    blurred = cv2.GaussianBlur(alpha, (0, 0), float(rng.uniform(8, 30)))
    moved = np.roll(blurred, (int(rng.integers(5, 40)), int(rng.integers(5, 40))), (0, 1))
    return np.asarray(moved * rng.uniform(0.3, 0.7), np.float32)


def smoke(rng: np.random.Generator, h: int, w: int) -> Planes:
    thick = np.clip(texture(rng, h, w, 0.25)[..., 0] - 0.4, 0, 1)
    return np.asarray(thick * np.hanning(h)[:, None], np.float32)


def paint(rng: np.random.Generator, alpha: Planes, styles: tuple[str, ...]) -> Planes:
    """A colour in one of the styles under the alpha, `h w 4`."""
    h, w = alpha.shape
    style = str(rng.choice(styles))
    if style == "gradient":
        colour = gradient(rng, h, w)
    elif style == "texture":
        colour = texture(rng, h, w, 0.25)
    else:
        tone = {"flat": rng.uniform(0, 1, 3), "dark": np.zeros(3), "ink": np.full(3, rng.choice([0.05, 0.95]))}[style]
        colour = np.broadcast_to(tone.astype(np.float32), (h, w, 3))
    return np.dstack([colour, alpha])


def over(top: Planes, bottom: Planes) -> Planes:
    """Two layers as one: straight alpha, `h w 4`."""
    a, b = top[..., 3:], bottom[..., 3:] * (1 - top[..., 3:])
    return np.dstack([(a * top[..., :3] + b * bottom[..., :3]) / np.maximum(a + b, 1e-6), a + b])


def draw(rng: np.random.Generator, kind: str, h: int, w: int) -> tuple[Planes, list[tuple[int, ...]]]:
    """One layer of a kind, `h w 4` in 0..1, and the boxes of its small glyphs."""
    glyphs: list[tuple[int, ...]] = []
    rich = ("flat", "gradient", "texture")
    if kind in ("text", "titled"):  # titled: one layer of text with its own soft or hard shadow
        small = [20, 18, 16, 14, 13, 12] if kind == "text" else []
        alpha, glyphs = text(rng, h, w, [int(rng.integers(90, 140)), int(rng.integers(24, 60)), *small])
        layer = paint(rng, alpha, ("ink", "flat"))
        if kind == "titled":
            soft = cv2.GaussianBlur(alpha, (0, 0), float(rng.choice([0.5, 3, 8])))
            layer = over(
                layer, paint(rng, np.roll(soft, 4, (0, 1)) * np.float32(rng.uniform(0.4, 0.9)), ("dark", "flat"))
            )
    elif kind in ("panel", "glass"):
        alpha = panel(rng, h, w) * np.float32(rng.uniform(0.3, 0.7) if kind == "glass" else 1)
        layer = paint(rng, alpha, ("ink",) if kind == "glass" else rich)
    elif kind == "button":  # a panel and its text in one layer
        letters = text(rng, h, w, [60, 30, 20])[0] * (alpha := panel(rng, h, w))
        layer = over(paint(rng, letters, ("ink", "flat")), paint(rng, alpha, ("flat", "gradient")))
    elif kind == "smoke":
        layer = paint(rng, smoke(rng, h, w), ("ink",))
    elif kind == "confetti":
        layer = np.zeros((h, w, 4), np.float32)
        for x, y in rng.uniform(0, 1, (60, 2)):
            dot = np.zeros((h, w), np.float32)
            cv2.circle(dot, (int(x * w * 16), int(y * h * 16)), int(rng.uniform(2, 12) * 16), 1.0, -1, cv2.LINE_AA, 4)
            layer = over(paint(rng, dot, ("flat",)), layer)
    elif kind in ("object", "shadow"):
        layer = paint(rng, alpha := blob(rng, h, w), rich)
        cast = paint(rng, shadow(alpha, rng), ("dark",))
        layer = cast if kind == "shadow" else over(layer, cast)
    else:
        layer = paint(
            rng, blob(rng, h, w, hairs=300 if kind == "hair" else 0), ("texture", "flat") if kind == "hair" else rich
        )
    return layer, glyphs


MIXES = (
    ("panel", "text"), ("shadow", "blob", "text"), ("hair", "blob"), ("glass", "blob", "text"),
    ("object", "object", "titled"), ("smoke", "text"), ("button", "confetti", "titled"), ("object", "smoke", "button"),
)  # fmt: skip


def designs(count: int, seed: int) -> Iterator[Design]:
    """Synthetic stacks of two to four layers; `seed` 0 was looked at while the method was made, the others were not."""
    for k in range(count):
        rng = np.random.default_rng([seed, k])
        h, w = (int(x) for x in rng.integers(1100, 1300, 2))
        ground = [texture(rng, h, w, 0.3), gradient(rng, h, w), texture(rng, h, w, 0.1)][k % 3]
        layers, glyphs = [np.dstack([ground, np.ones((h, w), np.float32)])], []
        for i, kind in enumerate(MIXES[k % len(MIXES)], start=1):
            layer, boxes = draw(rng, kind, h, w)
            layers.append(layer)
            glyphs += [(i, *box) for box in boxes]
        stack = np.floor(np.stack(layers) * 255 + 0.5).astype(np.uint8)
        yield Design(f"synthetic {seed}-{k}", stack, ("background", *MIXES[k % len(MIXES)]), tuple(glyphs))


def read(folder: Path) -> Iterator[Design]:
    for meta in sorted(folder.glob("*/meta.json")):
        files = sorted(meta.parent.glob("[0-9][0-9].webp"))
        layers = np.stack([np.asarray(Image.open(f).convert("RGBA")) for f in files])
        kinds = tuple(x["kind"] for x in json.loads(meta.read_text())["layers"])
        yield Design(meta.parent.name, layers, kinds)


# --- an engine played by the truth ---------------------------------------------------------------------------------


def spoil(truth: Truth, bucket: int, how: str, seed: int = 0) -> Planes:
    """The truth at a bucket of this long side, as an engine of some quality would answer: `l h w 4` in 0..1."""
    rng = np.random.default_rng(seed)
    _, h, w, _ = truth.shape
    size = (round(w * bucket / max(h, w)), round(h * bucket / max(h, w)))
    out = []
    for layer in truth.astype(np.float32) / 255:
        a = layer[..., 3:]
        small = cv2.resize(np.dstack([layer[..., :3] * a, a]), size, interpolation=cv2.INTER_AREA)
        colour, alpha = small[..., :3] / np.maximum(small[..., 3:], 1e-6), small[..., 3]
        if how == "noise":
            alpha = cv2.GaussianBlur(alpha, (0, 0), 1) + rng.normal(0, 0.03, alpha.shape)
            colour = colour + rng.normal(0, 0.03, colour.shape)
        elif how == "weak":
            field = cv2.resize(rng.normal(0, 2.0, (8, 8, 2)).astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
            yy, xx = np.mgrid[: size[1], : size[0]].astype(np.float32)
            alpha = cv2.remap(alpha, xx + field[..., 0], yy + field[..., 1], cv2.INTER_LINEAR)
            alpha = 0.03 + 0.89 * cv2.GaussianBlur(alpha, (0, 0), 1) + rng.normal(0, 0.01, alpha.shape)
            tint = cv2.resize(rng.normal(0, 0.06, (4, 4, 3)).astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
            colour = 0.9 * cv2.GaussianBlur(colour, (0, 0), 0.7) + 0.05 + tint
        out.append(np.dstack([colour, alpha]))
    return np.asarray(np.clip(np.stack(out), 0, 1).astype(np.float32), np.float32)


def plain(picture: Planes, layers: Planes) -> NDArray[np.uint8]:
    """What a first attempt would do: bilinear upsampling, nothing else."""
    size = (picture.shape[1], picture.shape[0])
    native = np.stack([cv2.resize(x, size, interpolation=cv2.INTER_LINEAR) for x in layers])
    native[0, ..., 3] = 1
    return np.floor(native * 255 + 0.5).astype(np.uint8)


# --- measures ------------------------------------------------------------------------------------------------------


def measure(found: NDArray[np.uint8], design: Design) -> dict[str, float]:
    truth, got = design.layers.astype(np.float32), found.astype(np.float32)
    alpha, guess = truth[..., 3] / 255, got[..., 3] / 255
    rows: dict[str, list[float]] = defaultdict(list)
    cover = np.ones(alpha.shape[1:], np.float32)
    for i in range(len(alpha) - 1, -1, -1):
        a, b = alpha[i], guess[i]
        off = np.abs(truth[i, ..., :3] - got[i, ..., :3]).mean(-1)
        seen, hidden = (a > 0.5) & (cover > 0.5), (a > 0.5) & (cover < 0.05)
        if i:
            rows["iou"].append(float(np.minimum(a, b).sum() / max(np.maximum(a, b).sum(), 1e-6)))
            rows[f"iou {design.kinds[i]}"].append(rows["iou"][-1])
            edge = cv2.morphologyEx((a > 0.5).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
            band = cv2.dilate(edge, np.ones((13, 13), np.uint8)) > 0
            if band.any():
                rows["edge"].append(float(np.abs(a - b)[band].mean()))
        if seen.any():
            rows["seen"].append(float(off[seen].mean()))
        if hidden.sum() > 100:
            rows["hidden"].append(float(off[hidden].mean()))
        cover = cover * (1 - a)
    inside = cv2.dilate((alpha[-1] > 0.02).astype(np.uint8), np.ones((13, 13), np.uint8)) > 0
    without = np.abs(flatten(design.layers[:-1]) - flatten(found[:-1]))[..., :3].mean(-1)
    rows["ghost"].append(float(without[inside].mean()))
    for i, left, top, right, bottom in design.glyphs:
        a, b = alpha[i, top:bottom, left:right], guess[i, top:bottom, left:right]
        if np.prod(1 - alpha[i + 1 :, top:bottom, left:right], axis=0).min(initial=1) > 0.5 and a.sum() > 3:
            rows["glyphs"].append(float(np.minimum(a, b).sum() > 0.5 * np.maximum(a, b).sum()))
    error = np.abs(np.floor(flatten(found) + 0.5) - np.floor(flatten(design.layers) + 0.5))
    return {key: float(np.mean(values)) for key, values in rows.items()} | {"off": float(error.max())}


COLUMNS = ("iou", "edge", "seen", "hidden", "ghost", "glyphs", "off", "s")


def table(known: list[Design], buckets: list[int], ways: list[str], *, upsample: bool, kinds: bool) -> None:
    print("bucket model  " + "".join(f"{c:>8s}" for c in COLUMNS))
    for bucket in buckets:
        for how in ways:
            rows: dict[str, list[float]] = defaultdict(list)
            for k, design in enumerate(known):
                picture = (np.floor(flatten(design.layers) + 0.5) / 255).astype(np.float32)
                layers = spoil(design.layers, bucket, how, seed=k)
                start = time.process_time()
                found = plain(picture, layers) if upsample else refine(picture, layers)
                rows["s"].append(time.process_time() - start)
                for key, value in measure(np.asarray(found, np.uint8), design).items():
                    rows[key].append(value)
            mean = {key: np.mean(values) for key, values in rows.items()} | {"off": max(rows["off"])}
            print(f"{bucket:6d} {how:6s} " + "".join(f"{mean.get(c, np.nan):8.3f}" for c in COLUMNS), flush=True)
            if kinds:
                print("    " + ", ".join(f"{k[4:]} {v:.3f}" for k, v in sorted(mean.items()) if k.startswith("iou ")))


def speed(side: int, count: int, bucket: int) -> None:
    """Seconds and peak memory above the inputs for a square picture of this side."""
    rng = np.random.default_rng(0)
    ground = np.dstack([texture(rng, side, side, 0.2), np.ones((side, side), np.float32)])
    layers = [np.floor(ground * 255 + 0.5).astype(np.uint8)]
    for k in range(1, count):
        alpha = text(rng, side, side, [120, 40, 20, 14])[0] if k == count - 1 else blob(rng, side, side, hairs=100)
        layers.append(np.floor(paint(rng, alpha, ("gradient",)) * 255 + 0.5).astype(np.uint8))
    truth = np.stack(layers)
    picture, small = (np.floor(flatten(truth) + 0.5) / 255).astype(np.float32), spoil(truth, bucket, "noise")
    del truth, layers, ground
    refine(picture[:64, :64].copy(), small)  # imports and first allocations
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    before = resident("VmRSS")
    start = time.perf_counter()
    found = refine(picture, small)
    seconds = time.perf_counter() - start
    above = resident("VmHWM") - before
    print(f"{side}x{side}, {count} layers, bucket {bucket}: {seconds:.2f} s, {above:.0f} MB above the inputs")
    print(f"largest error {np.abs(np.floor(flatten(found) + 0.5) - np.floor(picture * 255 + 0.5)).max():.0f} levels")


def resident(field: str) -> float:
    """A line of this process's status in MB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) / 1024 for x in lines if x.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--buckets", type=int, nargs="+", default=[256, 384, 512])
    parser.add_argument("--models", nargs="+", default=["clean", "noise", "weak"])
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--kinds", action="store_true", help="soft IoU by kind of layer")
    parser.add_argument("--speed", type=int, metavar="SIDE")
    parser.add_argument("--layers", type=int, default=4, help="layers for --speed")
    args = parser.parse_args()
    if args.speed:
        speed(args.speed, args.layers, args.buckets[0])
        return
    known = list(read(args.truth) if args.truth else designs(args.count, args.seed))
    table(known, args.buckets, args.models, upsample=args.plain, kinds=args.kinds)


if __name__ == "__main__":
    main()
