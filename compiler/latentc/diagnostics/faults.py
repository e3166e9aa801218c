"""Diagnostics from exceptions: of the runtime, a missing package, the command line, the system, or a bug of ours."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from latentc.diagnostics import NO_ROOM, Diagnostic, DiagnosticError

INTERRUPTED = 130  # exit status after Ctrl-C, as in shells


REQUIRED = {
    **{name: name for name in ("numpy", "pydantic", "jinja2", "networkx", "onnx", "ml_dtypes", "safetensors", "tqdm")},
    "yaml": "pyyaml",
    "PIL": "pillow",
}
"""Packages that latentc cannot do without, by the names they are imported under."""


def missing_packages() -> dict[str, str]:
    """{package to install: why it cannot be imported} of those that latentc cannot do without."""
    missing = {}
    for module, package in REQUIRED.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            missing[package] = str(error)
    return missing


@contextlib.contextmanager
def runtime_errors() -> Iterator[None]:
    """Raises errors of the runtime as DiagnosticErrors."""
    from latentc_runtime import BundleError
    from latentc_runtime.sources import RequestError

    try:
        yield
    except BundleError as error:
        raise DiagnosticError.of(error.code, error.message, help=error.help) from error
    except RequestError as error:
        raise DiagnosticError.of("E0608", error.message, help=error.help) from error


def needed(package: str, what: str, command: str) -> Any:
    """Import a package that only some commands need. DiagnosticError E0706."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise DiagnosticError.of(
            "E0706", f"{what} needs {package}, which cannot be imported: {error}", help=f"run `{command}`"
        ) from None


def exit_status(error: BaseException, debug: bool) -> tuple[int, Sequence[Diagnostic]]:
    """Exit status and diagnostics for an exception: 1 for the user's errors, 2 for ours, 130 for Ctrl-C."""
    mistakes = sys.modules.get("latentc.components.mistakes")  # importing it could fail as well
    if mistakes is not None:
        error = mistakes.of_code(error) or error
    if isinstance(error, DiagnosticError):
        return 1, error.diagnostics
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":  # typer's exception for it
        return INTERRUPTED, ()
    if isinstance(error, BrokenPipeError):  # `latentc show … | head`
        return 0, ()
    if isinstance(error, OSError):
        return 1, [_system_error(error)]
    if isinstance(error, MemoryError):
        return 1, [Diagnostic("E0710", "not enough memory", help="close other programs, or ask for less at once")]
    if isinstance(error, ImportError) and (package := (error.name or "").partition(".")[0]) in REQUIRED:
        message = f"the package {REQUIRED[package]}, which latentc needs, cannot be imported: {error}"
        return 1, [Diagnostic("E0706", message, help=f"run `pip install {REQUIRED[package]}`")]
    if hasattr(error, "format_message"):  # typer's exception for a wrong option or argument
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "latentc"
        message = error.format_message().rstrip(".").replace("\n", " ")
        return 1, [Diagnostic("E0701", message, help=f"run `{command} --help`")]
    if mistakes is not None and (found := mistakes.of_use(error)) is not None:
        return 1, found.diagnostics
    return 2, [internal_error(error, debug)]


def _system_error(error: OSError) -> Diagnostic:
    """The diagnostic of a system error that was not handled where it occurred."""
    reason = error.strerror or str(error)
    what = f" {error.filename}: {reason}" if error.filename is not None else f": {reason}"
    if error.errno in NO_ROOM:
        return Diagnostic("E0412", f"cannot write{what}", help="free some space (`df -h`; TMPDIR is used as well)")
    return Diagnostic("E0402", f"the system refused{what}", help="check the path and its permissions")


def internal_error(error: BaseException, debug: bool) -> Diagnostic:
    """The diagnostic of a bug of latentc."""
    first, *rest = f"{type(error).__name__}: {error}".removesuffix(": ").splitlines()
    mend = "please report it with the spec, the command and this message"
    notes = ("\n".join(rest[:12]),) if rest else ()
    return Diagnostic("E0901", first, notes=notes, help=mend if debug else f"{mend}; `--debug` shows the traceback")


def data_from_diagnostics(diagnostics: Sequence[Diagnostic]) -> list[dict[str, Any]]:
    """Diagnostics as plain data, for JSON."""
    return [dataclasses.asdict(diagnostic) for diagnostic in diagnostics]
