"""Discrete flow matching (Gat et al. 2024): the network for text from both sources, both losses and their gradients.

tests/systems/discrete_fm compares the chain, whose recordings have another network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cases import Array, Forward, Loss
from mdlm import MASK
from parity_data import Numbers

SIZES = (
    f"data.fields.tokens={{shape: [12], classes: {MASK}, medium: array, tokenizer: null}}",
    *("backbone.width=48", "backbone.depth=2", "backbone.condition_width=24", "backbone.block.mixer.heads=3"),
    *("backbone.block.mixer.dropout=0", "backbone.block.feed_forward.dropout=0"),
)
MASKED = (*SIZES, "objective.source=mask")
KL = ("objective.loss=generalized_kl", "objective.most=0.999", "objective.exponent=2")


def noisy(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"idx": numbers.inputs["x_t"], "t": numbers.inputs["t"]}


def batch(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    u = numbers.inputs["t"].astype(float) / spec.objective.most
    return {"tokens": numbers.inputs["x1"], "u": u, "v": numbers.noise[0], "source": numbers.inputs["x0"]}


CASES = [
    Forward("discrete_fm.transformer", "discrete_fm", SIZES, noisy),
    Forward("discrete_fm.transformer_mask", "discrete_fm", MASKED, noisy),
    Loss("discrete_fm.loss_ce", "discrete_fm", SIZES, batch, wanted=lambda n: n.outputs["out.loss"]),
    Loss("discrete_fm.loss_kl", "discrete_fm", (*MASKED, *KL), batch, wanted=lambda n: n.outputs["out.loss"]),
]
