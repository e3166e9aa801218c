"""The features of a source, extracted in chunks that are kept until the next run.

A chunk is one .npz in the user's cache folder, named by its rows in a folder named by source and extractor. It is
written whole, so what an interrupted run has finished is found again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from latentc.evaluate.extractors.contract import Extractor, Features, joined
from latentc.evaluate.sources import SampleSource
from latentc_runtime.hashes import cache_folder, write_whole

LIMIT = 4 << 30  # largest total size of the stored chunks, in bytes
Tell = Callable[[int, int, str], None]
Array = np.ndarray
Found = tuple[Features, Array | None]


def features_of(
    source: SampleSource, extractors: Mapping[str, Extractor], tell: Tell, chunk: int | None = None
) -> dict[str, Found]:
    """Features and labels of all samples of a source, by extractor. `tell` hears of each chunk of `chunk` samples."""
    chunk = chunk or source.chunk_size
    parts = [range(i, min(i + chunk, source.size)) for i in range(0, source.size, chunk)]
    identity = source.identity
    folders = {name: _folder(identity, extractor) for name, extractor in extractors.items()}
    kept: dict[str, dict[range, Found]] = {name: {} for name in extractors}
    for name, folder in folders.items():
        kept[name] = {part: found for part in parts if (found := _read(folder, part)) is not None}
    missing = [part for part in parts if any(part not in kept[name] for name in extractors)]
    done = len(parts) - len(missing)
    tell(done * chunk, source.size, source.name)
    for part, (samples, labels) in source.stream(missing):
        for name, extractor in extractors.items():
            if part not in kept[name]:
                found = extractor(samples), labels
                kept[name][part] = found
                _write(folders[name], part, found)
        done += 1
        tell(min(done * chunk, source.size), source.size, source.name)
    _trim({folder for folder in folders.values() if folder is not None})
    return {name: _joined([kept[name][part] for part in parts]) for name in extractors}


def _joined(parts: list[Found]) -> Found:
    labels = [own for _, own in parts if own is not None]
    return joined([features for features, _ in parts]), np.concatenate(labels) if len(labels) == len(parts) else None


def _folder(identity: str, extractor: Extractor) -> Path | None:
    home = cache_folder()
    key = hashlib.sha256(f"2 {identity} {extractor.identity}".encode()).hexdigest()[:32]
    return None if home is None else home / "features" / key


def _read(folder: Path | None, part: range) -> Found | None:
    if folder is None:
        return None
    try:
        with np.load(folder / _name(part), allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
    except Exception:  # a chunk that cannot be read is computed again, whatever numpy raises
        return None
    labels = arrays.pop("labels", None)
    whole = "features" in arrays and all(len(a) == len(part) for a in arrays.values())
    return (Features(**arrays), labels) if whole else None


def _write(folder: Path | None, part: range, found: Found) -> None:
    """A cache that cannot be written does no harm."""
    if folder is None:
        return
    features, labels = found
    content = io.BytesIO()
    arrays = {**features.arrays(), **({} if labels is None else {"labels": labels})}
    np.savez(content, allow_pickle=False, **arrays)
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / _name(part), content.getvalue())


def _name(part: range) -> str:
    return f"{part.start}-{part.stop}.npz"


def _trim(used: set[Path]) -> None:
    """Removes the chunks of the sources that were not used for the longest time, beyond LIMIT in all."""
    for folder in used:
        with contextlib.suppress(OSError):
            folder.touch()
    home = cache_folder()
    if home is None:
        return
    with contextlib.suppress(OSError):
        folders = sorted((home / "features").iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        total = 0
        for folder in folders:
            total += sum(file.stat().st_size for file in folder.iterdir())
            if total > LIMIT and folder not in used:
                shutil.rmtree(folder, ignore_errors=True)
