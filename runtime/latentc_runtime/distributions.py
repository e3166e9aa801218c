"""The random distributions, each in numpy from counter-based words, and in torch for training losses.

`draw(seeds, stream, shape, index, **parameters)` of a row returns [B, *shape], or [N, B, *shape] for N indices; a
parameter is one number, or one per sample (f64[B]). `torch` is the expression of an emitted loss, a format string with
`{shape}`, the parameters and `generator`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentc_runtime import noise
from latentc_runtime.noise import Seeds

Array = NDArray[Any]
Index = int | Sequence[int]
Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class Distribution:
    """One distribution: how values are drawn, their dtype, and their closed interval `bounds(parameters)`."""

    draw: Callable[..., Array]
    torch: str
    parameters: tuple[str, ...] = ()
    dtype: str = "f32"
    bounds: Callable[[Parameters], tuple[float, float]] = lambda parameters: (-math.inf, math.inf)


def draw(
    name: str, seeds: Seeds, stream: str, shape: Sequence[int], index: Index = 0, **parameters: ArrayLike
) -> Array:
    """Values of the distribution `name`: [B, *shape], or [N, B, *shape] for N indices.

    Sample b depends only on `seeds[b]`, its own parameters, the stream and the index. Raises KeyError for an unknown
    distribution and ValueError for a seed or index out of range.
    """
    return DISTRIBUTIONS[name].draw(seeds, stream, shape, index, **parameters)


def _integers(seeds: Seeds, stream: str, shape: Sequence[int], index: Index, high: ArrayLike) -> Array:
    """Integers 0..high-1, high up to 2^32: the upper half of word x high."""
    limit = np.asarray(high, np.float64).astype(np.uint64)
    limit = limit.reshape(*limit.shape, *[1] * len(shape)) if limit.ndim else limit
    return ((noise.words(seeds, stream, shape, index) * limit) >> noise.HALF).astype(np.int64)


def _from_noise(function: Callable[..., Array]) -> Callable[..., Array]:
    """The `draw` of a distribution without parameters that is a function of `noise`."""
    return lambda seeds, stream, shape, index: function(seeds, stream, shape, index)


def _rare(name: str) -> Callable[..., Array]:
    """The `draw` of a distribution whose module is imported when one of it is drawn."""

    def drawn(*arguments: Any, **parameters: ArrayLike) -> Array:
        from latentc_runtime import rare_distributions

        made: Array = getattr(rare_distributions, name)(*arguments, **parameters)
        return made

    return drawn


COMMON = ("normal", "uniform", "integers")
"""The distributions that need no module beside this one."""

_OPEN = "torch.rand({shape}, generator=generator).clamp(min=2**-25)"  # torch.rand can return 0
_NORMAL = "torch.randn({shape}, generator=generator)"
_NON_NEGATIVE = lambda parameters: (0.0, math.inf)  # noqa: E731
_UNIT = lambda parameters: (0.0, 1.0)  # noqa: E731

DISTRIBUTIONS: Mapping[str, Distribution] = {
    "normal": Distribution(_from_noise(noise.normals), _NORMAL),
    "truncated_normal": Distribution(
        _rare("truncated_normal"),
        f"torch.erfinv(math.erf({{bound}} / 2**0.5) * (2 * {_OPEN} - 1)) * 2**0.5",
        ("bound",),
    ),
    "uniform": Distribution(_from_noise(noise.uniforms), _OPEN, bounds=_UNIT),
    "uniform_between": Distribution(
        _rare("uniform_between"),
        f"{{low}} + ({{high}} - {{low}}) * {_OPEN}",
        ("low", "high"),
        bounds=lambda parameters: (parameters["low"], parameters["high"]),
    ),
    "log_uniform": Distribution(
        _rare("log_uniform"),
        f"{{low}} * ({{high}} / {{low}}) ** {_OPEN}",
        ("low", "high"),
        bounds=lambda parameters: (parameters["low"], parameters["high"]),
    ),
    "integers": Distribution(
        _integers,
        "torch.randint({high}, ({shape},), generator=generator)",
        ("high",),
        "i64",
        lambda parameters: (0, parameters["high"] - 1),
    ),
    "permutation": Distribution(
        _rare("permutation"), "torch.rand({shape}, generator=generator).argsort(-1)", dtype="i64", bounds=_NON_NEGATIVE
    ),
    "gumbel": Distribution(_rare("gumbel"), f"-torch.log(-torch.log({_OPEN}))"),
    "exponential": Distribution(
        _rare("exponential"), f"-torch.log({_OPEN}) / {{rate}}", ("rate",), bounds=_NON_NEGATIVE
    ),
    # Between the quantiles `low` and `high`: bounds of a truncated normal as values of its CDF.
    "normal_between": Distribution(
        _rare("normal_between"),
        f"{{mean}} + {{std}} * torch.special.ndtri({{low}} + ({{high}} - {{low}}) * {_OPEN})",
        ("mean", "std", "low", "high"),
    ),
    "log_normal": Distribution(
        _rare("log_normal"), f"torch.exp({{mean}} + {{std}} * {_NORMAL})", ("mean", "std"), bounds=_NON_NEGATIVE
    ),
    "logit_normal": Distribution(
        _rare("logit_normal"), f"torch.sigmoid({{mean}} + {{std}} * {_NORMAL})", ("mean", "std"), bounds=_UNIT
    ),
    # torch's beta takes no generator, so this is numpy's, seeded by the generator.
    "beta": Distribution(
        _rare("beta"),
        "torch.from_numpy(np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))"
        ".beta({a}, {b}, ({shape},))).float()",
        ("a", "b"),
        bounds=_UNIT,
    ),
    "bernoulli": Distribution(
        _rare("bernoulli"),
        "(torch.rand({shape}, generator=generator) < {probability}).float()",
        ("probability",),
        bounds=_UNIT,
    ),
    "categorical": Distribution(
        _rare("categorical"),
        "torch.multinomial(torch.tensor({weights}), math.prod(({shape},)), True, generator=generator).view({shape})",
        ("weights",),
        "i64",
        lambda parameters: (0, len(parameters["weights"]) - 1),
    ),
}
