"""A cache of built plans in the folder `plans` of the user's cache (`LATENTC_CACHE`), trimmed by least recent use.

An entry is one file named by its key: a line of JSON (sha256 and size of the plan, the builder's report), then the
plan. Entries are renamed into place, so processes that build the same plan at once never see a half-written one; an
entry that does not match its sha256 is dropped. A cache that cannot be read or written never fails a build.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from latentc_runtime.hashes import cache_folder

LIMIT = "LATENTC_PLAN_CACHE"
"""Environment variable with the size limit of the cache in GB; 0 turns it off."""

LIMIT_GB = 20.0
_FORMAT = 1
_HEADER = 1 << 16  # largest size of the first line, in bytes
_PIECE = 16 << 20
_STALE = 24 * 3600  # seconds after which a half-written file counts as abandoned


def folder_of(kind: str) -> Path | None:
    """The cache folder for `kind` ("plans", "timing"), which may not exist yet; None if caching is off."""
    home = cache_folder()
    return home / kind if home is not None and limit() else None


def limit() -> int:
    """Size limit of the cache in bytes."""
    try:
        return max(0, int(float(os.environ.get(LIMIT, LIMIT_GB)) * 1e9))
    except ValueError:
        return int(LIMIT_GB * 1e9)


def cache_key(parts: Mapping[str, Any]) -> str:
    """The cache key of a plan that depends on `parts` (plain data)."""
    return hashlib.sha256(json.dumps({"format": _FORMAT, **parts}, sort_keys=True).encode()).hexdigest()


def take(key: str, target: Path) -> dict[str, Any] | None:
    """Writes the plan of a key to `target` and returns the builder's report; None if it is missing or damaged.

    Raises OSError if `target` cannot be written.
    """
    folder = folder_of("plans")
    if folder is None:
        return None
    entry = folder / key
    try:
        file = entry.open("rb")
    except OSError:
        return None
    with file:
        try:
            header = json.loads(file.readline(_HEADER))
            answer, wanted = dict(header["answer"]), (header["sha256"], header["bytes"])
        except (OSError, ValueError, TypeError, LookupError):
            wanted = None
        if wanted is not None:
            with target.open("wb") as plan:
                found = _copied(file, plan)
            if found == wanted:
                with contextlib.suppress(OSError):
                    os.utime(entry)  # records its last use
                return answer
            target.unlink()
    with contextlib.suppress(OSError):
        entry.unlink()
    return None


def keep(key: str, plan: Path, answer: Mapping[str, Any]) -> None:
    """Adds a plan and the builder's report; drops the least recently used entries above the limit."""
    folder, most = folder_of("plans"), limit()
    if folder is None:
        return
    with contextlib.suppress(OSError):
        size = plan.stat().st_size
        if size > most:
            return
        folder.mkdir(parents=True, exist_ok=True)
        _trim(folder, most - size)
        with plan.open("rb") as source:
            digest = hashlib.file_digest(source, "sha256").hexdigest()
            header = json.dumps({"sha256": digest, "bytes": size, "answer": dict(answer)})
            partial = folder / f".{key}.{secrets.token_hex(6)}"
            try:
                with partial.open("xb") as file:
                    file.write(header.encode() + b"\n")
                    source.seek(0)
                    _copied(source, file)
                partial.replace(folder / key)
            finally:
                partial.unlink(missing_ok=True)


def _copied(source: BinaryIO, target: BinaryIO) -> tuple[str, int]:
    """Copies the rest of a file; returns its sha256 and size."""
    digest, size = hashlib.sha256(), 0
    while piece := source.read(_PIECE):
        digest.update(piece)
        target.write(piece)
        size += len(piece)
    return digest.hexdigest(), size


def _trim(folder: Path, most: int) -> None:
    """Drops entries, least recently used first, down to `most` bytes, and half-written files of killed processes."""
    entries = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process may have dropped it
            status = path.stat()
            if not path.name.startswith("."):
                entries.append((status.st_mtime, status.st_size, path))
            elif time.time() - status.st_mtime > _STALE:
                path.unlink()
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= most:
            break
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        total -= size
