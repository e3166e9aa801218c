"""Requests of more rows than a chunk, and the same rows in other chunks, for programs of any number of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from latentc_runtime.manifest import Manifest, ProgramEntry
from latentc_runtime.request import Request
from latentc_runtime.sources import Given, default_given

Array = np.ndarray


def request_of_rows(manifest: Manifest, entry: ProgramEntry, count: int, seed: int) -> Request:
    """A usual request of `count` samples, each of one and a half chunks of rows and one row more."""
    chunk = entry.chunk
    assert chunk is not None
    rows = chunk.size + chunk.size // 2 + 1
    conditions = tuple(
        replace(c, shape=(rows, *c.shape[1:])) if c.name in chunk.conditions else c
        for c in manifest.conditions_of(entry)
    )
    return Request(entry, default_given(count, seed, conditions, manifest.settings_of(entry)), rows=rows)


def backwards(request: Request) -> Request:
    """The same rows, the last one first: they are in other chunks, beside other rows."""
    chunk, given = request.entry.chunk, request.given
    assert chunk is not None
    turned = {name: array[:, ::-1] if name in chunk.conditions else array for name, array in given.conditions.items()}
    return replace(request, given=Given(given.seeds, turned, given.masks, given.settings))


def forwards(request: Request, outs: Sequence[Array]) -> list[Array]:
    """The outputs of `backwards(request)`, computed in chunks, in the order of the request's rows."""
    named = {one.name: np.asarray(out) for one, out in zip(request.entry.outputs, outs, strict=True)}
    return [array[:, ::-1] for array in request.from_chunks(named).values()]
