"""Shared by schedulers of diffusers: the noise schedule, the prediction, the spacing of timesteps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latentc.components.objective import Objective
from latentc.components.processes.discrete import Discrete
from latentc.components.samplers.base import ArraySampler
from latentc.components.samplers.ddim import Ancestral
from latentc.components.samplers.spacings.levels import Karras, LogSnr
from latentc.components.samplers.spacings.times import Uniform
from latentc.components.samplers.spacings.timesteps import Leading, Linspace, Trailing
from latentc.interchange.diffusers.equivalent import Config, Data, asked

if TYPE_CHECKING:
    from latentc.components.processes.process import Parameterization
    from latentc.components.samplers.spacings.spacing import Spacing
    from latentc.spec.schema import Spec

SCHEDULE: Data = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "steps_offset": 0,
}
"""Keys of every scheduler here, with their usual defaults."""

THRESHOLDING: Data = {"thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0}

_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
_PREDICTIONS = {"epsilon": "noise", "sample": "x0", "v_prediction": "velocity"}


def objective(config: Config) -> Data:
    """The forward process and the prediction, as changes to `objective`."""
    config.must("trained_betas", None, why="it gives its own list of betas")
    if "rescale_betas_zero_snr" in config.values:
        config.must("rescale_betas_zero_snr", False, why="betas are rescaled to zero terminal signal")
    schedule = config.choice("beta_schedule", _SCHEDULES)
    ends = [config.number("beta_start", 0.0001), config.number("beta_end", 0.02)]
    if schedule == "cosine":
        ends = []
    process: Data = {
        "kind": "discrete",
        "schedule": schedule,
        "steps": config.whole("num_train_timesteps"),
        "beta_start": ends[0] if ends else None,
        "beta_end": ends[1] if ends else None,
        "interpolation": "log_level",
        "prior": "standard",
    }
    return {"kind": "diffusion", "process": process, "predicts": config.choice("prediction_type", _PREDICTIONS)}


def no_thresholding(config: Config) -> None:
    """Refuse dynamic thresholding; its settings have no effect without it."""
    config.must("thresholding", False, why="dynamic thresholding")
    config.unused("dynamic_thresholding_ratio", "sample_max_value")


def spacing(config: Config) -> Data:
    """`timestep_spacing` with its offset, which only `leading` uses."""
    kind = config.choice("timestep_spacing", {"leading": "leading", "trailing": "trailing", "linspace": "linspace"})
    offset = config["steps_offset"]
    if kind != "leading":
        return {"kind": kind}
    if not isinstance(offset, int) or offset < 0:
        config.refuse("steps_offset", "it must be an integer of at least 0")
        offset = 0
    return {"kind": kind, "offset": offset}


def of_objective(spec: Spec) -> tuple[Data, Parameterization]:
    """The keys of `SCHEDULE` that a spec's objective gives. Raises Unequal."""
    target = spec.objective.parameterization() if isinstance(spec.objective, Objective) else None
    asked(target is not None, "its objective trains no denoiser")
    assert target is not None
    process = target.process
    asked(
        isinstance(process, Discrete), f"its process is `{process.kind}`, but these schedulers have discrete timesteps"
    )
    assert isinstance(process, Discrete)
    asked(process.time_offset == 0, "its network takes the timestep plus an offset")
    predictions = {ours: theirs for theirs, ours in _PREDICTIONS.items()}
    asked(target.predicts in predictions, f"its network predicts `{target.predicts}`")
    betas = process.betas
    return {
        **SCHEDULE,
        "num_train_timesteps": process.steps,
        "beta_schedule": {ours: theirs for theirs, ours in _SCHEDULES.items()}[process.schedule],
        **({} if process.schedule == "cosine" else {"beta_start": float(betas[0]), "beta_end": float(betas[-1])}),
        "prediction_type": predictions[target.predicts],
    }, target


def of_spacing(sampler: ArraySampler, target: Parameterization) -> Data:
    """The keys that a sampler's spacing gives. Raises Unequal."""
    asked(sampler.timesteps is None, "its sampler lists timesteps explicitly")
    respaced = isinstance(sampler, Ancestral) and sampler.respacing is not None
    asked(not respaced, "its sampler chooses timesteps by improved DDPM's `respacing`")
    found: Spacing = sampler.spacing_of(target.process)
    asked(
        isinstance(found, Leading | Trailing | Linspace | Uniform | Karras | LogSnr),
        f"its sampler's spacing is `{found.kind}`",
    )
    if isinstance(found, Leading):
        return {"timestep_spacing": "leading", "steps_offset": found.offset}
    if isinstance(found, Trailing):
        return {"timestep_spacing": "trailing"}
    plain = {"timestep_spacing": "linspace"}
    if isinstance(found, Karras | LogSnr):
        asked(found.sigma_min is None and found.sigma_max is None, "its sampler sets the range of noise levels itself")
        return {**plain, ("use_karras_sigmas" if isinstance(found, Karras) else "use_exponential_sigmas"): True}
    return plain
