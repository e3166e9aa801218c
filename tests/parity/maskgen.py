"""MaskGen (Kim et al. 2025): logits and loss of its network, and tokens under growing guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Loss, Sampler
from maskgit import uniforms
from parity_data import Numbers

SIZES = (
    "data.tokens={vocabulary: 40, grid: [12]}",
    *(f"data.fields.caption{end}.shape=[5, 16]" for end in ("", "_null")),
    *(f"data.fields.caption_pooled{end}.shape=[16]" for end in ("", "_null")),
    *("backbone.width=48", "backbone.depth=2", "backbone.heads=3", "backbone.spare_rows=4"),
    *("conditioning.aesthetic.frequencies=8", "sampler.steps=4", "sampler.randomness=1.5", "sampler.guidance.scale=5"),
)
STEPS, SCALE, RANDOMNESS = 4, 5.0, 1.5


def texts(numbers: Numbers) -> dict[str, Array]:
    given = numbers.inputs
    return {"caption": given["text"], "caption_pooled": given["pooled"][:, 0]}


def masked(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    idx = np.where(numbers.outputs["out.mask"], 40, numbers.inputs["ids"])
    return {"idx": idx, **texts(numbers), "aesthetic": numbers.inputs["aesthetic"][:, None]}


def loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """Nothing is dropped: the authors drop the text before they call the network."""
    time, order = numbers.noise
    given = texts(numbers)
    nulls = {f"{name}_null": np.zeros_like(value) for name, value in given.items()}
    drawn = {"u": time, "rank": order.argsort(-1), "drop_caption": np.ones(2, np.float32)}
    return {
        "tokens": numbers.inputs["ids"],
        **given,
        **nulls,
        "aesthetic": numbers.inputs["aesthetic"][:, None],
        **drawn,
    }


def sampler(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """Numbers in the middle of the shares of the tokens that the authors' code drew; any in the greedy last step."""
    halves = numbers.outputs["out.logits"].astype(np.float64).reshape(STEPS, 2, 2, 12, 40)
    gumbel = [-np.log(-np.log(n.astype(np.float64))) for n in numbers.noise]
    u = np.full((STEPS, 2, 12), 0.5, np.float32)
    for i in range(STEPS - 1):
        ratio = (i + 1) / STEPS
        scale = 1 + (SCALE - 1) * (1 - np.cos(np.pi * ratio)) / 2
        given, null = halves[i]
        logits = (given + scale * (given - null)) / (0.5 + 0.8 * (1 - ratio))
        noise = RANDOMNESS * (1 - ratio)
        u[i] = uniforms(logits[None] / noise, (logits + noise * gumbel[2 * i]).argmax(-1)[None])[0]
    given = texts(numbers)
    nulls = {"caption_null": numbers.inputs["null_text"], "caption_pooled_null": numbers.inputs["null_pooled"][:, 0]}
    nulls = {name: np.repeat(value, 2, axis=0) for name, value in nulls.items()}
    settings = {"aesthetic": np.full((2, 1), 6.0, np.float32), "scale": np.full(2, SCALE, np.float32)}
    return {**given, **nulls, **settings, "u": u, "gumbel": np.stack(gumbel[1::2]).astype(np.float32)}


CASES = [
    Forward("maskgen_vq", "maskgen", SIZES, masked, wanted=lambda numbers: numbers.outputs["out.logits"]),
    Loss("maskgen_vq", "maskgen", SIZES, loss, wanted=lambda numbers: numbers.outputs["out.loss"]),
    # Tokens are the same or differ by more than this.
    Sampler("maskgen_vq.sampler", "maskgen", SIZES, sampler, wanted=lambda n: n.outputs["out.ids"], tolerance=1e-9),
]
