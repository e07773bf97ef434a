"""The verbs `generate` and `caption`: from words to layers, and from a picture to words."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.markup import escape

from unfuse.errors import EngineError, FormatError
from unfuse.terminal import aims, engine_of, follow, number, progress, read_picture, tell, write

SetOption = Annotated[
    list[str], typer.Option("--set", metavar="NAME=VALUE", help="An option of the engine; may be given several times.")
]
EngineArgument = Annotated[
    str, typer.Option("--engine", help="One that reads prompts, such as qwen:FOLDER: see 'unfuse engines'.")
]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(generate)
    app.command()(caption)


def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the whole shows, what is covered included.")],
    engine: EngineArgument,
    outs: Annotated[
        list[str],
        typer.Option(
            "--out", "-o", metavar="OUT", help="A file by its suffix, a folder, or -; may be given several times."
        ),
    ],
    layers: Annotated[str, typer.Option("--layers", "-n", metavar="N|auto", help="How many layers at most.")] = "auto",
    size: Annotated[
        str, typer.Option(metavar="WIDTHxHEIGHT", help="In pixels, multiples of 16; by default the engine's square.")
    ] = "",
    steps: Annotated[int | None, typer.Option(help="Sampling steps; by default the engine's own number.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same layers on the same machine.")] = 0,
    options: SetOption = [],  # noqa: B006  typer makes a new one each time
    suffix: Annotated[str, typer.Option("--format", metavar="SUFFIX", help="The format of -o -, such as psd.")] = "zip",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Make layers from a prompt alone. Limited: the published weights were tuned to take pictures apart."""
    from unfuse.generation import generate

    targets = aims(outs, suffix, as_json)
    given: dict[str, Any] = {"engine": engine_of(engine, options), "size": sides(size), "steps": steps, "seed": seed}
    began = time.monotonic()
    with progress() as shown:
        task = shown.add_task(f"Making {escape(prompt)}", total=None)
        stack = generate(prompt, number(layers), on_step=follow(shown, task), **given)
        shown.update(task, description="Writing")
        stack = write(stack, targets)
    tell(stack, targets, as_json, prompt, seconds=round(time.monotonic() - began, 3))


def caption(
    picture: Annotated[str, typer.Argument(metavar="PICTURE", help="A picture file, or - for standard input.")],
    engine: EngineArgument,
    options: SetOption = [],  # noqa: B006  typer makes a new one each time
    limit_megapixels: Annotated[
        float, typer.Option("--limit-megapixels", help="Refuse larger pictures before decoding them.")
    ] = 200,
) -> None:
    """Print the caption that an engine would use for a picture: change it, and give it back as --prompt."""
    from unfuse import pixels

    runner = engine_of(engine, options)
    if not hasattr(runner, "caption"):
        raise EngineError(
            f"the engine {runner.name!r} writes no captions: say qwen:FOLDER, of the published checkpoint"
        )
    read = read_picture(picture, limit_megapixels)
    print(runner.caption(pixels.resize(read.pixels, runner.bucket(read.size))))


def sides(size: str) -> tuple[int, int] | None:
    """What --size says."""
    found = [side for side in size.lower().split("x") if side.isdecimal()]
    if size and (len(found) != 2 or size.lower() != "x".join(found)):
        raise FormatError(f"--size {size}: say WIDTHxHEIGHT in pixels, such as 640x640")
    return (int(found[0]), int(found[1])) if size else None
