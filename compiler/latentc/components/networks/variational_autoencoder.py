"""A class-conditional variational autoencoder with a vector of latents.

Not `autoencoder`, the first stage of other models, whose latents are a grid and whose samples need a model of them.
Symbols: B batch, C channels and H, W sides of the sample, Z dimension of the latent z.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Size, layers
from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.bottlenecks.gaussian import HIGH, LOW
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Entry, Form, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.layers import INITS
from latentc.components.parts import Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B

KERNEL = 4
"""Kernel size of the convolutions that halve or double the sides."""
INITIAL_LOG_STD = -1.0
"""Logarithm of the standard deviation of x given z before training."""


class VariationalAutoencoder(Backbone):
    """An encoder q(z | x, y) and a decoder p(x | z, y) of strided convolutions (Kingma and Welling 2014,
    arXiv:1312.6114; conditions as in Sohn et al. 2015).

    The decoder returns the mean of a normal distribution of x f32[B, C, H, W], between -1 and 1. Its standard deviation
    is one trained number, so the KL divergence needs no weight (Rybkin et al. 2021, arXiv:2006.13202). The prior of
    z f32[B, Z] is standard normal. Conditions are embedded, and join the features of x and z before a hidden layer.
    """

    kind: Literal["variational_autoencoder"]
    width: int = Field(gt=0, le=65_536, description="base channels, multiplied by `multipliers`")
    multipliers: tuple[Size, ...] = Field(
        min_length=1,
        max_length=12,
        description="channels of each level as a multiple of `width`, from the highest resolution to the lowest; each "
        "level halves the sides",
    )
    hidden: int = Field(gt=0, le=65_536, description="width of the hidden layer of the encoder and of the decoder")
    embedding: int = Field(32, gt=0, le=65_536, description="dimension of each embedded condition")
    latent_dim: int = Field(gt=0, le=65_536, description="dimension of the latent z (Z)")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"generate", "infer"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "variational_autoencoder",
        "width": 4,
        "multipliers": [1, 2],
        "hidden": 12,
        "embedding": 6,
        "latent_dim": 3,
    }

    @property
    def factor(self) -> int:
        """Pixels per position of the last feature map, along each side."""
        return 1 << len(self.multipliers)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3:
            yield Problem((), f"a {self.kind} takes arrays [C, H, W], but the data has {spec.data.words}")
        elif shape[1] % self.factor or shape[2] % self.factor:
            message = f"{len(self.multipliers)} levels need sides that are multiples of {self.factor}, not {shape[1:]}"
            yield Problem(("multipliers",), message, "change `data.shape` or the number of levels")
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        channels, height, width = spec.data.shape
        entries = self.entries(spec)
        static = {
            "channels": channels,
            "rows": height // self.factor,
            "columns": width // self.factor,
            "width": self.width,
            "hidden": self.hidden,
            "latent_dim": self.latent_dim,
            **({"embedding": self.embedding} if entries else {}),
            **self.condition_sizes(spec),
        }
        z = (Port("z", f32(B, self.latent_dim), "noise"), *ports_of(entries))
        x = (Port("x", f32(B, channels, height, width), "state"), *ports_of(entries))
        bodies = _methods(self.multipliers, entries)
        two: tuple[Role, Role] = ("output", "output")
        methods = {
            "forward": add_method(mb, name, "forward", bodies["forward"], z, static),
            "posterior": add_method(mb, name, "posterior", bodies["posterior"], x, static, two),
            "likelihood": add_method(mb, name, "likelihood", bodies["likelihood"], z, static, two),
        }
        return Network(name, methods, self.PROVIDES)


@cache
def _methods(multipliers: tuple[int, ...], entries: tuple[Entry, ...]) -> dict[str, BlockBody]:
    encoder, decoder = _encoder(multipliers, bool(entries)), _decoder(multipliers)

    def embedded(b: Builder, conditions: tuple[Var, ...], static: dict[str, Any]) -> list[Var]:
        """The embedded conditions [B, E], which encoder and decoder share; none without conditions."""
        each = [
            entry.vector(b, f"{entry.name}_embedder", operands, static["embedding"], static)
            for entry, operands in with_operands(entries, conditions)
        ]
        return [b.concat(*each, axis=1, out="c")] if len(each) > 1 else each

    def decoded(b: Builder, z: Var, conditions: tuple[Var, ...], static: dict[str, Any]) -> Var:
        c = embedded(b, conditions, static)
        inputs = static["latent_dim"] + len(entries) * static["embedding"] if c else static["latent_dim"]
        z = b.concat(z, *c, axis=1, out="h") if c else z
        sizes = {key: static[key] for key in ("channels", "rows", "columns", "width", "hidden")}
        return b.sub("decoder", decoder, z, out="x", inputs=inputs, **sizes)  # type: ignore[no-any-return]

    @module_class("VariationalAutoencoder", "forward", z="B latent_dim")
    def forward(b: Builder, z: Var, *conditions: Var, **static: Any) -> Var:
        """Decodes latents z to samples x: the means of p(x | z)."""
        return decoded(b, z, conditions, static)

    @module_class("VariationalAutoencoder", "likelihood", z="B latent_dim")
    def likelihood(b: Builder, z: Var, *conditions: Var, **static: Any) -> tuple[Var, Var]:
        """p(x | z): its means, and the logarithm of its standard deviation [B]."""
        x = decoded(b, z, conditions, static)
        log_std = b.param("log_std", f32(1), "constant", value=INITIAL_LOG_STD)
        return x, b.broadcast_to(log_std, z, shape=(z.shape[0],), out="log_std")

    @module_class("VariationalAutoencoder", "posterior", x="B channels H W")
    def posterior(b: Builder, x: Var, *conditions: Var, **static: Any) -> tuple[Var, Var]:
        """q(z | x): mean and log-variance of the latents of samples x."""
        c = embedded(b, conditions, static)
        sizes = {key: static[key] for key in ("channels", "rows", "columns", "width", "hidden", "latent_dim")}
        sizes |= {"condition": len(entries) * static["embedding"]} if c else {}
        return b.sub("encoder", encoder, x, *c, out="mean log_variance", **sizes)  # type: ignore[no-any-return]

    return {"forward": forward, "likelihood": likelihood, "posterior": posterior}


@cache
def _encoder(multipliers: tuple[int, ...], conditional: bool) -> BlockBody:
    def moments(b: Builder, x: Var, c: tuple[Var, ...], static: dict[str, Any]) -> tuple[Var, Var]:
        for i, multiplier in enumerate(multipliers):
            features = multiplier * static["width"]
            x = b.silu(layers.conv(b, f"convs.{i}", x, features, KERNEL, "xavier_relu", stride=2), out="x")
        size = multipliers[-1] * static["width"] * static["rows"] * static["columns"]
        h = b.reshape(x, shape=(x.shape[0], size), out="h")
        h = b.concat(h, *c, axis=1, out="h") if c else h
        h = b.silu(dense(b, "hidden", h, static["hidden"], True, "xavier"), out="h")
        latent = static["latent_dim"]
        h = dense(b, "moments", h, 2 * latent, True, "xavier", out="moments")
        mean, log_variance = b.split(h, axis=1, sizes=(latent, latent), out="mean log_variance")
        return mean, b.clamp(log_variance, low=LOW, high=HIGH, out="log_variance")

    if conditional:

        @module_class("Encoder", x="B channels H W", c="B condition")
        def encoder(b: Builder, x: Var, c: Var, **static: Any) -> tuple[Var, Var]:
            """Mean and log-variance of the latents of x, given the embedded conditions c."""
            return moments(b, x, (c,), static)

        return encoder

    @module_class("Encoder", x="B channels H W")
    def unconditional(b: Builder, x: Var, **static: Any) -> tuple[Var, Var]:
        """Mean and log-variance of the latents of x."""
        return moments(b, x, (), static)

    return unconditional


@cache
def _decoder(multipliers: tuple[int, ...]) -> BlockBody:
    kind, args = INITS["xavier_relu"]

    @module_class("Decoder", z="B inputs")
    def decoder(
        b: Builder, z: Var, *, inputs: int, channels: int, rows: int, columns: int, width: int, hidden: int
    ) -> Var:
        """The mean of x, of latents beside embedded conditions."""
        inside = multipliers[-1] * width
        h = b.silu(dense(b, "hidden", z, hidden, True, "xavier"), out="h")
        h = b.silu(dense(b, "enter", h, inside * rows * columns, True, "xavier"), out="h")
        x = b.reshape(h, shape=(z.shape[0], inside, rows, columns), out="x")
        for i, multiplier in enumerate((*reversed(multipliers[:-1]), 1)):
            features = multiplier * width
            weight = b.param(f"convs.{i}.weight", f32(x.shape[1], features, KERNEL, KERNEL), kind, **args)
            bias = b.param(f"convs.{i}.bias", f32(features), "zeros")
            x = b.silu(b.conv_transpose(x, weight, bias, stride=2, padding=1, out="x"), out="x")
        return b.tanh(layers.conv(b, "leave", x, channels, 3, "xavier"), out="x")  # type: ignore[no-any-return]

    return decoder
