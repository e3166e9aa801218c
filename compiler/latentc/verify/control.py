"""The changed weight of the control: a comparison with it must fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray


def changeable(read: Mapping[str, Any], arrays: Mapping[str, Array], network: str) -> list[str]:
    """Weights to change for the control: a matrix in the middle, then the last ones, and the last outside of blocks.

    `read`: by own path, what the method reads. In a fresh network, gates of zero hide the weights of a block; the
    weights of the last layer always matter.
    """
    paths = [path for own in read if (path := f"{network}.{own}") in arrays]
    matrices = [path for path in paths if arrays[path].ndim >= 2 and path.endswith("weight")] or paths
    outside = [path for path in matrices if path.count(".") == 2]
    return list(dict.fromkeys([*matrices[len(matrices) // 2 :][:1], *matrices[:-5:-1], *outside[-1:]]))


def changed_weight(array: Array, share: float) -> Array:
    """A weight with a share of its largest value (of 1 if all are zero) alternately added and subtracted.

    Adding it everywhere could change nothing: the output of a norm has mean zero.
    """
    signs = 1 - 2 * (np.arange(array.size) % 2).reshape(array.shape)
    return array + (signs * share * (np.max(np.abs(array)) or 1)).astype(array.dtype)
