"""StyleGAN-XL's generator, and its samples with truncated styles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Forward, Sampler
from parity_data import Numbers

SIZES = (
    *("data.shape=[3, 16, 16]", "data.classes=10"),
    *(
        f"networks.main.{size}"
        for size in (
            *("layers=[4]", "margin=4", "kernel=1", "radial=true", "channel_base=256", "channel_max=16"),
            *("latent_dim=16", "style_dim=16", "class_features=24", "pretrained=null", "fresh_weights=[]"),
        )
    ),
)
ALONE = (*SIZES, "objective=null", "networks.discriminator=null", "train.optimizers={}")


def given(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    psi = numbers.meta["scalars"].get("truncation_psi", 1.0)
    return {"z": numbers.inputs["z"], "y": numbers.inputs["c"].argmax(1), "psi": np.full(2, psi, np.float32)}


CASES = [
    Forward("stylegan_xl.G", "stylegan_xl", ALONE, given),
    Sampler("stylegan_xl.G_trunc", "stylegan_xl", (*ALONE, "sampler.psi=0.5"), given, tolerance=1e-5),
]
