"""A classifier of handwritten digits, trained where it is used: features without any file.

Symbols: N images, F features.
"""

from __future__ import annotations

import contextlib
import functools
import io
import zipfile
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from latentc.datasets import open_dataset
from latentc.diagnostics.faults import needed
from latentc.evaluate.extractors.contract import Array, Extractor, Features
from latentc_runtime.hashes import cache_folder, write_whole

HIDDEN = (256, 64)  # layer sizes; the last one gives the features
EPOCHS = 60
BATCH = 64
WEIGHT_DECAY = 0.1  # large, so that features of seen and unseen real images compare well


class Digits(Extractor):
    """scikit-learn's digits: a multilayer perceptron of the training half, 98 % right on the other half.

    Features are its last hidden layer, f32[N, 64], and logits are of the ten classes. Training takes about three
    seconds of one core, always with the same result.
    """

    name = "digits"
    title = "a classifier of scikit-learn's digits"
    view = "unit"
    classifies = True

    @property
    def identity(self) -> str:
        import sklearn

        return f"digits 1, scikit-learn {sklearn.__version__}"

    def extract(self, samples: Array) -> Features:
        if samples.shape[1:3] != (8, 8):
            raise ValueError(f"images of {samples.shape[1]} × {samples.shape[2]} pixels")
        *hidden, last = _layers()
        found = samples.mean(axis=-1, dtype=np.float64).reshape(len(samples), 64)
        for weight, bias in hidden:
            found = np.maximum(found @ weight + bias, 0)
        return Features(found.astype(np.float32), (found @ last[0] + last[1]).astype(np.float32))

    def takes(self) -> str:
        return "they need images of 8 × 8 pixels; choose others with `--features`"


@functools.cache
def _layers() -> tuple[tuple[Array, Array], ...]:
    """(weight, bias) of each layer; trained at the first use, and kept in the cache folder."""
    needed("sklearn", "the classifier of digits", 'pip install "latentc[evaluate]"')
    home = cache_folder()
    file = None if home is None else home / f"{Digits().identity.replace(', ', '-').replace(' ', '-')}.npz"
    if file is not None:
        with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile), np.load(file) as held:
            return tuple((held[f"weight{i}"], held[f"bias{i}"]) for i in range(len(HIDDEN) + 1))
    found = classifier()
    layers = tuple(zip(found.coefs_, found.intercepts_, strict=True))
    if file is not None:
        content = io.BytesIO()
        arrays = {
            f"{name}{i}": a for i, pair in enumerate(layers) for name, a in zip(("weight", "bias"), pair, strict=True)
        }
        np.savez(content, allow_pickle=False, **arrays)
        with contextlib.suppress(OSError):  # a cache that cannot be written does no harm
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, content.getvalue())
    return layers


def classifier(progress: Callable[[Iterable[int]], Iterable[int]] = iter) -> Any:
    """The scikit-learn classifier of brightness f64[N, 64], trained on the training half and its shifts by one pixel.

    `progress` wraps the epochs, as `tqdm` does.
    """
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits  # scikit-learn needs it

    fields = {"x": {"shape": [1, 8, 8], "dtype": "f32", "medium": "image"}, "y": {"shape": [], "dtype": "i64"}}
    half = open_dataset({"kind": "digits", "part": "train", "fields": fields})
    rows = half.rows(np.arange(half.size))
    images, labels = _with_shifts((rows["x"][:, 0] + 1) * 8), np.tile(rows["y"], 5)
    # A generator object rather than a seed, with which every epoch would start with the same shuffling.
    found = MLPClassifier(HIDDEN, alpha=WEIGHT_DECAY, batch_size=BATCH, random_state=np.random.RandomState(0))
    pixels = images.reshape(len(images), -1).astype(np.float64) / 16
    # One thread: another order of sums would give another classifier, and such small matmuls gain nothing from more.
    with threadpool_limits(1):
        for _ in progress(range(EPOCHS)):
            found.partial_fit(pixels, labels, classes=np.arange(10))
    return found


def _with_shifts(images: Array) -> Array:
    """Images [N, 8, 8] and their copies moved by one pixel in four directions: a better classifier of unseen ones."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    corners = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
    return np.concatenate([padded[:, top : top + 8, left : left + 8] for top, left in corners])
