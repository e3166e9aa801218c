"""Sha256 of files, remembered between runs in the user's cache folder, and the writing of files in it.

The environment variable LATENTC_CACHE replaces the folder $XDG_CACHE_HOME/latentc; `off` or an empty value disables
the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from latentc_runtime.manifest import FileEntry

SMALLEST = 1 << 20
"""Bytes; smaller files are always hashed."""

MOST = 4096
"""Largest number of entries; the latest are kept."""


def cache_folder() -> Path | None:
    """The folder of all caches, which may not exist yet; None if the user disabled them."""
    named = os.environ.get("LATENTC_CACHE")
    if named is not None:
        return None if named in ("", "off") else Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    home = os.environ.get("HOME") or os.environ.get("USERPROFILE") or tempfile.gettempdir()
    return (Path(base) if base else Path(home, ".cache")) / "latentc"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it, so that it is never visible half-written. OSError."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def identity(status: os.stat_result) -> str:
    """A text that changes whenever the file is written."""
    return ":".join(map(str, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)))


def settled(status: os.stat_result) -> bool:
    """True if any later change will also change the file's times; some file systems store them in steps of 2 s."""
    tick = 0.1 if status.st_mtime_ns % 1_000_000_000 else 2.0
    return time.time() - max(status.st_mtime, status.st_ctime) > tick


def hash_file(path: str | os.PathLike[str]) -> FileEntry:
    """Sha256 and size of a file, for `Manifest.files`. OSError if it cannot be read."""
    with Path(path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileEntry(digest, os.fstat(file.fileno()).st_size)


class HashCache:
    """Sha256 by device, inode, size, mtime and ctime. A cache that cannot be read or written is an empty one."""

    def __init__(self) -> None:
        folder = cache_folder()
        self.path = None if folder is None else folder / "sha256.json"
        self.known = self._stored()
        self.new: dict[str, str] = {}

    def hash(self, path: str | os.PathLike[str]) -> FileEntry:
        """`hash_file`, from the cache if the file has not been written since. OSError if it cannot be read."""
        status = Path(path).stat()
        key = identity(status)
        if status.st_size < SMALLEST or self.path is None:
            return hash_file(path)
        if key in self.known:
            return FileEntry(self.known[key], status.st_size)
        # Checked before the file is read, because it may be written in the meantime.
        sure = settled(status)
        entry = hash_file(path)
        if sure and entry.size == status.st_size:
            self.known[key] = self.new[key] = entry.sha256
        return entry

    def hashes(self, files: Mapping[str, Path]) -> dict[str, FileEntry]:
        """`hash` of several files, by their names; several at a time."""
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            return dict(zip(files, pool.map(self.hash, files.values()), strict=True))

    def save(self) -> None:
        """Store the new entries, together with those that other processes have stored meanwhile."""
        if self.path is None or not self.new:
            return
        entries = {**self._stored(), **self.new}
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, json.dumps(dict(list(entries.items())[-MOST:])).encode())

    def _stored(self) -> dict[str, str]:
        try:
            entries = json.loads(self.path.read_bytes()) if self.path else {}
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(entries, dict):
            return {}
        return {k: v for k, v in entries.items() if isinstance(v, str) and len(v) == 64}
