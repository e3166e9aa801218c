"""BD3-LM (Arriola et al. 2025): the losses of blocks, also clipped, and the sampler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Loss, Sampler
from maskgit import uniforms
from mdlm import PADDED
from mdlm import SIZES as NETWORK
from parity_data import Numbers

SIZES = (*NETWORK, "objective.block=4", "sampler={kind: first_hitting, start: 1}")
ALL = ("objective.least=0.001", "objective.greatest=1", "objective.rounds=1")
CLIPPED = ("objective.least=0.3", "objective.greatest=0.8", "objective.rounds=4")


def batch(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    u, *v = numbers.noise
    v = v if len(v) == 1 else [np.stack(v, axis=1)]
    return {"tokens": numbers.inputs["x0"], "tokens_mask": numbers.inputs["mask"] > 0, "u": u, "v": v[0]}


def draws(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """Uniforms that choose the places and draw the tokens that the authors' races and integers did."""
    p, noise = numbers.outputs["out.probs"].astype(np.float64), numbers.noise
    tokens, u, v = np.full((3, 4), 20), [], []
    tokens[0, 0] = 1
    for step in range(11):
        block = tokens[(step + 1) // 4]
        masked = np.flatnonzero(block == 20)
        chosen = int(noise[2 * step + 1][0])
        place = masked[chosen]
        race = noise[2 * step][0, place].astype(np.float64)
        drawn = (p[step, place] / (1e-10 - np.log(race + 1e-10))).argmax()
        with np.errstate(divide="ignore"):
            u.append(uniforms(np.log(p[step, place]), np.array(drawn)))
        v.append((chosen + 0.5) / len(masked))
        block[place] = drawn
    assert tokens.reshape(1, 12).tolist() == numbers.outputs["out.ids"].tolist()
    return {"u": np.array(u, np.float32)[:, None], "v": np.array(v, np.float32)[:, None]}


CASES = [
    Loss("bd3lm.loss", "bd3lm", (*SIZES, *ALL, PADDED), batch, wanted=lambda n: n.outputs["out.loss"]),
    Loss("bd3lm.loss_clipped", "bd3lm", (*SIZES, *CLIPPED, PADDED), batch, wanted=lambda n: n.outputs["out.loss"]),
    Sampler("bd3lm.sampler", "bd3lm", SIZES, draws, wanted=lambda n: n.outputs["out.ids"]),
]
