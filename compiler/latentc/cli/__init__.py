"""The command line: one thin function per verb, which prints what `latentc.api` returns."""

from __future__ import annotations

import gc
import io
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Any

import typer

from latentc import __version__
from latentc.cli import bundles, evaluating, exchange, models, serving, sweeping, watching
from latentc.cli._shared import echo, with_components
from latentc.diagnostics import Diagnostic, printable, render
from latentc.diagnostics.faults import INTERRUPTED, exit_status

app = typer.Typer(
    name="latentc",
    help="Compile a YAML spec of a generative model into a PyTorch training project and an inference engine.",
    epilog="`latentc explain CODE` explains an error. Progress and errors go to stderr.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
deploy = typer.Typer(help="Export a bundle for an inference server.", rich_markup_mode=None)

export = typer.Typer(help="Export a model for another library.", rich_markup_mode=None)

VERBS: tuple[Callable[..., None], ...] = (
    *(models.specs, models.data, models.check, models.show, models.schema, models.init, models.explain),
    *(models.emit, models.train, watching.runs),
    *(models.forward, models.loss, models.weights, models.index),
    *(bundles.compile, bundles.calibrate, bundles.sample, bundles.verify, bundles.bench, bundles.tune),
    *(sweeping.sweep, sweeping.league),
    *(evaluating.evaluate, evaluating.classify, evaluating.search, serving.serve, models.doctor),
)
WITHOUT_SPECS = (models.data, models.init, models.explain, serving.serve, watching.runs)
for verb in VERBS:
    further = {"allow_extra_args": True, "ignore_unknown_options": True} if verb is models.train else None
    app.command(context_settings=further)(verb if verb in WITHOUT_SPECS else with_components(verb))
app.command("import")(with_components(exchange.import_))
app.command()(with_components(exchange.push))
app.command()(exchange.pull)
app.add_typer(export, name="export")
export.command()(with_components(exchange.diffusers))
app.add_typer(deploy, name="deploy")
deploy.command()(bundles.triton)


@deploy.callback()
@export.callback()
def _group() -> None:
    pass  # so that `triton` and `diffusers` remain subcommands


def _version(wanted: bool) -> None:
    if wanted:
        echo(f"latentc {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of internal errors.")] = False,
) -> None:
    pass


@cache
def _command() -> Any:
    """The parser of command lines; Typer would build it anew for each."""
    return typer.main.get_command(app)


def main() -> None:
    """The console script. Exit 0, or 1 for what the user can mend, 2 for a fault of latentc, 130 for Ctrl-C."""
    # As an exception, so that half-written files are removed on the way out.
    signal.signal(signal.SIGTERM, _leave)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it
        signal.signal(signal.SIGHUP, _leave)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # ignored for a script's background processes
        signal.signal(signal.SIGINT, _interrupt)
    if isinstance(sys.stdout, io.TextIOWrapper):  # the output's encoding may lack characters such as arrows
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.formatwarning = _formatted
    gc.set_threshold(10_000, 20, 20)  # scanning many long-lived small objects is slow
    sys.exit(run(sys.argv[1:]))


def _formatted(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return f"warning: {printable(str(message), chr(10))}\n"


_interruptions: list[int] = []


def _interrupt(number: int, frame: object) -> None:
    _interruptions.append(number)  # interrupting an import can raise other exceptions
    raise KeyboardInterrupt


def _leave(number: int, frame: object) -> None:
    if number != signal.SIGTERM:  # closing a terminal sends several signals
        signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def run(args: list[str]) -> int:
    """Run one command line; returns the exit status."""
    debug = "--debug" in args
    diagnostics: Sequence[Diagnostic]
    try:
        # --debug is removed here, so that it can also follow the verb.
        args = [arg for arg in args if arg != "--debug"] or ["--help"]
        given = _command().main(args, prog_name="latentc", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        status, diagnostics = given if isinstance(given, int) else 0, ()
    except (Exception, KeyboardInterrupt) as error:
        status, diagnostics = (INTERRUPTED, ()) if _interruptions else exit_status(error, debug)
        if debug and status == 2:
            traceback.print_exc()
        if isinstance(error, BrokenPipeError):
            sys.stdout = None  # otherwise Python would flush it again at exit
    if status == INTERRUPTED:
        sys.stderr.write("interrupted\n")
    sys.stderr.write(render(diagnostics, color=sys.stderr.isatty()))
    return status
