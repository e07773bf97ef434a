"""How well a VAE gives RGBA pictures back: the protocol of AIM-500's table (Qwen-Image-Layered, Table 3).

A folder of RGBA pictures goes through the VAE and back, at native size, padded to multiples of its factor. Original and
answer are laid over solid colours and compared: PSNR and SSIM (Wang et al. 2004, Gaussian window of 11 and 1.5, the
rim of half a window left out, mean of R, G and B), the mean over the colours for each picture, then over pictures.
The paper names no colours; AlphaVAE, whose protocol it follows, says "canonical backgrounds": ours are `GROUNDS`.

LPIPS and FID are distances in other networks, whose weights are not part of unfuse. A user who has them gives them as
ONNX: `lpips` takes two pictures `b 3 h w` in -1..1 and answers a distance for each; `inception` takes pictures
`b 3 h w` in 0..1 and answers features `b d`. Without them the report does not have these figures.

Beside it, what takes no skill: alpha set to 1, and the picture brought down to an eighth of its side and up again.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unfuse import __version__, pixels
from unfuse.errors import FormatError, UnfuseError
from unfuse.evaluate.statistics import interval
from unfuse.saving import replacing

if TYPE_CHECKING:
    from unfuse.model.vae import VAE

Plane = NDArray[np.float64]
GROUNDS = {
    "black": (0, 0, 0), "white": (255, 255, 255), "grey": (128, 128, 128), "red": (255, 0, 0), "green": (0, 255, 0),
    "blue": (0, 0, 255), "yellow": (255, 255, 0), "cyan": (0, 255, 255), "magenta": (255, 0, 255),
}  # fmt: skip
SUFFIXES = (".png", ".webp", ".tif", ".tiff")
BEST = 100.0  # dB, where nothing differs
WINDOW, SPREAD = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
FILES = ("report.json", "index.html")
WORST = 24  # pictures on the page
THUMB = 220


@dataclass(frozen=True)
class VAESettings:
    """short: bring pictures to this short side first, None for native size. lpips, inception: networks as ONNX."""

    short: int | None = None
    seed: int = 0
    resamples: int = 2000
    lpips: Path | None = None
    inception: Path | None = None


def psnr(a: Plane, b: Plane) -> float:
    """Peak signal-to-noise ratio in dB of `h w c` in levels of 255; `BEST` at most."""
    error = float(np.mean((a - b) ** 2))
    return BEST if error == 0 else min(BEST, 10 * np.log10(255**2 / error))


def ssim(a: Plane, b: Plane) -> float:
    """Structural similarity of `h w c` in levels of 255: the mean over places that a whole window fits around."""
    rim = WINDOW // 2

    def blur(x: Plane) -> Plane:
        blurred = cv2.GaussianBlur(x, (WINDOW, WINDOW), SPREAD, borderType=cv2.BORDER_REFLECT)
        return np.asarray(blurred[rim:-rim, rim:-rim])

    if min(a.shape[:2]) < WINDOW:
        raise UnfuseError(f"SSIM needs pictures of {WINDOW} pixels each way or more, not {a.shape[1]} x {a.shape[0]}")
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, both = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    similar = (2 * mean_a * mean_b + C1) * (2 * both + C2)
    return float(np.mean(similar / ((mean_a**2 + mean_b**2 + C1) * (var_a + var_b + C2))))


def frechet(a: Plane, b: Plane) -> float:
    """The Frechet distance of two sets of features `n d`: of the Gaussians with their means and covariances."""
    mean = float(np.sum((a.mean(0) - b.mean(0)) ** 2))
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    middle = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return mean + float(np.trace(cov_a) + np.trace(cov_b) - 2 * middle)


def over(levels: NDArray[np.uint8], ground: tuple[int, int, int]) -> Plane:
    """`h w 4` laid over a colour: `h w 3` in whole levels."""
    alpha = levels[..., 3:].astype(np.float64) / 255
    return np.floor(levels[..., :3] * alpha + np.array(ground) * (1 - alpha) + 0.5)


# --- what is compared ------------------------------------------------------------------------------------------------


def read(folder: Path, short: int | None) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Names and RGBA pictures `h w 4` of a folder, by name."""
    for file in found(folder):
        picture = pixels.read(file)
        levels = picture.pixels
        if short is not None:
            height, width = levels.shape[:2]
            scale = short / min(height, width)
            levels = pixels.resize(levels, (round(width * scale), round(height * scale)))
        yield file.name, pixels.quantise(levels, 8).astype(np.uint8, copy=False)


def found(folder: Path) -> list[Path]:
    """The pictures of a folder. Raises FormatError where there are none."""
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not files:
        raise FormatError(f"{folder} holds no RGBA pictures ({', '.join(SUFFIXES)}): AIM-500's, or your own")
    return files


def load_vae(path: Path) -> VAE:
    """The VAE of a run of stage vae, of an exported folder, or of a published folder. Raises UnfuseError otherwise."""
    from unfuse.model import checkpoint
    from unfuse.model.vae import VAE
    from unfuse.train import vae, weights

    if (path / weights.ABOUT).is_file():
        about = weights.about_of(path)
        if about["stage"] != "vae":
            raise UnfuseError(f"{path} is a run of stage {about['stage']}: give one of stage vae")
        net = VAE(vae.params_of(about))
        net.load_state_dict(weights.weights_of(path))
        return net.eval()
    folder = path / "vae" if (path / "vae").is_dir() else path
    if not (folder / "config.json").is_file():
        raise UnfuseError(f"{path} is no run of stage vae and no published folder of a VAE")
    return checkpoint.load_vae(folder)


def rebuilt(net: VAE, levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An RGBA picture through the VAE and back, at its own size."""
    import torch

    height, width = levels.shape[:2]
    factor = net.params.factor
    padded = np.pad(levels, ((0, -height % factor), (0, -width % factor), (0, 0)), mode="edge")
    device = next(net.parameters()).device
    with torch.inference_mode():
        x = torch.from_numpy(padded).to(device).permute(2, 0, 1)[None].float() / 127.5 - 1
        back = net.decode(net.encode(x).mean, tile=1024)[0].clamp(-1, 1)
    out = ((back + 1) * 127.5 + 0.5).floor().byte().permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(out[:height, :width])


def without_alpha(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Alpha set to 1 everywhere."""
    return np.dstack([levels[..., :3], np.full(levels.shape[:2], 255, np.uint8)])


def blurred(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An eighth of the side, and up again, on premultiplied values."""
    height, width = levels.shape[:2]
    small = pixels.resize(pixels.to_float(levels), (max(1, width // 8), max(1, height // 8)))
    return pixels.quantise(pixels.resize(small, (width, height)), 8).astype(np.uint8, copy=False)


# --- the report ------------------------------------------------------------------------------------------------------


class Networks:
    """The user's networks, if there are any."""

    def __init__(self, settings: VAESettings) -> None:
        import onnxruntime

        def opened(file: Path | None) -> Any:
            if file is None:
                return None
            if not file.is_file():
                raise UnfuseError(f"{file} is not a file: give the network as .onnx")
            return onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])

        self.lpips, self.inception = opened(settings.lpips), opened(settings.inception)

    def distance(self, a: Plane, b: Plane) -> float:
        """LPIPS of two pictures in levels."""
        names = [value.name for value in self.lpips.get_inputs()]
        pair = [(x / 127.5 - 1).astype(np.float32).transpose(2, 0, 1)[None] for x in (a, b)]
        return float(np.mean(self.lpips.run(None, dict(zip(names, pair, strict=True)))[0]))

    def features(self, a: Plane) -> Plane:
        """What the inception network says of a picture in levels: `d`."""
        (name,) = [value.name for value in self.inception.get_inputs()]
        answer = self.inception.run(None, {name: (a / 255).astype(np.float32).transpose(2, 0, 1)[None]})[0]
        return np.asarray(answer, np.float64).ravel()


def evaluate_vae(
    folder: Path,
    model: Path,
    out: Path,
    settings: VAESettings,
    on_picture: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Score a VAE on a folder of RGBA pictures, write the report into `out`, and return what report.json holds."""
    total = len(found(folder))
    if out.exists() and (not out.is_dir() or any(file.name not in FILES for file in out.iterdir())):
        raise FormatError(f"{out} holds other things than a report: choose another folder")
    net, networks = load_vae(model), Networks(settings)
    rows: list[dict[str, Any]] = []
    cards: list[tuple[float, str]] = []
    features: dict[str, list[Plane]] = {}
    for done, (name, levels) in enumerate(read(folder, settings.short), start=1):
        answers = {"the VAE": rebuilt(net, levels), "alpha set to 1": without_alpha(levels)}
        answers["an eighth and up"] = blurred(levels)
        scores = {method: score(levels, back, networks, features, method) for method, back in answers.items()}
        rows.append({"picture": name, "size": levels.shape[1::-1], "methods": scores})
        cards.append((scores["the VAE"]["psnr"], card(name, levels, answers["the VAE"], scores["the VAE"])))
        if on_picture is not None:
            on_picture(done, total)
    summary = {
        method: {
            key: interval([r["methods"][method][key] for r in rows], settings.resamples, settings.seed) for key in of
        }
        for method, of in rows[0]["methods"].items()
    }
    for method, gathered in features.items():
        if method != "truth" and len(gathered) > 1:
            summary[method]["rfid"] = {
                "mean": frechet(np.stack(features["truth"]), np.stack(gathered)),
                "count": len(gathered),
            }
    told = {k: v.name if isinstance(v, Path) else v for k, v in asdict(settings).items()}
    about = {"model": model.resolve().name, "pictures": folder.resolve().name, "count": total, "unfuse": __version__}
    result = {"about": {**about, "settings": told, "grounds": list(GROUNDS)}, "summary": summary, "pictures": rows}
    out.mkdir(parents=True, exist_ok=True)
    shown = page(result, [text for _, text in sorted(cards, key=lambda pair: pair[0])[:WORST]])
    for name, text in zip(FILES, (json.dumps(result, indent=1) + "\n", shown), strict=True):
        with replacing(out / name) as file:
            file.write(text.encode())
    return result


def score(
    levels: NDArray[np.uint8],
    back: NDArray[np.uint8],
    networks: Networks,
    features: dict[str, list[Plane]],
    method: str,
) -> dict[str, float]:
    """One answer for one picture: means over the grounds; features are gathered on the first one, for all pictures."""
    pairs = [(over(levels, ground), over(back, ground)) for ground in GROUNDS.values()]
    row = {
        "psnr": float(np.mean([psnr(a, b) for a, b in pairs])),
        "ssim": float(np.mean([ssim(a, b) for a, b in pairs])),
    }
    difference = (levels[..., 3].astype(np.float64) - back[..., 3]) / 255
    row["alpha_l1"] = float(np.abs(difference).mean())
    if networks.lpips is not None:
        row["lpips"] = float(np.mean([networks.distance(a, b) for a, b in pairs]))
    if networks.inception is not None:
        truth, answer = pairs[list(GROUNDS).index("grey")]
        if method == "the VAE":
            features.setdefault("truth", []).append(networks.features(truth))
        features.setdefault(method, []).append(networks.features(answer))
    return row


NAMES = {
    "psnr": "PSNR, dB ↑",
    "ssim": "SSIM ↑",
    "alpha_l1": "alpha, mean difference ↓",
    "lpips": "LPIPS ↓",
    "rfid": "rFID ↓",
}
STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1000px;padding:0 1rem;color-scheme:light dark}"
    "td,th{text-align:right;padding:.25rem 1rem .25rem 0}td:first-child,th:first-child{text-align:left}"
    ".row{display:flex;gap:.6rem;flex-wrap:wrap}img{max-height:220px}figure{margin:0}"
)


def lines(result: dict[str, Any]) -> list[str]:
    """The summary for people, a line a method."""
    told = []
    for method, figures in result["summary"].items():
        shown = [
            f"{NAMES[key].split(',')[0].rstrip(' ↑↓')} {value['mean']:.4f}"
            + (f" ({value['low']:.4f} to {value['high']:.4f})" if "low" in value else "")
            for key, value in figures.items()
        ]
        told.append(f"{method}: {', '.join(shown)}, {result['about']['count']} pictures")
    return told


def page(result: dict[str, Any], cards: list[str]) -> str:
    """One page that needs nothing else: the figures, then the worst pictures first."""
    about = result["about"]
    keys = [key for key in NAMES if any(key in figures for figures in result["summary"].values())]
    head = "".join(f"<th>{NAMES[key]}" for key in keys)
    body = ""
    for method, figures in result["summary"].items():
        cells = (f"<td>{figures[key]['mean']:.4f}" if key in figures else "<td>" for key in keys)
        body += f"<tr><td>{escape(method)}{''.join(cells)}"
    missing = [NAMES[key].rstrip(" ↓") for key in ("lpips", "rfid") if key not in keys]
    note = f"Not measured: {', '.join(missing)}: their networks were not given." if missing else ""
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(about['model'])}</title>"
        f"<style>{STYLE}</style><h1>{escape(about['model'])}</h1>"
        f"<p>{about['count']} pictures of {escape(about['pictures'])}, over "
        f"{', '.join(about['grounds'])}. unfuse {about['unfuse']}. {note}<table><tr><th>{head}{body}</table>"
        f"<h2>The worst first</h2>{''.join(cards)}"
    )


def card(name: str, levels: NDArray[np.uint8], back: NDArray[np.uint8], figures: dict[str, float]) -> str:
    """A picture, what came back, and four times their difference, on magenta."""
    a, b = over(levels, GROUNDS["magenta"]), over(back, GROUNDS["magenta"])
    shown = "".join(figure(x) for x in (a, b, np.abs(a - b) * 4))
    said = f"{name}: {figures['psnr']:.2f} dB, SSIM {figures['ssim']:.4f}"
    return f"<h3>{escape(said)}</h3><div class=row>{shown}</div>"


def figure(levels: Plane) -> str:
    """A small picture in the page itself."""
    image = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    image.thumbnail((THUMB, THUMB))
    file = BytesIO()
    image.save(file, "PNG")
    return f"<figure><img src='data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}' alt=''></figure>"
