"""Convolutional generators of residual blocks, as SNGAN, WGAN-GP and BigGAN have them.

Symbols: B batch, C channels, Z dimension of the latent z.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, ClassVar, Literal, get_args

from pydantic import Field

from latentc.components import Size, layers
from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.gan_blocks import MOMENTUM, NormKind, generator_block
from latentc.components.blocks.self_attention_2d import self_attention_2d
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Form, ports_of
from latentc.components.contract import Method, Network, Port
from latentc.components.networks._gan import ConditionKind, problems_of_class, problems_of_dropping
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B

KINDS: tuple[ConditionKind, ...] = get_args(ConditionKind)
"""Kinds of conditions, in the order in which they are concatenated."""


class ResnetGenerator(Backbone):
    """A generator of upsampling residual blocks with batch norms (BigGAN, Brock et al. 2019, arXiv:1809.11096).

    Takes z f32[B, Z] and, if the spec has a class, y i64[B]; returns f32[B, C, H, W] between -1 and 1. The scales and
    shifts of the norms come from the class, z and a vector f32[B, D], such as the embedding of an instance (IC-GAN,
    Casanova et al. 2021, arXiv:2109.05070), if the spec has one. Gulrajani et al. 2017 (arXiv:1704.00028) and Miyato
    et al. 2018 (arXiv:1802.05957) have `embedding: null` and `latent_input: first`.
    """

    kind: Literal["resnet_generator"]
    width: int = Field(gt=0, le=65_536, description="base channels, multiplied by `channel_multipliers` (BigGAN: 96)")
    channel_multipliers: tuple[Size, ...] = Field(
        max_length=16,
        min_length=2,
        description="channels of the first feature map, then of each level's output, as a multiple of `width`",
    )
    first_side: int = Field(4, gt=0, le=1_024, description="side of the first feature map; each level doubles it")
    attention: tuple[Size, ...] = Field(
        (), max_length=64, description="sides of feature maps followed by self-attention"
    )
    latent_dim: int = Field(gt=0, le=65_536, description="dimension of the latent z (Z)")
    latent_input: Literal["first", "split", "all"] = Field(
        "split",
        description="where z enters: the first layer only; split between the first layer and the norms of each "
        "level; or all of z in both (BigGAN-deep)",
    )
    embedding: int | None = Field(
        128,
        gt=0,
        le=65_536,
        description="dimension of the class embedding shared by all norms; null: each norm has its own scale and "
        "shift per class",
    )
    vector_embedding: int = Field(
        512, gt=0, le=65_536, description="dimension of the embedding of a vector, shared by all norms"
    )
    eps: float = Field(1e-5, gt=0, description="added to the variance in batch norms")
    spectral_norm: bool = Field(True, description="spectral norm: divide all weights by their largest singular value")
    weights: Literal["orthogonal", "normal", "xavier"] = Field(
        "orthogonal", description="initialisation; normal: std 0.02; xavier: as in WGAN-GP"
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"generate"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector", "array")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "resnet_generator",
        "width": 8,
        "channel_multipliers": [2, 2, 1],
        "attention": [8],
        "latent_dim": 12,
        "embedding": 6,
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        levels, first = len(self.channel_multipliers) - 1, self.first_side
        sides = [first << (i + 1) for i in range(levels)]
        if spec.data.shape is None or len(spec.data.shape) != 3:
            yield Problem((), f"a {self.kind} makes arrays [C, H, W], but the data has {spec.data.words}")
        else:
            _, height, width = spec.data.shape
            if height != width or height != sides[-1]:
                made = f"{levels} levels turn {first} by {first} pixels into {sides[-1]} by {sides[-1]}"
                mend = "give channels for the first feature map and for each doubling"
                yield Problem(("channel_multipliers",), f"{made}, not {height} by {width}", mend)
        for i, side in enumerate(self.attention):
            if side not in sides:
                message = f"no level has feature maps of {side} by {side}"
                yield Problem(("attention", i), message, f"their sides are {', '.join(map(str, sides))}")
            elif self.channel_multipliers[sides.index(side) + 1] * self.width % 8:
                yield Problem(
                    ("attention", i), "self-attention needs channels divisible by 8", "choose another `width`"
                )
        parts = len(self.channel_multipliers)
        if self.latent_input == "split" and self.latent_dim % parts:
            down = self.latent_dim // parts * parts
            near = " or ".join(str(n) for n in (down, down + parts) if n)
            message = f"z of dimension {self.latent_dim} does not split into {parts} equal parts"
            yield Problem(("latent_dim",), message, f"use {near}")
        if self.embedding is None and "class" in self.takes(spec):
            if self.latent_input != "first":
                message = "norms with a scale and shift per class cannot also take z"
                yield Problem(("latent_input",), message, "set `latent_input: first`, or give `embedding`")
            if len(self.takes(spec)) > 1:
                message = "norms with a scale and shift per class cannot also take a vector"
                yield Problem(("embedding",), message, "give `embedding`")
        yield from self.problems_of_conditions(spec)
        yield from problems_of_class(self, spec, vectors=1)
        yield from problems_of_dropping(self, spec)

    def per_level(self) -> int:
        """Blocks per level, of which the last one upsamples."""
        return 1

    def block(self, norm: NormKind, upsamples: bool) -> BlockBody:
        """A residual block."""
        return generator_block(norm, upsamples, self.weights, self.eps, self.spectral_norm)

    def norm(self, spec: Spec) -> NormKind:
        """Source of the scale and shift of its norms."""
        if "class" in self.takes(spec) and self.embedding is None:
            return "table"
        return "linear" if self.takes(spec) or self.latent_input != "first" else "plain"

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        forward = self.method(mb, name, spec, "forward", _network)
        return Network(name, {"forward": forward}, self.PROVIDES, {"embedding": self.embedding or 0})

    def method(
        self, mb: ModuleBuilder, name: str, spec: Spec, method: str, body: Body, outputs: Sequence[Role] = ("output",)
    ) -> Method:
        """Adds a method of z and the conditions, `body(config, norm, names)`; `names` are the kinds of conditions."""
        assert spec.data.shape is not None
        entries = self.entries(spec)
        names: tuple[ConditionKind, ...] = tuple("class" if entry.name == "class" else "vector" for entry in entries)
        static: dict[str, Any] = {
            "latent_dim": self.latent_dim,
            **self.condition_sizes(spec),
            **({"embedding": self.embedding} if "class" in names and self.embedding is not None else {}),
            **({"vector_embedding": self.vector_embedding} if "vector" in names else {}),
            "width": self.width,
            "channels": spec.data.shape[0],
        }
        ports = (Port("z", f32(B, self.latent_dim), "noise"), *ports_of(entries))
        return add_method(mb, name, method, body(self, self.norm(spec), names), ports, static, outputs)


Body = Callable[[ResnetGenerator, NormKind, tuple[ConditionKind, ...]], BlockBody]


def feature_maps(
    b: Builder,
    config: ResnetGenerator,
    norm: NormKind,
    names: tuple[ConditionKind, ...],
    z: Var,
    given: tuple[Var, ...],
    width: Any,
    sizes: dict[str, Any],
) -> list[Var]:
    """The first feature map, and that after each level, f32[B, C, side, side]."""
    init, spectral, first_side = config.weights, config.spectral_norm, config.first_side
    multipliers, per_level = config.channel_multipliers, config.per_level()
    attention = self_attention_2d(init, spectral)
    first, cond = _conditions(b, config, norm, dict(zip(names, given, strict=True)), z, sizes)
    inside, *outside = (m * width for m in multipliers)
    x = layers.linear(b, "linear", first, inside * first_side**2, init, spectral=spectral)
    x = b.reshape(x, shape=(z.shape[0], inside, first_side, first_side), out="x")
    found = [x]
    for level, (features, c) in enumerate(zip(outside, cond, strict=True)):
        for place in range(per_level):
            last = place == per_level - 1
            block = config.block(norm, last)
            args = {"channels": x.shape[1], "features": features if last else x.shape[1]}
            if norm != "plain":
                args |= {"classes": sizes["classes"]} if norm == "table" else {"condition": c.shape[1]}  # type: ignore[union-attr]
            name = f"blocks.{level * per_level + place}"
            x = b.sub(name, block, x, *([] if c is None else [c]), out="x", **args)
        if first_side << (level + 1) in config.attention:
            x = b.sub(name.replace("blocks", "attention"), attention, x, out="x", channels=features)
        found.append(x)
    return found


def _conditions(
    b: Builder, config: ResnetGenerator, norm: NormKind, parts: dict[ConditionKind, Var], z: Var, sizes: dict[str, Any]
) -> tuple[Var, list[Var | None]]:
    """Input of the first layer, and the condition of the norms at each level."""
    init, levels = config.weights, len(config.channel_multipliers) - 1
    if norm == "linear":
        if "class" in parts:
            rows, dim = sizes["classes"], sizes["embedding"]
            parts["class"] = layers.embedding(b, "shared", parts["class"], rows, dim, init, out="c")
        if "vector" in parts:
            dim = sizes["vector_embedding"]
            spectral = config.spectral_norm
            parts["vector"] = layers.linear(b, "shared_vector", parts["vector"], dim, init, spectral=spectral)
    ordered = [parts[name] for name in KINDS if name in parts]
    cond = ordered[0] if len(ordered) == 1 else b.concat(*ordered, axis=1, out="c") if ordered else None
    if config.latent_input == "first":
        return z, [cond] * levels
    if config.latent_input == "all":
        c = z if cond is None else b.concat(cond, z, axis=1, out="c")
        return c, [c] * levels
    part = sizes["latent_dim"] // (levels + 1)
    outs = " ".join(f"z{i}" for i in range(levels + 1))
    first, *rest = b.split(z, axis=1, sizes=(part,) * (levels + 1), out=outs)
    return first, [z if cond is None else b.concat(cond, z, axis=1, out="c") for z in rest]


@cache
def _network(config: ResnetGenerator, norm: NormKind, names: tuple[ConditionKind, ...]) -> BlockBody:
    @module_class("Generator", z="B latent_dim")
    def forward(b: Builder, z: Var, *given: Var, width: int, channels: int, **sizes: Any) -> Var:
        """Makes images out of noise z."""
        *_, x = feature_maps(b, config, norm, names, z, given, width, sizes)
        h = b.relu(layers.batch_norm(b, "norm", x, affine=True, eps=config.eps, momentum=MOMENTUM))
        return b.tanh(layers.conv(b, "output", h, channels, 3, config.weights, spectral=config.spectral_norm))

    return forward
