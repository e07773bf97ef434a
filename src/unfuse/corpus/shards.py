"""Writing shards: records one after the other into tars of about one size, each under a name that says what is in it.

A shard's name ends in a digest of the keys in it. So a shard that is there is finished, whoever wrote it, and going on
after a kill writes only those that are missing. The index is replaced last; shards that it no longer names go then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unfuse.corpus.records import END, FORMAT, INDEX, Record, pack
from unfuse.saving import replacing

FOLDER = "shards"
SHARD_BYTES = 256 << 20


@dataclass(frozen=True)
class Item:
    """A record that waits to be written: its key, how many bytes it takes, its canvas, its number of layers."""

    key: str
    bytes: int
    size: tuple[int, int]
    layers: int


def write_records(root: Path, records: Sequence[Record], shard_bytes: int = SHARD_BYTES) -> dict[str, Any]:
    """A corpus of a few records that are at hand; see `write`."""
    packed = {record.key: pack(record) for record in records}
    items = [Item(x.key, len(packed[x.key]), x.size, len(x.layers)) for x in records]
    return write(root, items, packed.__getitem__, {}, shard_bytes)


def write(
    root: Path,
    items: Sequence[Item],
    data: Callable[[str], bytes],
    about: dict[str, Any],
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Shards of the items in their order, and the index, which is returned. `data` gives the bytes of a key.

    The same items give the same files, byte for byte, whatever lay in `root` before.
    """
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    shards = [_shard(root, number, group, data) for number, group in enumerate(_groups(items, shard_bytes))]
    index = {"format": FORMAT, "records": len(items), **about, "shards": shards}
    with replacing(root / INDEX) as file:
        file.write((json.dumps(index, indent=1, ensure_ascii=False) + "\n").encode())
    kept = {shard[name] for shard in shards for name in ("file", "rows")}
    for path in (root / FOLDER).glob("records-*"):
        if f"{FOLDER}/{path.name}" not in kept:
            path.unlink()
    return index


def _groups(items: Sequence[Item], most: int) -> Iterator[list[Item]]:
    group: list[Item] = []
    size = 0
    for item in items:
        if group and size + item.bytes > most:
            yield group
            group, size = [], 0
        group.append(item)
        size += item.bytes
    if group:
        yield group


def _shard(root: Path, number: int, items: list[Item], data: Callable[[str], bytes]) -> dict[str, Any]:
    """The index's entry of a shard, which is written if it is not there."""
    digest = hashlib.sha256("\n".join(item.key for item in items).encode()).hexdigest()[:8]
    name = f"{FOLDER}/records-{number:05}-{digest}"
    tar, table = root / f"{name}.tar", root / f"{name}.json"
    if not tar.is_file() or not table.is_file():
        with replacing(tar) as file:
            for item in items:
                file.write(data(item.key))
            file.write(END)
        with replacing(table) as file:
            file.write(json.dumps(_table(items)).encode())
    with tar.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "file": f"{name}.tar",
        "rows": f"{name}.json",
        "records": len(items),
        "bytes": tar.stat().st_size,
        "sha256": sha256,
    }


def _table(items: list[Item]) -> list[dict[str, Any]]:
    rows, at = [], 0
    for item in items:
        rows.append({"key": item.key, "at": at, "bytes": item.bytes, "size": item.size, "layers": item.layers})
        at += item.bytes
    return rows
