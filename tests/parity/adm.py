"""ADM (Dhariwal and Nichol 2021): the denoiser and the classifier of noisy images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cases import Array, Forward
from parity_data import Numbers

DATA = ("data.shape=[3, 16, 16]", "data.classes=10", "conditioning.time.frequencies=32")


def network(path: str) -> tuple[str, ...]:
    return (
        f"{path}.width=32",
        f"{path}.multipliers=[1, 2]",
        f"{path}.blocks=1",
        f"{path}.attention=[1]",
        f"{path}.block.head_channels=16",
    )


def inputs(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    return {"x": numbers.inputs["x"], "t": numbers.inputs["timesteps"], "y": numbers.inputs.get("y")}


CASES = [
    Forward("adm", "adm", (*DATA, *network("backbone")), inputs),
    Forward("adm.classifier", "adm_classifier", (*DATA, *network("backbone")), inputs),
]
