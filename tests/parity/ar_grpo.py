"""AR-GRPO (Yuan et al. 2025): the policy, which is LlamaGen's network, and its cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cases import Array, Forward, Loss
from parity_data import Numbers

SIZES = ("data.tokens={vocabulary: 64, grid: [4, 4]}", "data.classes=10", "conditioning.class.dropout=0.1")
SIZES += tuple(f"backbone.{size}" for size in ("width=64", "depth=2", "block.mixer.heads=4"))
SIZES += ("backbone.block.feed_forward.multiple_of=32",)


def forward(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"idx": numbers.inputs["idx"], "y": numbers.inputs["cond_idx"]}


def loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    kept = numbers.inputs["cond_idx"] * 0.0 + 1.0  # no label is dropped
    return {"tokens": numbers.inputs["targets"], "y": numbers.inputs["cond_idx"], "drop": kept}


CASES = [
    Forward("ar_grpo.gpt", "ar_grpo", SIZES, forward, wanted=lambda numbers: numbers.outputs["out.0"]),
    Loss(
        "ar_grpo.gpt",
        "ar_grpo",
        (*SIZES, "networks.reference=null", "objective={kind: next_token}"),
        loss,
        wanted=lambda numbers: numbers.outputs["out.1"],
    ),
]
