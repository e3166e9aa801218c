"""Cameras that are drawn in training and given in requests."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Condition, Form, GivenInput
from latentc.components.contract import Draw, Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B
from latentc_runtime.sources import Condition as Requested


class Camera(Condition):
    """Pitch and yaw in radians of a camera at distance 1 that looks at the origin; a request may give both.

    The pitch is 0 above the origin and pi / 2 on the horizon. Training draws cameras; the data need none.
    """

    kind: Literal["camera"]
    field: None = Field(None, description="not read from the data")
    dropout: float = Field(0.0, ge=0, le=0, description="never dropped")
    prior: None = Field(None, description="always null: training draws cameras as `distribution` says")
    distribution: Literal["normal", "uniform", "spherical"] = Field(
        "normal",
        description="distribution in training; `spherical`: uniform, but pi (1 - cos(pitch)) / 2 in place of the pitch",
    )
    mean: tuple[float, float] = Field(
        (math.pi / 2, math.pi / 2), description="means of pitch and yaw, which a request without a camera gets"
    )
    spread: tuple[float, float] = Field(
        (0.155, 0.3), description="standard deviations of pitch and yaw, or half the ranges of a uniform distribution"
    )
    FORMS: ClassVar[tuple[Form, ...]] = ("array",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "camera"}

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        if min(self.spread) < 0:
            yield Problem(("spread",), f"{list(self.spread)} has a negative number", "give numbers of at least 0")

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        return (Port(name, f32(B, 2), "condition"),)

    def inputs(self, name: str, spec: Spec) -> tuple[GivenInput, ...]:
        words = f"pitch and yaw are the means plus {list(self.spread)} times these"
        if self.distribution != "normal":
            words = f"{words}, scaled from [0, 1] to [-1, 1]"

        def read(b: Builder, value: Var) -> Var:
            value = value if self.distribution == "normal" else value * 2.0 - 1.0
            spread, mean = (b.constant([two], "f32") for two in (self.spread, self.mean))
            angles = b.add(value * spread, mean, out=name)
            if self.distribution != "spherical":
                return angles  # type: ignore[no-any-return]
            share, yaw = b.split(angles, axis=1, sizes=(1, 1), out="share yaw")
            share = b.clamp(share * (1 / math.pi), low=1e-5, high=1 - 1e-5, out="share")
            return b.concat(b.acos(1.0 - share * 2.0), yaw, axis=1, out=name)  # type: ignore[no-any-return]

        draw = Draw(name, self.distribution, meaning=words)
        return (GivenInput(name, f32(B, 2), "", name, draw=draw, stored=f32(B, 2), read=read),)

    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        return (Requested(name, "array", (2,), "f32", ("angle",), default=list(self.mean)),)
