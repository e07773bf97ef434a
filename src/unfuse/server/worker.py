"""What runs engines: one process for each device, so that a crash or a lack of memory ends a job and not the server.

A job is a folder with what it needs and a message that says what to do; steps and previews are told as they come, and
the result lies in the same folder.
"""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from unfuse import decomposition, engines, pixels, variants
from unfuse.edits import MOST_STATES
from unfuse.engines import Step
from unfuse.errors import Cancelled, StackError
from unfuse.layers import LayerStack, State
from unfuse.server import shelf
from unfuse.server.bench import PICTURES
from unfuse.server.child import Message, complaint, heard, say

PREVIEW = "preview.webp"
PREVIEW_SIDE, PREVIEW_SECONDS = 512, 0.5
TABLE, SHEETS = "table.csv", "variants.zip"

Tell = Callable[[Message], None]  # may raise Cancelled


def main(line: Connection, device: str, names: tuple[str, ...]) -> None:
    """Load engines, say so, and do one job after the other until the server ends."""
    if device:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    try:
        loaded = {name: engines.load(name) for name in names}
    except Exception as error:
        say(line, complaint(error))
        return
    told = {name: {"max_layers": x.max_layers, "default_steps": x.default_steps} for name, x in loaded.items()}
    say(line, {"ready": told})
    while True:
        message = heard(line)
        if "job" not in message:
            continue  # a cancellation that came too late
        number = message["job"]

        def tell(news: Message, number: int = number) -> None:
            say(line, {"job": number, **news})
            while line.poll():
                if heard(line).get("cancel") == number:
                    raise Cancelled("cancelled")

        try:
            answer: Message = {"result": work(message, tell)}
        except Exception as error:
            answer = complaint(error)
        say(line, {"job": number, **answer})


def work(job: Message, tell: Tell) -> Message:
    """Do one job; answer with what the store has to know."""
    kinds = {"decomposition": decompose, "split": split, "variants": vary}
    return kinds[job["kind"]](job, Path(job["folder"]), tell)


def decompose(job: Message, folder: Path, tell: Tell) -> Message:
    """The picture `original.png` to a project."""
    options, picture = job["options"], job["picture"]
    tell({"stage": "decoding"})
    source = folder / shelf.ORIGINAL
    tell({"stage": "layers"})
    stack = decomposition.decompose(
        source,
        options["layers"],
        prompt=options["prompt"],
        engine=options["engine"],
        steps=options["steps"],
        seed=options["seed"],
        on_step=follow(folder, tell),
        limit_megapixels=job["max_pixels"] / 1e6,
    )
    # What a PNG of ours cannot say of the file that was sent.
    provenance = replace(stack.provenance, source_sha256=picture["sha256"])
    return finish(stack.replace(dpi=picture["dpi"], provenance=provenance), job, folder, tell)


def split(job: Message, folder: Path, tell: Tell) -> Message:
    """One layer of a project taken apart again, as a step of its history."""
    options = job["options"]
    stack = shelf.load(folder, job["project"], job["max_pixels"])
    tell({"stage": "layers"})
    after = stack.split(
        options["layer"],
        options["layers"],
        prompt=options["prompt"],
        engine=options["engine"],
        steps=options["steps"],
        seed=options["seed"],
        on_step=follow(folder, tell),
    )
    if after is stack:
        raise StackError(f"layer {stack[options['layer']].name!r} is one thing: it stays as it is")
    done = {"op": "split", "layer": options["layer"], "layers": options["layers"]}
    before = State(stack.size, stack.layers, (done,))
    after = after.replace(past=(*stack.past, before)[-MOST_STATES:], future=())
    return finish(after, job, folder, tell)


def vary(job: Message, folder: Path, tell: Tell) -> Message:
    """A picture for every row of a table, in a zip."""
    stack = shelf.load(folder, job["project"], job["max_pixels"])
    total = len(variants.read_table(folder / PICTURES / TABLE))
    done = 0

    def on_row(_: variants.Outcome) -> None:
        nonlocal done
        done += 1
        tell({"stage": "variants", "step": done, "total": total})

    out = folder / "variants"
    made = variants.variants(stack, folder / PICTURES / TABLE, out, workers=1, on_row=on_row)
    tell({"stage": "writing"})
    with zipfile.ZipFile(folder / SHEETS, "w") as archive:
        for path in sorted(out.iterdir()):
            if path.name != variants.LEDGER:
                archive.write(path, path.name)
    ours = f"{(folder / PICTURES).resolve()}{os.sep}"  # where our files lie is nobody else's business
    return {"file": SHEETS, "failed": [f"{x.name}: {x.error}".replace(ours, "") for x in made if x.error]}


def finish(stack: LayerStack, job: Message, folder: Path, tell: Tell) -> Message:
    """Save a result."""
    tell({"stage": "writing"})
    saved = shelf.save(stack, folder, shelf.original_of(folder, job["max_pixels"]))
    return {"sha256": saved.sha256, "size": saved.size, "about": saved.about}


def follow(folder: Path, tell: Tell) -> engines.OnStep:
    """What tells the server of an engine's steps, and shows it previews now and then."""
    shown = 0.0

    def on_step(step: Step) -> None:
        nonlocal shown
        news: Message = {"stage": "layers", "step": step.step, "total": step.steps}
        if step.preview is not None and time.monotonic() - shown > PREVIEW_SECONDS:
            shown = time.monotonic()
            (folder / f"{PREVIEW}.part").write_bytes(preview(step.preview))
            os.replace(folder / f"{PREVIEW}.part", folder / PREVIEW)
            news["preview"] = True
        if step.step == step.steps:
            news["stage"] = "refining"
        tell(news)

    return on_step


def preview(picture: Any) -> bytes:
    """`h w 4` float32 as a small WebP."""
    height, width = picture.shape[:2]
    factor = min(1.0, PREVIEW_SIDE / max(width, height))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = pixels.resize(np.clip(np.nan_to_num(picture), 0, 1).astype(np.float32), size)
    file = BytesIO()
    pixels.to_image(small).save(file, "WEBP", quality=80)
    return file.getvalue()
