"""One file in, one record out, or the reason why not: what every worker runs, whatever machine it stands on."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from unfuse import formats, pixels
from unfuse.composite import flatten
from unfuse.corpus import captions, crello, pictures, rules
from unfuse.corpus.plain import plain
from unfuse.corpus.records import Record, pack
from unfuse.corpus.rules import Dropped, Left, RuleParams
from unfuse.corpus.shrink import shrink, shrunk_size
from unfuse.corpus.stored import difference, stored
from unfuse.errors import UnfuseError
from unfuse.layers import Layer, LayerStack

VERSION = 1  # of what these modules make of a file: another number makes every file anew
THUMBNAIL = 128  # pixels of the longer side
LEFT_SHOWN = 4  # layers that were left out, of a file, of which a thumbnail is kept

Rgba = NDArray[np.uint8]  # h w 4, straight
_captioner = lru_cache(maxsize=1)(captions.captioner)


@dataclass(frozen=True)
class IntakeParams:
    """How files become records."""

    rules: RuleParams = field(default_factory=RuleParams)
    captioner: str = captions.OFFLINE
    limit_megapixels: float = 200

    def as_json(self) -> dict[str, Any]:
        """What a corpus says of how it was made."""
        about = asdict(self)
        about["rules"] |= {"rules": sorted(self.rules.rules)}
        return {"version": VERSION, **about}


@dataclass(frozen=True)
class Source:
    """A file to take in: its path below the folder that was given, and what its sidecars say of it.

    reader: a name in `READERS`. row: of a file that holds many designs, which of them.
    """

    file: str
    about: dict[str, Any] = field(default_factory=dict)
    reader: str = "layers"
    row: int | None = None

    @property
    def name(self) -> str:
        """What rows and records call it."""
        return self.file if self.row is None else f"{self.file}#{self.row}"


@dataclass
class Row:
    """What became of a file. status: kept, dropped or error; why: the rule that dropped it, or what was wrong.

    before, after: layers. counts: how often a rule did something. error: levels by which the layers differ from the
    stored picture. look: its perceptual hash. picture, left: thumbnails as base64 WebP; of layers that were left out
    with the rule and the layer's name.
    """

    file: str
    key: str
    status: str = "kept"
    why: str = ""
    before: int = 0
    after: int = 0
    size: tuple[int, int] = (0, 0)
    counts: dict[str, int] = field(default_factory=dict)
    error: float | None = None
    look: str = ""
    bytes: int = 0
    notes: list[str] = field(default_factory=list)
    picture: str = ""
    left: list[tuple[str, str, str]] = field(default_factory=list)


def key_of(path: Path, source: Source, params: IntakeParams) -> str:
    """Sixteen hexadecimal digits out of the file's name and content, what is said of it, and how it is taken in."""
    digest = hashlib.sha256(json.dumps([params.as_json(), asdict(source)], sort_keys=True).encode())
    for part in sorted(x for x in path.rglob("*") if x.is_file()) if path.is_dir() else [path]:
        digest.update(_content(part, part.stat().st_mtime_ns))
    return digest.hexdigest()[:16]


@lru_cache(maxsize=4)  # a file with many designs is asked for once for each
def _content(path: Path, changed: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def take(path: Path, source: Source, key: str, params: IntakeParams) -> tuple[Row, bytes]:
    """What becomes of a file, and the bytes of its record, empty where there is none. It never raises."""
    row = Row(source.name, key)
    try:
        record = _record(path, source, params, row)
    except Dropped as dropped:
        row.status, row.why = "dropped", str(dropped)
    except UnfuseError as error:
        row.status, row.why = "error", str(error).replace(str(path), source.file)
    except MemoryError:
        row.status, row.why = "error", f"{source.name} does not fit into memory: give fewer workers, or leave it out"
    except Exception as error:  # a mistake of ours in one file must not cost the others
        row.status, row.why = "error", f"a mistake in unfuse, please report it: {type(error).__name__} {error}"
    else:
        data = pack(record)
        row.bytes = len(data)
        return row, data
    return row, b""


def _record(path: Path, source: Source, params: IntakeParams, row: Row) -> Record:
    chosen = params.rules
    stack, told = READERS[source.reader](path, source.row, params.limit_megapixels)
    row.size, row.notes = stack.size, list(stack.notes[:20])
    row.before = sum(not layer.layers for layer in stack.walk())
    if min(stack.size) < chosen.short:
        raise Dropped("small")
    if "blend" not in chosen.rules and any(layer.blend_mode != "normal" for layer in stack.walk()):
        raise Dropped("blend")
    layers, counts = plain(stack, chosen.rules)
    row.counts = dict(counts)
    small = shrunk_size(stack.size, chosen.side)
    flat = _flat(layers, stack.size)
    row.picture = thumbnail(flat)
    if "effects" in chosen.rules:
        _compare(flat, path, params, row)
    layers = [layer for layer in (shrink(x, stack.size, small) for x in layers) if not layer.is_empty]
    layers, left = rules.clean(layers, small, chosen.rules)
    row.counts = dict(Counter(row.counts) + Counter(rule for rule, _ in left))
    row.left = [(rule, layer.name, _shown(layer, small)) for rule, layer in _some(left)]
    row.after = len(layers)
    if len(layers) < chosen.least:
        raise Dropped("few")
    picture = _flat(layers, small)
    caption = source.about.get("caption") or told.pop("caption", "") or _captioner(params.captioner)(picture, layers)
    if "merge" in chosen.rules:
        layers, merges = rules.merge(layers, chosen.most)
        row.counts |= {"merge": merges} if merges else {}
    if len(layers) > chosen.most:
        raise Dropped("many")
    row.after, row.size, row.look, row.picture = len(layers), small, look(picture), thumbnail(picture)
    about = {"file": source.name, **told, **source.about, "notes": row.notes}
    return Record(row.key, picture, tuple(layers), str(caption), about)


def _layered(path: Path, row: int | None, limit_megapixels: float) -> tuple[LayerStack, dict[str, Any]]:
    return formats.read(path, limit_megapixels=limit_megapixels), {}


# Each gives a stack, and what the file itself says of it.
READERS: dict[str, Callable[[Path, int | None, float], tuple[LayerStack, dict[str, Any]]]] = {
    "layers": _layered,
    "crello": crello.read,
    "picture": pictures.read,
}


def _flat(layers: Sequence[Layer], size: tuple[int, int]) -> Rgba:
    return flatten(LayerStack(size, tuple(layers))).astype(np.uint8, copy=False)


def _compare(flat: Rgba, path: Path, params: IntakeParams, row: Row) -> None:
    picture = stored(path, int(params.limit_megapixels * 1e6))
    if picture is not None:
        row.error = round(difference(flat, picture), 3)
        if row.error > params.rules.error:
            raise Dropped("effects")


def _some(left: list[Left]) -> list[Left]:
    """Layers to show, a few of each rule."""
    return [each for i, each in enumerate(left) if sum(other.rule == each.rule for other in left[:i]) < LEFT_SHOWN]


def _shown(layer: Layer, size: tuple[int, int]) -> str:
    return thumbnail(np.asarray(layer.to_canvas(size), np.uint8))


def thumbnail(levels: Rgba) -> str:
    """A small picture as base64 WebP."""
    image = pixels.to_image(levels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    file = BytesIO()
    image.save(file, "WEBP", quality=75)
    return base64.b64encode(file.getvalue()).decode()


def look(levels: Rgba) -> str:
    """A perceptual hash of a picture over white, 128 bits as hexadecimal digits (dHash, across and down).

    Each bit says whether one of 9 x 8 means is brighter than its neighbour, by more than a level.
    """
    import cv2

    x = levels.astype(np.float32)
    alpha = x[..., 3:] / 255
    grey = (x[..., :3] * alpha + 255 * (1 - alpha)) @ np.array([0.299, 0.587, 0.114], np.float32)
    across, down = (cv2.resize(grey, size, interpolation=cv2.INTER_AREA) for size in ((9, 8), (8, 9)))
    steps = np.stack([np.diff(across, axis=1), np.diff(down, axis=0)]) > 1
    return np.packbits(rearrange(steps, "way h w -> (way h w)")).tobytes().hex()
