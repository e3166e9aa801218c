"""A database of embeddings in which nearest neighbours are searched, as a folder beside a bundle.

    about.json      metric, and how the search is done
    vectors.npy     f32[N, D], mapped into memory
    labels.npy      i64[N]: the class of each entry, if known
    queries.npy     f32[K, D]: what is searched for to get neighbours of a class, if known
    graph.usearch   of an approximate search

Symbols: N entries, D size of an embedding, k neighbours, n queries, K classes.
"""

from __future__ import annotations

import json
import tokenize
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentc_runtime.conditions import described, per_sample
from latentc_runtime.noise import integers
from latentc_runtime.sources import Condition, RequestError

Array = NDArray[Any]
Metric = Literal["cosine", "l2"]
_METRICS = {"cosine": "cos", "l2": "l2sq"}
EXACT = 1 << 16  # largest number of entries that are all compared with a query; larger indexes use a graph
CHUNK = 1 << 12  # queries searched at once
PACKAGE = "usearch"
MISSING = f"searching for neighbours needs the package {PACKAGE}"
MISSING_HELP = "run `pip install 'latentc[retrieval]'`"
_FORMAT = 1


@dataclass(frozen=True)
class Index:
    """Embeddings f32[N, D] and what is known of them. Searches raise ImportError if the package is missing."""

    vectors: Array
    labels: Array | None = None
    queries: Array | None = None
    metric: Metric = "cosine"
    folder: Path | None = None

    @property
    def size(self) -> int:
        """D, the size of an embedding."""
        return int(self.vectors.shape[1])

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def exact(self) -> bool:
        """True if a search compares a query with every entry."""
        return len(self) <= EXACT

    @cached_property
    def _graph(self) -> Any:
        """The approximate index, read from its file if there is one."""
        usearch = _usearch()
        file = None if self.folder is None else self.folder / "graph.usearch"
        if file is not None and file.is_file():
            return usearch.Index.restore(str(file), view=True)
        graph = usearch.Index(ndim=self.size, metric=_METRICS[self.metric], dtype="f32")
        for start in range(0, len(self), EXACT):
            keys = np.arange(start, min(start + EXACT, len(self)))
            graph.add(keys, np.asarray(self.vectors[keys], np.float32))
        return graph

    def search(self, queries: Array, count: int) -> NDArray[np.int64]:
        """The entries nearest to each query f32[n, D], nearest first: i64[n, count]. ValueError if there are fewer."""
        if count > len(self):
            raise ValueError(f"{count} neighbours among {len(self)} entries")
        queries, usearch = np.ascontiguousarray(queries, np.float32), _usearch()
        found = []
        for start in range(0, len(queries), CHUNK):
            part = queries[start : start + CHUNK]
            if self.exact:
                vectors = np.ascontiguousarray(self.vectors, np.float32)
                keys = usearch.search(vectors, part, count, _METRICS[self.metric], exact=True).keys
            else:
                keys = self._graph.search(part, count).keys
            found.append(np.asarray(keys, np.int64).reshape(len(part), count))
        return np.concatenate(found) if found else np.zeros((0, count), np.int64)

    def neighbours(self, queries: Array, count: int) -> Array:
        """The embeddings of the neighbours of each query f32[n, D], nearest first: f32[n, count, D]."""
        return np.asarray(self.vectors[self.search(queries, count)], np.float32)

    def given(self, condition: Condition, value: Any) -> Any:
        """The neighbours [k, D] or [n, k, D] that a request's value for a condition means.

        The value is neighbours, a query [D], queries [n, D], {"query": …} of either, or {"class": …} of one or one per
        sample. RequestError.
        """
        count, size = condition.shape
        if not isinstance(value, Mapping):
            query = _numbers(condition, value)
            if query.ndim == 3 or query.ndim < 1 or query.shape == (count, size):
                return value  # neighbours
        elif set(value) == {"class"}:
            query = self._of_classes(condition, value["class"])
        elif set(value) == {"query"}:
            query = _numbers(condition, value["query"])
        elif "value" in value:
            return value
        else:
            message = f"condition `{condition.name}` holds {', '.join(map(str, value)) or 'nothing'}"
            raise RequestError(message, f"give `query` or `class`; {described(condition)}")
        if query.ndim not in (1, 2) or query.shape[-1] != size or not np.isfinite(query).all():
            message = f"a query of `{condition.name}` has shape {list(query.shape)}"
            raise RequestError(message, f"give {size} finite numbers, or [n, {size}] for n samples")
        found = self._searched(np.atleast_2d(query), count)
        return found[0] if query.ndim == 1 else found

    def drawn(self, condition: Condition, seeds: NDArray[np.uint64]) -> Array:
        """Neighbours f32[n, k, D] of an entry per sample, which its seed draws."""
        rows = integers(seeds, f"{condition.name}.query", (), 0, len(self))
        return self._searched(np.asarray(self.vectors[rows], np.float32), condition.shape[0])

    def _searched(self, queries: Array, count: int) -> Array:
        try:
            return self.neighbours(queries, count)
        except ImportError as error:
            raise RequestError(f"{MISSING}: {error}", MISSING_HELP) from None
        except ValueError as error:
            raise RequestError(str(error), "search a larger database") from None

    def _of_classes(self, condition: Condition, classes: ArrayLike) -> Array:
        """The query of a class, or of each of several."""
        if self.queries is None:
            message = f"the index of `{condition.name}` was built without classes"
            raise RequestError(message, "give a query, or build the index from data with classes")
        numbers = _numbers(condition, classes)
        if numbers.dtype.kind not in "iu" or numbers.ndim > 1:
            raise RequestError(f"`class` of `{condition.name}` must be an integer, or one per sample", "such as 3")
        outside = [int(c) for c in np.atleast_1d(numbers) if not 0 <= c < len(self.queries)]
        if outside:
            raise RequestError(f"no class {outside[0]}", f"classes of this index: 0 to {len(self.queries) - 1}")
        return np.asarray(self.queries[numbers], np.float32)


@dataclass(frozen=True)
class EncodingIndex:
    """An index whose queries may be images or texts: {"NAME": …} by a name of `conditions`, or a value of such a form.

    `encode(name, value)`: queries f32[n, D] of a value for a condition.
    """

    index: Index
    conditions: Mapping[str, Condition]
    encode: Callable[[str, Any], Array]

    @property
    def queries(self) -> Array | None:
        return self.index.queries

    def given(self, condition: Condition, value: Any) -> Any:
        """As `Index.given`; what is encoded may be one for all samples, or one per sample. RequestError."""
        name, value = self._encoded(condition, value)
        if name is None:
            return self.index.given(condition, value)
        several = per_sample(self.conditions[name], value)
        queries = self.encode(name, value)
        return self.index.given(condition, {"query": queries if several else queries[0]})

    def drawn(self, condition: Condition, seeds: NDArray[np.uint64]) -> Array:
        return self.index.drawn(condition, seeds)

    def _encoded(self, condition: Condition, value: Any) -> tuple[str | None, Any]:
        """(the condition that a value is of, the value); None if the index itself understands it."""
        if isinstance(value, Mapping):
            (name, inner), *others = value.items() if value else (("", None),)
            return (name, inner) if name in self.conditions and not others else (None, value)
        is_text = isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], str))
        try:
            shape = () if is_text else np.shape(value)
        except ValueError:  # rows of different lengths
            shape = ()
        for name, one in self.conditions.items():
            is_array = one.form == "array" and shape[-len(one.shape) :] == one.shape != condition.shape
            if is_array or (is_text and one.medium == "text"):
                return name, value
        return None, value


def with_labels(
    vectors: Array,
    labels: Array | None = None,
    classes: int = 0,
    metric: Metric = "cosine",
    queries: Array | None = None,
) -> Index:
    """An index of embeddings [N, D]; the query of a class is by default the mean of its entries, at unit length each.

    ValueError: embeddings that are not finite or of another shape, labels of another number.
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or not vectors.size or vectors.dtype.kind not in "fiu":
        raise ValueError(f"embeddings must be numbers [N, D], not {vectors.dtype}{list(vectors.shape)}")
    if labels is not None and len(labels) != len(vectors):
        raise ValueError(f"{len(labels)} labels of {len(vectors)} embeddings")
    if labels is not None and queries is None and classes:
        queries = np.zeros((classes, vectors.shape[1]), np.float32)
        for c in range(classes):
            own = np.asarray(vectors[labels == c], np.float32)
            length = np.linalg.norm(own, axis=1, keepdims=True) if metric == "cosine" else np.ones((len(own), 1))
            queries[c] = (own / np.maximum(length, 1e-12)).mean(axis=0) if len(own) else 0.0
    return Index(vectors, labels, queries, metric)


def write_index(index: Index, folder: Path) -> None:
    """Writes an index; `open_index` reads it. OSError, or ImportError if the package is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    vectors = np.ascontiguousarray(index.vectors, np.float32)
    np.save(folder / "vectors.npy", vectors)
    for name in ("labels", "queries"):
        if (array := getattr(index, name)) is not None:
            np.save(folder / f"{name}.npy", array)
    if not index.exact:
        index._graph.save(str(folder / "graph.usearch"))
    about = {"format": _FORMAT, "metric": index.metric, "entries": len(index), "size": index.size}
    (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def open_index(folder: Path) -> Index:
    """The index in a folder, or of the embeddings of one .npy file. ValueError if there is none."""
    try:
        if folder.suffix == ".npy" and folder.is_file():
            return with_labels(np.load(folder, mmap_mode="r", allow_pickle=False))
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        if about["format"] != _FORMAT or about["metric"] not in _METRICS:
            raise ValueError("its about.json has another version")
        arrays = {
            name: np.load(file, mmap_mode="r", allow_pickle=False)
            for name in ("vectors", "labels", "queries")
            if (file := folder / f"{name}.npy").is_file()
        }
        if arrays["vectors"].shape != (about["entries"], about["size"]):
            raise ValueError("vectors.npy does not fit about.json")
        made = with_labels(arrays["vectors"], arrays.get("labels"), 0, about["metric"], arrays.get("queries"))
        return Index(made.vectors, made.labels, made.queries, made.metric, folder)
    except (OSError, ValueError, KeyError, TypeError, MemoryError, tokenize.TokenError) as error:
        reason = f"{error.filename} is missing" if isinstance(error, FileNotFoundError) else error
        raise ValueError(f"{folder} is not an index: {reason}") from None


def _usearch() -> Any:
    """The package that searches; ImportError if it is missing."""
    import usearch.index

    return usearch.index


def _numbers(condition: Condition, value: Any) -> Array:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):
        array = np.asarray(None)
    if array.dtype.kind not in "iuf":
        raise RequestError(f"`{condition.name}` is not an array of numbers", "give an array of numbers")
    return array


__all__ = ["MISSING", "MISSING_HELP", "EncodingIndex", "Index", "open_index", "with_labels", "write_index"]
