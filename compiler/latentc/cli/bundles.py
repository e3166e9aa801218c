"""The verbs that create and use bundles."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from latentc import api
from latentc.api.ranges import numbers_from_text
from latentc.cli._shared import (
    Batch,
    Bundle,
    Classes,
    Count,
    Device,
    Features,
    Guidance,
    Json,
    Key,
    Names,
    PerClass,
    Program,
    Seed,
    Sets,
    Settings,
    Spec,
    Steps,
    Variant,
    Weights,
    Workers,
    a_number,
    a_time,
    advancing,
    bar_for,
    describe,
    echo,
    pairs,
    say_notes,
    warn,
)


def compile(
    spec: Spec,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="BUNDLE", help="The folder to write.")],
    weights: Weights = None,
    names: Names = None,
    key: Key = None,
    variant: Variant = None,
    overrides: Sets = None,
    form: Annotated[
        Literal["auto", "unroll", "loop", "host"] | None,
        typer.Option("--form", help="How the sampling loop is compiled."),
    ] = None,
    steps: Annotated[
        str | None, typer.Option("--steps", metavar="N,N", help="Step counts to include, default first.")
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option("--max-batch", min=1, help="Largest batch of one engine call.")
    ] = None,
    by_reference: Annotated[
        bool, typer.Option("--by-reference", help="Reference the weights file instead of copying it.")
    ] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Rebuild even if up to date.")] = False,
    calibration: Annotated[
        Path | None, typer.Option("--calibration", metavar="FILE", help="A file written by `latentc calibrate`.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Keep a quantised engine even if it misses its budget.")
    ] = False,
    no_run: Annotated[bool, typer.Option("--no-run", help="Skip the test run of the finished bundle.")] = False,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Skip the comparison of one evaluation with the reference.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compile a spec and its weights into a bundle: an engine that contains the whole sampler."""
    say_notes(spec, variant, overrides)
    stages: list[str] = []
    warnings: list[str] = []
    with bar_for("compiling") as bar:

        def progress(stage: str) -> None:
            stages.append(stage)
            describe(bar, stage)

        manifest = api.compile(
            spec,
            weights,
            output,
            variant,
            overrides or (),
            names,
            key,
            form,
            numbers_from_text(steps or ""),
            max_batch,
            by_reference,
            progress,
            rebuild,
            calibration,
            force,
            warnings.append,
            not no_run,
            not no_check,
        )
    warn(warnings)
    state = "" if stages else "up to date: "
    made = [
        {"name": p.name, "steps": p.steps, "solver": p.solver, "form": p.form, "why": p.why} for p in manifest.programs
    ]
    said = {m["name"]: "" if m["name"] == "sample" else f"{m['name']} by " for m in made}
    counts = {p.steps: f"{p.steps} step{'s' * (p.steps != 1)}" for p in manifest.programs}
    lines = [
        f"{output}: {state}{said[m['name']]}{m['solver']}, {counts[p.steps]}, form {m['form']} ({m['why']})"
        for m, p in zip(made, manifest.programs, strict=True)
    ]
    found: dict[str, Any] = {"bundle": str(output), "rebuilt": bool(stages), "programs": made, "warnings": warnings}
    if (fusion := manifest.fusion) is not None:
        lines.append(f"{output}: {api.fused(manifest)}")
        found["fusion"] = dataclasses.asdict(fusion)
    if (quantised := manifest.quantization) is not None:
        lines.append(f"{output}: {_quantised(quantised)}")
        found["quantization"] = dataclasses.asdict(quantised)
    echo(found if as_json else "\n".join(lines))


def _quantised(made: Any) -> str:
    """One line about a quantised bundle."""
    quality = f"PSNR {made.psnr:.1f} dB" if made.psnr is not None else f"perplexity {made.perplexity or 0.0:+.2%}"
    quality = ", ".join([quality, *(f"{name} {value:.4g}" for name, value in made.metrics.items())])
    speed = "speed not measured" if made.speedup is None else f"{made.speedup:.2f} × as fast at batch {made.batch}"
    return f"{made.scheme}, {made.layers} of {made.of} layers; {quality}; {speed}"


def calibrate(
    spec: Spec,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The .npz to write.")],
    weights: Weights = None,
    names: Names = None,
    key: Key = None,
    variant: Variant = None,
    overrides: Sets = None,
) -> None:
    """Record activation ranges while sampling, for `compile --calibration`."""
    with bar_for("calibrating") as bar:
        found = api.calibrate(spec, weights, output, variant, overrides or (), names, key, advancing(bar))
    about = found.about
    seen = f"{len(found.inputs)} inputs of layers on {sum(map(len, found.feeds.values()))} evaluations"
    echo(f"{output}: {seen}, {about['samples']} samples from seed {about['seed']}")


def sample(
    bundle: Bundle,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PATH", help="A .png, .wav, .gif, .txt or .npz file, or a folder."),
    ] = None,
    classes: Classes = None,
    per_class: PerClass = 1,
    count: Count = None,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--given",
            metavar="NAME=VALUE",
            help="A condition: a number, a text, .npy or .npz, one value or one per sample; an image or .wav file; "
            ".txt, one text per line.",
        ),
    ] = None,
    seed: Seed = 0,
    guidance: Guidance = None,
    setting: Settings = None,
    program: Program = None,
    steps: Steps = None,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="N|NxN", help="Points per axis of the grid, for programs of any size."),
    ] = None,
    noise: Annotated[
        Path | None, typer.Option("--noise", metavar="FILE", help="An .npz with the noise, instead of seeds.")
    ] = None,
    as_: Annotated[
        Literal["folder", "npz", "webdataset", "parquet"] | None,
        typer.Option(
            "--as", help="Write a sample set: PNGs, ADM's .npz, or shards. Repeat to continue after an interruption."
        ),
    ] = None,
    labels: Annotated[bool, typer.Option("--labels", help="Label images in a .png with their classes.")] = False,
    raw: Annotated[
        Path | None, typer.Option("--raw", metavar="FILE", help="Also write the raw samples to this .npz.")
    ] = None,
    batch: Batch = None,
    truncation: Annotated[
        float | None, typer.Option("--truncation", metavar="BOUND", help="Bound on a generator's noise; inf: none.")
    ] = None,
    backend: Annotated[
        Literal["engine", "oracle", "torch"],
        typer.Option("--backend", help="The engine, numpy in float64 (oracle), or the emitted PyTorch."),
    ] = "engine",
    device: Device = "auto",
    index: Annotated[
        Path | None,
        typer.Option("--index", metavar="FOLDER", help="Index for neighbours. Default: NAME.index."),
    ] = None,
    workers: Workers = None,
) -> None:
    """Sample from a bundle."""
    if output is None and raw is None:
        raise typer.BadParameter("nothing to write: give -o FILE, --raw FILE.npz or both")
    alone = raw is None and noise is None and backend == "engine" and not labels and size is None
    if as_ is not None and (not alone or output is None):
        raise typer.BadParameter(
            "--as needs -o and cannot be combined with --raw, --noise, --labels, --size or --backend"
        )
    if workers is not None and as_ is None:
        raise typer.BadParameter("--workers writes a sample set: add --as folder, npz, webdataset or parquet")
    asked: dict[str, Any] = {
        "given": pairs(given, "--given"),
        "guidance": guidance,
        "truncation": truncation,
        "settings": {name: a_number(value) for name, value in pairs(setting, "--setting").items()},
        "count": count,
        "program": program,
        "steps": steps,
        "batch": batch,
        "device": device,
        "index": index,
    }
    with bar_for("sampling") as bar:
        asked["progress"] = advancing(bar)
        if as_ is not None and output is not None:
            made = api.sample_set(bundle, output, as_, classes, per_class, seed, workers=workers, **asked)
        else:
            asked |= {"noise": noise, "backend": backend, "output": output, "labels": labels, "raw": raw, "size": size}
            api.sample(bundle, classes, per_class, seed, **asked)
    if as_ is not None:
        echo(f"{output}: {made.count} samples")
    else:
        echo("\n".join(str(path) for path in (output, raw) if path is not None))


def verify(
    source: Annotated[
        str, typer.Argument(metavar="BUNDLE|SPEC", help="A folder written by `latentc compile`; a spec for --training.")
    ],
    training: Annotated[
        bool,
        typer.Option(
            "--training",
            help="Compare a spec's losses, their gradients and all methods of its networks, with random data.",
        ),
    ] = False,
    weights: Annotated[
        list[str] | None,
        typer.Option("--weights", "-w", metavar="FILE", help="With --training: weights. Default: random."),
    ] = None,
    variant: Variant = None,
    overrides: Sets = None,
    names: Names = None,
    key: Key = None,
    budget: Annotated[
        float | None, typer.Option("--budget", min=0, callback=a_time, metavar="SECONDS", help="Time limit.")
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Verify a bundle or what trains: oracle, emitted PyTorch and engine must agree, and a control must differ."""
    if not training and (weights or variant or overrides or names or key):
        raise typer.BadParameter("a bundle holds its spec and weights: options of a spec go with --training")
    with bar_for("verifying") as bar:
        if training:
            given = (weights, variant, overrides or (), names, key, budget, seed, advancing(bar))
            report = api.verify_training(source, *given)
        else:
            report = api.verify(source, budget, device, seed, advancing(bar))
    echo(report.data() if as_json else report.text(), end="")
    if not report.ok:
        raise typer.Exit(1)


def bench(
    bundle: Bundle,
    batch: Annotated[str, typer.Option("--batch", metavar="N,N", help="Batch sizes.")] = "1,8",
    steps: Annotated[str, typer.Option("--steps", metavar="N,N", help="Step counts. Default: all.")] = "",
    compare: Annotated[bool, typer.Option("--compare", help="Compare with the emitted PyTorch.")] = False,
    seconds: Annotated[float, typer.Option("--seconds", min=0, callback=a_time, help="Time per case.")] = 5.0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Benchmark a bundle: samples per second, time per step."""
    batches, counts = numbers_from_text(batch), numbers_from_text(steps)
    with bar_for("measuring") as bar:
        report = api.bench(bundle, batches, counts, compare, seconds, device, advancing(bar))
    echo(report.data() if as_json else report.text(), end="")


def triton(
    bundle: Bundle,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="REPO", help="The model repository to write.")],
    kind: Annotated[
        Literal["auto", "ensemble", "sampler"],
        typer.Option("--kind", help="Whether Triton or latentc's runtime runs the engine."),
    ] = "auto",
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Name of the model. Default: the spec's.")
    ] = None,
    steps: Steps = None,
    program: Program = None,
    instances: Annotated[int, typer.Option("--instances", min=1, metavar="N", help="Number of parallel engines.")] = 1,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Device of the engines.")] = "auto",
    delay: Annotated[
        int, typer.Option("--delay", min=0, metavar="US", help="Time to wait for more requests to batch, in µs.")
    ] = 1000,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, metavar="N", help="CPU threads per engine.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a bundle as an NVIDIA Triton model repository."""
    with bar_for("deploying"):
        made = api.deploy_triton(bundle, output, kind, name, steps, program, instances, device, delay, threads)
    if as_json:
        echo({"repository": str(output), **vars(made)})
        return
    echo(f"{output}: model {made.model}, {made.kind} ({made.why})")
    echo(f"tritonserver --model-repository {output.resolve()}")


def tune(
    spec: Spec,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.")],
    weights: Weights = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget", metavar="NAME=VALUE", help="A limit: error=0.05, fd=1.1x, evaluations=10; repeatable."
        ),
    ] = None,
    names: Names = None,
    key: Key = None,
    variant: Variant = None,
    overrides: Sets = None,
    evaluations: Annotated[str, typer.Option("--evaluations", metavar="N,N", help="What to try.")] = "",
    samples: Annotated[
        int, typer.Option("--samples", min=16, metavar="N", help="Number of samples to evaluate.")
    ] = 256,
    batch: Annotated[int, typer.Option("--batch", min=1, metavar="N", help="Batch size for timing.")] = 1,
    seed: Seed = 0,
    seconds: Annotated[float | None, typer.Option("--seconds", min=0, callback=a_time, help="Time limit.")] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAMES|FILE.py:FUNCTION",
            help="Figures such as fd,accuracy, or your own function; repeatable.",
        ),
    ] = None,
    features: Features = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="DATA|STATS.npz", help="Reference for figures. Default: the spec's data."),
    ] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Tune the sampler for the fewest steps at a given quality. Writes a spec that extends this one, and a plot."""
    with bar_for("tuning") as bar:
        found = api.tune(
            spec,
            weights,
            output,
            budget or (),
            variant,
            overrides or (),
            names,
            key,
            numbers_from_text(evaluations),
            samples,
            batch,
            seed,
            seconds,
            metric or (),
            device,
            advancing(bar),
            features or (),
            reference,
        )
    echo(found.data() if as_json else found.text(), end="")
    if not as_json:
        echo(f"{output}: tuned.yaml candidates.csv pareto.svg pareto.png")
