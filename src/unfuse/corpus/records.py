"""Records: designs with their true layers, packed into shards that training streams.

    OUT/index.json                          the shards in order, with counts and sha256, and how they were made
    OUT/shards/records-00000-1f0c2a7d.tar   a plain tar, as WebDataset reads it: the members of a record share a key
    OUT/shards/records-00000-1f0c2a7d.json  a row a record: key, place in the tar, canvas, number of layers

    <key>.json           caption, size, file, license, source, and of each layer name, kind and box, bottom to top
    <key>.picture.webp   the flat picture: the layers put together
    <key>.00.webp ...    the layers bottom to top, cropped to their box, straight alpha, lossless (.png: over 16383 px)

Layers are plain: flattened by source-over in 8 bit (`C_i = a_i RGB_i + (1 - a_i) C_{i-1}`, Qwen-Image-Layered eq. 1)
they give the picture. A record is a run of whole tar members, so a shard is its records one after the other and any of
them can be read by its place alone.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from unfuse import pixels
from unfuse.errors import FormatError
from unfuse.layers import Box, Layer, LayerStack

INDEX = "index.json"
FORMAT = 1
WEBP_SIDE = 16383  # pixels; the format has no more
LOSSLESS = {"lossless": True, "exact": True, "quality": 0, "method": 0}  # smaller than PNG, and faster both ways
HELD_OUT = 20  # one record in so many is held out for validation
RATIOS = (0.5, 0.5625, 0.6667, 0.75, 0.8, 1.0, 1.25, 1.3333, 1.5, 1.7778, 2.0)  # width to height of batches
MULTIPLE = 16  # pixels; sides of batches are multiples of it
SPLITS = ("train", "valid", "all")
Rgba = NDArray[np.uint8]  # h w 4, straight


@dataclass(frozen=True, eq=False)
class Record:
    """One design. picture: `h w 4` uint8, straight alpha; layers bottom to top, opacity 1, no groups, no blend modes.

    `about` says what else is known: file, license, source, and whatever its sidecar said.
    """

    key: str
    picture: Rgba
    layers: tuple[Layer, ...]
    caption: str = ""
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.picture.shape[1], self.picture.shape[0]

    @property
    def stack(self) -> LayerStack:
        """The layers as a stack, to flatten, save or edit."""
        return LayerStack(self.size, self.layers)

    def canvas(self) -> Rgba:
        """All layers on the full canvas: `l h w 4` uint8, straight alpha, bottom to top."""
        return np.stack([layer.to_canvas(self.size).astype(np.uint8, copy=False) for layer in self.layers])


@dataclass(frozen=True)
class Row:
    """Where a record lies, and what can be known of it without decoding."""

    shard: int
    at: int
    bytes: int
    key: str
    size: tuple[int, int]
    layers: int


# --- writing ---------------------------------------------------------------------------------------------------------


def pack(record: Record) -> bytes:
    """A record as tar members, without the tar's end; the same record gives the same bytes."""
    rows = [{"name": x.name, "kind": x.kind, "box": x.box} for x in record.layers]
    about = {**record.about, "caption": record.caption, "size": record.size, "layers": rows}
    members = [("json", json.dumps(about, ensure_ascii=False, sort_keys=True).encode())]
    members.append(_encoded("picture", record.picture))
    members += [_encoded(f"{i:02}", _levels(layer)) for i, layer in enumerate(record.layers)]
    out = io.BytesIO()
    for suffix, data in members:
        info = tarfile.TarInfo(f"{record.key}.{suffix}")
        info.size, info.mode = len(data), 0o644
        out.write(info.tobuf(tarfile.USTAR_FORMAT))
        out.write(data + bytes(-len(data) % tarfile.BLOCKSIZE))
    return out.getvalue()


END = bytes(2 * tarfile.BLOCKSIZE)  # of a tar


def _levels(layer: Layer) -> Rgba:
    assert layer.pixels is not None
    assert layer.pixels.dtype == np.uint8
    assert (layer.opacity, layer.blend_mode, layer.visible) == (1, "normal", True)
    return layer.pixels.astype(np.uint8, copy=False)


def _encoded(name: str, levels: Rgba) -> tuple[str, bytes]:
    large = max(levels.shape[:2]) > WEBP_SIDE
    file = io.BytesIO()
    image = pixels.to_image(levels)
    if large:
        image.save(file, "PNG", compress_level=4)
    else:
        image.save(file, "WEBP", **LOSSLESS)
    return f"{name}.{'png' if large else 'webp'}", file.getvalue()


# --- reading ---------------------------------------------------------------------------------------------------------


def unpack(data: bytes) -> Record:
    """A record out of its tar members. Raises FormatError where they are not one."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data + END)) as tar:
            members = {name.name: _member(tar, name) for name in tar}
        key = next(iter(members)).partition(".")[0]
        about = json.loads(members.pop(f"{key}.json"))
        images = {name.split(".")[1]: _decoded(image) for name, image in members.items()}
        rows, size = about.pop("layers"), about.pop("size")
        layers = tuple(
            Layer(row["name"], row["kind"], Box(*row["box"]), images[f"{i:02}"]) for i, row in enumerate(rows)
        )
    except (tarfile.TarError, StopIteration, KeyError, TypeError, ValueError, OSError) as error:
        raise FormatError(f"a record is broken ({type(error).__name__} {error}): build its corpus again") from error
    assert images["picture"].shape[1::-1] == tuple(size)
    return Record(key, images["picture"], layers, about.pop("caption"), about)


def _member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(info)
    return b"" if file is None else file.read()


def _decoded(data: bytes) -> Rgba:
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=("WEBP", "PNG")) as image:
        return np.asarray(image.convert("RGBA"))


def held_out(keys: Sequence[str]) -> set[str]:
    """The keys of the split `valid`: one in twenty, by the key alone, so that none changes sides when a corpus grows.

    Where chance would hold none out of several, the lowest is.
    """
    held = {key for key in keys if int(key[:8], 16) % HELD_OUT == 0}
    return held or set(sorted(keys)[: len(keys) > 1])


class Records:
    """The records of a corpus: by number, or as a stream in an order that a seed fixes."""

    def __init__(self, root: Path, shards: list[dict[str, Any]], rows: list[Row], index: dict[str, Any]) -> None:
        """Use `Records.open`."""
        self.root, self.shards, self.rows, self.index = root, shards, rows, index

    @staticmethod
    def open(path: str | Path, split: str = "all") -> Records:
        """The records in a folder that `unfuse corpus` made; `split` is all, train, or valid (see `held_out`).

        Raises FormatError where there is no such folder, or no record in that split.
        """
        root = Path(path)
        if split not in SPLITS:
            raise FormatError(f"split {split!r} is unknown: say one of {', '.join(SPLITS)}")
        try:
            index = json.loads((root / INDEX).read_text("utf-8"))
            shards = index["shards"]
            tables = [json.loads((root / shard["rows"]).read_text("utf-8")) for shard in shards]
        except (OSError, ValueError, KeyError) as error:
            raise FormatError(
                f"{root} is not a corpus ({type(error).__name__} {error}): make one with 'unfuse corpus psd DIR -o OUT'"
            ) from error
        rows = [
            Row(number, row["at"], row["bytes"], row["key"], (row["size"][0], row["size"][1]), row["layers"])
            for number, table in enumerate(tables)
            for row in table
        ]
        held = held_out([row.key for row in rows])
        chosen = [row for row in rows if split == "all" or (row.key in held) == (split == "valid")]
        if not chosen:
            raise FormatError(f"{root} has {len(rows)} records and none in the split {split!r}: add files, or take all")
        return Records(root, shards, chosen, index)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Record]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Record:
        """The record of a number, in the corpus' own order; only its own bytes are read."""
        return unpack(self.data(number))

    def data(self, number: int) -> bytes:
        """The bytes of a record, which `unpack` reads."""
        row = self.rows[number]
        with self.file(number).open("rb") as file:
            file.seek(row.at)
            data: bytes = file.read(row.bytes)
        return data

    def file(self, number: int) -> Path:
        """The shard that a record lies in."""
        return self.root / str(self.shards[self.rows[number].shard]["file"])

    def order(self, seed: int, epoch: int = 0) -> NDArray[np.int64]:
        """Numbers of all records: shards shuffled, then the records in each, so that reading stays local."""
        rng = np.random.default_rng([seed, epoch])
        shards = np.array([row.shard for row in self.rows])
        place = rng.permutation(len(self.shards))[shards]
        return np.lexsort((rng.random(len(self.rows)), place))

    def stream(self, seed: int = 0, epoch: int = 0, part: int = 0, parts: int = 1) -> Iterator[Record]:
        """One of `parts` equal parts of an epoch: of a rank, or of a worker of a rank (rank * workers + worker).

        Parts are runs of `order`, so a part opens only the shards that it needs; no record is in two, none is left out.
        """
        if not 0 <= part < parts:
            raise FormatError(f"part {part} of {parts} does not exist: it must be from 0 to {parts - 1}")
        order = self.order(seed, epoch)
        first, last = part * len(order) // parts, (part + 1) * len(order) // parts
        return (self[int(number)] for number in order[first:last])


# --- batches ---------------------------------------------------------------------------------------------------------


def batch(
    root: str | Path, split: str, seed: int, step: int, count: int, side: int, most: int = 20
) -> dict[str, NDArray[np.uint8]]:
    """The batch of one step, the same for the same arguments: of designs with at most `most` layers, of one shape.

    picture `b h w 3` and slots `b l h w 4` (bottom to top, straight alpha, l the most layers that one of them has; a
    design with fewer ends in empty ones) and counts `b`, all uint8. h * w is about side * side. Flattened slots give
    the picture: what shows through at the bottom is laid over white.
    """
    chosen = sample(root, split, seed, step, count, most)
    ratio = _ratio(chosen[0].size)
    width, height = (max(1, round(side * f / MULTIPLE)) * MULTIPLE for f in (ratio**0.5, ratio**-0.5))
    fitted = [on_white(resized(record, (width, height))) for record in chosen]
    slots = np.zeros((count, max(map(len, fitted)), height, width, 4), np.uint8)
    for i, layers in enumerate(fitted):
        slots[i, : len(layers)] = pixels.quantise(layers, 8)
    flat = np.stack([flattened(pixels.to_float(x)) for x in slots])
    counts = np.array([len(layers) for layers in fitted], np.uint8)
    return {"picture": pixels.quantise(flat, 8), "slots": slots, "counts": counts}


def sample(root: str | Path, split: str, seed: int, step: int, count: int, most: int = 20) -> list[Record]:
    """The records of one step, alike in shape: one is drawn, the others among those whose sides have its ratio.

    Raises FormatError where no record has at most `most` layers.
    """
    records, shapes, layers = opened(root, split)
    rng = np.random.default_rng([seed, step])
    usable = np.flatnonzero(layers <= most)
    if not len(usable):
        raise FormatError(f"{root}: every record has more than {most} layers: build it with --max-layers {most}")
    first = int(rng.choice(usable))
    alike = usable[shapes[usable] == shapes[first]]
    return [records[first], *(records[int(i)] for i in rng.choice(alike, count - 1))]


@lru_cache(maxsize=4)
def opened(root: str | Path, split: str) -> tuple[Records, NDArray[np.float64], NDArray[np.int64]]:
    """Records with the ratio and the number of layers of each, read once in each process."""
    records = Records.open(root, split)
    ratios = np.array([_ratio(row.size) for row in records.rows])
    return records, ratios, np.array([row.layers for row in records.rows])


def _ratio(size: tuple[int, int]) -> float:
    return min(RATIOS, key=lambda ratio: abs(np.log(size[0] / size[1] / ratio)))


def resized(record: Record, size: tuple[int, int]) -> NDArray[np.float32]:
    """All layers on a canvas of another (width, height): `l h w 4` float32, straight alpha."""
    canvases = (layer.to_canvas(record.size) for layer in record.layers)
    return np.stack([pixels.resize(pixels.to_float(canvas), size) for canvas in canvases])


def on_white(layers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Layers `l h w 4` with the lowest one over white where something shows through all of them, so that nothing does.

    Where the layers together are opaque they stay as they are.
    """
    clear = np.prod(1 - layers[..., 3], axis=0)
    if clear.max() < 0.5 / 255:
        return layers
    bottom = layers[0].copy()
    bottom[..., :3] = bottom[..., :3] * bottom[..., 3:] + (1 - bottom[..., 3:])
    bottom[..., 3] = 1
    return np.concatenate([bottom[None], layers[1:]])


def flattened(layers: NDArray[np.float32]) -> NDArray[np.float32]:
    """`l h w 4` bottom to top to `h w 3`, over black."""
    out = np.zeros((*layers.shape[1:3], 3), np.float32)
    for layer in layers:
        alpha = rearrange(layer[..., 3], "h w -> h w 1")
        out = layer[..., :3] * alpha + out * (1 - alpha)
    return out
