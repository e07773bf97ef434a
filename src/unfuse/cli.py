"""The command line: thin verbs over the library, which can do all of this without them.

Exit codes: 2 and one line for a wrong input, 130 for Ctrl-C, 1 and a traceback for a mistake in unfuse. What goes
where is in `terminal`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import typer
from rich.markup import escape

from unfuse import __version__, cli_corpus, cli_evaluate, cli_prompt, cli_serve, cli_text, cli_train, engines
from unfuse.errors import FormatError, UnfuseError
from unfuse.terminal import (
    STANDARD,
    aims,
    engine_of,
    follow,
    number,
    out,
    progress,
    read,
    read_picture,
    remark,
    tell,
    write,
)

# click's UsageError, or its copy in releases of typer that carry their own
UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__bases__[0])

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
app.add_typer(cli_corpus.corpus, name="corpus")
app.add_typer(cli_train.train, name="train")
app.command()(cli_train.export)
app.add_typer(cli_evaluate.evaluate, name="evaluate")
cli_prompt.register(app)
cli_serve.register(app)
cli_text.register(app)

PictureArgument = Annotated[str, typer.Argument(metavar="PICTURE", help="A picture file, or - for standard input.")]
StackArgument = Annotated[
    str, typer.Argument(metavar="STACK", help="A folder or a file with layers, or - for standard input.")
]
LayersOption = Annotated[str, typer.Option("--layers", "-n", metavar="N|auto", help="How many layers at most.")]
OutOption = Annotated[
    list[str],
    typer.Option(
        "--out", "-o", metavar="OUT", help="A file by its suffix, a folder, or -; may be given several times."
    ),
]
FormatOption = Annotated[str, typer.Option("--format", metavar="SUFFIX", help="The format of -o -, such as psd.")]
EngineOption = Annotated[str, typer.Option("--engine", help="What finds the layers: see 'unfuse engines'.")]
SetOption = Annotated[
    list[str], typer.Option("--set", metavar="NAME=VALUE", help="An option of the engine; may be given several times.")
]
PromptOption = Annotated[str, typer.Option("--prompt", help="A caption of the whole, for engines that read one.")]
StepsOption = Annotated[int | None, typer.Option("--steps", help="Sampling steps; by default the engine's own number.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Same seed, same layers on the same machine.")]
TextOption = Annotated[
    bool | None, typer.Option("--text/--no-text", help="Read text; by default where the extra 'text' is installed.")
]
LimitOption = Annotated[float, typer.Option("--limit-megapixels", help="Refuse larger pictures before decoding them.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.callback(invoke_without_command=True)
def unfuse(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """Turn one flat picture into a stack of editable, transparent layers - and put it together again, exactly."""
    if version:
        print(f"unfuse {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def decompose(
    picture: PictureArgument,
    layers: LayersOption = "auto",
    outs: OutOption = [],  # noqa: B006  typer makes a new one each time
    prompt: PromptOption = "",
    engine: EngineOption = "embedded",
    settings: SetOption = [],  # noqa: B006
    steps: StepsOption = None,
    seed: SeedOption = 0,
    text: TextOption = None,
    limit_megapixels: LimitOption = 200,
    suffix: FormatOption = "zip",
    as_json: JsonOption = False,
) -> None:
    """Take a picture apart into layers.

    Without -o, poster.png becomes the folder poster-layers beside it; from standard input, a .zip on standard output.
    """
    from unfuse import pixels
    from unfuse.composite import residual
    from unfuse.decomposition import decompose

    path = Path(picture)
    beside = STANDARD if picture == STANDARD else str(path.parent / f"{path.stem}-layers")
    targets = aims(outs or [beside], suffix, as_json, keep=picture)
    options: dict[str, Any] = {"prompt": prompt, "steps": steps, "seed": seed, "text": text}
    options["engine"] = engine_of(engine, settings)
    began = time.monotonic()
    with progress() as shown:
        task = shown.add_task(f"Decomposing {escape(picture)}", total=None)
        original = read_picture(picture, limit_megapixels)
        stack = decompose(original, number(layers), on_step=follow(shown, task), **options)
        shown.update(task, description="Writing")
        stack = write(stack, targets)
        error = residual(stack, pixels.quantise(original.pixels, original.depth))
    seconds = round(time.monotonic() - began, 3)
    tell(stack, targets, as_json, picture, recomposition=error._asdict(), seconds=seconds)


@app.command()
def split(
    stack: StackArgument,
    layer: Annotated[str, typer.Argument(metavar="LAYER", help="Its name, id, or number from the bottom, from 0.")],
    outs: OutOption,
    layers: LayersOption = "auto",
    prompt: PromptOption = "",
    engine: EngineOption = "embedded",
    settings: SetOption = [],  # noqa: B006
    steps: StepsOption = None,
    seed: SeedOption = 0,
    text: TextOption = None,
    limit_megapixels: LimitOption = 200,
    suffix: FormatOption = "zip",
    as_json: JsonOption = False,
) -> None:
    """Take one layer of a stack apart again: it becomes a group that shows the same."""
    from unfuse.composite import flatten, residual

    targets = aims(outs, suffix, as_json)
    before = read(stack, limit_megapixels)
    key = int(layer) if layer.isdecimal() and layer not in before else layer
    options: dict[str, Any] = {"prompt": prompt, "steps": steps, "seed": seed, "text": text}
    options["engine"] = engine_of(engine, settings)
    began = time.monotonic()
    with progress() as shown:
        task = shown.add_task(f"Splitting {escape(layer)}", total=None)
        after = before.split(key, number(layers), on_step=follow(shown, task), **options)
        if after is before:
            after = before.replace(notes=(*before.notes, f"layer {layer!r} is one thing: it stays as it is"))
        shown.update(task, description="Writing")
        after = write(after, targets)
        error = residual(after, flatten(before))
    seconds = round(time.monotonic() - began, 3)
    tell(after, targets, as_json, stack, recomposition=error._asdict(), seconds=seconds)


@app.command()
def flatten(
    stack: StackArgument,
    outs: OutOption,
    limit_megapixels: LimitOption = 200,
    suffix: FormatOption = "png",
    as_json: JsonOption = False,
) -> None:
    """Put a stack together: one flat picture, such as a .png, .jpg or .webp."""
    from unfuse import composite
    from unfuse.layers import Box, Layer

    targets = aims(outs, suffix, as_json, keep=stack)
    if layered := [target for target in targets if target.format.name not in ("picture", "TIFF")]:
        raise FormatError(f"{layered[0]}: a flat picture is a .png, .jpg or .webp; 'unfuse convert' keeps the layers")
    whole = read(stack, limit_megapixels)
    flat = Layer("Flat", "background", Box(0, 0, *whole.size), composite.flatten(whole))
    write(whole.replace(layers=(flat,)), targets)
    tell(whole, targets, as_json, stack)


@app.command()
def convert(
    stack: StackArgument,
    to: Annotated[str, typer.Argument(metavar="OUT", help="A file by its suffix, a folder, or -.")],
    limit_megapixels: LimitOption = 200,
    suffix: FormatOption = "zip",
    text: Annotated[
        str | None, typer.Option("--text", metavar="live|picture", help="What text becomes, where a format has text.")
    ] = None,
    slide: Annotated[int | None, typer.Option("--slide", help="Which slide of a .pptx to read, from 1.")] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="A film of how the stack builds up: how long each layer takes.")
    ] = None,
    longest: Annotated[int | None, typer.Option("--longest", help="Pixels of a film's longest side at most.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a stack in another format."""
    targets = aims([to], suffix, as_json)
    whole = read(stack, limit_megapixels, **({"slide": slide} if slide is not None else {}))
    given = {"text": text, "seconds": seconds, "longest": longest}
    whole = write(whole, targets, **{name: value for name, value in given.items() if value is not None})
    tell(whole, targets, as_json, stack)


@app.command()
def edit(
    stack: StackArgument,
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="Edits as a .yaml or .json file.")],
    outs: OutOption = [],  # noqa: B006  typer makes a new one each time
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, and write nothing.")] = False,
    limit_megapixels: LimitOption = 200,
    suffix: FormatOption = "zip",
    as_json: JsonOption = False,
) -> None:
    """Run a recipe on a stack. What it does not touch stays the same to the bit."""
    from unfuse import recipe as recipes

    if bool(outs) == dry_run:
        raise FormatError("give -o OUT, or --dry-run and no -o")
    targets = aims(outs, suffix, as_json)
    edits = recipes.read(recipe)
    before = read(stack, limit_megapixels)
    after = recipes.run(before, edits)
    if dry_run:
        lines = recipes.differences(before, after)
        print(json.dumps(lines, ensure_ascii=False) if as_json else "\n".join(lines))
        return
    after = write(after, targets)
    tell(after, targets, as_json, stack)


@app.command()
def undo(
    stack: StackArgument,
    outs: OutOption,
    limit_megapixels: LimitOption = 200,
    suffix: FormatOption = "zip",
    as_json: JsonOption = False,
) -> None:
    """Take back the last edits of a project."""
    targets = aims(outs, suffix, as_json)
    before = read(stack, limit_megapixels).undo()
    before = write(before, targets)
    tell(before, targets, as_json, stack)


@app.command()
def redo(
    stack: StackArgument,
    outs: OutOption,
    limit_megapixels: LimitOption = 200,
    suffix: FormatOption = "zip",
    as_json: JsonOption = False,
) -> None:
    """Do again what was undone last in a project."""
    targets = aims(outs, suffix, as_json)
    after = read(stack, limit_megapixels).redo()
    after = write(after, targets)
    tell(after, targets, as_json, stack)


@app.command()
def variants(
    stack: StackArgument,
    rows: Annotated[Path, typer.Argument(metavar="TABLE.csv", help="A row a variant, a column what is varied.")],
    to: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder; one that is there goes on.")],
    suffix: Annotated[str, typer.Option("--format", metavar="SUFFIX", help="Such as png, jpg, psd or zip.")] = "png",
    workers: Annotated[int | None, typer.Option(help="Processes; by default one a core.")] = None,
    limit_megapixels: LimitOption = 200,
    as_json: JsonOption = False,
) -> None:
    """Make a picture for every row of a table, and a contact sheet. A row that fails leaves the others alone."""
    from unfuse import variants as module

    before = read(stack, limit_megapixels)
    with progress() as shown:
        task = shown.add_task("Making variants", total=len(module.read_table(rows)))
        options: dict[str, Any] = {"suffix": f".{suffix.lstrip('.')}", "workers": workers}
        made = module.variants(before, rows, to, on_row=lambda _: shown.advance(task), **options)
    if as_json:
        names = ("name", "file", "error", "notes")
        print(json.dumps([{name: getattr(x, name) for name in names} for x in made], ensure_ascii=False))
    else:
        remark(f"{x.name}: {note}" for x in made for note in x.notes)
        print(*(f"{to / x.file}\n" for x in made if x.file), sep="", end="")
    if failed := [f"{x.name}: {x.error}" for x in made if x.error]:
        raise UnfuseError(f"{len(failed)} of {len(made)} variants failed: {'; '.join(failed)}")


@app.command("engines")
def list_engines(as_json: JsonOption = False) -> None:
    """Say which engines there are, what each needs, and whether they can run here."""
    rows = [
        {"name": name, "about": entry.about, "needs": entry.needs, **readiness(name)}
        for name, entry in engines.TABLE.items()
    ]
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
        return
    for row in rows:
        state = row.get("cure") or f"ready: up to {row['max_layers']} layers, default steps {row['default_steps']}"
        out.print(f"[bold]{row['name']:<10}[/bold]{escape(row['about'])}", soft_wrap=True)
        for line in (f"needs: {row['needs']}", state):
            out.print(f"{'':<10}{escape(line)}", style="dim", soft_wrap=True)


@cli_evaluate.evaluate.command("DESIGNS")
def evaluate(
    designs: Annotated[Path, typer.Argument(metavar="DESIGNS", help="A folder of designs with their true layers.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The report's folder.")] = Path("report"),
    predictions: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Score the layers in this folder; no engine is run.")
    ] = None,
    layers: Annotated[str, typer.Option("--layers", "-n", metavar="truth|auto|1..16", help="How many to ask for.")] = (
        "truth"
    ),
    engine: EngineOption = "embedded",
    steps: StepsOption = None,
    seed: SeedOption = 0,
    short: Annotated[int, typer.Option(help="Pixels of the short side at which layers are compared.")] = 512,
    as_json: JsonOption = False,
) -> None:
    """Score an engine on designs whose layers are known; see docs/evaluation.md."""
    from unfuse.evaluate import run
    from unfuse.evaluate.report import sentence

    settings = run.Settings(engine=engine, layers=number(layers), steps=steps, seed=seed, short=short)
    result = cli_evaluate.followed(str(predictions or engine), run.evaluate, designs, out, settings, predictions)
    cli_evaluate.tell(result, [sentence(result)], out, as_json)


def readiness(name: str) -> dict[str, Any]:
    """Whether an engine can run here, and if not, what to do."""
    entry = engines.TABLE[name]
    if entry.folder:
        return {"ready": False, "cure": f"say --engine {name}:FOLDER, {entry.folder}"}
    try:
        engine = engines.load(name)
    except UnfuseError as error:
        return {"ready": False, "cure": str(error)}
    return {"ready": True, "max_layers": engine.max_layers, "default_steps": engine.default_steps}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that temporary files are taken away
    try:
        code = app(args=arguments, prog_name="unfuse", standalone_mode=False)
        sys.stdout.flush()
    except UsageError as error:
        verb = error.ctx.command_path if error.ctx else "unfuse"
        refuse(f"{error.format_message()} (see '{verb} --help')")
    except UnfuseError as error:
        refuse(str(error))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # whoever read our output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:  # the system will not have what a path asks for
            refuse(f"{os.fsdecode(error.filename)} cannot be used ({error.strerror}): choose another place or name")
        traceback.print_exc()
        refuse("this is a mistake in unfuse, not in what you gave it: please report it with the lines above", 1)
    sys.exit(code or 0)


def refuse(message: str, code: int = 2) -> NoReturn:
    """One line on standard error, and the end."""
    print(f"unfuse: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
