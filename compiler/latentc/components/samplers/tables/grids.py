"""Where a sampler evaluates: timesteps of a discrete schedule, times of a path, and Karras noise levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentc.components.prediction import Point
from latentc.components.schedules import Path, Schedule

Array = NDArray[np.float64]
Spacing = Literal["leading", "trailing", "linspace"]
Final = Literal["zero", "sigma_min"]


@dataclass(frozen=True, eq=False)
class Grid:
    """The states of a run: N evaluations and where the last step ends.

    `t`: f64[N], what the network is given as its time. `alpha`, `sigma`: f64[N + 1], of the states; the last
    is the result's. `d_alpha`, `d_sigma`: f64[N + 1], by the flow's time, or None for a discrete schedule.
    `times`: f64[N + 1], the flow's times, or None.
    """

    t: Array
    alpha: Array
    sigma: Array
    d_alpha: Array | None = None
    d_sigma: Array | None = None
    times: Array | None = None

    @property
    def steps(self) -> int:
        return len(self.t)

    @property
    def evaluated(self) -> Point:
        """The N points at which the network is evaluated."""
        d_alpha = None if self.d_alpha is None else self.d_alpha[:-1]
        d_sigma = None if self.d_sigma is None else self.d_sigma[:-1]
        return Point(self.alpha[:-1], self.sigma[:-1], d_alpha, d_sigma)

    @property
    def log_snr(self) -> Array:
        """f64[N + 1]: lambda = log(alpha / sigma), infinite where sigma is 0 (half the log
        signal-to-noise)."""
        with np.errstate(divide="ignore"):
            return np.log(self.alpha) - np.log(self.sigma)


def spaced(
    total: int, steps: int, spacing: Spacing = "leading", offset: int = 0, destination: bool = False
) -> NDArray[np.int64]:
    """Timesteps i64[steps] of 0 … total - 1, descending, spaced as diffusers does (Lin et al. 2023, table 2).

    leading: multiples of total // steps, plus `offset`. trailing: total - 1 and down by total / steps.
    linspace: both ends and evenly between. With `destination`, leading and linspace lay out one timestep more
    and leave out the lowest, where a multistep solver's last step would end.

    ValueError: more steps than the schedule has, a repeated timestep, or an offset beyond the schedule's end.
    """
    if not 1 <= steps <= total:
        raise ValueError(f"{steps} steps of a schedule of {total}: between 1 and {total} are possible")
    points = steps + 1 if destination and spacing != "trailing" else steps
    if spacing == "leading":
        chosen = np.arange(points, dtype=np.int64)[::-1] * (total // points) + offset
    elif spacing == "linspace":
        chosen = np.linspace(0, total - 1, points).round()[::-1].astype(np.int64)
    else:
        chosen = np.arange(total, 0, -total / steps).round().astype(np.int64)[:steps] - 1
    chosen = chosen[:steps]
    if chosen[0] >= total:
        raise ValueError(f"offset {offset} leaves the schedule: timestep {chosen[0]} of {total}")
    if len(set(chosen.tolist())) < steps:
        raise ValueError(f"{steps} steps of a schedule of {total} with {spacing} spacing repeat a timestep")
    return chosen


def respaced(total: int, counts: str) -> NDArray[np.int64]:
    """Timesteps, descending, by improved DDPM's respacing text (as DiT's `--num-sampling-steps`).

    `"10"`: ten, evenly from the first timestep to the last. `"10,20"`: as many from each of as many equal
    sections. `"ddim10"`: every (total // 10)-th timestep from 0, where that gives exactly ten.

    ValueError: text that is neither, or more steps than a section has.
    """
    if counts.startswith("ddim"):
        wanted = _count(counts.removeprefix("ddim"), counts)
        for every in range(1, total):
            if len(range(0, total, every)) == wanted:
                return np.arange(0, total, every, dtype=np.int64)[::-1]
        raise ValueError(f"no stride through {total} timesteps gives exactly {wanted} of them")
    sections = [_count(part, counts) for part in counts.split(",")]
    size, extra = divmod(total, len(sections))
    start = 0
    chosen: list[int] = []
    for index, count in enumerate(sections):
        length = size + (index < extra)
        if count > length:
            raise ValueError(f"{count} steps out of a section of {length} timesteps ({counts!r} of {total})")
        stride = 1.0 if count <= 1 else (length - 1) / (count - 1)
        # Python's round (half to even) and the running sum are improved DDPM's own, kept to the last bit.
        position = 0.0
        for _ in range(count):
            chosen.append(start + round(position))
            position += stride
        start += length
    return np.array(sorted(set(chosen), reverse=True), dtype=np.int64)


def _count(text: str, whole: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise ValueError(f"respacing {whole!r}: a count, counts with commas, or ddim with a count")
    return int(text)


def discrete_grid(schedule: Schedule, timesteps: ArrayLike, final: Final = "zero") -> Grid:
    """The grid of descending `timesteps`, whole or between two; the last step ends at the data or at level 0."""
    t = np.asarray(timesteps, np.float64)
    alpha, sigma = schedule.levels(t)
    last = (1.0, 0.0) if final == "zero" else (schedule.alpha[0], schedule.sigma[0])
    return Grid(t, np.append(alpha, last[0]), np.append(sigma, last[1]))


def karras_grid(schedule: Schedule, steps: int, final: Final = "zero", rho: float = 7.0) -> Grid:
    """A grid of Karras noise levels between the schedule's own ends (EDM, Karras et al. 2022, equation 5).

    The levels sigma / alpha are powers `rho` of evenly spaced numbers. The network's times are found by
    interpolating log(sigma / alpha) over the timesteps; they are not rounded.
    """
    levels = schedule.sigma / schedule.alpha
    ramp = np.linspace(0.0, 1.0, steps)
    high, low = levels[-1] ** (1 / rho), levels[0] ** (1 / rho)
    chosen = (high + ramp * (low - high)) ** rho
    if steps > 1:
        chosen[0], chosen[-1] = levels[-1], levels[0]  # exactly: the powers above round
    t = np.interp(np.log(chosen), np.log(levels), np.arange(schedule.steps, dtype=np.float64))
    ends = np.append(chosen, 0.0 if final == "zero" else levels[0])
    alpha = 1.0 / np.sqrt(1.0 + ends**2)
    return Grid(t, alpha, ends * alpha)


def flow_grid(path: Path, steps: int, start: float = 0.0, stop: float = 1.0) -> Grid:
    """A grid of `steps` equal steps of the flow's time from `start` (noise) to `stop` (data).

    steps + 1 points: what SiT calls num_steps = steps + 1.

    ValueError: not 0 <= start < stop <= 1.
    """
    if not 0.0 <= start < stop <= 1.0:
        raise ValueError(f"a flow runs from a time to a later one in [0, 1], not from {start:g} to {stop:g}")
    return path_grid(path, np.linspace(start, stop, steps + 1))


def path_grid(path: Path, times: ArrayLike) -> Grid:
    """The grid of rising `times` f64[N + 1] of a flow, of which the last is where the last step ends."""
    times = np.asarray(times, np.float64)
    return Grid(times[:-1], path.alpha(times), path.sigma(times), path.d_alpha(times), path.d_sigma(times), times)
