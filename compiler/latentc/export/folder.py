"""A folder that appears whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from latentc.diagnostics import Diagnostic, DiagnosticError


@contextlib.contextmanager
def new_folder(target: Path, what: str = "bundle", marker: str = "manifest.json") -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place when the block ends well, and vanishes when it does not.

    An older one at `target`, known by its file `marker`, is replaced in that moment; what killed processes have left
    there of theirs is removed. Raises DiagnosticError E0501 where the system refuses (disk full, no permission), E0502
    where `target` is something else than a `what` or an empty folder.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent):
            _refuse_foreign(target, what, marker)
            _sweep(target)
        with _claimed(target) as temporary:
            yield temporary
            with _locked(target.parent):
                _refuse_foreign(target, what, marker)  # it may have come in the meantime
                _replace(temporary, target)
    except OSError as error:
        # shutil collects what it could not copy, a file an entry: the first says why.
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror or error
        raise DiagnosticError(
            Diagnostic(
                "E0501",
                f"cannot write the {what} {target}: {reason}",
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


@contextlib.contextmanager
def _claimed(target: Path) -> Iterator[Path]:
    """A folder `.NAME.….tmp` that this process holds a lock on as long as it lives; gone when the block ends."""
    name = f".{target.name}.{secrets.token_hex(6)}"
    # Locked before it has the name that `_sweep` looks for.
    unlocked, temporary = target.parent / f"{name}.new", target.parent / f"{name}.tmp"
    unlocked.mkdir()
    lock = _lock(unlocked)
    try:
        yield unlocked.rename(temporary)
    finally:
        for left in (unlocked, temporary):
            shutil.rmtree(left, ignore_errors=True)
        if lock is not None:
            os.close(lock)


@contextlib.contextmanager
def _locked(parent: Path) -> Iterator[None]:
    """While it lasts no other process looks at what lies in `parent`, or replaces it."""
    lock = _lock(parent, wait=True)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _sweep(target: Path) -> None:
    """Removes the temporary folders of processes that were killed: nobody holds their locks."""
    hidden = glob.escape(f".{target.name}.")
    for left in (*target.parent.glob(f"{hidden}*.tmp"), *target.parent.glob(f"{hidden}*.old")):
        lock = None if left.is_symlink() or not left.is_dir() else _lock(left)
        # The older bundle of a process that was killed between two renames stays, where nothing has taken its place.
        if lock is not None and (left.suffix == ".tmp" or target.exists()):
            shutil.rmtree(left, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _lock(folder: Path, wait: bool = False) -> int | None:
    """A descriptor that holds the lock of a folder; None where another process has it, or the system has no such."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
