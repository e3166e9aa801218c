"""The random distributions, from counter-based words.

`DRAWS[name](seeds, stream, shape, index, **parameters)` returns [B, *shape], or [N, B, *shape] for N indices; a
parameter is one number, or one per sample (f64[B]).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike, NDArray

from latentc_runtime import noise
from latentc_runtime.noise import Seeds

Array = NDArray[Any]
Index = int | Sequence[int]
Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class Distribution:
    """The text of a distribution in losses, its dtype, and its closed interval `bounds(parameters)`.

    `torch` is an expression, as a format string with `{shape}`, the parameters and `generator`.
    """

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
    return DRAWS[name](seeds, stream, shape, index, **parameters)


def _rare(name: str) -> Callable[..., Array]:
    """The `draw` of a distribution whose module is imported when one of it is drawn."""

    def drawn(*arguments: Any, **parameters: ArrayLike) -> Array:
        from latentc_runtime import rare_distributions

        made: Array = getattr(rare_distributions, name)(*arguments, **parameters)
        return made

    return drawn


DRAWS: Mapping[str, Callable[..., Array]] = {
    "normal": noise.normals,
    "uniform": noise.uniforms,
    "integers": noise.integers,
    "truncated_normal": _rare("truncated_normal"),
    "uniform_between": _rare("uniform_between"),
    "log_uniform": _rare("log_uniform"),
    "power_law": _rare("power_law"),
    "permutation": _rare("permutation"),
    "gumbel": _rare("gumbel"),
    "exponential": _rare("exponential"),
    "normal_between": _rare("normal_between"),
    "log_normal": _rare("log_normal"),
    "logit_normal": _rare("logit_normal"),
    "beta": _rare("beta"),
    "bernoulli": _rare("bernoulli"),
    "categorical": _rare("categorical"),
}

_OPEN = "torch.rand({shape}, generator=generator).clamp(min=2**-25)"  # torch.rand can return 0
_NORMAL = "torch.randn({shape}, generator=generator)"
_NON_NEGATIVE = lambda parameters: (0.0, math.inf)  # noqa: E731
_UNIT = lambda parameters: (0.0, 1.0)  # noqa: E731

DISTRIBUTIONS: Mapping[str, Distribution] = {
    "normal": Distribution(_NORMAL),
    "truncated_normal": Distribution(
        f"torch.erfinv(math.erf({{bound}} / 2**0.5) * (2 * {_OPEN} - 1)) * 2**0.5", ("bound",)
    ),
    "uniform": Distribution(_OPEN, bounds=_UNIT),
    "uniform_between": Distribution(
        f"{{low}} + ({{high}} - {{low}}) * {_OPEN}",
        ("low", "high"),
        bounds=lambda parameters: (parameters["low"], parameters["high"]),
    ),
    "log_uniform": Distribution(
        f"{{low}} * ({{high}} / {{low}}) ** {_OPEN}",
        ("low", "high"),
        bounds=lambda parameters: (parameters["low"], parameters["high"]),
    ),
    # Density proportional to x^-power, power > 1, by the inverse of its CDF.
    "power_law": Distribution(
        f"({{low}} ** (1 - {{power}}) + ({{high}} ** (1 - {{power}}) - {{low}} ** (1 - {{power}})) * {_OPEN})"
        " ** (1 / (1 - {power}))",
        ("low", "high", "power"),
        bounds=lambda parameters: (parameters["low"], parameters["high"]),
    ),
    "integers": Distribution(
        "torch.randint({high}, ({shape},), generator=generator)",
        ("high",),
        "i64",
        lambda parameters: (0, parameters["high"] - 1),
    ),
    "permutation": Distribution(
        "torch.rand({shape}, generator=generator).argsort(-1)", dtype="i64", bounds=_NON_NEGATIVE
    ),
    "gumbel": Distribution(f"-torch.log(-torch.log({_OPEN}))"),
    "exponential": Distribution(f"-torch.log({_OPEN}) / {{rate}}", ("rate",), bounds=_NON_NEGATIVE),
    # Between the quantiles `low` and `high`: bounds of a truncated normal as values of its CDF.
    "normal_between": Distribution(
        f"{{mean}} + {{std}} * torch.special.ndtri({{low}} + ({{high}} - {{low}}) * {_OPEN})",
        ("mean", "std", "low", "high"),
    ),
    "log_normal": Distribution(f"torch.exp({{mean}} + {{std}} * {_NORMAL})", ("mean", "std"), bounds=_NON_NEGATIVE),
    "logit_normal": Distribution(f"torch.sigmoid({{mean}} + {{std}} * {_NORMAL})", ("mean", "std"), bounds=_UNIT),
    # torch's beta takes no generator, so this is numpy's, seeded by the generator.
    "beta": Distribution(
        "torch.from_numpy(np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))"
        ".beta({a}, {b}, ({shape},))).float()",
        ("a", "b"),
        bounds=_UNIT,
    ),
    "bernoulli": Distribution(
        "(torch.rand({shape}, generator=generator) < {probability}).float()", ("probability",), bounds=_UNIT
    ),
    "categorical": Distribution(
        "torch.multinomial(torch.tensor({weights}), math.prod(({shape},)), True, generator=generator).view({shape})",
        ("weights",),
        "i64",
        lambda parameters: (0, len(parameters["weights"]) - 1),
    ),
}
