"""Which files of a folder there are to take in, and what is said of them: licence, source, caption, or anything else.

What is said of a file comes from three places; what is nearer to the file counts: options for all files, a table (.csv
with a column `file`, or .json), and a sidecar `poster.json` or `poster.psd.json` beside `poster.psd`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unfuse.corpus import crello, pictures
from unfuse.corpus.intake import Source
from unfuse.errors import FormatError
from unfuse.formats import FOLDER, FORMATS
from unfuse.formats.manifest import MANIFEST

SUFFIXES = tuple(suffix for row in FORMATS if row.reads for suffix in row.suffixes)


def find(root: Path, common: dict[str, Any], table: Path | None = None) -> list[Source]:
    """All layered files below a folder, by path, each with what is said of it.

    Raises FormatError where there is no such folder, it holds none, or a sidecar or the table cannot be read.
    """
    if not root.is_dir():
        raise FormatError(f"{root}: there is no such folder; give one with {', '.join(SUFFIXES)} files in it")
    rows = read_table(table) if table else {}
    sources = []
    for path in sorted(_files(root)):
        file = path.relative_to(root).as_posix()
        sources.append(Source(file, {**common, **rows.get(file, {}), **_sidecar(path)}))
    if not sources:
        raise FormatError(f"{root} holds no layered files: give a folder with {', '.join(SUFFIXES)} files in it")
    if lost := sorted(set(rows) - {source.file for source in sources}):
        raise FormatError(f"{table} names {lost[0]!r}, which is not in {root}: name files by their path below it")
    return sources


def find_crello(root: Path, split: str) -> list[Source]:
    """All designs of a split in a local copy of Crello: in .parquet files whose names begin with the split's.

    Raises FormatError where there are none.
    """
    files = sorted(path for path in root.rglob("*.parquet") if path.name.startswith(split))
    if not files:
        raise FormatError(f"{root} holds no {split}*.parquet: give the folder of a local copy of cyberagent/crello")
    return [
        Source(path.relative_to(root).as_posix(), reader="crello", row=row)
        for path in files
        for row in range(crello.rows(path))
    ]


def find_pictures(root: Path, common: dict[str, Any], table: Path | None = None) -> list[Source]:
    """All pictures below a folder, without mattes, each with what is said of it. Raises FormatError as `find` does."""
    if not root.is_dir():
        raise FormatError(f"{root}: there is no such folder; give one with pictures in it")
    rows = read_table(table) if table else {}
    names = [(path, path.relative_to(root).as_posix()) for path in pictures.files(root)]
    return [Source(file, {**common, **rows.get(file, {}), **_sidecar(path)}, "picture") for path, file in names]


def _files(folder: Path) -> Iterator[Path]:
    """Files of the formats that have layers, and folders that are projects; hidden ones are passed over."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if (path / MANIFEST).is_file():
                assert FOLDER.reads
                yield path
            else:
                yield from _files(path)
        elif path.suffix.lower() in SUFFIXES:
            yield path


def read_table(path: Path) -> dict[str, dict[str, Any]]:
    """What a table says, by file. CSV: a column `file`, others as they are called. JSON: rows, or an object by file."""
    try:
        if path.suffix.lower() == ".json":
            data = json.loads(path.read_text("utf-8"))
            rows = [{"file": file, **row} for file, row in data.items()] if isinstance(data, dict) else data
        else:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = list(csv.DictReader(file))
        return {
            row["file"]: {k: v for k, v in row.items() if k and k != "file" and v not in ("", None)} for row in rows
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(
            f"{path} cannot be read as a table ({type(error).__name__} {error}): give a .csv with a column 'file', or "
            "a .json of rows"
        ) from error


def _sidecar(path: Path) -> dict[str, Any]:
    for place in (path.with_name(f"{path.name}.json"), path.with_suffix(".json")):
        if place != path and place.is_file():
            try:
                said = json.loads(place.read_text("utf-8"))
            except (OSError, ValueError) as error:
                raise FormatError(f"{place} cannot be read as JSON ({error}): mend it, or take it away") from error
            if not isinstance(said, dict):
                raise FormatError(f"{place} holds {type(said).__name__}: a sidecar is one JSON object")
            return said
    return {}
