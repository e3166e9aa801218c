"""A folder that appears whole or not at all."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from latentc.diagnostics import Diagnostic, DiagnosticError


@contextlib.contextmanager
def new_folder(target: Path, what: str = "bundle", marker: str = "manifest.json") -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place when the block ends well, and vanishes when it does not.

    An older one at `target`, known by its file `marker`, is replaced in that moment. Raises DiagnosticError E0501 where
    the system refuses (disk full, no permission), E0502 where `target` is something else than a `what` or an empty
    folder.
    """
    _refuse_foreign(target, what, marker)
    temporary = target.parent / f".{target.name}.{secrets.token_hex(6)}.tmp"
    try:
        try:
            temporary.mkdir(parents=True)
            yield temporary
            _replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise DiagnosticError(
            Diagnostic(
                "E0501",
                f"cannot write the {what} {target}: {error.strerror or error}",
                help="nothing was left behind; free some space or choose another place, then run again",
            )
        ) from error


def _refuse_foreign(target: Path, what: str, marker: str) -> None:
    if not target.exists() and not target.is_symlink():
        return
    if target.is_symlink() or not target.is_dir() or (any(target.iterdir()) and not (target / marker).is_file()):
        raise DiagnosticError(
            Diagnostic(
                "E0502",
                f"{target} exists and is not a {what} that latentc wrote",
                help="choose another place, or remove what is there yourself",
            )
        )


def _replace(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
        return
    old = temporary.with_suffix(".old")
    target.rename(old)
    try:
        temporary.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
