"""The base class of forward processes, and what samplers and losses need of one.

A state is ``x_t = alpha(t) x0 + sigma(t) noise`` with x0 the data. Three scales are separate: the process's own time t
(`first` at the noise, `data` at the data, in either direction), the time that the network is told (`network_time`),
and the noise level sigma / alpha, in which two processes can be compared.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

from latentc.components.contract import Draw
from latentc.components.coupling import Coupling
from latentc.components.formula_source import Sources
from latentc.components.parts import Part, Problem
from latentc.components.processes.formulas import NUMPY, Array, Maths, Symbolic
from latentc.components.processes.prediction import Point, Prediction
from latentc.ir.builder import Builder, Var

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

Variance = Literal["fixed_small", "fixed_large", "learned_range"]
Prior = Literal["standard", "marginal"]


@dataclass(frozen=True)
class Levels:
    """A process in `N` discrete steps, f64[N] from data to noise: x_k = keep x_(k-1) + sqrt(added) noise.

    `ancestral`: the standard deviation of the noise that ancestral sampling adds on the way back from step k.
    """

    keep: Array
    added: Array
    ancestral: Array


@dataclass(frozen=True)
class Kernel:
    """What a process makes of standard normals z [B, ...]: its noise, by a further random number per sample.

    `apply(b, z, drawn)` takes the number f32[B] that `draw` declares. `extra`: the dimensions beside those of the data
    in which a Poisson flow makes this noise.
    """

    extra: float
    draw: Draw
    apply: Callable[[Builder, Var, Var], Var]


@dataclass(frozen=True)
class Limit:
    """The SDE whose steps a process of discrete levels is, for networks that know those levels.

    At time s of the `sde` a network is told `told(s)`, and its prediction is of noise at the level's time `level(s)`.
    """

    sde: Process
    level: Callable[[Array], Array]
    told: Callable[[Array], Array]


class Process(Part):
    """A forward process. Formulas take `m`, the functions to write them over, and times t of any shape."""

    ODE: ClassVar[Literal["time", "level"]] = "level"
    """Default variable of integration of Euler's and Heun's methods: the process's time or its noise level."""
    SPACING: ClassVar[str | None] = "even"
    """Spacing of a sampler that names none; None: the sampler's own."""
    TRIED: ClassVar[tuple[str, ...]] = ()
    """Further spacings that `latentc tune` tries."""

    CLOSES: ClassVar[bool] = True
    """Whether sampling ends at the data, where the network is not evaluated; else at `last`."""

    WHOLE: ClassVar[bool] = False
    """Whether its times are integers, with interpolation between them."""

    @property
    def data_std(self) -> float:
        """The standard deviation that the data is taken to have."""
        return 0.5

    # ---- formulas, in numpy and in the IR

    @abstractmethod
    def alpha(self, m: Maths, t: Any) -> Any:
        """Coefficient of the data."""

    @abstractmethod
    def sigma(self, m: Maths, t: Any) -> Any:
        """Coefficient of the noise."""

    def derivatives(self, m: Maths, t: Any) -> tuple[Any, Any]:
        """Derivatives of alpha and sigma by t; (None, None) for a process on discrete levels."""
        return None, None

    def preconditioned(self, m: Maths, t: Any) -> tuple[Any, Any] | None:
        """(u, w) of the process's own prediction u * x0 + w * noise, or None."""
        return None

    def network_time(self, m: Maths, t: Any) -> Any:
        """The time that the network is told (EDM's c_noise)."""
        return t

    def input_scale(self, m: Maths, t: Any) -> Any:
        """Factor of the network's input x (EDM's c_in)."""
        return 1.0

    def denoiser(self, m: Maths, t: Any) -> tuple[Any, Any] | None:
        """(c_skip, c_out) with x0 = c_skip x + c_out F for the process's own prediction F, or None."""
        return None

    # ---- formulas as text

    def write_levels(self, sources: Sources, whole: bool = False) -> str:
        """The name of a printed function (alpha, sigma) of the times t, f64; of `whole` timesteps alone."""
        alpha, sigma = (
            sources.expression(self, name) or f"{sources.method(self, name, f'{name}_of')}(t)"
            for name in ("alpha", "sigma")
        )
        alpha = "np.ones_like(t)" if alpha == "1.0" else alpha
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if np.any(np.asarray(self.sigma(NUMPY, np.float64(self.data))) != 0.0):
                sigma = f"np.where(t == {self.data!r}, 0.0, {sigma})"
        lines = ["def alpha_sigma(t: Array) -> tuple[Array, Array]:"]
        lines += [
            '    """The process at times t: x_t = alpha * x_0 + sigma * noise."""',
            f"    return {alpha}, {sigma}",
        ]
        return sources.define("alpha_sigma", "\n".join(lines))

    def time_text(self, sources: Sources, level: str) -> str:
        """The times of noise levels sigma / alpha, as an expression; `level` is a function."""
        found = sources.function(bisected)
        return f"{found}({{}}, {level}, {self.first!r}, {self.last!r})"

    def nearest_text(self, sources: Sources, times: str) -> str:
        """`nearest` as an expression."""
        return times

    def prior_text(self) -> str:
        """The standard deviation of the first state, as an expression in the times t and the levels there."""
        if self.prior_scale(float(self.first)) == 1.0:
            return "1.0"
        return "sigma[0]"

    # ---- ends

    @property
    @abstractmethod
    def first(self) -> float:
        """Time of the noise, where sampling starts."""

    @property
    @abstractmethod
    def last(self) -> float:
        """Time of the least noise at which the network may be evaluated."""

    @property
    @abstractmethod
    def data(self) -> float:
        """Time of the data, where sigma is 0."""

    def prior_scale(self, t: float) -> float:
        """Standard deviation of the state that sampling starts with at time t."""
        return 1.0

    def in_steps(self, count: int) -> Levels | None:
        """The process in `count` discrete steps, as its authors write it; None if they do not, or for too few."""
        return None

    def limit(self) -> Limit | None:
        """The SDE that it is a discretisation of; None if it has none, or is continuous itself."""
        return None

    def kernel(self, shape: Sequence[int]) -> Kernel | None:
        """How the noise of samples of this shape is drawn, if not as standard normals."""
        return None

    # ---- training

    @abstractmethod
    def draw(self) -> Draw:
        """The random draw behind a sample's training time."""

    @abstractmethod
    def training_time(self, m: Maths, draw: Any, predicts: Prediction) -> Any:
        """Training times from `draw`."""

    @property
    def importance(self) -> float | None:
        """Mean of g^2 / sigma^2 over its times, if training draws them in proportion to that; None: it does not."""
        return None

    def at(self, m: Symbolic, t: Any) -> Any:
        """Training times [B] in the shape in which the formulas take them."""
        return m.column(t, "time")

    # ---- in numpy

    def point(self, t: ArrayLike) -> Point:
        """The process at times t, in float64."""
        t = np.asarray(t, np.float64)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            d_alpha, d_sigma = self.derivatives(NUMPY, t)
            own, denoiser = self.preconditioned(NUMPY, t), self.denoiser(NUMPY, t)
            return Point(
                _like(t, self.alpha(NUMPY, t)),
                np.where(t == self.data, 0.0, _like(t, self.sigma(NUMPY, t))),  # exactly, whatever pi rounds to
                None if d_alpha is None else _like(t, d_alpha),
                None if d_sigma is None else _like(t, d_sigma),
                None if own is None else (_like(t, own[0]), _like(t, own[1])),
                None if denoiser is None else (_like(t, denoiser[0]), _like(t, denoiser[1])),
            )

    def told(self, t: ArrayLike) -> Array:
        """f64: the network's times at times t."""
        t = np.asarray(t, np.float64)
        return _like(t, self.network_time(NUMPY, t))

    def scale(self, t: ArrayLike) -> Array:
        """f64: factors of the network's input at times t."""
        t = np.asarray(t, np.float64)
        return _like(t, self.input_scale(NUMPY, t))

    def level(self, t: ArrayLike) -> Array:
        """f64: sigma / alpha at times t; infinite where alpha is 0."""
        point = self.point(t)
        with np.errstate(divide="ignore"):
            return np.asarray(point.sigma / point.alpha)

    def time_of_level(self, level: ArrayLike) -> Array:
        """f64: the times at which sigma / alpha is `level` (within the process's ends), by bisection."""
        return bisected(np.asarray(level, np.float64), self.level, self.first, self.last)

    def level_range(self) -> tuple[float, float]:
        """Least and greatest noise level of a grid of levels; both positive and finite."""
        return float(self.level(self.last)), float(self.level(self.first))

    def level_bounds(self) -> tuple[float, float]:
        """Bounds of the noise levels that a sampler may ask for."""
        return self.level_range()

    def has(self, t: float) -> bool:
        """Whether the network may be evaluated at time t."""
        return min(self.first, self.last) <= t <= max(self.first, self.last)

    def nearest(self, times: Array) -> Array:
        """The times at which a network that knows whole timesteps only can be evaluated."""
        return times

    def spread(self, start: float, stop: float, left: ArrayLike) -> Array:
        """f64: times from `start` (where 1 is `left` of the way) to `stop` (0), evenly in what matters to a solver."""
        return stop + (start - stop) * np.asarray(left, np.float64)

    def progress(self, t: ArrayLike) -> Array:
        """Progress of times t from noise (0) to data (1)."""
        return np.clip((np.asarray(t, np.float64) - self.first) / ((self.last - self.first) or 1.0), 0.0, 1.0)


def bisected(level: Array, level_at: Callable[[Array], Array], first: float, last: float) -> Array:
    """The times from `first` (noise) to `last` (data) at which the noise level is `level`."""
    noisy, clean = np.full_like(level, first), np.full_like(level, last)
    for _ in range(100):
        middle = (noisy + clean) / 2
        above = level_at(middle) > level
        noisy, clean = np.where(above, middle, noisy), np.where(above, clean, middle)
    for end in (first, last):  # exactly
        noisy = np.where(np.isclose(level, level_at(np.asarray(end)), rtol=1e-14, atol=0), end, noisy)
    return noisy


def _like(t: Array, value: Any) -> Array:
    return np.array(np.broadcast_to(np.asarray(value, np.float64), t.shape))


@dataclass(frozen=True)
class Boundary:
    """The consistency function f(x_t, t) = skip x_t + out D(x_t, t), with D the data that the network predicts.

    It is where the trajectory through x_t ends, at noise level `least` = sigma / alpha: there skip is 1 / alpha and out
    is 0. With EDM's D it is that of Song et al. 2023 (arXiv:2303.01469, appendix C), written for any process.
    """

    least: float
    data_std: float

    def coefficients(self, point: Point) -> tuple[Array, Array]:
        """f64: (skip, out) at the process's `point`."""
        alpha, sigma, variance = point.alpha, point.sigma, self.data_std**2
        above = sigma - self.least * alpha
        out = above / sigma
        skip = variance * alpha * (1.0 / (above**2 + variance * alpha**2) - out / (sigma**2 + variance * alpha**2))
        return skip, out


@dataclass(frozen=True)
class Parameterization:
    """The process of an objective and what its network predicts.

    `variance`: of the reverse steps; with `learned_range` the network has twice the data's channels. `coupling`: where
    the path starts, if not from noise alone. `boundary`: what a prediction becomes where it is the end of a trajectory.
    `averaged`: velocities are averaged over a span of time, which is a condition.
    """

    process: Process
    predicts: Prediction
    variance: Variance = "fixed_small"
    coupling: Coupling | None = None
    boundary: Boundary | None = None
    averaged: bool = False

    def noise_problems(self, spec: Spec, what: str) -> Iterator[Problem]:
        """What keeps `what` from drawing standard normals where the path begins: another start, or other noise."""
        if self.coupling is not None:
            message = f"the {what} starts from noise, but with this coupling the path starts from a condition"
            yield Problem((), message, "leave it out, or `objective.coupling`")
        elif spec.data.shape is not None and self.process.kernel(spec.data.shape) is not None:
            message = f"the {what} draws white Gaussian noise, but process `{self.process.kind}` has other noise"
            yield Problem((), message, "leave it out, or use another process")


__all__ = ["Boundary", "Kernel", "Levels", "Limit", "Parameterization", "Prior", "Process", "Variance"]
