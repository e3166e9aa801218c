"""A score by a saved network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.objectives.rewards._reward import Reward
from latentc.components.parts import Problem

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class FileReward(Reward):
    """What a saved network says of samples: of `torch.export` (.pt2), or in ONNX (.onnx), which ONNX Runtime runs.

    It takes samples [N, ...] as the sampler returns them, images from -1 to 1 or tokens, N being dynamic, and returns
    a score f32[N], or logits of classes f32[N, K].
    """

    kind: Literal["file"]
    file: str = Field(description="the network; a relative path is one beside the project's train.py")
    of: Literal["probability", "log_probability"] = Field(
        "probability", description="what of the asked class the score is, if the network returns logits"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "file", "file": "scorer.pt2"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if not self.file.endswith((".pt2", ".onnx")):
            message = f"`{self.file}` is neither a .pt2 nor an .onnx file"
            yield Problem(("file",), message, "save the network by `torch.export.save` or `torch.onnx.export`")
