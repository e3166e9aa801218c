"""A generator whose noise is uniform.

Symbols: B batch, Z dimension of the latent z.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from latentc.components.networks.mlp_generator import MlpGenerator
from latentc.ir.builder import Builder, Var


class HypercubeGenerator(MlpGenerator):
    """An `mlp_generator` of noise that is uniform on [0, 1]^Z (Mirza and Osindero 2014, arXiv:1411.1784).

    The network takes normal z f32[B, Z], as every generator, and makes it uniform by its distribution function, so
    truncated samples are those of the middle of the cube.
    """

    kind: Literal["hypercube_generator"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {**MlpGenerator.EXAMPLE, "kind": "hypercube_generator"}

    def latent(self, b: Builder, z: Var) -> Var:
        return b.mul(b.erf(z * (1 / math.sqrt(2))) + 1.0, 0.5, out="uniform")
