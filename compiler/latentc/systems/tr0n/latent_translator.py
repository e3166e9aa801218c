"""A translator from a condition to the latent of a generator.

Symbols: B batch, E size of the condition, M Gaussians, Z dimension of the latent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import layers
from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.condition import Form, ports_of
from latentc.components.contract import Network, Port
from latentc.components.networks.resnet_generator import ResnetGenerator
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B

INIT, LEAST, FIRST = "linear_default", 1e-6, 0.01
"""`LEAST`: added to standard deviations, which start at `FIRST`."""


class LatentTranslator(Backbone):
    """Predicts a mixture of Gaussians over the latent of `main` from a vector (TR0N, Liu et al. 2023,
    arXiv:2304.13742).

    Takes one condition f32[B, E], such as a one-hot class or an embedding: two linear layers with ReLU, the second
    residual. The standard deviations are learned, one per dimension.
    """

    kind: Literal["latent_translator"]
    width: int | None = Field(None, gt=0, le=65_536, description="width of the hidden layers; null: 4 E")
    mixtures: int = Field(10, gt=0, le=4_096, description="number of Gaussians (M)")
    bound: float | None = Field(
        2.0, gt=0, description="means are this times a tanh, so latents stay within it; null: unbounded"
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"translate"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector", "array")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "latent_translator", "width": 16, "mixtures": 3}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from self.problems_of_conditions(spec)
        if latent_dim(spec) is None:
            message = "it predicts the latent of `main`, which has none"
            yield Problem((), message, "let `main` be a generator, such as a `resnet_generator`")
        cond = self.takes(spec)
        vectors = [
            name
            for name, condition in cond.items()
            if len(ports := condition.ports(name, spec)) == 1 and ports[0].type.is_float and ports[0].type.rank == 2
        ]
        if len(cond) != 1 or len(vectors) != 1:
            message = f"a {self.kind} takes one vector, but the conditions are {', '.join(cond) or 'nothing'}"
            mend = "a class enters as `conditioning.class: {kind: label, encoding: one_hot, dropout: 0}`"
            yield Problem((), message, f"name a vector in `conditions`; {mend}")
        for name, condition in cond.items():
            if condition.nullable:
                message = f"a {self.kind} always knows the {name}, but `conditioning.{name}` is dropped in training"
                yield Problem((), message, f"set `conditioning.{name}.dropout: 0`")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        (condition,) = ports_of(self.entries(spec))
        size, latent = int(condition.type.shape[1]), latent_dim(spec)  # type: ignore[arg-type]
        assert latent is not None
        static = {"size": size, "width": self.width or 4 * size, "mixtures": self.mixtures, "latent_dim": latent}
        bodies = _methods(self.bound)
        forward = add_method(mb, name, "forward", bodies[0], (condition,), static, ("output", "output"))
        z = Port("z", f32(B, latent), "state")
        log_prob = add_method(mb, name, "log_prob", bodies[1], (z, condition), static)
        return Network(name, {"forward": forward, "log_prob": log_prob}, self.PROVIDES)


def latent_dim(spec: Spec) -> int | None:
    """Z, of the generator `main`."""
    main = spec.networks.get("main")
    return main.latent_dim if isinstance(main, ResnetGenerator) else None


@cache
def _methods(bound: float | None) -> tuple[BlockBody, BlockBody]:
    def predicted(b: Builder, c: Var, sizes: dict[str, Any]) -> tuple[Var, Var]:
        width, mixtures, latent = sizes["width"], sizes["mixtures"], sizes["latent_dim"]
        h = b.relu(layers.linear(b, "shared1", c, width, INIT), out="h")
        h = b.add(h, b.relu(layers.linear(b, "shared2", h, width, INIT)), out="h")
        means = layers.linear(b, "z_layer", h, mixtures * latent, INIT, out="means")
        if bound is not None:
            means = b.mul(b.tanh(means), bound, out="means")
        logits = layers.linear(b, "z_mixture_logits", h, mixtures, INIT, out="logits")
        return logits, b.reshape(means, shape=(c.shape[0], mixtures, latent), out="means")

    @module_class("LatentTranslator", "forward", c="B size")
    def forward(b: Builder, c: Var, **sizes: Any) -> tuple[Var, Var]:
        """Logits [B, M] and means [B, M, Z] of a mixture of Gaussians over latents, for condition c."""
        return predicted(b, c, sizes)

    @module_class("LatentTranslator", "log_prob", z="B latent_dim", c="B size")
    def log_prob(b: Builder, z: Var, c: Var, **sizes: Any) -> Var:
        """The log-density of latents z [B, Z], given condition c."""
        logits, means = predicted(b, c, sizes)
        log_stds = b.param("z_log_stds", f32(1, 1, z.shape[1]), "constant", value=math.log(FIRST))
        std = b.add(b.exp(log_stds), LEAST, out="std")
        apart = b.op("sub", b.reshape(z, shape=(z.shape[0], 1, z.shape[1])), means, out="apart")
        away = b.div(apart, std, out="away")
        each = b.add(away * away * -0.5, b.neg(b.log(std)) - 0.5 * math.log(2 * math.pi), out="log_densities")
        density = b.sum(each, axes=(2,), keepdims=False, out="density")
        return b.logsumexp(b.add(b.log_softmax(logits, axis=1), density), axis=1, out="log_prob")

    return forward, log_prob
