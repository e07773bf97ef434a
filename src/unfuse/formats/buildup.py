"""The stack as it builds up: a film in which the layers appear bottom to top. GIF and WebP by Pillow, MP4 by ffmpeg."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from unfuse.composite import flatten
from unfuse.errors import FormatError
from unfuse.layers import LayerStack, to_8_bit
from unfuse.pixels import quantise, resize, to_float

HOLD = 3  # how many times as long the whole stays as each step before it
RATE = 25  # frames a second of a film


def write(
    stack: LayerStack, file: BinaryIO, suffix: str, *, seconds: float = 0.6, longest: int = 1080
) -> tuple[str, ...]:
    """Write the film: a frame for each visible layer, of so many seconds, its longest side at most `longest` pixels.

    WebP keeps transparency; GIF and MP4 have the stack over white.
    """
    if not 0.02 <= seconds <= 60:
        raise FormatError(f"seconds is {seconds!r}: it must be 0.02 to 60")
    if not 16 <= longest <= 16_000:
        raise FormatError(f"longest is {longest!r}: it must be 16 to 16000 pixels")
    frames = _frames(stack, longest)
    if suffix == ".mp4":
        _film(frames, file, seconds)
    else:
        _pictures(frames, file, suffix, round(seconds * 1000), stack.icc)
    gone = ["colours were reduced to 256"] if suffix == ".gif" else []
    if stack.depth == 16:
        gone.append("16 bits a channel were rounded to 8")
    return tuple(gone)


def _frames(stack: LayerStack, longest: int) -> list[NDArray[np.uint8]]:
    """`h w 4` of the stack up to each visible layer."""
    shown = [layer for layer in stack if layer.visible]
    scale = min(1.0, longest / max(stack.size))
    size = max(1, round(stack.size[0] * scale)), max(1, round(stack.size[1] * scale))
    frames = []
    for count in range(1, max(1, len(shown)) + 1):
        whole = flatten(stack.replace(layers=tuple(shown[:count])))
        frames.append(to_8_bit(whole) if size == stack.size else quantise(resize(to_float(whole), size), 8))
    return frames


def _pictures(frames: list[NDArray[np.uint8]], file: BinaryIO, suffix: str, step: int, icc: bytes | None) -> None:
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    options: dict[str, Any] = {"duration": [*[step] * (len(images) - 1), HOLD * step], "loop": 0, "save_all": True}
    if suffix == ".webp":
        options |= {"lossless": True, "method": 2, "icc_profile": icc or b""}
        images[0].save(file, "WEBP", append_images=images[1:], **options)
        return
    flat = [Image.fromarray(_over_white(frame)) for frame in frames]
    palette = _together(flat).quantize(256, Image.Quantize.MEDIANCUT)
    small = [image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for image in flat]
    small[0].save(file, "GIF", append_images=small[1:], optimize=False, **options)


def _together(images: list[Any]) -> Any:
    """All frames in one picture, so that one palette serves them."""
    from PIL import Image

    width, height = images[0].size
    whole = Image.new("RGB", (width, height * len(images)))
    for index, image in enumerate(images):
        whole.paste(image, (0, index * height))
    whole.thumbnail((512, 4096))
    return whole


def _over_white(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    alpha = frame[..., 3:].astype(np.uint32)
    return ((frame[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _film(frames: list[NDArray[np.uint8]], file: BinaryIO, seconds: float) -> None:
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise FormatError("an .mp4 needs ffmpeg, which is not installed here: install it, or write .gif or .webp")
    height, width = (side // 2 * 2 for side in frames[0].shape[:2])  # the coding that every player takes wants even
    if min(width, height) < 2:
        raise FormatError("an .mp4 has at least 2 x 2 pixels: write .gif or .webp")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "film.mp4"
        command = [ffmpeg, "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
        command += ["-r", str(RATE), "-i", "-", "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-y", str(target)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stderr is not None
            try:
                for index, frame in enumerate(frames):
                    picture = np.ascontiguousarray(_over_white(frame)[:height, :width]).tobytes()
                    for _ in range(max(1, round(seconds * RATE)) * (HOLD if index == len(frames) - 1 else 1)):
                        process.stdin.write(picture)
                process.stdin.close()
            except BrokenPipeError:  # what ffmpeg says about it comes now
                pass
            said = process.stderr.read().decode(errors="replace")
        if process.returncode != 0 or not target.is_file():
            raise FormatError(f"ffmpeg could not write the film: {' '.join(said.split())[:200]}")
        file.write(target.read_bytes())
