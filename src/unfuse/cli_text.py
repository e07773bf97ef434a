"""The verb `translate`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from unfuse.errors import UnfuseError
from unfuse.terminal import progress, read, remark


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(translate)


def translate(
    stack: Annotated[str, typer.Argument(metavar="STACK", help="A file or folder with layers, or -.")],
    table: Annotated[Path, typer.Argument(metavar="TABLE.csv", help="A row a text, a column a language.")],
    to: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write into.")],
    suffix: Annotated[
        list[str], typer.Option("--format", metavar="SUFFIX", help="Such as png or psd; may be given several times.")
    ] = ["png"],  # noqa: B006  typer makes a new one each time
    keep: Annotated[bool, typer.Option("--keep", help="Leave what has no translation as it is.")] = False,
    font: Annotated[str | None, typer.Option(metavar="NAME", help="A font family or file; else the closest.")] = None,
    fonts: Annotated[str | None, typer.Option(metavar="DIR", help="A folder of fonts to choose from.")] = None,
    limit_megapixels: Annotated[float, typer.Option(help="Refuse larger stacks before decoding them.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Write a stack in every language of a table. A language that fails leaves the others alone."""
    from unfuse import translate as module

    rows = module.read(table)
    before = read(stack, limit_megapixels)
    with progress() as shown:
        task = shown.add_task("Translating", total=len(rows[0].said))
        options: dict[str, Any] = {"keep": keep, "font": font, "folder": fonts}
        options["suffixes"] = [f".{each.lstrip('.')}" for each in suffix]
        done = module.translate(before, rows, to, on_language=lambda _: shown.advance(task), **options)
    if as_json:
        print(json.dumps([dataclasses.asdict(each) for each in done], ensure_ascii=False))
    else:
        remark(f"{each.language}: {note}" for each in done for note in each.notes)
        print(*(f"{to / file}\n" for each in done for file in each.files), sep="", end="")
    if failed := [f"{each.language}: {each.error}" for each in done if each.error]:
        raise UnfuseError(f"{len(failed)} of {len(done)} languages failed: {'; '.join(failed)}")
