"""Schedulers that step from one timestep of the schedule to another: DDIM and DDPM."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from latentc.components.samplers.base import ArraySampler
from latentc.components.samplers.ddim import Ancestral, Ddim
from latentc.components.samplers.ddpm import Ddpm
from latentc.components.samplers.spacings.timesteps import Leading, Trailing
from latentc.interchange.diffusers import _schedule as shared
from latentc.interchange.diffusers.equivalent import Config, Data, Scheduler, asked

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

_SHARED: Data = {
    **shared.SCHEDULE,
    **shared.THRESHOLDING,
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False,
}
_STRIDE = (
    "diffusers steps to t - T // steps, which is the next timestep evaluated only if the number of "
    "steps divides T; here a step always ends at the next timestep"
)


def _read(config: Config, steps: int) -> tuple[Data, Data]:
    """(objective, sampler) of what both have in common."""
    objective = shared.objective(config)
    shared.no_thresholding(config)
    spacing = shared.spacing(config)
    if spacing["kind"] != "leading":
        config.note("timestep_spacing", _STRIDE)
    clips, bound = config.flag("clip_sample"), config.number("clip_sample_range", 1.0)
    return objective, {"steps": steps, "spacing": spacing, "clip": bound if clips else None}


def _written(spec: Spec, sampler: Ancestral, defaults: Data) -> Data:
    found, target = shared.of_objective(spec)
    asked(sampler.clip_quantile is None, "its sampler clips at a quantile")
    clip = {"clip_sample": sampler.clip is not None, "clip_sample_range": sampler.clip or 1.0}
    return {**defaults, **found, **shared.of_spacing(sampler, target), **clip}


class DDIMScheduler(Scheduler):
    """Deterministic DDIM; eta is an argument of its step, which pipelines leave at 0."""

    NAMES = ("DDIMScheduler",)
    DEFAULTS: ClassVar[Data] = {**_SHARED, "set_alpha_to_one": True}

    def changes(self, config: Config) -> Data:
        objective, sampler = _read(config, 50)
        final = "zero" if config.flag("set_alpha_to_one") else "sigma_min"
        clipped = {"noise_of_clipped": False} if sampler.get("clip") is not None else {}
        return {"objective": objective, "sampler": {"kind": "ddim", **sampler, **clipped, "eta": 0.0, "final": final}}

    def config(self, spec: Spec) -> Data:
        sampler = spec.sampler
        assert isinstance(sampler, Ddim)
        asked(
            sampler.eta == 0,
            "its DDIM adds noise (`eta`), which diffusers takes as an argument of the scheduler's step",
        )
        asked(
            sampler.clip is None or not sampler.noise_of_clipped,
            "its noise is recomputed from the clipped estimate, which diffusers takes as an argument of "
            "the scheduler's step",
        )
        return {**_written(spec, sampler, self.DEFAULTS), "set_alpha_to_one": sampler.final == "zero"}

    def takes(self, sampler: object) -> bool:
        return isinstance(sampler, Ddim)

    def usual(self, instead_of: object) -> Ddim:
        """A DDIM in place of another sampler, at its timesteps if they are whole ones."""
        spacing = instead_of.spacing if isinstance(instead_of, ArraySampler) else None
        whole = isinstance(spacing, Leading | Trailing)
        return Ddim(kind="ddim", spacing=spacing if whole else Leading(kind="leading"))


class DDPMScheduler(Scheduler):
    """Ancestral sampling."""

    NAMES = ("DDPMScheduler",)
    DEFAULTS: ClassVar[Data] = {**_SHARED, "variance_type": "fixed_small"}
    _VARIANCES: ClassVar[dict[str, str]] = {
        "fixed_small": "fixed_small",
        "fixed_small_log": "fixed_small",
        "fixed_large": "fixed_large",
        "fixed_large_log": "fixed_large",
        "learned_range": "learned_range",
    }

    def changes(self, config: Config) -> Data:
        objective, sampler = _read(config, config.whole("num_train_timesteps"))
        variance = config.choice("variance_type", self._VARIANCES)
        return {"objective": objective, "sampler": {"kind": "ddpm", **sampler, "variance": variance}}

    def config(self, spec: Spec) -> Data:
        sampler = spec.sampler
        assert isinstance(sampler, Ddpm)
        _, target = shared.of_objective(spec)
        return {**_written(spec, sampler, self.DEFAULTS), "variance_type": sampler.variance or target.variance}

    def takes(self, sampler: object) -> bool:
        return isinstance(sampler, Ddpm)


USUAL = DDIMScheduler()
"""The scheduler in place of samplers without an equal."""
SCHEDULERS = (USUAL, DDPMScheduler())
