"""The verb that tries many settings of one spec."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from latentc import api
from latentc.cli._shared import Device, Features, Json, Seed, Spec, Variant, bar_for, echo
from latentc.diagnostics import printable


def sweep(
    spec: Spec,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the trials and results, or one to go on.")
    ],
    settings: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="A.B=V,V",
            help="Values to try, a range such as 1e-4..1e-2:log, or one value for all trials; repeatable.",
        ),
    ],
    variant: Variant = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="NAME,NAME", help="Figures of `evaluate`; the first ranks. Default: fd."),
    ] = None,
    features: Features = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", "-r", metavar="DATA|STATS.npz", help="Reference for figures. Default: the data."),
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", min=2, metavar="N", help="Samples to judge a trial by; see `evaluate`.")
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option("--trials", min=1, metavar="N", help="Most trials. Default: all of lists, 20 with ranges."),
    ] = None,
    workers: Annotated[
        str | None, typer.Option("--workers", metavar="N|ray[:ADDRESS]", help="Trials at once, or a Ray cluster.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train and judge a spec with many settings, and write the best one as a spec. Run again, it goes on."""
    with bar_for("sweeping") as bar:

        def said(done: int, total: int, line: str) -> None:
            bar.total, bar.bar_format = total, None
            bar.update(done - bar.n)
            bar.write(printable(f"trial {done} of {total}: {line}"), file=sys.stderr)

        given = (variant, metric or (), features or (), reference, count, trials, workers, seed, device)
        found = api.sweep(spec, output, settings, *given, said)
    echo(found.data() if as_json else found.text(), end="")
    if not as_json:
        echo(f"\n{output}: best.yaml results.csv results.txt sweep.svg sweep.png")
        echo(f"weights of the best: {found.weights}")
