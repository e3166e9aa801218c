"""Sha256 of files, remembered between runs in the user's cache folder.

LATENTC_CACHE names that folder in place of $XDG_CACHE_HOME/latentc; `off` or nothing keeps no cache.
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
"""Entries kept, the latest."""


def cache_folder() -> Path | None:
    """Where caches are kept; None where the user wants none. It need not exist."""
    named = os.environ.get("LATENTC_CACHE")
    if named is not None:
        return None if named in ("", "off") else Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    home = os.environ.get("HOME") or os.environ.get("USERPROFILE") or tempfile.gettempdir()
    return (Path(base) if base else Path(home, ".cache")) / "latentc"


def identity(status: os.stat_result) -> str:
    """What is equal only for a file that has not been written since."""
    return ":".join(map(str, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)))


def settled(status: os.stat_result) -> bool:
    """Whether a change from now on would change the file's times: clocks of file systems tick, some every 2 s."""
    tick = 0.1 if status.st_mtime_ns % 1_000_000_000 else 2.0
    return time.time() - max(status.st_mtime, status.st_ctime) > tick


def hash_file(path: str | os.PathLike[str]) -> FileEntry:
    """Sha256 and size of a file, for `Manifest.files`. OSError where it cannot be read."""
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
        """`hash_file`, from the cache where the file has not been written since. OSError where it cannot be read."""
        status = Path(path).stat()
        key = identity(status)
        if status.st_size < SMALLEST or self.path is None:
            return hash_file(path)
        if key in self.known:
            return FileEntry(self.known[key], status.st_size)
        # Before the file is read: it may be written while it is.
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
        """Keep what is new, together with what others have stored since."""
        if self.path is None or not self.new:
            return
        entries = {**self._stored(), **self.new}
        partial = self.path.with_suffix(f".{secrets.token_hex(6)}.partial")
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_text(json.dumps(dict(list(entries.items())[-MOST:])))
                partial.replace(self.path)
            finally:
                partial.unlink(missing_ok=True)

    def _stored(self) -> dict[str, str]:
        try:
            entries = json.loads(self.path.read_bytes()) if self.path else {}
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(entries, dict):
            return {}
        return {k: v for k, v in entries.items() if isinstance(v, str) and len(v) == 64}
