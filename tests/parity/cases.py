"""What a case of official numbers says: which spec, at which sizes, and how the authors' arrays are named there.

A system has a file here with a list `CASES`; test_official.py runs each by every backend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from parity_data import Numbers

Array = np.ndarray
Arrays = Callable[[Numbers, Any], Mapping[str, Array]]
"""(numbers, spec) -> arrays by the names of inputs."""


@dataclass(frozen=True, eq=False)  # compared by identity: there is one of each
class Case:
    """One set of numbers. `sizes` are overrides of the spec; a weight's name begins with `prefixes[network]`."""

    numbers: str
    spec: str
    sizes: tuple[str, ...]
    inputs: Arrays
    variant: str | None = None
    wanted: Callable[[Numbers], Array] = lambda numbers: numbers.outputs["out"]
    output: Callable[[Any, Numbers, Any], Array] = lambda out, numbers, spec: out
    tolerance: float = 1e-5
    why: str = ""  # of a tolerance above the usual one
    prefixes: Mapping[str, str] = field(default_factory=lambda: {"main": ""})
    names: str = "official"  # the name map of the spec that fits

    def __post_init__(self) -> None:
        assert self.why or self.tolerance <= type(self).tolerance, f"{self.numbers}: say why its tolerance is larger"


@dataclass(frozen=True, eq=False)
class Forward(Case):
    """A call of a `method` of `network`; `output` makes of its result what the authors' code returns."""

    network: str = "main"
    every_output: bool = False  # `output` takes all of them by name, not the first
    method: str = "forward"


@dataclass(frozen=True, eq=False)
class Loss(Case):
    """The first metric of the loss (a mean over the batch), given the batch and the draws.

    Outputs `out.grad.NAME` of a recording are gradients by the authors' parameters of `scale` times that mean.
    """

    update: str | None = None  # of several losses
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Sampler(Case):
    """A whole sampler, given its inputs: the conditions as a program takes them, and every random draw."""

    tolerance: float = 1e-4
    program: str = "sample"
    backends: tuple[str, ...] = ("oracle", "torch", "onnxruntime", "openvino")
