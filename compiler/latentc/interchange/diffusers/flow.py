"""The scheduler of flows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from latentc.components.objective import Objective
from latentc.components.processes.interpolant import Interpolant
from latentc.components.samplers.euler import Euler
from latentc.components.samplers.spacings.times import Shifted
from latentc.interchange.diffusers.equivalent import Config, Data, Scheduler, asked

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

TIMESTEPS = 1000
"""The factor by which networks multiply the time."""
_OWN = "shifted_timesteps"
"""The spacing of levels that the scheduler lays out itself, of the system `sd3`."""


class FlowMatchEulerDiscreteScheduler(Scheduler):
    """Euler's method along a straight path from noise to data, with levels that are shifted towards the noise.

    Without levels of a pipeline's own, it lays them out from 1 to the lowest of a schedule that is shifted already.
    """

    NAMES = ("FlowMatchEulerDiscreteScheduler",)
    DEFAULTS: ClassVar[Data] = {
        "num_train_timesteps": 1000,
        "shift": 1.0,
        "use_dynamic_shifting": False,
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
        "invert_sigmas": False,
        "shift_terminal": None,
        "use_karras_sigmas": False,
        "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
        "time_shift_type": "exponential",
        "stochastic_sampling": False,
    }

    DENOISES = False

    def changes(self, config: Config) -> Data:
        return self.changes_in(config, None, False)

    def changes_in(self, config: Config, tokens: int | None, even: bool) -> Data:
        """As `changes`, for images of so many tokens, by which the shift may depend.

        `even`: the pipeline gives levels from 1 to 1 / steps, which the scheduler shifts.
        """
        config.must("num_train_timesteps", TIMESTEPS, why=f"networks multiply the time by {TIMESTEPS}")
        for key, why in {
            "invert_sigmas": "times from data to noise",
            "use_karras_sigmas": "shifted levels replaced by others",
            "use_exponential_sigmas": "shifted levels replaced by others",
            "use_beta_sigmas": "noise levels by a beta distribution",
            "stochastic_sampling": "noise in each step",
        }.items():
            config.must(key, False, why=why)
        config.must("shift_terminal", None, why="levels stretched to an end of their own")
        dynamic = config.flag("use_dynamic_shifting")
        shift = self._shift_of(config, tokens) if dynamic else config.number("shift", 1.0)
        if shift <= 0:
            config.refuse("shift", "it must be positive")
            shift = 1.0
        ends = ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type")
        config.unused(*(("shift",) if dynamic else ends))
        spacing: Data = {"kind": "shifted", "shift": 1 / shift}
        if not even:
            lowest = "unshifted" if dynamic else "shifted"
            spacing = {"kind": _OWN, "shift": shift, "timesteps": TIMESTEPS, "lowest": lowest}
        return {
            "objective": {"kind": "flow", "process": {"kind": "interpolant", "noise_time": 1}, "predicts": "velocity"},
            "sampler": {"kind": "euler", "steps": 28, "spacing": spacing, "over": None, "churn": None},
        }

    def _shift_of(self, config: Config, tokens: int | None) -> float:
        """The shift for an image of so many tokens, on a line between two."""
        low, high = config.number("base_shift", 0.5), config.number("max_shift", 1.15)
        few, many = config.whole("base_image_seq_len"), config.whole("max_image_seq_len")
        kind = config.choice("time_shift_type", {"exponential": "exponential", "linear": "linear"})
        if tokens is None or few == many:
            config.refuse("use_dynamic_shifting", "the shift depends on the number of tokens of an image")
            return 1.0
        slope = (high - low) / (many - few)
        mu = tokens * slope + low - slope * few
        config.note("use_dynamic_shifting", f"the shift is that of images of {tokens} tokens")
        return math.exp(mu) if kind == "exponential" else mu

    def config(self, spec: Spec) -> Data:
        sampler, objective = spec.sampler, spec.objective
        assert isinstance(sampler, Euler)
        target = objective.parameterization() if isinstance(objective, Objective) else None
        process = None if target is None else target.process
        straight = isinstance(process, Interpolant) and process.path == "linear" and process.noise_time == 1
        asked(straight, "its path is not the straight one from data at time 0 to noise at 1")
        asked(target is not None and target.predicts == "flow_velocity", "its network does not predict the velocity")
        asked(sampler.churn is None, "its sampler adds noise")
        spacing: Any = sampler.spacing
        if isinstance(spacing, Shifted):  # of levels that a pipeline lays out
            return {**self.DEFAULTS, "shift": 1 / spacing.shift}
        asked(spacing.timesteps == TIMESTEPS, f"its schedule has {spacing.timesteps} levels")
        if spacing.lowest == "shifted":
            return {**self.DEFAULTS, "shift": spacing.shift}
        whatever = math.log(spacing.shift)  # the size of the image
        return {**self.DEFAULTS, "use_dynamic_shifting": True, "base_shift": whatever, "max_shift": whatever}

    def takes(self, sampler: object) -> bool:
        spacing = sampler.spacing if isinstance(sampler, Euler) else None
        return spacing is not None and (isinstance(spacing, Shifted) or spacing.kind == _OWN)


SCHEDULERS = (FlowMatchEulerDiscreteScheduler(),)
