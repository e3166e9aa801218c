"""A score by a saved network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import Problem, Spec
from latentc.systems.ar_grpo.reward import Reward


class FileReward(Reward):
    """A score from a saved network: from `torch.export` (.pt2), or ONNX (.onnx), run by ONNX Runtime.

    It takes samples [N, ...] as returned by the sampler, images from -1 to 1 or tokens, with dynamic N, and returns a
    score f32[N], or class logits f32[N, K].
    """

    kind: Literal["file"]
    file: str = Field(description="the reward network; relative paths are next to the project's train.py")
    of: Literal["probability", "log_probability"] = Field(
        "probability", description="what the score is for networks that return logits, for the requested class"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "file", "file": "scorer.pt2"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if not self.file.endswith((".pt2", ".onnx")):
            message = f"`{self.file}` is neither a .pt2 nor an .onnx file"
            yield Problem(("file",), message, "save the network by `torch.export.save` or `torch.onnx.export`")
