"""Samplers down to the data whose timesteps a text of improved DDPM may choose, with bounds on the data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from latentc.components.parts import Applies, Problem
from latentc.components.processes.discrete import Discrete
from latentc.components.processes.process import Parameterization
from latentc.components.samplers._thresholds import Bound, Quantile
from latentc.components.samplers.base import ArraySampler, path_interval
from latentc.components.samplers.grid import Grid
from latentc.components.samplers.script import Script
from latentc.components.samplers.spacings.spacing import Interval
from latentc.components.samplers.spacings.timesteps import respaced

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class Ancestral(ArraySampler):
    """A sampler whose timesteps improved DDPM's respacing text may choose, down to the data."""

    REPLACES: ClassVar[dict[str, tuple[str, ...]]] = {
        "respacing": ("spacing",),
        "timesteps": ("spacing", "respacing"),
    }
    APPLIES: ClassVar[Applies] = {"clip_per_channel": ("clip_quantile", None)}

    respacing: str | None = Field(
        None, description="improved DDPM's notation: '10', '10,20' (a count per section) or 'ddim25'; sets steps"
    )
    clip: float | None = Field(
        None, gt=0, description="bound on the data estimate, in its units (1 for pixels in -1…1); null: none"
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

    def shared(self) -> dict[str, Any]:
        return super().shared() | ({} if self.clip is None else {"clip": self.clip})

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
