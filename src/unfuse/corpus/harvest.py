"""From an unpacked package to parts: one function for each kind of package, in the table `HARVESTS`.

Each takes the package's folder (and, for fonts, what to take) and yields `Found` parts in a stable order. Images are
8-bit sRGB; objects and scenes have straight alpha. A `family` groups parts that look alike, so that the split between
training and validation never cuts through it.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import io
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unfuse.corpus import vector
from unfuse.corpus.vector import DrawingError
from unfuse.errors import require

OBJECT, SCENE, PHOTO, MATCAP = 256, 320, 512, 128  # long sides in pixels
CLIPART = (
    *("animals", "buildings", "containers", "decorations", "education", "electronics", "food", "office", "people"),
    *("plants", "recreation", "science", "tools", "transportation", "unsorted"),
)
LEFT_OUT = (
    re.compile(  # likenesses of people, weapons, emblems of hate, and the card decks, which drown the other scenes
        "portrait|luther|einstein|bach_|beethove|handel_|kempson|lovely_baby|beckham|stripper|sexy|sunwheel|gallows"
        "|/weapons/|/cards/"
    )
)
SILHOUETTES = 0.15  # at most this share of drawings has one colour only
CHARACTERS = 150  # drawn per style of parametric characters
VIEWS = 4  # perspective crops per panorama


@dataclass(frozen=True)
class Found:
    """One part: a path in the pack, its bytes, and what `pack.json` says of it."""

    file: str
    data: bytes
    kind: str
    category: str
    family: str
    size: tuple[int, int] | None = None
    license: str = ""  # where it differs from the package's
    attribution: str = ""


Harvest = Callable[[Path, tuple[str, ...], str], Iterator[Found]]


def emoji(home: Path, files: tuple[str, ...], characters: str) -> Iterator[Found]:
    """Fluent emoji in 3D, without skin tones and country flags; one family for all genders of one emoji."""
    for path in sorted((home / "assets").glob("*.webp")):
        points = path.stem.split("-")
        if any(re.fullmatch("1f3f[b-f]|1f1e[6-9a-f]|1f1f[0-9a-f]|e00..", point) for point in points):
            continue
        plain = [p for p in points if p not in {"200d", "fe0f", "2640", "2642", "1f468", "1f469", "1f9d1"}]
        image = Image.open(path).convert("RGBA")
        found = _object(
            image.crop(vector.content(image)), "fluent-emoji-3d", path.stem, "emoji", "-".join(plain or points)
        )
        if usable(image):
            yield found


def icons(home: Path, files: tuple[str, ...], characters: str) -> Iterator[Found]:
    """An Iconify set, drawn small: badges and stickers."""
    table = json.loads((home / "icons.json").read_text("utf-8"))
    side = table.get("height", 16)
    for name, icon in sorted(table["icons"].items()):
        markup = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}">{icon["body"]}</svg>'
        image = vector.drawing(vector.parse(markup), OBJECT // 2)
        if usable(image):
            yield _object(image, table["prefix"], name, "icon", _stem(name))


def characters(home: Path, files: tuple[str, ...], characters: str) -> Iterator[Found]:
    """A DiceBear style: characters put together out of drawn parts, one for each of `CHARACTERS` seeds."""
    style = home.name
    script = (
        f"import {{createAvatar}} from '@dicebear/core'; import * as style from '@dicebear/{style}';"
        f"console.log(JSON.stringify([...Array({CHARACTERS}).keys()].map("
        "seed => createAvatar(style, {seed: String(seed)}).toString())))"
    )
    command = ["node", "--input-type=module", "--eval", script]
    run = subprocess.run(command, cwd=home, capture_output=True, text=True, check=True)
    for seed, markup in enumerate(json.loads(run.stdout)):
        image = vector.drawing(vector.parse(markup), OBJECT)
        yield _object(image, style, f"{seed:03}", "people", f"{style}-{seed}")


def clipart(home: Path, files: tuple[str, ...], characters: str) -> Iterator[Found]:
    """Open Clip Art: each drawing once, as an object and, where its top groups make it up, as a scene."""
    seen: set[bytes] = set()
    silhouettes = kept = 0
    root = home / "usr/share/openclipart/svg"
    for path in sorted(path for category in CLIPART for path in (root / category).rglob("*.svg")):
        if LEFT_OUT.search(path.as_posix()):
            continue
        try:
            tree = vector.parse(path)
            image = vector.drawing(tree, OBJECT)
        except DrawingError:
            continue
        look = image.resize((16, 16), Image.Resampling.BOX).point(lambda level: level // 16).tobytes()
        if look in seen:
            continue
        seen.add(look)
        category = path.relative_to(root).parts[0]
        name = f"{category}-{_slug(path.stem)}-{hashlib.sha256(path.read_bytes()).hexdigest()[:4]}"
        plain = one_colour(image)
        if usable(image) and not (plain and silhouettes >= SILHOUETTES * (kept + 1)):
            silhouettes, kept = silhouettes + plain, kept + 1
            yield _object(image, "openclipart", name, category, _stem(path.stem))
        yield from _scene(tree, name, category, _stem(path.stem))


def _scene(tree: Element, name: str, category: str, family: str) -> Iterator[Found]:
    try:
        layers = vector.scene(tree, SCENE)
    except DrawingError:
        return
    if not usable(vector.flatten(layers), most=1.0):
        return
    for index, layer in enumerate(layers):
        yield Found(f"scenes/{name}/{index:02}.webp", _webp(layer), "scene", category, family, layer.size)


def photos(home: Path, files: tuple[str, ...], characters: str) -> Iterator[Found]:
    """Landscapes of Endless Sky that are public domain or CC-BY by the package's machine-readable copyright file."""
    rules = _copyright((home / "usr/share/doc/endless-sky-data/copyright").read_text("utf-8"))
    root = home / "usr/share/games/endless-sky"
    for path in sorted(p for folder in ("land", "scene") for p in (root / "images" / folder).iterdir()):
        where = path.relative_to(root).as_posix()
        license, holder = next(rule[1:] for rule in reversed(rules) if fnmatch.fnmatchcase(where, rule[0]))
        if license not in ("public-domain", "CC-BY-4.0"):
            continue
        yield _photo(
            Image.open(path), f"{path.parent.name}-{_slug(path.stem)}", path.parent.name, path.stem, license, holder
        )


def _copyright(text: str) -> list[tuple[str, str, str]]:
    """(file pattern, licence, holder) for every `Files` stanza of a DEP-5 file; the last that matches counts."""
    rules = []
    for stanza in re.split(r"\n\s*\n", text):
        if files := re.match(r"Files:(.*?)\n(?=\S)", stanza, re.S):
            license, holder = (re.findall(rf"^{key}:\s*(.+)", stanza, re.M)[0] for key in ("License", "Copyright"))
            rules += [(pattern, license.split()[0], holder.strip()) for pattern in files[1].split()]
    return rules


def materials(home: Path, files: tuple[str, ...], characters: str) -> Iterator[Found]:
    """Assets of pmndrs: matcaps, and perspective views into the HDR panoramas."""
    for path in sorted((home / "matcaps").glob("*.js")):
        image = Image.open(io.BytesIO(_embedded(path))).convert("RGB").resize((MATCAP, MATCAP), Image.Resampling.BOX)
        name = path.name.split(".")[0]
        yield Found(f"matcaps/{name}.webp", _webp(image, 92), "matcap", "matcap", f"matcap-{name}", image.size)
    for path in sorted((home / "hdri").glob("*.js")):
        name = path.name.split(".")[0]
        for index, view in enumerate(_views(_embedded(path))):
            yield _photo(view, f"view-{name}-{index}", "panorama", f"panorama-{name}")


def _embedded(path: Path) -> bytes:
    data = re.search(r"base64,([A-Za-z0-9+/=]+)", path.read_text("ascii"))
    assert data, path
    return base64.b64decode(data[1])


def _views(exr: bytes) -> Iterator[Image.Image]:
    """Rectilinear views, 100 degrees wide, all around an equirectangular EXR."""
    cv2 = require("cv2", "corpus", "panoramas")
    openexr = require("OpenEXR", "corpus", "panoramas")
    srgb = _exposed(np.asarray(openexr.File(io.BytesIO(exr)).channels()["RGB"].pixels, np.float32))
    h, w, _ = srgb.shape
    reach = np.tan(np.radians(50))
    x, y = np.meshgrid(np.linspace(-reach, reach, 320), np.linspace(0.75 * reach, -0.75 * reach, 240))
    for turn in range(VIEWS):
        yaw = np.arctan(x) + 2 * np.pi * turn / VIEWS
        pitch = np.arctan(y * np.cos(np.arctan(x)))
        column, row = (yaw / (2 * np.pi) * w) % w, (0.5 - pitch / np.pi) * h
        places = column.astype(np.float32), row.astype(np.float32)
        view = cv2.remap(srgb, *places, cv2.INTER_CUBIC, borderMode=cv2.BORDER_WRAP)
        yield Image.fromarray(np.clip(view + 0.5, 0, 255).astype(np.uint8))


def _exposed(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Linear light `h w 3` as sRGB 0..255, exposed to its 90th percentile.

    The panoramas were shrunk with a sharpening filter, which left dark, even negative rings around lamps: what is far
    below zero takes the brightest value around it.
    """
    cv2 = require("cv2", "corpus", "panoramas")
    light = light * (0.8 / np.percentile(light, 90))
    rings = (light.min(-1, keepdims=True) < -0.02) & (cv2.dilate(light, np.ones((5, 5))).max(-1, keepdims=True) > 1)
    light = np.clip(np.where(rings, cv2.dilate(light, np.ones((3, 3))), light), 0, 1)
    return 255 * np.where(light < 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def fonts(home: Path, files: tuple[str, ...], characters: str) -> Iterator[Found]:
    """Fontsource: the named files as they are or, with `characters`, the slices that hold them put together."""
    family = home.name
    if not characters:
        for file in files:
            yield Found(f"fonts/{file}", (home / "files" / file).read_bytes(), "font", "latin", family)
        return
    for weight in files:
        data = _joined(home, family, weight, characters)
        yield Found(f"fonts/{family}-{weight}.woff2", data, "cjk-font", "chinese", family)


def _joined(home: Path, family: str, weight: str, characters: str) -> bytes:
    """One font with the wanted characters out of the slices that hold them."""
    merge = require("fontTools.merge", "corpus", "putting font slices together")
    subset = require("fontTools.subset", "corpus", "putting font slices together")
    wanted = {ord(character) for character in characters}
    paths = [
        str(home / "files" / f"{family}-{key.strip('[]')}-{weight}-normal.woff2")
        for key, ranges in json.loads((home / "unicode.json").read_text()).items()
        if key.startswith("[") and wanted & _points(ranges)
    ]
    font = merge.Merger(merge.Options(drop_tables=["vmtx", "vhea", "GSUB", "GPOS", "GDEF", "BASE"])).merge(paths)
    subsetter = subset.Subsetter()
    subsetter.populate(unicodes=wanted)
    subsetter.subset(font)
    font.flavor = "woff2"
    buffer = io.BytesIO()
    font.save(buffer)
    return buffer.getvalue()


def _points(ranges: str) -> set[int]:
    """The code points of a CSS unicode-range."""
    points: set[int] = set()
    for item in ranges.split(","):
        first, _, last = item.strip().removeprefix("U+").partition("-")
        points |= set(range(int(first, 16), int(last or first, 16) + 1))
    return points


def usable(image: Image.Image, most: float = 0.96) -> bool:
    """Whether a cropped drawing makes an object: not empty or faint, no stripe, not covered by more than `most`."""
    alpha = np.asarray(image)[..., 3] / 255
    width, height = image.size
    return bool(0.1 < alpha.mean() <= most and alpha.max() > 0.8) and max(width, height) <= 5 * min(width, height)


def one_colour(image: Image.Image) -> bool:
    """Whether what is opaque has one colour only."""
    pixels = np.asarray(image, np.float32)
    solid = pixels[pixels[..., 3] > 200][:, :3]
    return len(solid) == 0 or bool(solid.std(0).max() < 12)


def _object(image: Image.Image, source: str, name: str, category: str, family: str) -> Found:
    image = _within(image, OBJECT)
    return Found(f"objects/{source}/{name}.webp", _webp(image), "object", category, family, image.size)


def _photo(image: Image.Image, name: str, category: str, family: str, license: str = "", holder: str = "") -> Found:
    image = _within(image.convert("RGB"), PHOTO)
    return Found(f"photos/{name}.webp", _webp(image, 88), "photo", category, family, image.size, license, holder)


def _within(image: Image.Image, side: int) -> Image.Image:
    """Shrink to a long side of at most `side`; Pillow resizes RGBA premultiplied."""
    scale = min(1.0, side / max(image.size))
    if scale == 1:
        return image
    return image.resize((round(image.width * scale) or 1, round(image.height * scale) or 1), Image.Resampling.LANCZOS)


def _webp(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, alpha_quality=100, method=4, use_sharp_yuv=True)
    return buffer.getvalue()


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _stem(name: str) -> str:
    """The name without numbers and variants: `lemon_simple_bw_02` and `lemon` are one family."""
    words = [word for word in _slug(name).split("-") if not re.fullmatch(r"\d+|bw|simple|v\d|[a-z]", word)]
    return words[0] if words else name


HARVESTS: dict[str, Harvest] = {
    "emoji": emoji,
    "icons": icons,
    "characters": characters,
    "clipart": clipart,
    "photos": photos,
    "materials": materials,
    "fonts": fonts,
}
