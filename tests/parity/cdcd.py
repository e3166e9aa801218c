"""CDCD's networks and sampler (Zhu et al. 2022), which are VQ-Diffusion's (Gu et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from parity_data import Numbers

SIZES = (
    *("data.tokens={vocabulary: 32, grid: [4, 4]}", "backbone.width=64", "backbone.depth=2", "backbone.heads=4"),
    *("backbone.ratio=4", "backbone.positions=none", "backbone.position_grid=null", "objective.steps=10"),
)
CLASSES = ("data.classes=10", "data.class_names=null")
CAPTIONS = ("data.fields.caption.shape=[5, 32]",)


def network(condition: str) -> Any:
    def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
        given = numbers.inputs
        return {"idx": given["input"], "t": given["t"].astype(np.float32), condition: given["cond_emb"]}

    return inputs


def draws(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"caption": numbers.inputs["cond"], "u": np.stack(numbers.noise).transpose(0, 1, 3, 2)}


def by_category(out: Array, numbers: Numbers, spec: Any) -> Array:
    return out.transpose(0, 2, 1)


SAMPLED = (*SIZES, *CAPTIONS, "sampler.steps=10", "sampler.top_p=1")
CASES = [
    Forward("cdcd.cond2img", "cdcd", (*SIZES, *CLASSES), network("y"), output=by_category),
    Forward("cdcd.text2img", "cdcd", (*SIZES, *CAPTIONS), network("caption"), "coco", output=by_category),
    Sampler("cdcd.sampler_discrete10", "cdcd", SAMPLED, draws, "coco", prefixes={"main": "transformer."}),
]
