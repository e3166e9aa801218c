"""The base class of forward processes.

A state is ``x_t = alpha(t) x0 + sigma(t) noise`` with x0 the data. Three scales are separate: the process's own time t
(`first` at the noise, `data` at the data, in either direction), the network's time input (`network_time`), and the
noise level sigma / alpha, in which two processes can be compared.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike

from latentc.components.contract import Draw
from latentc.components.coupling import Coupling
from latentc.components.parts import Part, Problem, Spec
from latentc.components.processes.formulas import NUMPY, Array, Maths, Symbolic
from latentc.components.processes.prediction import Point, Prediction
from latentc.ir.builder import Builder, Var

Variance = Literal["fixed_small", "fixed_large", "learned_range"]
Prior = Literal["standard", "marginal"]


@dataclass(frozen=True)
class Defaults:
    """How samplers treat a process unless a spec says otherwise.

    `over`: variable of integration of Euler's and Heun's methods, the process's time or its noise level. `spacing`: of
    a continuous process; one of whole timesteps takes the sampler's own. `tried`: further spacings that `latentc tune`
    tries.
    """

    over: Literal["time", "level"] = "level"
    spacing: str = "even"
    tried: tuple[str, ...] = ()


class Preconditioning(Protocol):
    """Scalings of a network's input x and output F (Karras et al. 2022, table 1)."""

    def input_scale(self, m: Maths, t: Any) -> Any:
        """c_in: the network takes c_in x."""

    def denoiser(self, m: Maths, t: Any) -> tuple[Any, Any]:
        """(c_skip, c_out) with x0 = c_skip x + c_out F."""

    def functional(self, m: Maths, t: Any) -> tuple[Any, Any]:
        """(u, w) with F = u x0 + w noise, without the cancellation of (1 - c_skip) / c_out."""


@dataclass(frozen=True)
class Kernel:
    """Noise other than standard normals: made of normals z [B, ...] and a further random number per sample.

    `apply(b, z, drawn)` takes the number f32[B] that `draw` declares. `extra`: the dimensions beside those of the data
    in which a Poisson flow makes this noise.
    """

    extra: float
    draw: Draw
    apply: Callable[[Builder, Var, Var], Var]


class Process(Part):
    """A forward process. Formulas take `m`, the functions to write them over, and times t of any shape."""

    DEFAULTS: ClassVar[Defaults] = Defaults()
    WHOLE: ClassVar[bool] = False
    """True if its times are integers, with interpolation between them."""

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

    @property
    def preconditioning(self) -> Preconditioning | None:
        """Scalings of the network's input and output; None: the network takes the state itself."""
        return None

    def network_time(self, m: Maths, t: Any) -> Any:
        """The network's time input (EDM's c_noise)."""
        return t

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
    def data(self) -> float | None:
        """Time of the data, where sigma is 0 and the network is not evaluated; None: sampling ends at `last`."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Times, from noise to data, between which a sampler may ask to evaluate the network."""
        return self.first, self.last

    def prior_scale(self, t: float) -> float:
        """Standard deviation of the state that sampling starts with at time t: a constant such as 1, or sigma(t)."""
        return 1.0

    def kernel(self, shape: Sequence[int]) -> Kernel | None:
        """How the noise of samples of this shape is drawn, if not as standard normals."""
        return None

    # ---- training

    @abstractmethod
    def draw(self) -> Draw:
        """The random draw that a sample's training time is computed from."""

    @abstractmethod
    def training_time(self, m: Maths, draw: Any, predicts: Prediction) -> Any:
        """Training times from `draw`."""

    # ---- in numpy

    def point(self, t: ArrayLike) -> Point:
        """The process at times t, in float64."""
        t = np.asarray(t, np.float64)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            d_alpha, d_sigma = self.derivatives(NUMPY, t)
            scaled = self.preconditioning
            point = Point(
                _like(t, self.alpha(NUMPY, t)),
                np.where(t == self.data, 0.0, _like(t, self.sigma(NUMPY, t))),  # exactly, whatever pi rounds to
                None if d_alpha is None else _like(t, d_alpha),
                None if d_sigma is None else _like(t, d_sigma),
                time=_like(t, self.network_time(NUMPY, t)),
            )
            if scaled is None:
                return replace(point, scale=np.ones_like(t))
            (u, w), (skip, out) = scaled.functional(NUMPY, t), scaled.denoiser(NUMPY, t)
            scale = _like(t, scaled.input_scale(NUMPY, t))
            return replace(
                point, preconditioned=(_like(t, u), _like(t, w)), denoiser=(_like(t, skip), _like(t, out)), scale=scale
            )

    def time_of_level(self, level: ArrayLike) -> Array:
        """f64: the times at which sigma / alpha is `level` (within the process's ends), by bisection."""
        return bisected(np.asarray(level, np.float64), lambda t: self.point(t).level, self.first, self.last)

    def progress(self, t: ArrayLike) -> Array:
        """Progress of times t from noise (0) to data (1)."""
        return np.clip((np.asarray(t, np.float64) - self.first) / ((self.last - self.first) or 1.0), 0.0, 1.0)


def time_is_level(process: Process) -> bool:
    """True if the process's time is the noise level, as EDM's is."""
    ends = [process.first, process.last]
    return bool(np.array_equal(process.point(ends).level, ends))


def time_column(process: Process, m: Symbolic, t: Any) -> Any:
    """Training times [B] in the shape in which the formulas take them."""
    if process.WHOLE:
        return t
    return m.column(t, "sigma" if time_is_level(process) else "time")


def input_scale(process: Process, m: Maths, t: Any) -> Any:
    """Factor of the network's input x (EDM's c_in)."""
    return 1.0 if process.preconditioning is None else process.preconditioning.input_scale(m, t)


def bisected(level: Array, level_at: Callable[[Array], Array], first: float, last: float) -> Array:
    """The times from `first` (noise) to `last` (data) at which the noise level is `level`."""
    noisy, clean = np.full_like(level, first), np.full_like(level, last)
    for _ in range(100):
        middle, before = (noisy + clean) / 2, (noisy, clean)
        above = level_at(middle) > level
        noisy, clean = np.where(above, middle, noisy), np.where(above, clean, middle)
        if np.array_equal(before, (noisy, clean)):
            break
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
        return consistency_function(point.alpha, point.sigma, self.least, self.data_std)


def consistency_function(alpha: Array, sigma: Array, least: float, data_std: float) -> tuple[Array, Array]:
    """(skip, out) of the end of a trajectory, skip * x + out * data (Song et al. 2023, appendix C)."""
    above, variance = sigma - least * alpha, data_std**2
    out = above / sigma
    skip = variance * alpha * (1.0 / (above**2 + variance * alpha**2) - out / (sigma**2 + variance * alpha**2))
    return skip, out


@dataclass(frozen=True)
class Parameterization:
    """The process of an objective and the prediction of its network.

    `variance`: of the reverse steps; with `learned_range` the network has twice the data's channels. `coupling`: where
    the path starts, if not from noise alone. `boundary`: of a network that predicts ends of trajectories.
    `averaged`: velocities are averaged over a span of time, which is a condition.
    """

    process: Process
    predicts: Prediction
    variance: Variance = "fixed_small"
    coupling: Coupling | None = None
    boundary: Boundary | None = None
    averaged: bool = False

    def noise_problems(self, spec: Spec, what: str) -> Iterator[Problem]:
        """Problems of a program `what` that draws standard normals: a path with another start, or other noise."""
        if self.coupling is not None:
            message = f"the {what} starts from noise, but with this coupling the path starts from a condition"
            yield Problem((), message, "leave it out, or `objective.coupling`")
        elif spec.data.shape is not None and self.process.kernel(spec.data.shape) is not None:
            message = f"the {what} draws white Gaussian noise, but process `{self.process.kind}` has other noise"
            yield Problem((), message, "leave it out, or use another process")
