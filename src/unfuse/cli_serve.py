"""The verb `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from unfuse.terminal import err


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(serve)


def serve(
    host: Annotated[str, typer.Option(help="The address to listen at; any but this machine's own needs a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="0 for any that is free.")] = 8017,
    token: Annotated[
        list[str], typer.Option("--token", envvar="UNFUSE_TOKEN", help="Who may use it; may be given several times.")
    ] = [],  # noqa: B006  typer makes a new one each time
    token_file: Annotated[Path | None, typer.Option(help="A file with a token a line.")] = None,
    allow_host: Annotated[list[str], typer.Option(help="A further name of this server, behind a proxy.")] = [],  # noqa: B006
    data: Annotated[Path, typer.Option(metavar="DIR", help="Where stacks and jobs are kept.")] = Path("unfuse-data"),
    engine: Annotated[list[str], typer.Option(help="Engines to offer, the default first.")] = ["embedded"],  # noqa: B006
    device: Annotated[list[str], typer.Option(help="A worker each, such as 0 and 1 for two GPUs.")] = [],  # noqa: B006
    ray: Annotated[bool, typer.Option("--ray", help="Run jobs on a cluster of Ray; RAY_ADDRESS says which.")] = False,
    replicas: Annotated[int, typer.Option(help="With --ray: jobs at once.")] = 1,
    replica_gpus: Annotated[float, typer.Option(help="With --ray: GPUs of each replica.")] = 0,
    benches: Annotated[int, typer.Option(help="Processes for edits and exports.")] = 1,
    queue: Annotated[int, typer.Option(help="Jobs that may wait.")] = 32,
    queue_each: Annotated[int, typer.Option(help="Jobs of one token that may wait.")] = 8,
    stacks_each: Annotated[int, typer.Option(help="Stacks that a token may have.")] = 500,
    gigabytes_each: Annotated[float, typer.Option(help="And their size.")] = 10.0,
    keep_days: Annotated[float, typer.Option(help="How long a stack stays that nobody changes.")] = 30.0,
    keep_free: Annotated[int, typer.Option(help="Megabytes of the disk that stay free.")] = 500,
    upload_megabytes: Annotated[int, typer.Option(help="Of one upload.")] = 64,
    limit_megapixels: Annotated[float, typer.Option(help="Of one picture or canvas.")] = 50.0,
    memory: Annotated[int, typer.Option(help="Megabytes for a process that decodes or edits.")] = 6144,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
) -> None:
    """Serve the page and the HTTP API."""
    from unfuse.server import options as module
    from unfuse.server.run import run

    options = module.Options(
        host=host,
        port=port,
        tokens=module.tokens(token, token_file),
        names=tuple(allow_host),
        data=data,
        engines=tuple(dict.fromkeys(engine)),
        devices=tuple(device) or ("",),
        ray=ray,
        replicas=replicas,
        replica_gpus=replica_gpus,
        benches=benches,
        queue=queue,
        queue_each=queue_each,
        stacks_each=stacks_each,
        gigabytes_each=gigabytes_each,
        keep_days=keep_days,
        keep_free_megabytes=keep_free,
        upload_megabytes=upload_megabytes,
        megapixels=limit_megapixels,
        memory_megabytes=memory,
    )
    run(options, browser, lambda address: err.print(f"unfuse at {escape(address)} (Ctrl-C ends it)", soft_wrap=True))
