"""A folder that is never visible half-written."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from latentc.diagnostics import DiagnosticError, mend_of_writing


@contextlib.contextmanager
def new_folder(target: Path, what: str = "bundle", marker: str = "manifest.json") -> Iterator[Path]:
    """A temporary folder beside `target` that is renamed to it if the block succeeds and removed if it fails.

    An earlier folder at `target`, recognised by its file `marker`, is replaced; temporary folders that killed processes
    left behind are removed. Raises DiagnosticError: E0501 if the system refuses (disk full, no permission), E0502 if
    `target` is neither a `what` nor an empty folder.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.parent, wait=True):
            _refuse_foreign(target, what, marker)
            _sweep(target)
        with _claimed(target) as temporary:
            yield temporary
            with locked(target.parent, wait=True):
                _refuse_foreign(target, what, marker)  # another process may have created it meanwhile
                _replace(temporary, target)
    except OSError as error:
        # shutil.Error holds one entry per file; the first gives the reason.
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror or error
        raise DiagnosticError.of(
            "E0501",
            f"cannot write the {what} {target}: {reason}",
            help=f"nothing was left behind; {mend_of_writing(error)}",
        ) from error


def _refuse_foreign(target: Path, what: str, marker: str) -> None:
    if not target.exists() and not target.is_symlink():
        return
    if target.is_symlink() or not target.is_dir() or (any(target.iterdir()) and not (target / marker).is_file()):
        raise DiagnosticError.of(
            "E0502",
            f"{target} exists and is not a {what} that latentc wrote",
            help="choose another place, or remove it yourself",
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
    """A folder `.NAME.….tmp` that this process holds a lock on; removed when the block ends."""
    name = f".{target.name}.{secrets.token_hex(6)}"
    # Locked before it gets the name that `_sweep` looks for.
    unlocked, temporary = target.parent / f"{name}.new", target.parent / f"{name}.tmp"
    unlocked.mkdir()
    with locked(unlocked):
        try:
            yield unlocked.rename(temporary)
        finally:
            for left in (unlocked, temporary):
                shutil.rmtree(left, ignore_errors=True)


def _sweep(target: Path) -> None:
    """Removes the temporary folders of killed processes, whose locks nobody holds."""
    hidden = glob.escape(f".{target.name}.")
    for left in (*target.parent.glob(f"{hidden}*.tmp"), *target.parent.glob(f"{hidden}*.old")):
        if left.is_symlink() or not left.is_dir():
            continue
        with locked(left) as alone:
            # If a process was killed between two renames, the older bundle is all there is: keep it.
            if alone and (left.suffix == ".tmp" or target.exists()):
                shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Holds the lock of a folder; False if another process has it or the system has no locks."""
    lock = _lock(folder, wait)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


def _lock(folder: Path, wait: bool = False) -> int | None:
    """A descriptor that holds the lock of a folder; None if another process has it or the system has no locks."""
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
