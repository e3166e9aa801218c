"""Samples with the embeddings of their nearest neighbours in a database, or of what they are neighbours of."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentc_runtime.retrieval import MISSING, MISSING_HELP, Index, open_index, with_labels

Array = NDArray[Any]
CHUNK = 1 << 12  # samples read at once


class WithNeighbours:
    """A data set whose samples also have the fields of `wanted`: {field: what is searched for it}.

    `indexes` are the databases by field; of the training data, with their labels if there are any. If one is searched
    `around` each row, a random one of the row's neighbours is the sample, and the field has the embedding of the row.
    ValueError.
    """

    def __init__(self, source: Any, wanted: dict[str, dict[str, Any]], classes: int = 0):
        self.source, self.size, self.in_memory = source, source.size, source.in_memory
        self.indexes: dict[str, Index] = {}
        self.entries: dict[str, Array] = {}  # i32[size, k]: those nearest to each sample
        self.around = next((name for name, search in wanted.items() if search["around"]), None)
        for name, search in wanted.items():
            try:
                self.indexes[name], self.entries[name] = searched(source, search, classes)
            except ImportError as error:
                raise ValueError(f"{MISSING}: {error}; {MISSING_HELP}") from None
            except ValueError as error:
                raise ValueError(f"conditioning.{name}: {error}") from None

    def rows(self, index: Array, rng: np.random.Generator | None = None) -> dict[str, Array]:
        """Samples by field, with the neighbours f32[n, k, D] of each, nearest first, or the instance f32[n, 1, D]."""
        chosen = index
        if self.around is not None:
            near = self.entries[self.around][index]
            column = 0 if rng is None else rng.integers(near.shape[1], size=len(near))
            chosen = near[np.arange(len(near)), column]
        rows: dict[str, Array] = self.source.rows(chosen, rng)
        for name, entries in self.entries.items():
            of = index[:, None] if name == self.around else entries[chosen]
            rows[name] = np.asarray(self.indexes[name].vectors[of], np.float32)
        return rows


def index_of(source: Any, field: str, metric: Any, classes: int = 0) -> Index:
    """The index of a field of all samples, not augmented, flattened to embeddings; `classes`: of their labels `y`."""
    parts, labels = [], []
    for start in range(0, source.size, CHUNK):
        rows = source.rows(np.arange(start, min(start + CHUNK, source.size)))
        parts.append(np.asarray(rows[field], np.float32).reshape(len(rows[field]), -1))
        labels += [rows["y"]] if classes else []
    return with_labels(np.concatenate(parts), np.concatenate(labels) if labels else None, classes, metric)


def searched(source: Any, search: dict[str, Any], classes: int = 0) -> tuple[Index, Array]:
    """(the database, its entries i32[size, k] nearest to each sample). ValueError, ImportError."""
    own, count = index_of(source, search["field"], search["metric"], classes), search["count"]
    if search["database"] is not None:
        index = open_index(Path(search["database"]))
        if index.size != own.size:
            raise ValueError(f"the database holds embeddings of {index.size} numbers, but the data has {own.size}")
        return index, index.search(own.vectors, count).astype(np.int32)
    if search["itself"]:
        return own, own.search(own.vectors, count).astype(np.int32)
    return own, without_themselves(own, count)


def without_themselves(index: Index, count: int) -> Array:
    """The entries i32[N, count] nearest to each entry, others than itself. ValueError, ImportError."""
    entries = index.search(index.vectors, count + 1)
    other = entries != np.arange(len(index))[:, None]
    other[other.all(axis=1), -1] = False  # among many equal entries, the entry itself may be missing
    return entries[other].reshape(len(index), count).astype(np.int32)
