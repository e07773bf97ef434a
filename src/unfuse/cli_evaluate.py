"""The verbs of evaluation: an engine on designs, a VAE on RGBA pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from unfuse.cli_train import Otherwise
from unfuse.errors import require
from unfuse.terminal import err, progress


class Designs(Otherwise):
    """`evaluate FOLDER` is `evaluate DESIGNS FOLDER`."""

    verb = "DESIGNS"


evaluate = typer.Typer(cls=Designs, help="Score an engine or a VAE on data whose truth is known.", no_args_is_help=True)


@evaluate.command()
def vae(
    pictures: Annotated[Path, typer.Argument(metavar="PICTURES", help="A folder of RGBA pictures, such as AIM-500.")],
    model: Annotated[Path, typer.Option(metavar="DIR", help="A run of stage vae, or a published folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The report's folder.")] = Path("report"),
    short: Annotated[int | None, typer.Option(help="Bring pictures to this short side first.")] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    lpips: Annotated[Path | None, typer.Option(metavar="FILE.onnx", help="Your LPIPS network; see the docs.")] = None,
    inception: Annotated[Path | None, typer.Option(metavar="FILE.onnx", help="Your network for rFID.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Score how well a VAE gives RGBA pictures back: PSNR and SSIM over solid colours."""
    for needed in ("torch", "safetensors"):
        require(needed, "torch", "a VAE")
    from unfuse.evaluate import vae as module

    settings = module.VAESettings(short=short, seed=seed, lpips=lpips, inception=inception)
    result = followed(str(model), module.evaluate_vae, pictures, model, out, settings)
    tell(result, module.lines(result), out, as_json)


def followed(what: str, work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """The result of an evaluation, with its progress shown."""
    with progress() as shown:
        task = shown.add_task(f"Evaluating {escape(what)}", total=None)
        return work(*arguments, lambda done, total: shown.update(task, completed=done, total=total))


def tell(result: dict[str, Any], lines: Iterable[str], out: Path, as_json: bool) -> None:
    """What was found: one JSON object, or lines and where the report is."""
    if as_json:
        print(json.dumps({"about": result["about"], "summary": result["summary"], "outputs": [str(out)]}))
        return
    for line in lines:
        err.print(escape(line), soft_wrap=True)
    print(out / "index.html")
