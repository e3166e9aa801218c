"""The scheduler of networks that jump from noise to the end of a trajectory: consistency models."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, ClassVar

from latentc.components.objective import Objective
from latentc.components.processes.edm import Edm
from latentc.components.samplers.base import ArraySampler
from latentc.components.samplers.spacings.spacing import Spacing
from latentc.interchange.diffusers.equivalent import Config, Data, Scheduler, asked
from latentc.spec import load_spec

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

SPEC = "cm"
TIME_FACTOR = 250.0
"""Of log(sigma), in the time of the network: 1000 times EDM's 1/4."""


class CMStochasticIterativeScheduler(Scheduler):
    """Multistep sampling of consistency models, at levels of the grid of their training."""

    NAMES = ("CMStochasticIterativeScheduler",)
    SCALES_NOISE = True
    DENOISES = False
    DEFAULTS: ClassVar[Data] = {
        "num_train_timesteps": 40,
        "sigma_min": 0.002,
        "sigma_max": 80.0,
        "sigma_data": 0.5,
        "s_noise": 1.0,
        "rho": 7.0,
        "clip_denoised": True,
    }

    def changes(self, config: Config) -> Data:
        config.must("s_noise", 1, 1.0, why="it changes the noise that is added between two steps")
        ends = {name: config.number(name, self.DEFAULTS[name]) for name in ("sigma_min", "sigma_max", "sigma_data")}
        levels = config.whole("num_train_timesteps")
        if levels < 3:
            config.refuse("num_train_timesteps", "a grid has at least 3 levels")
        rho = config.number("rho", 7.0)
        for name, value in {**ends, "rho": rho}.items():
            if not 0 < value < float("inf"):
                config.refuse(name, "it must be a positive number")
        usual = _spec().sampler
        assert isinstance(usual, ArraySampler) and isinstance(usual.spacing, Spacing)
        return {
            "networks": {"target": {"by_grids": False}},
            "objective": {
                "base": {"process": {**ends, "time_factor": TIME_FACTOR}},
                "steps": levels - 1,
                "growth": None,
            },
            "sampler": {
                "kind": usual.kind,
                "clip": 1.0 if config.flag("clip_denoised") else None,
                "spacing": {"kind": usual.spacing.kind, "levels": levels, "rho": rho},
            },
        }

    def config(self, spec: Spec) -> Data:
        objective, sampler = spec.objective, spec.sampler
        target = objective.parameterization() if isinstance(objective, Objective) else None
        assert isinstance(sampler, ArraySampler) and target is not None and target.boundary is not None
        process, spacing = target.process, sampler.spacing
        asked(isinstance(process, Edm), f"its process is `{process.kind}`, but the scheduler has EDM's")
        assert isinstance(process, Edm)
        asked(target.predicts == "preconditioned", f"its network predicts `{target.predicts}`")
        asked(process.time_factor == TIME_FACTOR, f"its network takes {process.time_factor:g} log(sigma) as the time")
        asked(target.boundary.least == process.sigma_min, "its trajectories do not end at the smallest noise level")
        asked(target.boundary.data_std == process.sigma_data, "`data_std` is not that of its process")
        usual = _spec().sampler
        assert isinstance(usual, ArraySampler)
        asked(
            sampler.timesteps is None and type(spacing) is type(usual.spacing),
            "its noise levels are none of an even grid: use the spacing of the spec `cm`",
        )
        found = spacing.model_dump()  # type: ignore[union-attr]
        asked(
            found["at"] is None,
            f"`at` is an argument of the pipeline's call (timesteps={list(found['at'] or ())[::-1]}): set it to null",
        )
        clip = sampler.model_dump()["clip"]
        asked(clip in (None, 1.0), f"its sampler clips at {clip}, but the scheduler only at 1")
        return {
            **self.DEFAULTS,
            "num_train_timesteps": found["levels"],
            "sigma_min": process.sigma_min,
            "sigma_max": process.sigma_max,
            "sigma_data": process.sigma_data,
            "rho": found["rho"],
            "clip_denoised": clip is not None,
        }

    def takes(self, sampler: object) -> bool:
        return type(sampler) is type(_spec().sampler)


@cache
def _spec() -> Spec:
    """The shipped spec, whose sampler and spacing these are."""
    return load_spec(SPEC)


SCHEDULERS = (CMStochasticIterativeScheduler(),)
