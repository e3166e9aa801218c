"""The verbs that read other projects' checkpoints and write theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentc import api
from latentc.cli._shared import (
    Json,
    Key,
    Names,
    Sets,
    Variant,
    Weights,
    advancing,
    bar_for,
    echo,
    spec_names,
    warn,
    weights_names,
)

Replace = Annotated[bool, typer.Option("--force", help="Replace a folder written by latentc.")]


def import_(
    source: Annotated[
        str, typer.Argument(metavar="FOLDER|FILE", help="A diffusers folder, a checkpoint, or hub:ORG/NAME.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to write.")],
    system: Annotated[
        str | None, typer.Option("--spec", metavar="NAME", help="Shipped spec, if the file matches several.")
    ] = None,
    variant: Annotated[
        str | None, typer.Option("--variant", "-v", metavar="NAME", help="Variant of it, if the file matches several.")
    ] = None,
    key: Key = None,
    force: Replace = False,
    as_json: Json = False,
) -> None:
    """Import a diffusers pipeline or an official checkpoint as a spec with these weights as its default."""
    with bar_for("importing"):
        found = api.import_checkpoint(source, output, system, variant, key, force)
    warn(found.notes)
    if as_json:
        echo(found.data())
        return
    echo(f"{output}: {found.system}; wrote {', '.join(found.files)}")
    echo("\n".join(["next:", *(f"  {command}" for command in found.commands)]))


def diffusers(
    source: Annotated[str, typer.Argument(metavar="BUNDLE|SPEC", help="A bundle, or a spec with its weights.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="The folder to write.")],
    weights: Weights = None,
    names: Names = None,
    key: Key = None,
    variant: Variant = None,
    overrides: Sets = None,
    force: Replace = False,
    as_json: Json = False,
) -> None:
    """Write a bundle, or a spec and its weights, as a diffusers folder."""
    with bar_for("writing"):
        made = api.export_diffusers(source, output, weights, names, key, variant, overrides or (), force)
    warn(made.notes)
    what = made.pipeline or "models without a pipeline"
    echo(made.data() if as_json else f"{output}: {what}; wrote {', '.join(made.files)}")


def push(
    source: Annotated[Path, typer.Argument(metavar="BUNDLE|PROJECT", help="A bundle, a trained project or its run.")],
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The repository, created if need be.")],
    spec: Annotated[
        str | None,
        typer.Option("--spec", metavar="SPEC", help="Spec of a project. Default: its own.", autocompletion=spec_names),
    ] = None,
    variant: Variant = None,
    overrides: Sets = None,
    licence: Annotated[
        str | None, typer.Option("--licence", metavar="ID", help="The weights' licence, such as apache-2.0.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Figures for the card, from `evaluate -o DIR`.")
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option("--samples", metavar="FILE", help="A PNG for the card. Default: drawn, or the run's newest."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
    as_json: Json = False,
) -> None:
    """Upload a bundle or trained weights to the Hugging Face Hub, with their spec and a model card."""
    with bar_for("pushing") as bar:
        url, files = api.push(
            source, repository, spec, variant, overrides or (), licence, report, samples, private, advancing(bar)
        )
    if licence is None:
        warn(["the model card states no licence: push again with `--licence ID`"])
    echo({"url": url, "files": files} if as_json else f"{url}: {', '.join(files)}")


def pull(
    repository: Annotated[
        str,
        typer.Argument(
            metavar="ORG/NAME",
            help="The repository, ORG/NAME@REVISION, or official:NAME, which is downloaded to the cache.",
            autocompletion=weights_names,
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="The folder to write. Default: NAME.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Download a repository of the Hugging Face Hub (a bundle, or a spec with its weights), or official weights."""
    with bar_for("downloading"):
        folder, kind = api.pull(repository, output)
    if as_json:
        echo({"folder": str(folder), "kind": kind})
        return
    following = {
        "bundle": f"; next: latentc sample {folder} -o samples.png",
        "spec": f"; next: latentc compile {folder}/spec.yaml -o {folder}.latentc",
    }
    echo(f"{folder}: {kind}{following.get(kind, '')}")
