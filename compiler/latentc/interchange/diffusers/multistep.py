"""Multistep schedulers: DPM-Solver++, UniPC, DEIS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from latentc.components.samplers.deis import Deis
from latentc.components.samplers.dpm_solver_pp import DpmSolverPp
from latentc.components.samplers.multistep import Gridded
from latentc.components.samplers.unipc import Unipc
from latentc.interchange.diffusers import _schedule as shared
from latentc.interchange.diffusers.equivalent import Config, Data, Scheduler, asked

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

STEPS = 50
"""Default number of steps of pipelines."""

_SHARED: Data = {
    **shared.SCHEDULE,
    **shared.THRESHOLDING,
    "solver_order": 2,
    "lower_order_final": True,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_flow_sigmas": False,
    "flow_shift": 1.0,
    "timestep_spacing": "linspace",
    "use_dynamic_shifting": False,
    "time_shift_type": "exponential",
}
_ROUNDED = (
    "diffusers rounds the timesteps of these noise levels before it passes them to the network; here they are exact"
)
_FLOW = "the noise levels of a flow"


def _read(config: Config, kind: str) -> tuple[Data, Data]:
    """(objective, sampler) of what all have in common."""
    objective = shared.objective(config)
    shared.no_thresholding(config)
    config.must("use_flow_sigmas", False, why=_FLOW)
    config.must("use_dynamic_shifting", False, why=_FLOW)
    config.must("use_beta_sigmas", False, why="noise levels by a beta distribution")
    config.unused("flow_shift", "time_shift_type")
    spacing = shared.spacing(config)
    for key, other in (("use_karras_sigmas", "karras"), ("use_exponential_sigmas", "log_snr")):
        if config.flag(key):
            config.note(key, _ROUNDED)
            spacing = {"kind": other}
    order = config.whole("solver_order")
    return objective, {"kind": kind, "steps": STEPS, "spacing": spacing, "order": order}


def _final(config: Config) -> Any:
    return config.choice("final_sigmas_type", {"zero": "zero", "sigma_min": "sigma_min"})


def _written(spec: Spec, sampler: Gridded, defaults: Data) -> Data:
    found, target = shared.of_objective(spec)
    return {**defaults, **found, **shared.of_spacing(sampler, target)}


class DPMSolverMultistepScheduler(Scheduler):
    """DPM-Solver++ multistep."""

    NAMES = ("DPMSolverMultistepScheduler",)
    DEFAULTS: ClassVar[Data] = {
        **_SHARED,
        "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint",
        "euler_at_final": False,
        "use_lu_lambdas": False,
        "final_sigmas_type": "zero",
        "lambda_min_clipped": float("-inf"),
        "variance_type": None,
        "rescale_betas_zero_snr": False,
    }

    def changes(self, config: Config) -> Data:
        objective, sampler = _read(config, "dpm_solver_pp")
        config.must("algorithm_type", "dpmsolver++", why="only dpmsolver++ has an equivalent")
        config.must("use_lu_lambdas", False)
        config.must("lambda_min_clipped", float("-inf"), "-inf", why="timesteps cut at a signal-to-noise ratio")
        config.must("variance_type", None, why="the pipeline already leaves out the learned variance")
        final = _final(config)
        if final == "zero":
            config.unused("euler_at_final")  # a step to the data is an Euler step in any case
        else:
            config.must("euler_at_final", False)
        sampler |= {
            "solver_type": config.choice("solver_type", {"midpoint": "midpoint", "heun": "heun"}),
            "lower_order_final": config.flag("lower_order_final"),
            "final": final,
            "clip": None,
        }
        return {"objective": objective, "sampler": sampler}

    def config(self, spec: Spec) -> Data:
        sampler = spec.sampler
        assert isinstance(sampler, DpmSolverPp)
        asked(sampler.clip is None, "its sampler clips the estimate of x0")
        return {
            **_written(spec, sampler, self.DEFAULTS),
            "solver_order": sampler.order,
            "solver_type": sampler.solver_type,
            "lower_order_final": sampler.lower_order_final,
            "final_sigmas_type": sampler.final,
        }

    def takes(self, sampler: object) -> bool:
        return isinstance(sampler, DpmSolverPp)


class UniPCMultistepScheduler(Scheduler):
    """UniPC multistep."""

    NAMES = ("UniPCMultistepScheduler",)
    DEFAULTS: ClassVar[Data] = {
        **_SHARED,
        "predict_x0": True,
        "solver_type": "bh2",
        "disable_corrector": [],
        "solver_p": None,
        "final_sigmas_type": "zero",
        "rescale_betas_zero_snr": False,
        "sigma_min": None,
        "sigma_max": None,
        "shift_terminal": None,
    }

    def changes(self, config: Config) -> Data:
        objective, sampler = _read(config, "unipc")
        for key in ("solver_p", "sigma_min", "sigma_max", "shift_terminal"):
            config.must(key, None)
        config.must("disable_corrector", [], why="the corrector is off at some steps")
        sampler |= {
            "b_function": config.choice("solver_type", {"bh2": "bh2", "bh1": "bh1"}),
            "predict_x0": config.flag("predict_x0"),
            "lower_order_final": config.flag("lower_order_final"),
            "corrector": True,
            "final": _final(config),
            "clip": None,
        }
        return {"objective": objective, "sampler": sampler}

    def config(self, spec: Spec) -> Data:
        sampler = spec.sampler
        assert isinstance(sampler, Unipc)
        asked(sampler.clip is None, "its sampler clips the estimate of x0")
        asked(sampler.corrector, "its UniPC has no corrector")
        return {
            **_written(spec, sampler, self.DEFAULTS),
            "solver_order": sampler.order,
            "solver_type": sampler.b_function,
            "predict_x0": sampler.predict_x0,
            "lower_order_final": sampler.lower_order_final,
            "final_sigmas_type": sampler.final,
        }

    def takes(self, sampler: object) -> bool:
        return isinstance(sampler, Unipc)


class DEISMultistepScheduler(Scheduler):
    """DEIS, which ends at the lowest noise level."""

    NAMES = ("DEISMultistepScheduler",)
    DEFAULTS: ClassVar[Data] = {**_SHARED, "algorithm_type": "deis", "solver_type": "logrho"}

    def changes(self, config: Config) -> Data:
        objective, sampler = _read(config, "deis")
        config.must("algorithm_type", "deis", "dpmsolver", "dpmsolver++")  # diffusers treats all as deis
        config.must("solver_type", "logrho", "midpoint", "heun", "bh1", "bh2")
        if config.flag("lower_order_final"):
            config.note("lower_order_final", "with fewer than 15 steps diffusers lowers the order of the last steps")
        return {"objective": objective, "sampler": {**sampler, "polynomial": "log_rho", "final": "sigma_min"}}

    def config(self, spec: Spec) -> Data:
        sampler = spec.sampler
        assert isinstance(sampler, Deis)
        asked(sampler.polynomial == "log_rho", f"its DEIS uses polynomials in `{sampler.polynomial}`, not log_rho")
        asked(sampler.final == "sigma_min", "its DEIS ends at the data, but diffusers' ends at the lowest noise level")
        return {
            **_written(spec, sampler, self.DEFAULTS),
            "solver_order": sampler.order,
            "lower_order_final": False,
        }

    def takes(self, sampler: object) -> bool:
        return isinstance(sampler, Deis)


SCHEDULERS = (DPMSolverMultistepScheduler(), UniPCMultistepScheduler(), DEISMultistepScheduler())
