"""A score by a Python function."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.systems.ar_grpo.reward import Reward


class PythonReward(Reward):
    """A Python function that the training project imports, from a module next to its train.py or an installed one.

    It is called as `function(samples, conditions)`: samples as returned by the sampler, images from -1 to 1 or tokens,
    a tensor [N, ...], and the conditions by name, tensors [N, ...]. It returns a score f32[N].
    """

    kind: Literal["python"]
    function: str = Field(
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$",
        description="MODULE:FUNCTION, such as `rewards:sharpness`",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "python", "function": "rewards:score"}
