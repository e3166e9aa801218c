"""The changed weight of the control: a comparison with it must fail."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from latentc.verify.methods import Called, largest_error
from latentc.verify.report import ENGINE, Control

Array = np.ndarray
Rerun = Callable[[str, Array], Sequence[Array]]  # the path of a weight, what it is changed to -> results of a reference


def control_of(
    title: str,
    network: str,
    read: Iterable[str],
    arrays: Mapping[str, Array],
    result: Sequence[Array],
    rerun: Rerun,
    tolerance: float,
    called: Called | None = None,
) -> Control | None:
    """The engine's result against those of references with one changed weight, until one differs by more.

    `read`: by own path, what of a network's weights is read. None if no change of a weight changes the reference, as
    with inputs beyond the bound of a spline, which it passes on.
    """
    paths = changeable(read, arrays, network)

    @functools.cache
    def unchanged() -> float:
        return largest_error(result, rerun(paths[0], arrays[paths[0]]), called)

    # Codes stay the same under a small change of a weight, and values drawn from a few may stay the same. A loss is a
    # mean over all samples, in which much cancels.
    scalars = all(array.ndim == 0 for array in result)
    shares: tuple[float, ...] = (max(0.1 if scalars else 0.01, 10 * tolerance), 1.0)
    if all(array.dtype.kind in "iu" for array in result):
        shares = shares[1:]
    error, path = 0.0, ""
    for share in shares:
        errors = []
        for path in paths:
            error = largest_error(result, rerun(path, changed_weight(arrays[path], share)), called)
            errors.append(error)
            if error > tolerance:
                break
        moved = error > tolerance or any(error != unchanged() for error in errors)
        if moved:
            break
    if not moved:
        return None
    return Control(title, ENGINE, path, error, tolerance, error > tolerance, network)


def changeable(read: Iterable[str], arrays: Mapping[str, Array], network: str) -> list[str]:
    """Weights to change for the control: a matrix in the middle, then the last ones, and the last outside of blocks.

    `read`: by own path, what the method reads. In a fresh network, gates of zero hide the weights of a block; the
    weights of the last layer always matter.
    """
    paths = [path for own in read if (path := f"{network}.{own}") in arrays]
    matrices = [path for path in paths if arrays[path].ndim >= 2 and path.endswith("weight")] or paths
    outside = [path for path in matrices if path.count(".") == 2]
    return list(dict.fromkeys([*matrices[len(matrices) // 2 :][:1], *matrices[:-5:-1], *outside[-1:]]))


def changed_weight(array: Array, share: float) -> Array:
    """A weight with a share of its largest value (of 1 if all are zero) added and subtracted at random.

    Adding it everywhere could change nothing: the output of a norm has mean zero. Taking turns could cancel in a sum.
    """
    signs = np.random.default_rng(0).choice([-1.0, 1.0], array.shape)
    return array + (signs * share * (np.max(np.abs(array)) or 1)).astype(array.dtype)
