"""Our files in other programs: how far what they show is from the flattened stack, in levels of 255.

    python benchmarks/readers.py [OUT] [--only NAME ...]

Each program that is installed opens each format that it reads, at one picture pixel to one of its own, and saves a PNG;
compared are premultiplied values. ag-psd needs node and, where it is not beside the script, NODE_PATH to a folder with
ag-psd and @napi-rs/canvas. Programs that are not there are left out. A program gets `--seconds` (300) for a file.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unfuse import formats
from unfuse.composite import flatten
from unfuse.errors import UnfuseError
from unfuse.layers import Box, Layer, LayerStack, Pixels
from unfuse.pixels import read, resize

SIZE = (240, 160)  # a slide has at least an inch, 96 pixels, on each side
AG_PSD = """
const {createCanvas} = require('@napi-rs/canvas'), ag = require('ag-psd'), fs = require('fs');
ag.initializeCanvas(createCanvas);
const psd = ag.readPsd(fs.readFileSync(process.argv[1]));
const modes = {normal: 'source-over'};
function lay(layers, g) {
  for (const x of layers || []) {
    if (x.hidden) continue;
    let picture = x.canvas;
    if (x.children) { picture = createCanvas(psd.width, psd.height); lay(x.children, picture.getContext('2d')); }
    if (!picture) continue;
    g.globalCompositeOperation = modes[x.blendMode] || x.blendMode; g.globalAlpha = x.opacity ?? 1;
    g.drawImage(picture, x.children ? 0 : x.left, x.children ? 0 : x.top);
  }
}
const whole = createCanvas(psd.width, psd.height);
lay(psd.children, whole.getContext('2d'));
fs.writeFileSync(process.argv[2], whole.toBuffer('image/png'));
"""
GIMP = (
    '(let* ((i (car (gimp-file-load 1 "{0}" "{0}"))) (l (car (gimp-image-merge-visible-layers i CLIP-TO-IMAGE)))) '
    '(gimp-layer-resize-to-image-size l) (file-png-save 1 i l "{1}" "{1}" 0 6 0 0 0 0 0))'
)
Opens = Callable[[Path, Path], list[str]]
PROGRAMS: dict[str, tuple[str, tuple[str, ...], Opens]] = {  # name: what must be there, what it reads, its command
    "ImageMagick": ("convert", (".psd", ".tiff"), lambda a, b: ["convert", f"{a}[0]", str(b)]),
    "libvips": ("vips", (".psd", ".tiff", ".svg", ".pdf"), lambda a, b: ["vips", "copy", vips(a), str(b)]),
    "librsvg": ("rsvg-convert", (".svg",), lambda a, b: ["rsvg-convert", str(a), "-o", str(b)]),
    "Inkscape": ("inkscape", (".svg",), lambda a, b: ["inkscape", str(a), "-o", str(b)]),
    "poppler": ("pdftocairo", (".pdf",), lambda a, b: poppler(a, b)),
    "MuPDF": ("mutool", (".pdf",), lambda a, b: ["mutool", "draw", "-r", "72", "-c", "rgba", "-o", str(b), str(a)]),
    "ag-psd": ("node", (".psd",), lambda a, b: ["node", "-e", AG_PSD, str(a), str(b)]),
    "GIMP": ("gimp-console", (".psd", ".tiff"), lambda a, b: gimp(a, b)),
    "Krita": ("krita", (".psd", ".ora"), lambda a, b: krita(a, b)),
    "LibreOffice": ("soffice", (".pptx",), lambda a, b: office(a, b)),
    "Chromium": ("chromium", (".svg", ".html"), lambda a, b: chromium(a, b)),
}


def vips(path: Path) -> str:
    return f"{path}[page=0]" if path.suffix == ".psd" else str(path)


def poppler(path: Path, png: Path) -> list[str]:
    return ["pdftocairo", "-png", "-singlefile", "-transp", "-r", "72", str(path), str(png.with_suffix(""))]


def gimp(path: Path, png: Path) -> list[str]:
    script = ["-idf", "--no-data", "--batch-interpreter", "plug-in-script-fu-eval"]
    return ["gimp-console", *script, "-b", GIMP.format(path, png), "-b", "(gimp-quit 1)"]


def krita(path: Path, png: Path) -> list[str]:
    screen = ["xvfb-run", "-a"] if shutil.which("xvfb-run") else []
    return [*screen, "krita", str(path), "--export", "--export-filename", str(png)]


def office(path: Path, png: Path) -> list[str]:
    """By PDF without JPEG, for its PNG filter draws a slide at a size of its own."""
    filter_ = 'pdf:impress_pdf_Export:{"UseLosslessCompression":{"type":"boolean","value":"true"},'
    filter_ += '"ReduceImageResolution":{"type":"boolean","value":"false"}}'
    home = f"-env:UserInstallation=file://{path.parent}/office"
    line = f"soffice {home} --headless --convert-to '{filter_}' --outdir {path.parent}/office {path}"
    return [
        "sh",
        "-c",
        f"{line} && pdftocairo -png -singlefile -r 96 {path.parent}/office/{path.stem}.pdf {png.with_suffix('')}",
    ]


def chromium(path: Path, png: Path) -> list[str]:
    flags = ["--headless", "--no-sandbox", "--hide-scrollbars", "--force-color-profile=srgb"]
    size = f"--window-size={SIZE[0]},{SIZE[1]}"
    clear = "--default-background-color=00000000"
    return ["chromium", *flags, clear, size, f"--screenshot={png}", f"file://{path}#picture"]


def stack() -> LayerStack:
    """Opaque and soft, groups, opacity, blend modes, a hidden layer, layers that leave the canvas."""
    width, height = SIZE
    y, x = np.mgrid[:height, :width]
    back = np.dstack([x, y, 255 - x, np.full_like(x, 255)]).astype(np.uint8)

    def disc(side: int, *colour: int) -> Pixels:
        v, u = np.mgrid[:side, :side] - (side - 1) / 2
        alpha = np.clip(1.2 - np.hypot(u, v) / (side / 2), 0, 1) * 255 + 0.5
        return np.dstack([*(np.full((side, side), level) for level in colour), alpha]).astype(np.uint8)

    def layer(name: str, left: int, top: int, pixels: Pixels, **fields: Any) -> Layer:
        box = Box(left, top, left + pixels.shape[1], top + pixels.shape[0])
        return Layer(name, "object", box, pixels, **fields)

    inside = (layer("red", 60, 10, disc(40, 220, 30, 50)), layer("blue", 75, 20, disc(50, 20, 60, 220), opacity=0.8))
    return LayerStack(
        SIZE,
        (
            Layer("back", "background", Box(0, 0, width, height), back),
            layer("multiply", 10, 5, disc(50, 200, 160, 60), blend_mode="multiply"),
            Layer.group("group 組", inside, opacity=0.6),
            layer("screen", 30, 30, disc(60, 60, 90, 30), blend_mode="screen", opacity=0.9),
            layer("hidden", 0, 0, disc(70, 0, 0, 0), visible=False),
            layer("beyond", -15, 55, disc(45, 250, 220, 0)),
        ),
    )


def away(png: Path, whole: LayerStack) -> str:
    """The largest difference and the share of channels that are off by more than 2."""
    shown, note = read(png).pixels, ""
    expected = flatten(whole).astype(np.float32) / 255
    if shown.shape != expected.shape:
        note = f"  at {shown.shape[1]} x {shown.shape[0]}"
        shown = resize(shown, whole.size)
    off = 255 * np.abs(shown[..., :3] * shown[..., 3:] - expected[..., :3] * expected[..., 3:])
    return f"{off.max():6.1f} levels, {100 * (off > 2.0).mean():5.2f} % over 2{note}"


def rows(out: Path, only: list[str], seconds: float) -> Iterator[str]:
    whole = stack()
    environment = os.environ | {"HOME": str(out)}
    for name, (needs, suffixes, command) in PROGRAMS.items():
        if not shutil.which(needs) or (only and name not in only):
            continue
        for suffix in suffixes:
            path, png = out / f"ours{suffix}", out / f"{name}{suffix}.png"
            formats.write(whole, path)
            try:
                subprocess.run(command(path, png), env=environment, capture_output=True, timeout=seconds, check=True)
                yield f"{name:12} {suffix:6} {away(png, whole)}"
            except (subprocess.SubprocessError, OSError, UnfuseError) as error:
                yield f"{name:12} {suffix:6} failed: {' '.join(str(error).split())[:100]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--seconds", type=float, default=300)
    given = parser.parse_args()
    out = given.out or Path(tempfile.mkdtemp())
    out.mkdir(exist_ok=True, parents=True)
    for row in rows(out.resolve(), given.only, given.seconds):
        print(row, flush=True)


if __name__ == "__main__":
    main()
