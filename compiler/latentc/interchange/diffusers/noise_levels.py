"""Schedulers that integrate over the noise level, also between timesteps: Euler and Heun."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from latentc.components.processes.discrete import Discrete
from latentc.components.samplers.euler import Euler
from latentc.components.samplers.heun import Heun
from latentc.components.samplers.ode import Integrator
from latentc.components.samplers.spacings.times import Uniform
from latentc.interchange.diffusers import _schedule as shared
from latentc.interchange.diffusers.equivalent import Config, Data, Scheduler, asked

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

_SHARED: Data = {
    **shared.SCHEDULE,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "timestep_spacing": "linspace",
}


def _read(config: Config, kind: str) -> Data:
    """Changes from what both have in common."""
    objective = shared.objective(config)
    config.must("use_beta_sigmas", False, why="noise levels by a beta distribution")
    spacing = shared.spacing(config)
    levels: dict[str, Any] | None = None
    for key, other in (("use_karras_sigmas", "karras"), ("use_exponential_sigmas", "log_snr")):
        if config.flag(key):
            levels = {"kind": other}
            if spacing["kind"] != "linspace":
                config.refuse(key, f"noise levels whose range comes from {spacing['kind']} timesteps")
    # the first state: noise at the first level, or, with `leading` timesteps, of deviation 1
    objective["process"]["prior"] = "standard" if spacing["kind"] == "leading" else "marginal"
    if levels is None and spacing["kind"] == "linspace":
        spacing, objective["process"]["interpolation"] = {"kind": "uniform"}, "level"
    sampler = {"kind": kind, "steps": 50, "spacing": levels or spacing, "over": "level", "churn": None}
    return {"objective": objective, "sampler": sampler}


def _written(spec: Spec, sampler: Integrator, defaults: Data) -> Data:
    found, target = shared.of_objective(spec)
    variable = sampler.variable(target)
    asked(variable.over == "level" and variable.scaling == "none", "its sampler integrates over another variable")
    asked(
        sampler.churn is None,
        "its sampler adds noise (`churn`), which diffusers takes as an argument of the scheduler's step",
    )
    keys, process = shared.of_spacing(sampler, target), target.process
    assert isinstance(process, Discrete)
    leading = keys["timestep_spacing"] == "leading"
    asked(
        process.prior == ("standard" if leading else "marginal"),
        f"sampling starts with standard deviation `{process.prior}`, but diffusers' Euler and Heun start "
        "with that of the first noise level (1 with leading timesteps)",
    )
    if isinstance(sampler.spacing_of(process), Uniform):
        asked(process.interpolation == "level", "its noise level is not linear between timesteps")
    return {**defaults, **found, **keys}


class EulerDiscreteScheduler(Scheduler):
    """Euler's method over the noise level. The initial noise is scaled by its `init_noise_sigma`."""

    NAMES = ("EulerDiscreteScheduler",)
    DEFAULTS: ClassVar[Data] = {
        **_SHARED,
        "interpolation_type": "linear",
        "sigma_min": None,
        "sigma_max": None,
        "timestep_type": "discrete",
        "rescale_betas_zero_snr": False,
        "final_sigmas_type": "zero",
    }
    SCALES_NOISE = True

    def changes(self, config: Config) -> Data:
        config.must("interpolation_type", "linear")
        config.must("timestep_type", "discrete")
        config.must("final_sigmas_type", "zero")
        for key in ("sigma_min", "sigma_max"):
            config.must(key, None)
        return _read(config, "euler")

    def config(self, spec: Spec) -> Data:
        assert isinstance(spec.sampler, Euler)
        return _written(spec, spec.sampler, self.DEFAULTS)

    def takes(self, sampler: object) -> bool:
        return isinstance(sampler, Euler)


class HeunDiscreteScheduler(Scheduler):
    """Heun's method over the noise level. The initial noise is scaled by its `init_noise_sigma`."""

    NAMES = ("HeunDiscreteScheduler",)
    DEFAULTS: ClassVar[Data] = {
        **_SHARED,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "clip_sample": False,
        "clip_sample_range": 1.0,
    }
    SCALES_NOISE = True

    def changes(self, config: Config) -> Data:
        config.must("clip_sample", False)
        config.unused("clip_sample_range")
        return _read(config, "heun")

    def config(self, spec: Spec) -> Data:
        assert isinstance(spec.sampler, Heun)
        return _written(spec, spec.sampler, self.DEFAULTS)

    def takes(self, sampler: object) -> bool:
        return isinstance(sampler, Heun)


SCHEDULERS = (EulerDiscreteScheduler(), HeunDiscreteScheduler())
