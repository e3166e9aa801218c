"""The number of frames that a clip has, of those that a network computes.

Symbols: B batch, C channels, F frames, H and W sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Derived, DrawnInput, Form
from latentc.components.contract import Draw, Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B
from latentc_runtime.sources import Setting

LENGTH = "length"
"""The condition that is the length of the clip."""


class ClipLength(Derived):
    """Condition `length`: the clip's number of frames f32[B], rounded to the nearest integer.

    Training draws it uniformly from `shortest` to all frames; in a request it is the setting `length`, by default all
    frames. Frames after the clip are not attended to and have no loss, so a network that is compiled for fewer frames
    computes the same clip.
    """

    kind: Literal["clip_length"]
    shortest: int = Field(1, gt=0, le=100_000, description="least number of frames")
    FORMS: ClassVar[tuple[Form, ...]] = ("array",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "clip_length"}

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        frames = frames_of(spec)
        if name != LENGTH:
            yield Problem((), f"the length of clips is condition `{LENGTH}`, not `{name}`", "rename it")
        if not frames:
            yield Problem((), f"a clip has frames, but the data has {spec.data.words}", "use video [C, F, H, W]")
        elif self.shortest > frames:
            message = f"the shortest clip has {self.shortest} frames, but the data has {frames}"
            yield Problem(("shortest",), message, f"use at most {frames}")

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        return (Port(name, f32(B), "condition"),)

    def inputs(self, name: str, spec: Spec) -> tuple[DrawnInput, ...]:
        frames, shortest = float(frames_of(spec)), float(self.shortest)
        draw = Draw(name, "uniform_between", {"low": shortest - 0.5, "high": frames + 0.5})
        return (DrawnInput(name, f32(B), draw, Setting(name, frames, shortest, frames)),)


def frames_of(spec: Spec) -> int:
    """Frames of the data; 0 if it is no video."""
    shape = spec.data.shape
    return shape[1] if shape is not None and len(shape) == 4 else 0


def within_clip(b: Builder, x: Var, otherwise: Var) -> Var:
    """Video x [B, C, F, H, W], but `otherwise` in frames after the clip, if its length is an input."""
    length = b.given(LENGTH)
    if length is None:
        return x
    inside = frames_within(b, length, int(x.shape[2]))
    inside = b.reshape(inside, shape=(length.shape[0], 1, x.shape[2], 1, 1), out="inside")
    return b.where(inside, x, otherwise, out=x.value.name)


def frames_within(b: Builder, length: Var, frames: int, before: int = 0) -> Var:
    """bool[B, F]: whether each of so many frames is in the clip or among the `before` frames that precede it."""
    number = b.constant([i + 0.5 - before for i in range(frames)], "f32", out="number")
    return b.greater(b.reshape(length, shape=(length.shape[0], 1)), number, out="inside")
