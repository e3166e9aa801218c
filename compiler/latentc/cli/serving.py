"""The verb that serves bundles over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from latentc import api
from latentc.cli._shared import Device, a_time, echo


def serve(
    bundles: Annotated[list[str], typer.Argument(metavar="BUNDLE", help="Bundle folders, or NAME=FOLDER.")],
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on; 0.0.0.0 for all interfaces.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 picks a free one.")] = 8000,
    key: Annotated[
        str | None,
        typer.Option("--key", envvar="LATENTC_API_KEY", metavar="KEY", help="API key required of requests."),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, metavar="N", help="Largest batch of one engine call.")] = 16,
    delay: Annotated[
        float,
        typer.Option(
            "--delay", min=0, callback=a_time, metavar="SECONDS", help="Time to wait for more requests to batch."
        ),
    ] = 0.003,
    queue: Annotated[int, typer.Option("--queue", min=1, metavar="N", help="Maximum samples waiting per model.")] = 256,
    max_samples: Annotated[
        int, typer.Option("--max-samples", min=1, metavar="N", help="Maximum samples per request.")
    ] = 64,
    max_body: Annotated[int, typer.Option("--max-body", min=1, metavar="BYTES", help="Maximum request size.")] = 16
    << 20,
    drain: Annotated[
        float,
        typer.Option(
            "--drain", min=0, callback=a_time, metavar="SECONDS", help="Time to finish open requests on shutdown."
        ),
    ] = 30.0,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, metavar="N", help="CPU threads per engine.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Serve bundles over HTTP, with a web page to try them. Ctrl-C finishes open requests and stops."""
    api.serve(
        bundles,
        host,
        port,
        key,
        device=device,
        threads=threads,
        batch=batch,
        delay=delay,
        queue=queue,
        max_samples=max_samples,
        max_body=max_body,
        drain=drain,
        announce=lambda address: echo(f"serving at {address}"),
    )
