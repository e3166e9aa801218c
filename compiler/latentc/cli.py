"""The command line: one thin function a verb. What a verb does is in `latentc.api`; what goes wrong is printed here."""

from __future__ import annotations

import json
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from latentc import __version__, api
from latentc.diagnostics import Diagnostic, DiagnosticError, render

app = typer.Typer(
    name="latentc",
    help="Compile a YAML spec of a generative model into a PyTorch training project and an inference engine.",
    epilog="`latentc explain CODE` tells more of a diagnostic. Progress and errors go to stderr.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Spec = Annotated[str, typer.Argument(metavar="SPEC", help="A YAML file, the name of a shipped spec, or - for stdin.")]
Variant = Annotated[str | None, typer.Option("--variant", "-v", metavar="NAME", help="A variant of the spec.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Change one value; repeatable.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Weights = Annotated[Path, typer.Option("--weights", "-w", metavar="FILE", help="A .safetensors, .pt or .npz file.")]
Names = Annotated[str | None, typer.Option("--names", metavar="MAP", help="The spec's name map the file follows.")]
Key = Annotated[str | None, typer.Option("--key", metavar="KEY", help="Which state dict of a checkpoint: ema.")]


@app.command()
def specs(as_json: Json = False) -> None:
    """List the specs that ship with latentc, and their variants."""
    found = api.specs()
    width = max(map(len, found))
    _print(found if as_json else "\n".join(f"{name:{width}}  {' '.join(v)}".rstrip() for name, v in found.items()))


@app.command()
def check(
    spec: Spec,
    variant: Variant = None,
    overrides: Sets = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Print the spec with every default.")] = False,
    as_json: Json = False,
) -> None:
    """Check a spec: every mistake with its file, line and column."""
    if resolved:
        _print(api.resolved(spec, variant, overrides or ()), end="")
        return
    try:
        name = api.check(spec, variant, overrides or ()).name
    except DiagnosticError as error:
        if not as_json:
            raise
        _print({"ok": False, "diagnostics": api.data_from_diagnostics(error.diagnostics)})
        raise typer.Exit(1) from None
    _print({"ok": True, "name": name, "variant": variant} if as_json else f"{name}: the spec is sound")


@app.command()
def schema() -> None:
    """Print the JSON Schema of specs, for completion in editors."""
    _print(api.schema())


@app.command()
def explain(code: Annotated[str, typer.Argument(metavar="CODE", help="As in error[E0204].")]) -> None:
    """Explain a diagnostic's code: what happened, an example, how to mend it."""
    _print(api.explain(code), end="")


@app.command()
def show(
    spec: Spec,
    variant: Variant = None,
    overrides: Sets = None,
    ir: Annotated[bool, typer.Option("--ir", help="Print the IR instead.")] = False,
) -> None:
    """Show what a spec comes to: parameters, flops, memory; or its IR."""
    _print(api.ir(spec, variant, overrides or ()), end="")


@app.command()
def forward(
    spec: Spec,
    weights: Weights,
    inputs: Annotated[Path, typer.Option("--inputs", "-i", metavar="FILE", help="An .npz of the network's inputs.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The .npz to write, array `out`.")],
    backend: Annotated[Literal["oracle", "torch", "onnx"], typer.Option("--backend", help="What runs it.")] = "oracle",
    variant: Variant = None,
    overrides: Sets = None,
    names: Names = None,
    key: Key = None,
) -> None:
    """Run the network once."""
    api.forward_file(spec, weights, inputs, output, backend, variant, overrides or (), names, key)


@app.command()
def weights(
    spec: Spec,
    source: Weights,
    to: Annotated[Path, typer.Option("--to", "-o", metavar="FILE", help="The .safetensors file to write.")],
    names: Names = None,
    to_names: Annotated[str | None, typer.Option("--to-names", metavar="MAP", help="The name map to write by.")] = None,
    key: Key = None,
    variant: Variant = None,
    overrides: Sets = None,
) -> None:
    """Write a checkpoint under other names: import with --names, export with --to-names."""
    count = api.convert_weights(spec, source, to, names, to_names, key, variant, overrides or ())
    _print(f"{to}: {count} tensors")


# ---- printing, and what goes wrong


def _print(value: Any, end: str = "\n") -> None:
    """Text as it is, anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    sys.stdout.write(text + end)


def _version(wanted: bool) -> None:
    if wanted:
        _print(f"latentc {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of internal errors.")] = False,
) -> None:
    pass


def main() -> None:
    """The console script. Exit 0, or 1 for what the user can mend, 2 for a fault of latentc, 130 for Ctrl-C."""
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(run(sys.argv[1:]))


def run(args: list[str]) -> int:
    """Run one command line; returns the exit status."""
    debug = "--debug" in args
    # Taken out here, so that it may stand behind the verb as well.
    args = [arg for arg in args if arg != "--debug"]
    try:
        status = app(args, prog_name="latentc", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except DiagnosticError as error:
        return _fail(error.diagnostics)
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:  # `latentc show … | head`
        sys.stdout = None
        return 0
    except MemoryError:
        return _fail([Diagnostic("E0710", "not enough memory", help="close other programs, or ask for less at once")])
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own: a wrong option or argument
            return _fail([_usage(error)])
        if debug:
            traceback.print_exc()
        return _fail([api.internal_error(error, debug)], 2)


def _usage(error: Any) -> Diagnostic:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "latentc"
    return Diagnostic("E0701", error.format_message().rstrip("."), help=f"run `{path} --help`")


def _fail(diagnostics: Any, status: int = 1) -> int:
    sys.stderr.write(render(diagnostics, color=sys.stderr.isatty()))
    return status


def _terminated(*_: Any) -> None:
    # As an exception, so that what is half-written is removed on the way out.
    sys.exit(143)


if __name__ == "__main__":
    main()
