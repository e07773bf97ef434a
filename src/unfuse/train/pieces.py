"""A run in pieces: on a machine that is lent for minutes, starts bare, has no network, and takes and gives back little.

    unfuse train pack RUN -o JOB      here: code, data and state in files of at most 16 MiB, 64 MiB in all
    python JOB/piece.py -o RESULT     there: needs Python with torch, numpy, einops, safetensors, pillow, opencv
    unfuse train take RESULT RUN      here: checked by hash, then the run is where the piece left it

JOB/piece.py        what to start there; `unfuse train piece JOB` is the same where unfuse is installed
JOB/pieces.json     what it is: stage, step, how the state travels, and sha256 of every file and of all together
JOB/piece-00.bin    a tar in slices: code, run, data

Pieces equal one run to the bit where the state travels whole and so do the data. Where they do not fit, averages and
moments travel in fewer bits (`carried`), and a part of the parts, drawn anew for each piece: `pack` says so.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load, save
from torch import Tensor

from unfuse import __version__
from unfuse.corpus import records, shards
from unfuse.errors import FormatError, UnfuseError
from unfuse.train import loop, stages, weights
from unfuse.train.carried import CARRIES, Carry, bytes_of, narrow, widen
from unfuse.train.stage import TrainParams

MIB = 2**20
FILE, TOTAL = 16 * MIB, 64 * MIB
SPARE = MIB  # for tar headers, names of tensors, the manifest
DATA = 16 * MIB  # of the data travel at least, before the state is carried whole
HELD_OUT = 0.15  # of the room for data goes to held-out parts, the same ones in every piece
MANIFEST, STATE, START = "pieces.json", "state.safetensors", "piece.py"
LOOKED_WITH = {"slots": ("saliency.onnx",), "matte": ("saliency.onnx", "slots.onnx")}  # what stages draw with
NOT_CODE = ("server", "__pycache__")
PROGRAM = '''"""One piece of a training run: python piece.py -o RESULT [--minutes 9] [--until STEP]"""

import argparse, hashlib, io, json, pathlib, sys, tarfile, tempfile

if __name__ == "__main__":
    said = argparse.ArgumentParser(description=__doc__)
    said.add_argument("-o", "--out", required=True, type=pathlib.Path)
    said.add_argument("--minutes", type=float)
    said.add_argument("--until", type=int)
    said = said.parse_args()
    here = pathlib.Path(__file__).resolve().parent
    files = json.loads((here / "pieces.json").read_text())["files"]
    data = b"".join((here / row["name"]).read_bytes() for row in files)
    for row in files:
        if hashlib.sha256((here / row["name"]).read_bytes()).hexdigest() != row["sha256"]:
            sys.exit(f"{row['name']} arrived damaged: send it again")
    with tempfile.TemporaryDirectory() as code, tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(code, [m for m in tar if m.name.startswith("code/")], filter="data")
        sys.path.insert(0, f"{code}/code")
        from unfuse.train import pieces
        print(pieces.piece(here, said.out, said.minutes, said.until, print))
'''


# --- files of at most 16 MiB -----------------------------------------------------------------------------------------


def write_slices(folder: Path, tree: Path, about: dict[str, Any]) -> int:
    """All files under `tree` as a tar in slices, and the manifest. Returns the bytes of all of it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for file in sorted(path for path in tree.rglob("*") if path.is_file()):
            info = tarfile.TarInfo(file.relative_to(tree).as_posix())
            info.size = file.stat().st_size
            with file.open("rb") as content:
                tar.addfile(info, content)
    data = buffer.getvalue()
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("piece-*.bin"):
        old.unlink()
    rows = []
    for i, first in enumerate(range(0, len(data), FILE)):
        part = data[first : first + FILE]
        (folder / f"piece-{i:02}.bin").write_bytes(part)
        rows.append({"name": f"piece-{i:02}.bin", "bytes": len(part), "sha256": hashlib.sha256(part).hexdigest()})
    text = json.dumps({**about, "sha256": hashlib.sha256(data).hexdigest(), "files": rows}, indent=1)
    (folder / MANIFEST).write_text(text + "\n")
    if len(data) + len(text) > TOTAL:
        raise UnfuseError(f"{folder} has {len(data) / MIB:.1f} MiB and may have {TOTAL // MIB}: take a smaller --size")
    return len(data) + len(text)


def read_slices(folder: Path, tree: Path) -> dict[str, Any]:
    """Unpack what `write_slices` wrote into `tree`, checked by hash, and return what its manifest says."""
    try:
        about: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        rows = about["files"]
    except (OSError, ValueError, KeyError) as error:
        raise FormatError(f"{folder} holds no {MANIFEST} that can be read ({error}): no job, no result") from error
    slices = []
    for row in rows:
        file = folder / row["name"]
        part = file.read_bytes() if file.is_file() else b""
        if hashlib.sha256(part).hexdigest() != row["sha256"]:
            raise FormatError(f"{file} is missing or damaged: fetch it again, nothing was changed")
        slices.append(part)
    with tarfile.open(fileobj=io.BytesIO(b"".join(slices))) as tar:
        tar.extractall(tree, filter="data")
    return about


@contextmanager
def tree() -> Iterator[Path]:
    """A folder for a while."""
    with tempfile.TemporaryDirectory(prefix="unfuse-piece-") as place:
        yield Path(place)


# --- the state -------------------------------------------------------------------------------------------------------


def put_state(run: Path, place: Path, room: int) -> tuple[Carry, int]:
    """The run's checkpoint in the fullest form that `room` allows, into `place`; how, and how many bytes."""
    tensors, _ = weights.read(run)
    for carry in CARRIES:
        small = narrow(tensors, carry)
        size = bytes_of(small)
        if size <= room:
            place.mkdir(parents=True, exist_ok=True)
            (place / STATE).write_bytes(save({name: tensor.contiguous() for name, tensor in small.items()}))
            shutil.copyfile(run / weights.ABOUT, place / weights.ABOUT)
            return carry, size
    least = bytes_of(narrow(tensors, CARRIES[-1]))
    raise UnfuseError(
        f"the state takes {least / MIB:.0f} MiB at least, {room / MIB:.0f} are left: take a smaller --size"
    )


def get_state(place: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The checkpoint that `put_state` wrote: tensors as a run's folder has them, and what its JSON says."""
    small = load((place / STATE).read_bytes())
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.part(small, "net.").items()}
    return widen(small, shapes), json.loads((place / weights.ABOUT).read_text())


def identity(run: Path) -> str:
    """The sha256 of a run's weights file."""
    with (run / weights.WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- the data --------------------------------------------------------------------------------------------------------


def put_data(data: Path, out: Path, room: int, seed: int) -> tuple[int, int]:
    """As much of the data as `room` allows, into `out`: how many parts or records, of how many."""
    if (data / "pack.json").is_file():
        return put_parts(data, out, room, seed)
    return put_records(data, out, room, seed)


def fill(order: list[int], sizes: list[int], room: int) -> list[int]:
    """Those that fit, first come first served."""
    taken, used = [], 0
    for i in order:
        if used + sizes[i] <= room:
            taken.append(i)
            used += sizes[i]
    return taken


def put_parts(data: Path, out: Path, room: int, seed: int) -> tuple[int, int]:
    """Parts: all of them, or some drawn by the seed, held-out ones always the same."""
    pack = json.loads((data / "pack.json").read_text("utf-8"))
    rows = pack["parts"]
    table = len(json.dumps(rows))
    sizes = [(data / row["file"]).stat().st_size + 1024 for row in rows]  # a tar's header and rest
    chosen = list(range(len(rows)))
    if sum(sizes) + table > room:
        valid = [i for i, row in enumerate(rows) if row["split"] == "valid"]
        train = [i for i, row in enumerate(rows) if row["split"] != "valid"]
        held = fill(list(np.random.default_rng(0).permutation(valid)), sizes, int(HELD_OUT * (room - table)))
        rest = room - table - sum(sizes[i] for i in held)
        chosen = sorted([*held, *fill(list(np.random.default_rng(seed).permutation(train)), sizes, rest)])
    for file in {rows[i]["file"] for i in chosen}:
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data / file, out / file)
    (out / "pack.json").write_text(json.dumps({**pack, "parts": [rows[i] for i in chosen]}, ensure_ascii=False))
    return len(chosen), len(rows)


def put_records(data: Path, out: Path, room: int, seed: int) -> tuple[int, int]:
    """Records: all of them, or some drawn by the seed."""
    found = records.Records.open(data)
    sizes = [row.bytes + 512 for row in found.rows]
    chosen = list(range(len(sizes)))
    if sum(sizes) > room:
        chosen = sorted(fill(list(np.random.default_rng(seed).permutation(len(sizes))), sizes, room))
    items = [shards.Item(row.key, row.bytes, row.size, row.layers) for row in (found.rows[i] for i in chosen)]
    numbers = {found.rows[i].key: i for i in chosen}
    shards.write(out, items, lambda key: found.data(numbers[key]), {}, FILE)
    return len(chosen), len(sizes)


# --- the three commands ----------------------------------------------------------------------------------------------


def pack(run: Path, data: Path, out: Path, tell: Callable[[str], None]) -> Path:
    """The folder to take to the other machine. Raises UnfuseError where even the smallest state does not fit."""
    about = weights.about_of(run)
    if not about:
        raise UnfuseError(f"{run} holds no checkpoint: begin the run here, 'unfuse train STAGE --minutes 0' is enough")
    if about["params"]["model"] is not None:
        raise UnfuseError(f"{run} needs a published checkpoint, which is too large to travel: train it in one place")
    if out.exists() and any(not file.name.startswith("piece") for file in out.iterdir()):
        raise FormatError(f"{out} holds other things than a job: choose another folder")
    with tree() as place:
        code = put_code(place / "code", about["stage"])
        whole = sum(path.stat().st_size + 1024 for path in data.rglob("*") if path.is_file())
        room = TOTAL - SPARE - code
        carry, state = put_state(run, place / "run", room - min(whole, DATA))
        some, of = put_data(data, place / "data", room - state, about["step"])
        told = {"stage": about["stage"], "step": about["step"], "base": identity(run), "carried": str(carry)}
        exact = carry.exact and some == of
        told |= {"parts": [some, of], "exact": exact, "unfuse": __version__}
        size = write_slices(out, place, told)
    (out / START).write_text(PROGRAM)
    tell(f"{size / MIB:.1f} MiB: code {code / MIB:.1f}, {carry} {state / MIB:.1f}, {some} of {of} parts or records")
    tell("the pieces will equal one run" if exact else "the pieces will be near to one run, not the same to the bit")
    return out


def put_code(out: Path, stage: str) -> int:
    """The package's own source, and what it reads while training; its bytes."""
    source = Path(__file__).parents[1]
    for file in sorted(source.rglob("*")):
        needed = file.suffix in (".py", ".json") or file.name in LOOKED_WITH.get(stage, ())
        if file.is_file() and needed and not set(NOT_CODE) & set(file.relative_to(source).parts):
            target = out / "unfuse" / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    return sum(path.stat().st_size + 1024 for path in out.rglob("*") if path.is_file())


def piece(job: Path, out: Path, minutes: float | None, until: int | None, tell: Callable[[str], None]) -> Path:
    """Run one piece of a job here, for so many minutes or to a step, and write the result into the folder `out`."""
    with tree() as place:
        about = read_slices(job, place)
        run = place / "went"
        tensors, said = get_state(place / "run")
        weights.write(run, tensors, said)
        params = params_of(said, place / "data", run)

        def report(row: dict[str, Any]) -> None:
            if "valid" in row:
                tell(f"step {row['step']} of {params.steps}: loss {row['loss']:.4f}")

        reached = loop.train(stages.stage(about["stage"]), params, report, minutes=minutes, until=until)
        with tree() as result:
            carry, _ = put_state(run, result / "run", TOTAL - SPARE)
            if (run / "metrics.jsonl").is_file():
                shutil.copyfile(run / "metrics.jsonl", result / "metrics.jsonl")
            if sheets := sorted((run / "sheets").glob("*.png")):
                shutil.copyfile(sheets[-1], result / sheets[-1].name)
            told = {"stage": about["stage"], "from": about["step"], "base": about["base"], "step": reached}
            write_slices(out, result, {**told, "carried": str(carry)})
    tell(f"from step {about['step']} to {reached}; {carry}")
    return out


def params_of(about: dict[str, Any], data: Path, run: Path) -> TrainParams:
    """The parameters of a run that goes on somewhere else."""
    said = dict(about["params"])
    for name in ("start", "model"):
        said[name] = None
    return TrainParams(**{**said, "data": data, "out": run, "parallel": "none", "tensorboard": False})


def take(result: Path, run: Path, tell: Callable[[str], None]) -> Path:
    """Take a piece's result into its run, which must be where the piece began."""
    with tree() as place:
        about = read_slices(result, place)
        if "from" not in about:
            raise FormatError(f"{result} is a job, not a result: run it first, 'python {result / START} -o RESULT'")
        if identity(run) != about["base"]:
            here = weights.about_of(run).get("step")
            raise UnfuseError(
                f"{result} goes on from step {about['from']}, and {run} is elsewhere (step {here}): not taken"
            )
        tensors, said = get_state(place / "run")
        params = weights.about_of(run)["params"]  # with the paths of this machine
        weights.write(run, tensors, {**said, "params": params})
        with (run / "metrics.jsonl").open("a") as log:
            log.write((place / "metrics.jsonl").read_text() if (place / "metrics.jsonl").is_file() else "")
        for sheet in place.glob("*.png"):
            (run / "sheets").mkdir(exist_ok=True)
            shutil.copyfile(sheet, run / "sheets" / sheet.name)
    tell(f"{run} is at step {about['step']}; it travelled with {about['carried']}")
    return run
