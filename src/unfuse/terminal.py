"""Standard input, output and error of the command line: where stacks come from and go to, and what is shown of them.

The result goes to standard output; progress, notes and errors go to standard error, progress only where that is a
terminal. Whatever is written is written whole or not at all: see `formats`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from rich import box as borders
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from unfuse import engines, formats, pixels
from unfuse.engines import Engine, OnStep, Step
from unfuse.errors import FormatError, PictureError, UnfuseError
from unfuse.layers import Layer, LayerStack

STANDARD = "-"  # standard input or output

out, err = Console(highlight=False), Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Target:
    """Where a stack goes: a path, or standard output in the format of a suffix."""

    place: str
    suffix: str
    format: formats.Format

    @classmethod
    def named(cls, place: str, suffix: str) -> Target:
        """The target of one -o; `suffix` names the format of standard output."""
        name = f"--format {suffix}" if place == STANDARD else place
        found = formats.find(name)
        if place == STANDARD and found is formats.FOLDER:
            raise FormatError("standard output takes a file, not a folder: say --format zip, or name a folder with -o")
        return cls(place, Path(name).suffix.lower(), found)

    def __str__(self) -> str:
        return "standard output" if self.place == STANDARD else self.place

    def write(self, stack: LayerStack, options: Mapping[str, Any]) -> formats.Notes:
        if self.place != STANDARD:
            return formats.write(stack, self.place, **options)
        file = BytesIO()
        notes = self.format.write(stack, file, self.suffix, options)
        sys.stdout.buffer.write(file.getvalue())
        sys.stdout.buffer.flush()
        return notes


def number(layers: str) -> Any:
    """What -n says; what is neither a number nor 'auto' is refused by the library, in its words."""
    return int(layers) if layers.isdecimal() else layers


def engine_of(name: str, settings: Sequence[str]) -> Engine:
    """The engine that --engine names, with what --set says."""
    return engines.load(name, **dict(setting(text) for text in settings))


def setting(text: str) -> tuple[str, Any]:
    """NAME=VALUE: the value is read as JSON where it is, else it is a text."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UnfuseError(f"--set {text}: say NAME=VALUE, such as guidance=1")
    try:
        read = tuples(json.loads(value))
        hash(read)
    except (ValueError, TypeError):
        read = value
    return name.replace("-", "_"), read


def tuples(value: Any) -> Any:
    """Lists as tuples, which can be remembered."""
    return tuple(tuples(each) for each in value) if isinstance(value, list) else value


def aims(places: Sequence[str], suffix: str, as_json: bool, keep: str = STANDARD) -> list[Target]:
    """The targets that -o names, checked before any work is done. `keep` is a file that none of them may replace.

    There are none in a process that only helps.
    """
    if helps():
        return []
    if twice := sorted({place for place in places if places.count(place) > 1}):
        raise FormatError(f"-o {twice[0]} is given twice: give each place once")
    targets = [Target.named(place, f".{suffix.lstrip('.')}") for place in places]
    for target in targets:
        if target.place != STANDARD:
            folder(Path(os.path.realpath(target.place)).parent)
            if keep != STANDARD and os.path.realpath(target.place) == os.path.realpath(keep):
                raise FormatError(f"-o {target.place} would replace what is read: choose another name")
        elif as_json:
            raise FormatError("-o - and --json both want standard output: name a file with -o")
        elif sys.stdout.isatty():
            raise FormatError(f"a {target.suffix} cannot be shown on a terminal: redirect it, or name a file with -o")
    return targets


def helps() -> bool:
    """Whether torchrun started this process to work beside another, which writes and tells what they make together."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ["RANK"] != "0"


def folder(path: Path) -> None:
    """Raise FormatError unless the folder is there."""
    if not path.is_dir():
        raise FormatError(f"there is no folder {path}: make it first, or choose another place")


def standard_input() -> bytes:
    """All of standard input, which must hold something."""
    if sys.stdin.isatty():
        raise UnfuseError("- reads standard input, which is a terminal: pipe a file into it, or name one")
    if not (data := sys.stdin.buffer.read()):
        raise UnfuseError("standard input is empty (0 bytes): what is before the | wrote nothing; or name a file")
    return data


def read(source: str, limit_megapixels: float, **options: Any) -> LayerStack:
    """A stack from a path, or from standard input, where its content says what it is."""
    if source != STANDARD:
        return formats.read(source, limit_megapixels=limit_megapixels, **options)
    return formats.read_bytes(standard_input(), what="standard input", limit_megapixels=limit_megapixels, **options)


def read_picture(source: str, limit_megapixels: float) -> pixels.Picture:
    """A picture from a path, or from standard input; where layers are given, what can be done with them is said."""
    from unfuse.formats.sniff import layered

    given = standard_input() if source == STANDARD else source
    try:
        return pixels.read(given, limit_megapixels=limit_megapixels)
    except PictureError as error:
        if kind := layered(given if isinstance(given, bytes) else _held(given)):
            cure = "'unfuse split' takes one of them apart, 'unfuse flatten' makes a picture of all"
            raise PictureError(f"{source} is no picture but layers, a {kind}: {cure}") from error
        raise


def _held(path: str) -> bytes:
    """What a file holds; nothing where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError):
        return b""


def write(stack: LayerStack, targets: Sequence[Target], **options: Any) -> LayerStack:
    """Write to every target; where some fail, the others are kept, and the error says which is which.

    Returns the stack with what the formats could not hold in its notes, to be told.
    """
    notes: list[str] = []
    failed: list[str] = []
    done: list[str] = []
    for target in targets:
        try:
            notes += [f"{target}: {note}" for note in target.write(stack, options)]
            done.append(str(target))
        except UnfuseError as error:
            failed.append(str(error))
    if failed:
        raise FormatError(f"{'; '.join(failed)}. Written: {', '.join(done) or 'nothing'}")
    return stack.replace(notes=(*stack.notes, *notes))


# --- what is shown ---------------------------------------------------------------------------------------------------


def progress() -> Progress:
    """Progress with time left, on standard error, only where that is a terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    nowhere = Console(quiet=True)  # older releases of rich end even a disabled progress with an empty line
    place = err if err.is_terminal and not helps() else nowhere
    return Progress(SpinnerColumn(), *columns, console=place, transient=True, disable=place is nowhere)


def follow(shown: Progress, task: TaskID) -> OnStep:
    """What puts an engine's steps on the progress line; of a single step there is nothing to show but that it runs."""

    def on_step(step: Step) -> None:
        if step.steps > 1:
            shown.update(task, completed=step.step, total=step.steps)
        if step.step == step.steps:
            shown.update(task, description="Refining")

    return on_step


def tell(stack: LayerStack, targets: Sequence[Target], as_json: bool, source: str, **measured: Any) -> None:
    """The result: one JSON object, a table on a terminal, else the paths that were written, a line each."""
    if helps():
        return
    places = [target.place for target in targets]
    if as_json:
        print(json.dumps(about(stack) | {"outputs": places, **measured}, ensure_ascii=False))
        return
    remark(stack.notes)
    if STANDARD in places:
        return
    if not out.is_terminal:
        print("\n".join(places))
        return
    out.print(table(stack, source))
    if "recomposition" in measured:
        error = measured["recomposition"]
        off = (
            f"off by at most {error['max']:.3g} of 255, {error['mean']:.3g} on average"
            if error["max"]
            else "no pixel differs"
        )
        out.print(f"Put together again: {off}.")
    for place in places:
        out.print(f"Written: [bold]{escape(place)}[/bold] ({size(place)})", soft_wrap=True)


def remark(notes: Iterable[str]) -> None:
    """Notes, a line each, on standard error."""
    for note in notes:
        err.print(f"unfuse: note: {escape(note)}", soft_wrap=True)


def about(stack: LayerStack) -> dict[str, Any]:
    """A stack as JSON, without its pixels."""
    layers = [entry(layer) for layer in stack]
    provenance = asdict(stack.provenance)
    return {"size": stack.size, "depth": stack.depth, "layers": layers, "notes": stack.notes, "provenance": provenance}


def entry(layer: Layer) -> dict[str, Any]:
    """A layer as JSON; a group has its layers inside."""
    names = ("id", "name", "kind", "box", "opacity", "blend_mode", "visible", "locked")
    fields = {name: getattr(layer, name) for name in names}
    return fields | ({"layers": [entry(inner) for inner in layer.layers]} if layer.layers else {})


def table(stack: LayerStack, source: str) -> Table:
    """The layers of a stack, those in a group indented below it."""
    title = f"{escape(source)}, {stack.size[0]} x {stack.size[1]}: {len(stack)} layers, bottom to top"
    shown = Table(title=title, title_justify="left", title_style="", box=borders.SIMPLE_HEAD)
    shown.add_column("", justify="right")
    shown.add_column("layer")
    shown.add_column("kind")
    shown.add_column("left, top", justify="right")
    shown.add_column("size", justify="right")
    for index, layer in enumerate(stack):
        for depth, each in nested(layer):
            place, extent = f"{each.box.left}, {each.box.top}", f"{each.box.width} x {each.box.height}"
            shown.add_row("" if depth else str(index), "  " * depth + escape(each.name), each.kind, place, extent)
    return shown


def nested(layer: Layer, depth: int = 0) -> Iterator[tuple[int, Layer]]:
    """The layer and all in it, each with how deep it lies."""
    yield depth, layer
    for inner in layer.layers:
        yield from nested(inner, depth + 1)


def size(place: str) -> str:
    """The size of a file, or of all files in a folder, as people say it."""
    path = Path(place)
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    total = sum(each.stat().st_size for each in files)
    return f"{total / 1e6:.1f} MB" if total >= 1e6 else f"{max(1, round(total / 1e3))} kB"
