"""Shared by the verbs: their arguments, and how they print."""

from __future__ import annotations

import functools
import inspect
import json
import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from latentc import api
from latentc.diagnostics import DiagnosticError, printable


def spec_names(incomplete: str) -> list[str]:
    """Completions of a spec: shipped names and YAML files here; of paths to elsewhere none, as shells know these."""
    from latentc.files.shipped import shipped_specs

    return [] if "/" in incomplete else [*shipped_specs(), *sorted(str(file) for file in Path().glob("*.y*ml"))]


def variants_of(context: typer.Context) -> list[str]:
    """Completions of `--variant`: those of the spec on the command line, if it can be read."""
    from latentc.spec.load import variant_names

    # The parser gives up at an option without its value and leaves the words as they are.
    given = context.params.get("spec") or context.params.get("source") or next(iter(context.args), None)
    try:
        return list(variant_names(given)) if isinstance(given, str) else []
    except DiagnosticError:
        return []


def weights_names(incomplete: str) -> list[str]:
    """Completions of weights that begin with `official:`; of other texts none, as shells know files."""
    return [f"official:{name}" for name in api.official_checkpoints()] if incomplete.startswith("offic") else []


Spec = Annotated[
    str,
    typer.Argument(
        metavar="SPEC", help="A YAML file, the name of a shipped spec, or - for stdin.", autocompletion=spec_names
    ),
]
Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder written by `latentc compile`.")]
Variant = Annotated[
    str | None,
    typer.Option("--variant", "-v", metavar="NAME", help="A variant of the spec.", autocompletion=variants_of),
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Set one value, in YAML; repeatable.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        "--weights",
        "-w",
        metavar="FILE",
        help="A .safetensors, .pt or .npz file, hub:ORG/NAME or official:NAME, or NETWORK=FILE per network. "
        "Default: the spec's own.",
        autocompletion=weights_names,
    ),
]
Names = Annotated[str | None, typer.Option("--names", metavar="MAP", help="The spec's name map for this file.")]
Key = Annotated[
    str | None, typer.Option("--key", metavar="KEY", help="State dict to use from a checkpoint, such as ema.")
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Seed; sample i uses N + i.")]
Classes = Annotated[
    str | None, typer.Option("--class", metavar="CLASSES", help='Such as 0-9,"a name",17. Default: all.')
]
PerClass = Annotated[int, typer.Option("--per-class", min=1, metavar="N", help="Samples per class.")]
Count = Annotated[int | None, typer.Option("--count", min=0, metavar="N", help="Number of samples.")]
Guidance = Annotated[
    float | None, typer.Option("--guidance", metavar="SCALE", help="Guidance scale. Default: the spec's.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--setting", metavar="NAME=VALUE", help="A setting, such as temperature=0.9; repeatable."),
]
Program = Annotated[str | None, typer.Option("--program", metavar="NAME", help="Program to run. Default: the first.")]
Steps = Annotated[int | None, typer.Option("--steps", metavar="N", help="Number of steps, one of the bundle's.")]
Batch = Annotated[int | None, typer.Option("--batch", min=1, metavar="N", help="Batch size.")]
Features = Annotated[
    list[str] | None,
    typer.Option("--features", metavar="NAME[=FILE]", help="Feature extractor for figures, such as inception=FILE."),
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, tensorrt or auto.")]
Workers = Annotated[
    str | None,
    typer.Option("--workers", metavar="N|ray[:ADDRESS]", help="Sample with N processes or on a Ray cluster."),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that latentc did not write.")]


Components = Annotated[
    list[Path] | None,
    typer.Option("--components", metavar="FOLDER", help="A package with components of your own; repeatable."),
]


def with_components(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb that also takes `--components FOLDER` and adds these packages before it runs."""

    @functools.wraps(verb)
    def run(*args: Any, components: list[Path] | None = None, **given: Any) -> None:
        for folder in components or ():
            api.use_components(folder)
        verb(*args, **given)

    hints = {**get_type_hints(verb, include_extras=True), "components": Components}
    parameters = list(inspect.signature(verb).parameters.values())
    parameters = [part.replace(annotation=hints[part.name]) for part in parameters]
    own = inspect.Parameter("components", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Components)
    run.__signature__ = inspect.Signature([*parameters, own])  # type: ignore[attr-defined]
    run.__annotations__ = hints
    return run


def echo(value: Any, end: str = "\n") -> None:
    """Text, with control characters in it escaped, anything else as JSON.

    Names come from files of others (specs, manifests, checkpoints), which must not drive the terminal.
    """
    text = printable(value, "\n\t") + end if isinstance(value, str) else json.dumps(value, indent=2) + "\n"
    if sys.stdout is not None:  # the parent process closed it
        sys.stdout.write(text)


def say_notes(source: str, variant: str | None, overrides: list[str] | None) -> None:
    """Prints the spec's notes on merging to stderr."""
    write_notes(api.notes(source, variant, overrides or ()))


def write_notes(notes: Sequence[str]) -> None:
    """Notes on stderr, a line each."""
    sys.stderr.write("".join(f"note: {printable(note)}\n" for note in notes))


def warn(texts: Sequence[str]) -> None:
    """Warnings on stderr, a line each."""
    sys.stderr.write("".join(f"warning: {printable(text)}\n" for text in texts))


def a_time(value: float | None) -> float | None:
    """Refuses nan, which `min=0` of an option lets through."""
    if value is not None and math.isnan(value):
        raise typer.BadParameter("nan is not a time: give seconds from 0, or inf for no limit")
    return value


def a_number(text: str) -> float:
    """The number that a text says. BadParameter if it is none."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"`{text}` is not a number") from None


def pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    """`NAME=VALUE` texts of a repeatable option by name. BadParameter if one is none, or a name comes twice."""
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise typer.BadParameter(f"{option} {text}: write NAME=VALUE")
        if name in found:
            raise typer.BadParameter(f"{option} gives `{name}` twice")
        found[name] = value
    return found


@contextmanager
def bar_for(what: str) -> Iterator[Any]:
    """A progress bar on stderr, where that is a terminal, of what takes over two seconds; without a total, the time."""
    from tqdm import tqdm

    done = threading.Event()
    shown = {"delay": 2, "leave": False, "file": sys.stderr, "disable": None}
    with tqdm(desc=what, bar_format="{desc}: {elapsed}", **shown) as bar:

        def tick() -> None:
            while not done.wait(2 if bar.n == 0 else 0.5):
                bar.refresh()

        ticker = threading.Thread(target=tick, daemon=True)
        ticker.start()
        try:
            yield bar
        finally:
            done.set()
            ticker.join()
            bar.clear()  # tqdm does not clear a bar that was only refreshed


def describe(bar: Any, what: str) -> None:
    """Say what a bar is about from its next refresh on."""
    bar.set_description(printable(what), refresh=False)


def advancing(bar: Any) -> Callable[..., None]:
    """A callback that moves a progress bar: `(done, total, what)`."""

    def progress(done: int, total: int, what: str | None = None) -> None:
        bar.total, bar.bar_format = total, None
        if what is not None:
            describe(bar, what)
        bar.update(done - bar.n)

    return progress
