"""DDIM, and the base that it shares with DDPM: respacing, and bounds of the data estimate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from latentc.components.parts import Applies, Problem, Spec
from latentc.components.processes.discrete import Discrete
from latentc.components.processes.formulas import Array
from latentc.components.processes.prediction import Prediction, posterior_terms
from latentc.components.processes.process import Parameterization, Process
from latentc.components.samplers.base import ArraySampler, ClippedSampler, Final, path_interval, spaced
from latentc.components.samplers.grid import Grid
from latentc.components.samplers.script import Script
from latentc.components.samplers.spacings.spacing import Interval
from latentc.components.samplers.spacings.timesteps import respaced
from latentc.components.samplers.table import LINEAR, Body, Bound, Quantile, Step, Table, bounded
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, Var


class Ancestral(ClippedSampler):
    """Base of DDPM and DDIM: steps down to the data, improved DDPM's respacing, and clipping of the data estimate."""

    REPLACES: ClassVar[dict[str, tuple[str, ...]]] = {
        "respacing": ("spacing",),
        "timesteps": ("spacing", "respacing"),
    }
    APPLIES: ClassVar[Applies] = {"clip_per_channel": ("clip_quantile", None)}

    respacing: str | None = Field(
        None, description="improved DDPM's notation: '10', '10,20' (a count per section) or 'ddim25'; sets steps"
    )
    clip_quantile: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="dynamic thresholding (Imagen): if this quantile of the data estimate's magnitudes exceeds "
        "`clip`, clamp to it and rescale to `clip` (0.995); null: none",
    )
    clip_per_channel: bool = Field(False, description="compute the quantile per channel instead of per sample")

    @property
    def bound(self) -> Bound | None:
        """The bound of the estimated data."""
        if self.clip is None or self.clip_quantile is None:
            return self.clip
        return Quantile(self.clip_quantile, self.clip, self.clip_per_channel)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.clip is None and self.clip_quantile is not None:
            yield Problem(
                ("clip_quantile",),
                "`clip_quantile` needs `clip`, the value to scale the data to",
                "set `clip: 1`, or leave it out",
            )

    @model_validator(mode="before")
    @classmethod
    def _steps_of_respacing(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("respacing") is None:
            return values
        text = str(values["respacing"])
        parts = text.removeprefix("ddim").split(",")
        if not all(part.strip().isdecimal() for part in parts):
            raise ValueError(f"respacing {text!r}: give a count, counts separated by commas, or `ddim` and a count")
        count = sum(int(part) for part in parts)
        if values.get("steps", count) != count:
            mend = "change `respacing`, which determines `steps`, or set it to null"
            raise ValueError(f"respacing {text!r} has {count} steps, not {values['steps']}: {mend}")
        return {**values, "respacing": text, "steps": count}

    def with_steps(self, steps: int) -> ArraySampler:
        sampler = super().with_steps(steps)
        return sampler if sampler is self else sampler.model_copy(update={"respacing": None})

    def interval(self, target: Parameterization) -> Interval:
        # The data end of a path is reached by a step of its own: the last evaluation comes before it.
        process = target.process
        if process.data != process.last:
            return super().interval(target)
        return path_interval(target, 1e-3)

    def write_grid(self, script: Script) -> None:
        if self.respacing is None or self.timesteps is not None:
            super().write_grid(script)
            return
        script.whole = True
        script.alpha_sigma()
        script.argument("respacing", self.respacing)
        script.line(f"t = np.append({script.function(respaced)}(TIMESTEPS, respacing), {script.process.data!r})")

    def grid(self, target: Parameterization) -> Grid:
        if self.respacing is None or self.timesteps is not None:
            return super().grid(target)
        process = target.process
        if not isinstance(process, Discrete):
            raise ValueError("`respacing` needs a discrete schedule, whose timesteps it chooses")
        times = respaced(process.steps, self.respacing).astype(np.float64)
        return Grid(process, np.append(times, process.data))


class Ddim(Ancestral):
    """Denoising diffusion implicit models (Song et al. 2021)."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "ddim", "steps": 4, "guidance": {"scale": 2.0, "channels": 1}}

    kind: Literal["ddim"]
    eta: float = Field(0.0, ge=0, le=1, description="fraction of DDPM's noise: 0 is deterministic, 1 all of it")

    final: Final = Field("zero", description="end of the last step: the data, or the lowest noise level")

    APPLIES: ClassVar[Applies] = {"noise_of_clipped": ("clip", None)}

    noise_of_clipped: bool = Field(
        True,
        description="with `clip`: recompute the noise of a step from the clipped estimate (ADM); false: use the "
        "network's own (diffusers' default)",
    )

    @classmethod
    def variants(cls, process: Process) -> list[dict[str, Any]]:
        return spaced(process, "trailing") if process.DEFAULTS.over == "level" else []

    def interval(self, target: Parameterization) -> Interval:
        covered = super().interval(target)
        if self.final == "zero" or covered.closing is None:
            return covered
        return replace(covered, closing=target.process.last)

    def table(self, target: Parameterization) -> Table:
        return ddim(self.grid(target), target.predicts, self.eta, self.bound, self.noise_of_clipped)

    def write(self, script: Script) -> None:
        self.write_grid(script)
        script.start()
        own: dict[str, Any] = {"stochastic": True} if self.eta else {"stochastic": False, "eta": 0.0}
        step = script.function(ddim_step, **own, noise_of_clipped=self.bound is None or self.noise_of_clipped)
        eta = f", {script.argument('eta', self.eta)}" if self.eta else ""
        script.loop(f"{script.evaluation('x0')}(t[:-1])", f"{step}(alpha, sigma{eta})")


def ddim(
    grid: Grid,
    predicts: Prediction,
    eta: float = 0.0,
    clip: Bound | None = None,
    noise_of_clipped: bool = True,
) -> Table:
    """DDIM (Song et al. 2021, equation 12): deterministic at `eta` 0, DDPM's posterior variance at 1.

    The estimate is x0; the noise follows from x and the estimate, clipped if `noise_of_clipped`. At eta 0 it is the
    first-order exponential integrator.
    """
    clipped = clip is None or noise_of_clipped
    columns = grid.evaluation(predicts, "x0") | ddim_step(grid.alpha, grid.sigma, eta, eta > 0.0, clipped)
    body = LINEAR if clipped else UNCLIPPED_NOISE
    return Table("ddim", body, columns, clip=clip, prior=grid.prior)


def ddim_step(alpha: Array, sigma: Array, eta: float, stochastic: bool, noise_of_clipped: bool) -> dict[str, Array]:
    """DDIM (Song et al. 2021, equation 12): coefficients of x, of the data (d) and of new noise, with `eta` of DDPM's.

    The noise that remains follows from x and the data: direction / sigma * (x - alpha * d).
    """
    direction = sigma[1:]
    if stochastic:
        noise = eta * np.sqrt(posterior_terms(alpha[:-1], sigma[:-1], alpha[1:], sigma[1:])[2])
        direction = np.sqrt(np.maximum(direction**2 - noise**2, 0.0))
    columns = {"x": direction / sigma[:-1]}
    if noise_of_clipped:
        columns["d"] = alpha[1:] - direction * alpha[:-1] / sigma[:-1]
    else:
        columns["d"] = alpha[1:]
        columns["unclipped"] = -direction * alpha[:-1] / sigma[:-1]
    if stochastic:
        columns["noise"] = noise
    return columns


def _unclipped_noise(b: Builder, step: Step) -> tuple[Var, ...]:
    (x,), row = step.state, step.row
    assert step.clip is not None
    d = replace(step, clip=None).estimate(b, x, step.evaluate(x, 0))
    clipped = bounded(b, d, step.clip, "clipped")
    terms = (row["x"], x), (row["d"], clipped), (row["unclipped"], d)
    return (weighted_sum(b, "x", *terms, *step.noise()),)


UNCLIPPED_NOISE = Body(_unclipped_noise)
"""``x' = x * x + d * clip(d) + unclipped * d + noise * z``."""
