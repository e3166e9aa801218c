"""PFGM++: noise of heavier tails than a normal's, from a Poisson flow in D further dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw
from latentc.components.processes.edm import Edm
from latentc.components.processes.process import Kernel
from latentc.ir.builder import Builder, Var

LEAST = 1e-12
"""Least draw of a beta distribution that is divided by."""


class Pfgmpp(Edm):
    """EDM's process with the perturbation of a Poisson flow (Xu et al. 2023, arXiv:2302.04265).

    The field of N-dimensional data in N + D dimensions has the kernel 1 / (R^2 + r^2)^((N + D) / 2) at radius r and
    distance R from the data: R^2 / (R^2 + r^2) is beta distributed (N / 2, D / 2), the direction uniform. With r =
    sigma sqrt(D), everything EDM states in sigma carries over, including its networks, solvers and grids. D = 1 is
    PFGM; as D grows, the kernel approaches EDM's normal.
    """

    kind: Literal["pfgmpp"]  # type: ignore[assignment]
    extra_dimensions: float = Field(128.0, gt=0, le=1e12, description="D, number of additional dimensions")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "pfgmpp", "extra_dimensions": 128}

    def kernel(self, shape: Sequence[int]) -> Kernel:
        data, extra = math.prod(shape), self.extra_dimensions
        # The smaller share of R^2 + r^2 is drawn, because float32 resolves it better.
        outer = extra < data
        share = Draw("share", "beta", {"a": (extra if outer else data) / 2, "b": (data if outer else extra) / 2})

        def apply(b: Builder, z: Var, drawn: Var) -> Var:
            """z over its length, times R / sigma."""
            drawn = b.maximum(drawn, LEAST, out="share")
            rest = 1.0 - drawn
            ratio = b.div(rest, drawn) if outer else b.div(drawn, rest)
            radius = b.sqrt(ratio * extra, out="radius")
            axes = tuple(range(1, len(z.shape)))
            length = b.sqrt(b.sum(z * z, axes=axes, keepdims=True), out="length")
            factor = b.div(b.reshape(radius, shape=length.shape), length, out="factor")
            return b.mul(z, factor, out="noise")

        return Kernel(extra, share, apply)
