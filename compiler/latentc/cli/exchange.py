"""The verbs that read other projects' checkpoints and write theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentc import api
from latentc.cli._shared import Json, Key, Names, Sets, Variant, Weights, bar_for, echo, warn

Replace = Annotated[bool, typer.Option("--force", help="Replace a folder written by latentc.")]


def import_(
    source: Annotated[Path, typer.Argument(metavar="FOLDER|FILE", help="A diffusers folder, or a checkpoint.")],
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
