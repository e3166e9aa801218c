"""The verb that shows training runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from latentc import api
from latentc.cli._shared import Json, echo


def runs(
    places: Annotated[
        list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="Runs, or folders with runs. Default: this one.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page that compares the runs.")
    ] = None,
    curve: Annotated[
        list[str] | None,
        typer.Option(
            "--curve", metavar="PATTERN", help="Such as '*/loss' or '*'; repeatable. Default: losses, metrics."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List training runs with their curves, or compare them on an HTML page."""
    found = api.runs(places or ["."])
    if html is not None:
        api.compare_runs(found, html, curve or ())
    if as_json:
        echo([run.data() for run in found])
    elif html is not None:
        echo(str(html))
    else:
        from latentc.runs.text import BARS, PLAIN, text_of

        try:
            BARS.encode(sys.stdout.encoding or "ascii")
            bars = BARS
        except (AttributeError, UnicodeEncodeError):
            bars = PLAIN
        echo(text_of(found, curve or (), bars), end="")
