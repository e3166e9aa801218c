"""The verbs about specs, their networks and this machine."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from latentc import api
from latentc.cli._shared import (
    Force,
    Json,
    Key,
    Names,
    Sets,
    Spec,
    Variant,
    Weights,
    advancing,
    bar_for,
    echo,
    say_notes,
    spec_names,
    warn,
    write_notes,
)
from latentc.diagnostics import DiagnosticError
from latentc.diagnostics.faults import data_from_diagnostics, missing_packages
from latentc.files.shipped import codes


def specs(
    weights: Annotated[
        bool, typer.Option("--weights", help="List the official checkpoints instead, for `--weights official:NAME`.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the shipped specs by family, with their variants."""
    if weights:
        checkpoints = api.official_checkpoints()
        echo(checkpoints if as_json else _checkpoint_table(checkpoints))
        return
    found = api.specs()
    if as_json:
        echo(found)
        return
    width = max(len(name) for family in found.values() for name in family)
    for family, members in found.items():
        rows = [f"  {name:{width}}  {' '.join(variants)}".rstrip() for name, variants in members.items()]
        echo("\n".join([family, *rows]))


def _checkpoint_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, given in found.items():
        megabytes = given["megabytes"]
        size = "" if megabytes is None else f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"
        fits = given["spec"] if given["variant"] is None else f"{given['spec']} --variant {given['variant']}"
        where = given["weights"] if given["by_hand"] is None else f"by hand: {given['weights']}"
        rows.append((name, fits, size, given["licence"], where))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    return "\n".join("  ".join([*map(str.ljust, row, widths), row[-1]]) for row in rows)


def check(
    spec: Spec,
    variant: Variant = None,
    overrides: Sets = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Print the spec with all defaults.")] = False,
    with_data: Annotated[
        bool, typer.Option("--data", help="Read all of the spec's data, too, and compare it with the spec.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check a spec and report every error with file, line and column."""
    if resolved:
        echo(api.resolved(spec, variant, overrides or ()), end="")
        say_notes(spec, variant, overrides)
        return
    warnings: list[str] = []
    try:
        with bar_for("reading") if with_data else nullcontext() as bar:
            progress = advancing(bar) if with_data else lambda done, total: None
            found = api.check(spec, variant, overrides or (), warnings.append, with_data, progress)
    except DiagnosticError as error:
        if not as_json:
            warn(warnings if with_data else [])  # of a wrong spec only the errors, unless the data is asked about
            raise
        echo({"ok": False, "diagnostics": data_from_diagnostics(error.diagnostics), "warnings": warnings})
        raise typer.Exit(1) from None
    if as_json:
        echo({"ok": True, "name": found.name, "variant": variant, "notes": found.notes, "warnings": warnings})
        return
    echo(f"{found.name}: no errors found")
    write_notes(found.notes)
    warn(warnings)


def show(
    spec: Spec,
    variant: Variant = None,
    overrides: Sets = None,
    ir: Annotated[bool, typer.Option("--ir", help="Print the IR.")] = False,
    after: Annotated[str | None, typer.Option("--after", metavar="PASS", help="Print the IR after this pass.")] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Print constants in full, so that the IR can be parsed back.")
    ] = False,
    why: Annotated[
        str | None,
        typer.Option(
            "--why", metavar="RULE", help="Explain where a fusion rule matched or failed; `all` for every rule."
        ),
    ] = None,
    svg: Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="Draw the network.")] = None,
    plan: Annotated[
        str | None,
        typer.Option(
            "--plan",
            metavar="gpus=N,NAME",
            help="Estimate training on accelerators (gpus=256,h100): memory, traffic, time, bottleneck.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a spec's parameter count, FLOPs and memory, its IR, a diagram or a training plan."""
    if plan is not None:
        planned = api.plan(spec, plan, variant, overrides or ())
        echo(planned.data() if as_json else planned.text(), end="")
        return
    if why is not None:
        echo(api.why(spec, why, variant, overrides or ()), end="")
        return
    if ir or full or after is not None:
        echo(api.ir(spec, variant, overrides or (), after, full), end="")
        return
    found = api.show(spec, variant, overrides or (), svg)
    say_notes(spec, variant, overrides)
    reads = api.hoisting(spec, variant, overrides or ())
    named = {name: names for name, names in api.class_names(spec, variant, overrides or ()).items() if names}
    texts = [f"{name}: {len(names)} classes: {_few(names)}\n" for name, names in named.items()]
    texts += [f"{entry}: {report.text()}" for entry, report in found.items()]
    texts += [f"{entry}, {report.text()}" for entry, report in reads.items()]
    data = {entry: report.data() for entry, report in found.items()}
    for entry, report in reads.items():
        data[entry]["weights_read"] = report.data()
    echo(data if as_json else "\n".join(texts), end="")


def _few(names: tuple[str, ...]) -> str:
    """The first names of classes, in a line."""
    shown = [name.partition(",")[0] for name in names[:8]]
    return ", ".join(shown) + (", …" if len(names) > len(shown) else "")


def schema() -> None:
    """Print the JSON Schema of specs, for editor completion."""
    echo(api.schema())


def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the model and its file.")] = "my-model",
    system: Annotated[
        str | None, typer.Option("--from", metavar="SYSTEM", help="System to start from: dit (the default), edm, …")
    ] = None,
    component: Annotated[
        Literal["network", "condition", "objective", "sampler", "block"] | None,
        typer.Option("--component", help="Write a Python package with a component of your own instead."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="PATH", help="Default: NAME.yaml; of a package, mypkg.")
    ] = None,
    own: Annotated[
        str | None,
        typer.Option("--data", metavar="PATH", help="Fit the spec to your data, and to this machine; see `data`."),
    ] = None,
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Split of a Hugging Face data set.")] = "train",
) -> None:
    """Write a commented first spec that trains on handwritten digits or your own data; or a package of a component."""
    if component is not None:
        folder = api.init_component(component, "mypkg" if output is None else output)
        (spec,) = folder.glob("*/specs/*.yaml")
        echo(f"{folder}: edit it, then `latentc check {spec} --components {spec.parents[1]}`")
        return
    if own is None:
        path = api.init(name, system, output)
    else:
        with bar_for("reading") as bar:
            path = api.init(name, system, output, own, split, advancing(bar))
    echo(f"{path}: edit it, then `latentc check {path}` and `latentc train {path}`")


def data(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A folder, a file, or ORG/NAME on the Hugging Face Hub.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write a PNG with samples of each class.")
    ] = None,
    most: Annotated[
        int | None,
        typer.Option("--most", min=1, metavar="N", help="Read N samples, evenly over classes. Default: all."),
    ] = None,
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Split of a Hugging Face data set.")] = "train",
    as_json: Json = False,
) -> None:
    """Inspect data: shape, classes, damaged and unusual files, statistics, and the section of a spec that reads it."""
    with bar_for("reading") as bar:
        found = api.data(path, most, split, output, advancing(bar))
    echo(found.data() if as_json else found.text(), end="")


def explain(
    code: Annotated[str, typer.Argument(metavar="CODE", help="Such as E0204.", autocompletion=codes)],
) -> None:
    """Explain an error code: cause, example and remedy."""
    echo(api.explain(code), end="")


def emit(
    spec: Spec,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The project's folder.")],
    variant: Variant = None,
    overrides: Sets = None,
    force: Force = False,
) -> None:
    """Write the PyTorch training project of a spec."""
    say_notes(spec, variant, overrides)
    files = api.emit(spec, output, variant, overrides or (), force)
    echo(f"{output}: {' '.join(sorted(file.name for file in files if not file.name.startswith('.')))}")


def train(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(metavar="SPEC|DIR", help="A spec, or a folder written by `emit`.", autocompletion=spec_names),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for the project.")
    ] = None,
    variant: Variant = None,
    overrides: Sets = None,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Number of processes, run by torchrun.")] = 1,
    quantize: Annotated[
        Literal["int8", "int8_weights", "int4_weights", "fp8", "nvfp4", "nvfp4_weights", "mxfp4_weights"] | None,
        typer.Option("--quantize", help="Fit --weights to an engine quantised like this, by distillation."),
    ] = None,
    weights: Weights = None,
) -> None:
    """Emit the project if needed and run its train.py with all further flags (--steps 10)."""
    say_notes(source, variant, overrides)
    folder = api.train(source, output, context.args, variant, overrides or (), processes, quantize, weights)
    echo(f"trained in {folder}")


def forward(
    spec: Spec,
    inputs: Annotated[Path, typer.Option("--inputs", "-i", metavar="FILE", help="An .npz with the network's inputs.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The .npz to write, one array per output.")
    ],
    weights: Weights = None,
    backend: Annotated[
        Literal["oracle", "torch", "onnx", "openvino"], typer.Option("--backend", help="Backend to run on.")
    ] = "oracle",
    variant: Variant = None,
    overrides: Sets = None,
    names: Names = None,
    key: Key = None,
    network: Annotated[str, typer.Option("--network", metavar="NAME", help="Network of the spec.")] = "main",
    method: Annotated[str, typer.Option("--method", metavar="NAME", help="Method of the network.")] = "forward",
) -> None:
    """Run one method of a network. Inputs that the method does not read may be left out."""
    given = (variant, overrides or (), names, key, network, method)
    with bar_for("running"):
        api.forward_file(spec, weights, inputs, output, backend, *given)


def loss(
    spec: Spec,
    inputs: Annotated[
        Path, typer.Option("--inputs", "-i", metavar="FILE", help="An .npz with the data fields and random draws.")
    ],
    weights: Weights = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the loss and its parts to this .npz.")
    ] = None,
    backend: Annotated[Literal["oracle", "torch"], typer.Option("--backend", help="Backend to run on.")] = "oracle",
    update: Annotated[
        str | None,
        typer.Option("--update", metavar="NAME", help="Loss to evaluate, if there are several. Default: the first."),
    ] = None,
    training: Annotated[
        bool, typer.Option("--training", help="Run networks in training mode: batch norms use batch statistics.")
    ] = False,
    variant: Variant = None,
    overrides: Sets = None,
    names: Names = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Evaluate a training loss on given data and draws.

    The .npz has the fields of the data (`x`, `y`) and the random draws of a training step (`t`, `noise`, …), one per
    sample: an .npz that lacks them is answered with the list. `drop` decides whether the label is dropped: 1 keeps it,
    0 drops it.
    """
    given = (variant, overrides or (), names, key, update, training)
    with bar_for("running"):
        found = api.loss_file(spec, weights, inputs, output, backend, *given)
    values = {name: float(value) for name, value in found.items()}
    echo(values if as_json else "\n".join(f"{name}: {value:.9g}" for name, value in values.items()))


def weights(
    spec: Spec,
    to: Annotated[
        list[str],
        typer.Option("--to", "-o", metavar="FILE", help="The .safetensors to write, or NETWORK=FILE per network."),
    ],
    source: Weights = None,
    names: Names = None,
    to_names: Annotated[str | None, typer.Option("--to-names", metavar="MAP", help="Name map for the output.")] = None,
    key: Key = None,
    variant: Variant = None,
    overrides: Sets = None,
    network: Annotated[str | None, typer.Option("--network", metavar="NAME", help="Convert only this network.")] = None,
) -> None:
    """Write a checkpoint under other names: import with --names, export with --to-names."""
    taken: list[str] = []
    with bar_for("writing"):
        written = api.convert_weights(spec, source, to, names, to_names, key, variant, overrides or (), network, taken)
    echo("\n".join([*taken, *(f"{path}: {count} tensors" for path, count in written.items())]))


def doctor(as_json: Json = False) -> None:
    """Report which engines work on this machine, and how to fix the others."""
    if missing := missing_packages():  # the rest of the report needs them
        for package, why in missing.items():
            echo(f"fault   package {package}: {why}\n          → pip install {package}")
        raise typer.Exit(1)
    with bar_for("looking"):
        report = api.doctor()
    echo(report.data() if as_json else report.text(), end="")
    if not report.ok:
        raise typer.Exit(1)


def index(
    spec: Spec,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="The index to write; NAME.index next to NAME.latentc is found automatically.",
        ),
    ],
    condition: Annotated[
        str | None,
        typer.Option("--condition", metavar="NAME", help="Condition to index for, if several use neighbours."),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option("--queries", metavar="FILE", help="An .npy with one query per class. Default: the class mean."),
    ] = None,
    variant: Variant = None,
    overrides: Sets = None,
) -> None:
    """Write the embeddings of a spec's data as an index for neighbour search."""
    made = api.index(spec, output, condition, queries, variant, overrides or ())
    classes = "" if made.queries is None else f", queries of {len(made.queries)} classes"
    echo(f"{output}: {len(made):,} embeddings of {made.size} numbers{classes}")
