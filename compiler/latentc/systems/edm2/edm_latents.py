"""Latents in archives of EDM2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field as Option

from latentc.components.dataset import Data
from latentc.components.fields import DataPath, Field
from latentc.components.parts import Problem, Spec


class EdmLatents(Data):
    """A zip or folder of latents written by `dataset_tool.py encode` of EDM2, with labels in dataset.json.

    They are sampled from their stored mean and deviation in every epoch, then normalised per channel. A first stage, if
    given, only decodes samples, with the same normalisation.
    """

    kind: Literal["edm_latents"]
    path: DataPath = Option("data/train.zip", description="the zip or the folder")
    latent_mean: tuple[float, ...] = Option(
        (5.81, 3.25, 0.12, -2.15), max_length=256, description="mean of the latents per channel; the default is EDM2's"
    )
    latent_std: tuple[float, ...] = Option(
        (4.17, 4.62, 3.71, 3.28), max_length=256, description="standard deviation of the latents per channel"
    )
    deviation: float = Option(0.5, gt=0, description="standard deviation of the normalised latents")
    HOLDS: ClassVar[str] = "latents `x` and labels `y`"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "edm_latents", "classes": 4, "shape": [4, 8, 8]}

    @classmethod
    def provides(cls, name: str, field: Field, fields: Mapping[str, Field], encoded: bool) -> bool:
        return field.is_label if name == "y" else name == "x" and field.dtype == "f32"

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The offset that is subtracted from latents per channel, and the factor after that."""
        return self.latent_mean, tuple(self.deviation / std for std in self.latent_std)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        channels = self.shape[0] if self.shape else 0
        if not len(self.latent_mean) == len(self.latent_std) == channels:
            given = f"{len(self.latent_mean)} means and {len(self.latent_std)} deviations"
            yield Problem(("latent_std",), f"{given} for {channels} channels", "give one of each per channel")
        if not all(std > 0 for std in self.latent_std):
            yield Problem(("latent_std",), "a standard deviation must be above 0")
