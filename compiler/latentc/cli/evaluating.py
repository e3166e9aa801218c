"""The verbs that judge samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentc import api
from latentc.cli._shared import (
    Batch,
    Bundle,
    Classes,
    Count,
    Device,
    Guidance,
    Json,
    PerClass,
    Program,
    Seed,
    Settings,
    Steps,
    Workers,
    a_number,
    advancing,
    bar_for,
    echo,
    pairs,
)


def evaluate(
    samples: Annotated[Path, typer.Argument(metavar="BUNDLE|SAMPLES", help="A bundle, or sample files.")],
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            "-r",
            metavar="DATA|STATS.npz",
            help="A folder, an .npz or a spec. Default: the bundle's data.",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="NAME,NAME", help="Figures such as fd,recall. Default: all."),
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            "--features", metavar="NAME[=FILE]", help="Feature extractor: inception=FILE, digits, own.yaml; repeatable."
        ),
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option("--classifier", metavar="NAME=FILE", help="Classifier for class accuracy: resnet50=FILE."),
    ] = None,
    training: Annotated[
        str | None,
        typer.Option("--training", metavar="DATA", help="Training data, to detect copies. Default: the spec's data."),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            min=2,
            metavar="N",
            help="Number of samples, drawn evenly over classes if in files. Default: as the reference, at most 10 000.",
        ),
    ] = None,
    guidance: Annotated[
        str | None, typer.Option("--guidance", metavar="S,S", help="Guidance scales to compare, such as 1,1.5,2.")
    ] = None,
    setting: Settings = None,
    seed: Seed = 0,
    program: Program = None,
    steps: Steps = None,
    batch: Batch = None,
    most: Annotated[
        int | None,
        typer.Option("--reference-count", min=2, metavar="N", help="Number of real samples to read. Default: 50 000."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for report.html and metrics.json.")
    ] = None,
    statistics: Annotated[
        Path | None, typer.Option("--save-reference", metavar="FILE", help="Write the reference's mu and sigma (.npz).")
    ] = None,
    device: Device = "auto",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Evaluate samples: Fréchet distance, precision, recall, class accuracy, copies of training data; with a report."""
    scales = [a_number(text) for text in (guidance or "").split(",") if text.strip()]
    with bar_for("evaluating") as bar:
        found = api.evaluate(
            samples,
            reference,
            metric or (),
            features or (),
            classifier,
            training,
            count,
            scales,
            {name: a_number(value) for name, value in pairs(setting, "--setting").items()},
            seed,
            program,
            steps,
            batch,
            device,
            most,
            output,
            statistics,
            workers,
            advancing(bar),
        )
    echo(found.data() if as_json else found.text(), end="")
    if not as_json and output is not None:
        echo(f"{output}: report.html metrics.json")


def classify(
    bundle: Bundle,
    samples: Annotated[
        Path, typer.Argument(metavar="SAMPLES", help="An .npy, or an .npz with x and optionally labels y.")
    ],
    rounds: Annotated[
        str,
        typer.Option(
            "--rounds", metavar="RUNS:KEEP,…", help="Runs per class, then how many classes to keep, per round."
        ),
    ] = "1",
    classes: Annotated[
        str | None, typer.Option("--class", metavar="CLASSES", help='Candidates: 0-9,"a name",17. Default: all.')
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write labels, errors and runs to this .npz.")
    ] = None,
    seed: Seed = 0,
    batch: Batch = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Classify samples by a bundle's classifier, or by the class under which its model fits them best."""
    with bar_for("classifying") as bar:
        found, truth = api.classify(
            bundle,
            samples,
            rounds,
            seed,
            classes=classes,
            batch=batch,
            device=device,
            output=output,
            progress=advancing(bar),
        )
    right = None if truth is None else float((found.labels == truth).mean())
    if as_json:
        data = {"labels": found.labels.tolist(), "accuracy": right, "evaluations": found.evaluations}
        echo(data)
        return
    for i, label in enumerate(found.labels.tolist()[:20]):
        echo(f"sample {i}: class {label}")
    if len(found.labels) > 20:
        echo(f"… {len(found.labels) - 20} more" + ("" if output is None else f" in {output}"))
    if right is not None:
        echo(f"accuracy {right:.4f} of {len(found.labels)} samples, {found.evaluations} evaluations of the network")


def search(
    bundle: Bundle,
    reward: Annotated[
        str,
        typer.Option("--reward", metavar="FILE.py:FUNCTION", help="Returns one number per sample, higher is better."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PATH", help="A .png, .wav, .txt or .npz file, or a folder."),
    ] = None,
    classes: Classes = None,
    per_class: PerClass = 1,
    count: Count = None,
    rollouts: Annotated[int, typer.Option("--rollouts", metavar="N", help="Samples drawn per sample kept.")] = 32,
    levels: Annotated[
        int, typer.Option("--levels", metavar="N", help="Depth of the tree of shared noise; 1: best of N.")
    ] = 4,
    sharpness: Annotated[
        float | None,
        typer.Option(
            "--sharpness", metavar="S", help="Sample in proportion to exp(S x reward) instead of seeking the best."
        ),
    ] = None,
    seed: Seed = 0,
    guidance: Guidance = None,
    setting: Settings = None,
    steps: Steps = None,
    raw: Annotated[
        Path | None,
        typer.Option("--raw", metavar="FILE", help="Write samples, rewards and their history to this .npz."),
    ] = None,
    batch: Batch = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Search for samples with a high reward in a tree of shared noise (DTS*, DTS). Needs a stochastic sampler."""
    if output is None and raw is None and not as_json:
        raise typer.BadParameter("nothing to write: give -o FILE, --raw FILE.npz, --json or several")
    with bar_for("searching") as bar:
        found = api.search(
            bundle,
            reward,
            classes,
            per_class,
            seed,
            rollouts=rollouts,
            levels=levels,
            sharpness=sharpness,
            count=count,
            guidance=guidance,
            settings={name: a_number(value) for name, value in pairs(setting, "--setting").items()},
            steps=steps,
            batch=batch,
            device=device,
            output=output,
            raw=raw,
            progress=advancing(bar),
        )
    if as_json:
        echo({"rewards": found.rewards.tolist(), "history": found.history.tolist()})
        return
    drawn = found.history.mean()
    echo(f"mean reward {found.rewards.mean():.4g}, of all {found.history.size} samples drawn {drawn:.4g}")
    echo("\n".join(str(path) for path in (output, raw) if path is not None))
