"""The verbs that train many models: settings of one spec, systems on the same images."""

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


def league(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Images with classes, as `latentc data` reads them.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for models and results, or one to go on.")
    ],
    systems: Annotated[
        str | None, typer.Option("--systems", metavar="NAME,NAME", help="Systems to compare. Default: all.")
    ] = None,
    budget: Annotated[
        str, typer.Option("--budget", metavar="30s|10m|1h", help="Processor time of each training.")
    ] = "5m",
    seeds: Annotated[int, typer.Option("--seeds", min=1, metavar="N", help="Trainings of each system.")] = 1,
    count: Annotated[int, typer.Option("--count", min=2, metavar="N", help="Samples to judge each by.")] = 1000,
    int8: Annotated[bool, typer.Option("--int8", help="Judge and time each in int8, too.")] = False,
    as_json: Json = False,
) -> None:
    """Train systems of all families on the same images within the same time, and rank them. Run again, it goes on."""
    names = [name.strip() for name in (systems or "").split(",") if name.strip()]
    with bar_for("league") as bar:

        def said(done: int, total: int, line: str) -> None:
            bar.total, bar.bar_format = total, None
            bar.update(done - bar.n)
            bar.write(printable(line), file=sys.stderr)

        found = api.league(data, output, names, _seconds(budget), seeds, count, int8, said)
    echo(found.data() if as_json else found.text(), end="")
    if not as_json:
        echo(f"\n{output}: results.txt results.csv results.json league.svg league.png")


def _seconds(text: str) -> float:
    """30s, 10m or 1h in seconds."""
    units = {"s": 1, "m": 60, "h": 3600}
    try:
        found = float(text[:-1]) * units[text[-1:]]
    except (KeyError, ValueError):
        found = 0.0
    if not 0 < found < 1e7:
        raise typer.BadParameter(f"{text!r} is no time such as 30s, 10m or 1h", param_hint="--budget")
    return found
