"""Stable Diffusion 3's transformers as diffusers computes them: MM-DiT, and MM-DiT-X with norms of queries and keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cases import Array, Forward
from parity_data import Numbers

SIZES = (
    "data.shape=[4, 8, 8]",
    *(f"data.fields.caption{end}.shape=[5, 24]" for end in ("", "_null")),
    *(f"data.fields.pooled{end}.shape=[20]" for end in ("", "_null")),
    *("backbone.width=64", "backbone.depth=3", "backbone.heads=4"),
    *("backbone.positions.side=12", "backbone.positions.extent=4"),
)
LATER = (*SIZES, "backbone.dual=1")


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    given = numbers.inputs
    told = {"pooled": given["pooled_projections"], "caption": given["encoder_hidden_states"]}
    return {"x": given["hidden_states"], "t": given["timestep"] / 1000, **told}


CASES = [
    Forward("sd3.mmdit", "sd3", SIZES, inputs, names="diffusers"),
    Forward("sd3.mmdit_x", "sd3", LATER, inputs, "3.5-medium", names="diffusers"),
]
