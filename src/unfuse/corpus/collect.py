"""From a folder of layered files to a corpus: every file through `intake`, in processes here or on a Ray cluster.

    OUT/done/ab/<key>.json, .rec   what became of each file, written when it is done: a run that was stopped, or killed,
                                   goes on from these; a record's bytes go from here into a shard
    OUT/shards, OUT/index.json     the corpus, see `records`
    OUT/files.jsonl                a row a file, by path
    OUT/report.html                what happened, with pictures

What lies in OUT in the end depends on the files and the parameters alone, not on how often it was begun.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unfuse.corpus import quality, records, shards
from unfuse.corpus.intake import IntakeParams, Row, Source, key_of, take
from unfuse.errors import FormatError, require
from unfuse.saving import replacing

DONE, FILES, REPORT = "done", "files.jsonl", "report.html"
DISTANCE = 4  # bits of 128 in which looks may differ that count as the same
HEAVY = ("picture", "left")  # fields of a row that stay on disk until the report wants them
OnRow = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Job:
    """What a worker has to know, beside the file."""

    root: Path
    out: Path
    params: IntakeParams

    def __call__(self, source: Source) -> dict[str, Any]:
        """The row of a file, without its pictures; taken in unless that was done before."""
        path = self.root / source.file
        try:
            key = key_of(path, source, self.params)
        except OSError as error:
            return _light(Row(source.name, "", "error", f"{source.name} cannot be read ({error.strerror or error})"))
        told = place(self.out, key, "json")
        if told.is_file():
            done: dict[str, Any] = json.loads(told.read_text("utf-8"))
            return done | dict.fromkeys(HEAVY)
        row, data = take(path, source, key, self.params)
        told.parent.mkdir(parents=True, exist_ok=True)
        if data:
            _write(place(self.out, key, "rec"), data)
        _write(told, json.dumps(asdict(row), ensure_ascii=False).encode())
        return _light(row)


def _light(row: Row) -> dict[str, Any]:
    return asdict(row) | dict.fromkeys(HEAVY)


def place(out: Path, key: str, suffix: str) -> Path:
    """Where the result for a key lies while the corpus is made."""
    return out / DONE / key[:2] / f"{key}.{suffix}"


def collect(
    root: Path,
    sources: Sequence[Source],
    out: Path,
    params: IntakeParams,
    *,
    workers: int = 1,
    ray: str | None = None,
    on_row: OnRow = lambda row: None,
) -> dict[str, Any]:
    """The corpus of the files below `root`, written to `out` or gone on with there; returns its index.

    ray: None for processes here, else the address of a Ray cluster that sees `root` and `out` under the same names
    ("local" starts one here). A bad file becomes a row with its error, and costs no other. Raises MissingExtra where
    ray is asked for and not installed.
    """
    for folder in (DONE, shards.FOLDER):
        (out / folder).mkdir(parents=True, exist_ok=True)
        for part in (out / folder).rglob(".*.part"):  # what a killed run was writing
            part.unlink()
    job = Job(root, out, params)
    run = _here(job, workers) if ray is None else _on_ray(job, ray)
    rows: dict[str, dict[str, Any]] = {}
    packed = _Packed(out)
    for row in run(sources):
        rows[row["file"]] = row
        on_row(row)
    lost = [s for s in sources if rows[s.name]["status"] == "kept" and not packed.has(rows[s.name]["key"])]
    for source in lost:  # someone took the shards away, and the records with them
        place(out, rows[source.name]["key"], "json").unlink()
    for row in run(lost):
        rows[row["file"]] = row
    ordered = [rows[source.name] for source in sources]
    if "similar" in params.rules.rules:
        drop_similar(ordered)
    return _finish(out, ordered, params, packed)


def _finish(out: Path, rows: list[dict[str, Any]], params: IntakeParams, packed: _Packed) -> dict[str, Any]:
    """Shards, index, rows and report; then the records that now lie in shards go from where they waited."""
    kept = [row for row in rows if row["status"] == "kept"]
    items = [shards.Item(row["key"], row["bytes"], tuple(row["size"]), row["after"]) for row in kept]
    about = {"made": params.as_json(), "counts": totals(rows)}
    index = shards.write(out, items, packed, about)
    lines = (json.dumps({k: v for k, v in row.items() if k not in HEAVY}, ensure_ascii=False) for row in rows)
    with replacing(out / FILES) as file:
        file.writelines(f"{line}\n".encode() for line in lines)
    with replacing(out / REPORT) as file:
        file.write(quality.page(rows, params, lambda key: _heavy(out, key)).encode())
    for row in kept:
        place(out, row["key"], "rec").unlink(missing_ok=True)
    return index


def totals(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many files and layers there were and are, and what each rule did."""
    kept = [row for row in rows if row["status"] == "kept"]
    rules: Counter[str] = Counter()
    for row in rows:
        rules.update(row["counts"])
    return {
        "files": len(rows),
        "kept": len(kept),
        "errors": sum(row["status"] == "error" for row in rows),
        "dropped": dict(sorted(Counter(row["why"] for row in rows if row["status"] == "dropped").items())),
        "layers": sum(row["after"] for row in kept),
        "layers_before": sum(row["before"] for row in rows),
        "rules": dict(sorted(rules.items())),
    }


class _Packed:
    """The bytes of records, wherever they lie: where they wait, or in the shards of a run before."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.old: records.Records | None = None
        self.numbers: dict[str, int] = {}
        if (out / records.INDEX).is_file() and json.loads((out / records.INDEX).read_text("utf-8"))["records"]:
            try:
                self.old = records.Records.open(out)
                self.numbers = {row.key: number for number, row in enumerate(self.old.rows)}
            except FormatError:
                self.old = None

    def has(self, key: str) -> bool:
        if place(self.out, key, "rec").is_file():
            return True
        number = self.numbers.get(key)
        return number is not None and self.old is not None and self.old.file(number).is_file()

    def __call__(self, key: str) -> bytes:
        waiting = place(self.out, key, "rec")
        if waiting.is_file():
            return waiting.read_bytes()
        assert self.old is not None
        return self.old.data(self.numbers[key])


def _heavy(out: Path, key: str) -> dict[str, Any]:
    row = json.loads(place(out, key, "json").read_text("utf-8")) if key else {}
    return {name: row.get(name) for name in HEAVY}


def _write(path: Path, data: bytes) -> None:
    with replacing(path) as file:
        file.write(data)


# --- files that look the same ----------------------------------------------------------------------------------------


def drop_similar(rows: Sequence[dict[str, Any]]) -> None:
    """Drop each kept row whose picture looks like that of one before it; its `like` names that file.

    Two hashes of 128 bits with at most k different ones agree in at least one of k + 1 bands, so only those that share
    a band are compared (Manku et al. 2007).
    """
    bands: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in rows:
        if row["status"] != "kept":
            continue
        bits = int(row["look"], 16)
        width = -(-128 // (DISTANCE + 1))
        keys = [(i, bits >> (i * width) & ((1 << width) - 1)) for i in range(DISTANCE + 1)]
        like = next((x for key in keys for x in bands.get(key, ()) if _alike(x, row)), None)
        if like is not None:
            row |= {"status": "dropped", "why": "similar", "like": like["file"]}
            continue
        for key in keys:
            bands.setdefault(key, []).append(row)


def _alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    ratios = [row["size"][0] / row["size"][1] for row in (one, other)]
    return (int(one["look"], 16) ^ int(other["look"], 16)).bit_count() <= DISTANCE and max(ratios) < 1.1 * min(ratios)


# --- where the work is done ------------------------------------------------------------------------------------------

Work = Callable[[Source], dict[str, Any]]  # a `Job`
Run = Callable[[Sequence[Source]], Iterator[dict[str, Any]]]


def _here(job: Work, workers: int) -> Run:
    """In worker processes. A worker that dies takes nothing with it but the file that killed it."""

    def run(sources: Sequence[Source]) -> Iterator[dict[str, Any]]:
        waiting = list(reversed(sources))
        while waiting:
            running: dict[Any, Source] = {}
            pool = _pool(workers)
            try:
                while waiting or running:
                    while waiting and len(running) < 2 * workers:
                        source = waiting.pop()
                        running[pool.submit(job, source)] = source
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        row = future.result()
                        del running[future]
                        yield row
            except BrokenProcessPool:
                for source in running.values():
                    yield _alone(job, source)
            finally:
                pool.shutdown(cancel_futures=True)

    return run


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin)


def _alone(job: Work, source: Source) -> dict[str, Any]:
    """The row of a file that may have killed its worker, in a process of its own."""
    with _pool(1) as pool:
        try:
            return pool.submit(job, source).result()
        except BrokenProcessPool:
            return _light(
                Row(source.name, "", "error", f"{source.name} killed its worker; it may need more memory than there is")
            )


def _begin() -> None:
    """Workers leave Ctrl-C to the parent, which lets them finish their file, and use one thread each."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)


def _on_ray(job: Job, address: str) -> Run:
    """On a cluster, by Ray Data: the same function for each file."""
    ray = require("ray", "ray", "--ray")
    data = require("ray.data", "ray", "--ray")

    def one(item: dict[str, Any]) -> dict[str, str]:
        return {"row": json.dumps(job(Source(**json.loads(item["source"]))))}

    def run(sources: Sequence[Source]) -> Iterator[dict[str, Any]]:
        if not sources:
            return
        if not ray.is_initialized():
            ray.init(address=None if address == "local" else address, log_to_driver=False)
        data.DataContext.get_current().enable_progress_bars = False
        items = data.from_items([{"source": json.dumps(asdict(source))} for source in sources])
        blocks = max(1, min(len(sources), int(4 * ray.cluster_resources().get("CPU", 1))))
        for found in items.repartition(blocks).map(one).iter_rows():
            row: dict[str, Any] = json.loads(found["row"])
            yield row

    return run
