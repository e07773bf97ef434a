"""The verbs of the corpus: the parts that training pictures are drawn from, and records out of layered files."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from unfuse.errors import require
from unfuse.terminal import err, folder, progress

if TYPE_CHECKING:
    from unfuse.corpus.intake import IntakeParams, Source

corpus = typer.Typer(help="What training pictures are made of; see docs/corpus.md.", no_args_is_help=True)

OnlyOption = Annotated[list[str], typer.Option("--only", help="Only this package; may be given several times.")]
OutOption = Annotated[
    Path, typer.Option("--out", "-o", metavar="OUT", help="The corpus' folder; one that is there goes on.")
]
OffOption = Annotated[
    list[str], typer.Option("--off", metavar="RULE", help="Do without this rule; may be given several times.")
]
SideOption = Annotated[int, typer.Option(help="Pixels of a record's longer side; 0 leaves pictures as they are.")]
LeastOption = Annotated[int, typer.Option("--min-layers", help="Leave out designs with fewer layers.")]
MostOption = Annotated[int, typer.Option("--max-layers", help="Merge layers that do not overlap down to so many.")]
ErrorOption = Annotated[
    float, typer.Option("--max-error", help="Levels by which layers may differ from the stored picture, on average.")
]
ShortOption = Annotated[int, typer.Option("--min-side", help="Leave out pictures whose shorter side has fewer pixels.")]
CaptionerOption = Annotated[
    str, typer.Option(metavar="offline|FOLDER", help="Who captions: names and colours, or Qwen2.5-VL in a folder.")
]
LicenseOption = Annotated[str, typer.Option(help="Of all files whose table or sidecar names none, as SPDX.")]
SourceOption = Annotated[str, typer.Option(help="Where all files come from whose table or sidecar does not say it.")]
MetadataOption = Annotated[
    Path | None, typer.Option(metavar="TABLE", help="A .csv or .json with a row a file: file, caption, license, ...")
]
WorkersOption = Annotated[int | None, typer.Option(help="Processes; by default one a core.")]
RayOption = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Work on this Ray cluster; 'local' starts one here.")
]
LimitOption = Annotated[float, typer.Option("--limit-megapixels", help="Refuse larger pictures before decoding them.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@corpus.command()
def build(
    pack: Annotated[Path, typer.Argument(metavar="PACK", help="The folder to make, or to go on with.")],
    only: OnlyOption = [],  # noqa: B006  typer makes a new one each time
) -> None:
    """Fetch the parts that training pictures are composed of: pinned packages, each with its licence."""
    for module in ("resvg_py", "fontTools", "OpenEXR"):
        require(module, "corpus", "the corpus")
    from unfuse.corpus import parts

    parts.build(pack, only=only, tell=lambda line: err.print(escape(line), soft_wrap=True))
    print(pack)


@corpus.command()
def psd(
    files: Annotated[Path, typer.Argument(metavar="DIR", help="A folder with .psd and other layered files below it.")],
    to: OutOption,
    off: OffOption = [],  # noqa: B006  typer makes a new one each time
    side: SideOption = 1024,
    min_side: ShortOption = 64,
    min_layers: LeastOption = 2,
    max_layers: MostOption = 20,
    max_error: ErrorOption = 2.0,
    captioner: CaptionerOption = "offline",
    license: LicenseOption = "",
    source: SourceOption = "",
    metadata: MetadataOption = None,
    workers: WorkersOption = None,
    ray: RayOption = None,
    limit_megapixels: LimitOption = 200,
    as_json: JsonOption = False,
) -> None:
    """Make training records out of layered files: .psd, .psb and every other format whose layers can be read.

    A run that was stopped, or killed, goes on where it was. OUT/report.html shows what was left out, and why.
    """
    from unfuse.corpus import captions, rules, sources
    from unfuse.corpus.intake import IntakeParams

    captions.captioner(captioner)  # refused here, and not in each worker
    chosen = rules.without(off, side=side, short=min_side, least=min_layers, most=max_layers, error=max_error)
    params = IntakeParams(chosen, captioner, limit_megapixels)
    collected(files, sources.find(files, common(license, source), metadata), to, params, workers, ray, as_json)


@corpus.command()
def crello(
    files: Annotated[Path, typer.Argument(metavar="DIR", help="A local copy of cyberagent/crello, .parquet files.")],
    to: OutOption,
    split: Annotated[str, typer.Option(help="Which files: train, validation or test.")] = "train",
    off: OffOption = [],  # noqa: B006  typer makes a new one each time
    side: SideOption = 1024,
    min_layers: LeastOption = 2,
    max_layers: MostOption = 20,
    captioner: CaptionerOption = "offline",
    workers: WorkersOption = None,
    ray: RayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make training records out of Crello's designs. Never train on the split that you score with."""
    require("pyarrow", "corpus", "reading Crello")
    from unfuse.corpus import captions, rules, sources
    from unfuse.corpus.intake import IntakeParams

    captions.captioner(captioner)
    params = IntakeParams(rules.without(off, side=side, least=min_layers, most=max_layers), captioner)
    collected(files, sources.find_crello(files, split), to, params, workers, ray, as_json)


@corpus.command()
def pictures(
    files: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of RGBA pictures, or of pictures and mattes.")],
    to: OutOption,
    side: SideOption = 1024,
    min_side: ShortOption = 64,
    license: LicenseOption = "",
    source: SourceOption = "",
    metadata: MetadataOption = None,
    workers: WorkersOption = None,
    ray: RayOption = None,
    limit_megapixels: LimitOption = 200,
    as_json: JsonOption = False,
) -> None:
    """Make records of one layer each, for the VAE: RGBA pictures, or original/ and mask/ as AIM-500 has them."""
    from unfuse.corpus import sources
    from unfuse.corpus.intake import IntakeParams
    from unfuse.corpus.rules import RuleParams

    chosen = RuleParams(frozenset({"empty", "similar"}), side=side, short=min_side, least=1, most=1)
    params = IntakeParams(chosen, limit_megapixels=limit_megapixels)
    collected(files, sources.find_pictures(files, common(license, source), metadata), to, params, workers, ray, as_json)


def common(license: str, source: str) -> dict[str, str]:
    """What is said of all files at once."""
    return {name: value for name, value in (("license", license), ("source", source)) if value}


def collected(
    files: Path,
    found: list[Source],
    to: Path,
    params: IntakeParams,
    workers: int | None,
    ray: str | None,
    as_json: bool,
) -> None:
    """Make the corpus, with its progress shown, and say what was made."""
    from unfuse.corpus import collect

    folder(to.absolute().parent)
    options: dict[str, Any] = {"workers": workers or os.cpu_count() or 1, "ray": ray}
    tell(_followed(collect.collect, len(found), files, found, to, params, **options), to, as_json)


def _followed(work: Any, total: int, *arguments: Any, **options: Any) -> dict[str, Any]:
    """The index that some work on a corpus returns, with its progress shown."""
    seen: Counter[str] = Counter()
    with progress() as shown:
        task = shown.add_task("Taking in", total=total)

        def on_row(row: dict[str, Any]) -> None:
            seen[row["status"]] += 1
            told = f"{seen['kept']} kept, {seen['dropped']} left out, {seen['error']} errors"
            shown.update(task, advance=1, description=f"Taking in, {told}")

        index: dict[str, Any] = work(*arguments, on_row=on_row, **options)
    return index


def tell(index: dict[str, Any], to: Path, as_json: bool) -> None:
    """What was made: one JSON object, or a line, and where the report is."""
    counts = index["counts"]
    if as_json:
        print(json.dumps({"outputs": [str(to)], "records": index["records"], **counts}, ensure_ascii=False))
        return
    dropped = ", ".join(f"{n} {why}" for why, n in counts["dropped"].items())
    err.print(
        f"{counts['kept']} records with {counts['layers']} layers out of {counts['files']} files with "
        f"{counts['layers_before']} layers; left out: {dropped or 'none'}; errors: {counts['errors']}",
        soft_wrap=True,
    )
    print(to / "report.html")
